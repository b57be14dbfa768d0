"""What the figures were made on, without names of hosts or folders; and one thread count for
everybody.
"""

import os
import platform
import re
import sys
import timeit
from importlib import metadata
from pathlib import Path

LIBRARIES = ("numpy", "numba", "scipy", "scikit-learn", "torch", "jax", "ml_dtypes")

# Read once, when each library loads: OpenMP (ours, torch, scikit-learn), BLAS, Numba, and the pool
# of XLA on the CPU.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "NPROC")

FALLBACK_CACHE = 32 * 2**20


def usable_cpus():
    """The CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_threads(threads):
    """Give every library the same number of threads. Before any of them is imported."""
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)


def _first_line(path, pattern):
    try:
        text = Path(path).read_text()
    except OSError:
        return ""
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else ""


def cpu_name():
    return (
        _first_line("/proc/cpuinfo", r"^model name\s*:(.*)$") or platform.processor() or "unknown"
    )


def cpu_signature():
    """Family and model, for the CPUs whose name says little (as in virtual machines)."""
    family = _first_line("/proc/cpuinfo", r"^cpu family\s*:(.*)$")
    model = _first_line("/proc/cpuinfo", r"^model\s*:(.*)$")
    return f"family {family} model {model}" if family and model else ""


def memory_bytes():
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def last_level_cache():
    """Bytes of all last-level caches together; a usual size where the system does not say."""
    largest = {}
    for index in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index*"):
        size = _first_line(index / "size", r"^(\d+)K$")
        shared = _first_line(index / "shared_cpu_list", r"^(.*)$")
        level = _first_line(index / "level", r"^(\d+)$")
        if size and level:
            largest.setdefault(int(level), {})[shared] = int(size) * 1024
    return sum(largest[max(largest)].values()) if largest else FALLBACK_CACHE


def system():
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.system()} {platform.release()} {platform.machine()}"


def versions():
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory():
    """The largest resident size of this process so far, in bytes; 0 if the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def empty_call_seconds():
    """What the loop around a timed call costs, as part of every time: that of a function that does
    nothing.
    """
    loops = 10_000
    times = timeit.repeat("call()", globals={"call": lambda: None}, number=loops, repeat=5)
    return min(times) / loops


def describe(threads):
    """Everything a reader needs to judge the figures, as a dict of short values."""
    import fusedloss as fl

    info = fl.runtime_info()
    return {
        "cpu": cpu_name(),
        "cpu_signature": cpu_signature(),
        "cpus": usable_cpus(),
        "threads": threads,
        "last_level_cache": last_level_cache(),
        "memory": memory_bytes(),
        "system": system(),
        "python": platform.python_version(),
        "fusedloss": fl.__version__,
        "compiler": str(info.get("compiler") or "none"),
        "isa": str(info.get("isa") or "none"),
        "openmp": str(info.get("openmp") or "none"),
        "versions": versions(),
        "empty_call": empty_call_seconds(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
    }

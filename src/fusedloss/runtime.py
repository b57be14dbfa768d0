"""Which backend computes, on which instruction set level, with how many threads.

The backend is chosen once, when the package is imported: "cython", else "numba", else "numpy". A
backend that cannot run here is passed over and the reason is kept for `runtime_info`; a backend
that is broken raises. Nothing falls back in silence.

Environment, read at import:

FUSEDLOSS_BACKEND
    cython, numba or numpy: take this one, or fail.
FUSEDLOSS_ISA
    x86-64-v3, x86-64-v4 or aarch64: take the compiled kernels of this level, or fail.
FUSEDLOSS_NUM_THREADS
    The most threads that a call may use, for this package alone.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from _thread import allocate_lock  # all of threading that is needed, without its import
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from .arguments import MOST_THREADS, check_num_threads
from .backends import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

BACKENDS = ("cython", "numba", "numpy")
LEVELS = ("x86-64-v3", "x86-64-v4", "aarch64")
VARIABLES = ("FUSEDLOSS_BACKEND", "FUSEDLOSS_ISA", "FUSEDLOSS_NUM_THREADS", "OMP_NUM_THREADS")

_MODULES = {"cython": "compiled", "numba": "jit", "numpy": "reference"}


def _environment(variable: str, allowed: tuple[str, ...]) -> str | None:
    """Return the variable, None if it is unset or empty."""
    value = os.environ.get(variable) or None
    if value is not None and value not in allowed:
        raise ValueError(f"{variable} must be {_one_of(allowed)}, not {value}")
    return value


def _one_of(words: tuple[str, ...]) -> str:
    return ", ".join(words[:-1]) + " or " + words[-1]


def _threads_from_environment() -> int | None:
    value = os.environ.get("FUSEDLOSS_NUM_THREADS") or None
    if value is None:
        return None
    try:
        threads = int(value)
    except ValueError:
        threads = 0
    if threads < 1:
        raise ValueError(f"FUSEDLOSS_NUM_THREADS must be a positive integer, not {value}")
    return min(threads, MOST_THREADS)


# --- How many processors there are for us ---------------------------------------------------------


def usable_cpus(root: str = "/") -> int:
    """Return how many processors this process may use: affinity, capped by the container's quota.

    OpenMP looks at the affinity alone. In a container that may use 2 of 64 processors it starts 64
    threads, which are then stopped for most of each period: tens of times slower than 2.

    `root` is the directory in which /proc and /sys are looked up.
    """
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # neither macOS nor Windows can say
        cpus = os.cpu_count() or 1
    quota = _cgroup_quota(root)
    if quota is not None:
        # Rounded up: 1.5 processors keep two threads busy most of the time.
        cpus = min(cpus, -int(-quota // 1))
    return max(cpus, 1)


def _cgroup_quota(root: str) -> float | None:
    """Return the smallest quota, in CPUs, from this process's control group up to the root."""
    quotas = []
    mount = os.path.join(root, "sys", "fs", "cgroup")
    for line in _read(os.path.join(root, "proc", "self", "cgroup")).splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (
            hierarchy == "0" and not controllers
        ):  # version 2; "unified" where version 1 is mounted beside it
            for base in (mount, os.path.join(mount, "unified")):
                for directory in _upwards(base, path):
                    quotas.append(_ratio(*_read(os.path.join(directory, "cpu.max")).split()[:2]))
        elif "cpu" in controllers.split(","):  # version 1
            for name in {"cpu", controllers}:
                for directory in _upwards(os.path.join(mount, name), path):
                    quotas.append(
                        _ratio(
                            _read(os.path.join(directory, "cpu.cfs_quota_us")).strip(),
                            _read(os.path.join(directory, "cpu.cfs_period_us")).strip(),
                        )
                    )
    return min((quota for quota in quotas if quota is not None), default=None)


def _upwards(base: str, path: str) -> list[str]:
    """Return the directories of a control group and all groups above it; each may limit us.

    Inside a container the path may be one of the host's, absent here; the group at the top is then
    our own.
    """
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return [os.path.join(base, *parts[:depth]) for depth in range(len(parts), -1, -1)]


def _ratio(quota: str = "", period: str = "") -> float | None:
    """Return quota / period; None without a limit: "max" in version 2, -1 in version 1, no file."""
    try:
        processors = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):
        return None
    return processors if processors > 0 else None


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


# --- The backends ---------------------------------------------------------------------------------


class Backend:
    """A backend: its name, its functions once loaded, and whether these have a fast door."""

    __slots__ = ("fast", "functions", "module", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.module: ModuleType | None = None
        self.functions: dict[str, Any] = {}
        self.fast = False

    def check_installed(self) -> None:
        """Raise `Unavailable` where it cannot run; does not import Numba, which takes long."""
        if self.name != "numba":
            self.load()
        elif importlib.util.find_spec("numba") is None:
            raise Unavailable("numba is not installed")

    def load(self) -> ModuleType:
        """Import the module if need be, and return it; raise `Unavailable` where it cannot run."""
        with _loading:
            return self.module or self._load()

    def _load(self) -> ModuleType:
        if self.name == "numba":
            self.check_installed()
        try:
            module = import_module(f".backends.{_MODULES[self.name]}", __package__)
            if self.name == "cython":
                module.load(_level)
        except ModuleNotFoundError as error:
            # A file of ours that is not there was not built. One that is there and cannot be loaded
            # is broken, and that error is passed on.
            if error.name is not None and error.name.startswith(f"{__package__}."):
                raise Unavailable(f"{error.name} was not built") from error
            raise
        if self.name == "cython":
            _configure(module)
            # A forked child has none of the threads that the OpenMP runtime believes to have.
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(before=module.quiesce, after_in_child=module.mark_child)
        self.functions = vars(module)
        self.module = module
        self.fast = self.name == "cython"  # last: whoever sees it looks no further
        return module


def _configure(compiled: ModuleType) -> None:
    compiled.configure_threads(_threads or 0, _cpus)


def _choose() -> Backend:
    """Return the default backend, and note why no better one was taken."""
    for name, backend in _backends.items():
        if _requested not in (None, name):
            continue
        try:
            backend.check_installed()
        except Unavailable as error:
            if name == "cython" and _level is not None:
                message = f"FUSEDLOSS_ISA must be a level that can run here, not {_level}: {error}"
                raise ImportError(message) from error
            if name == _requested:
                message = (
                    f"FUSEDLOSS_BACKEND must be a backend that can run here, not {name}: {error}"
                )
                raise ImportError(message) from error
            _reasons[name] = str(error)
        else:
            break
    return backend


_requested = _environment("FUSEDLOSS_BACKEND", BACKENDS)
_level = _environment("FUSEDLOSS_ISA", LEVELS)
_threads_at_import = _threads_from_environment()
_threads = _threads_at_import
_cpus = usable_cpus()

_loading = allocate_lock()
_backends = {name: Backend(name) for name in BACKENDS}  # the best first
_reasons: dict[str, str] = {}  # backend -> why it cannot run here
_default = _choose()
active_backend: ContextVar[Backend] = ContextVar("fusedloss_backend", default=_default)

# Returns the backend for calls made here and now. On the way of every call, so not wrapped up.
active = active_backend.get


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute with another backend inside a ``with`` block.

    Parameters
    ----------
    name : {"cython", "numba", "numpy"}
        The backend. Results differ by rounding only.

    Raises
    ------
    ValueError
        There is no backend of this name.
    ImportError
        The backend cannot run here; the message says why.

    Notes
    -----
    The choice holds for the current context (`contextvars`): for this thread or asynchronous task,
    and not for threads started inside the block.

    Examples
    --------
    >>> import fusedloss as fl
    >>> with fl.use_backend("numpy"):
    ...     fl.mse_loss([1.0, 2.0], [1.0, 4.0])
    2.0
    """
    if not isinstance(name, str) or name not in BACKENDS:
        quoted = tuple(f'"{backend}"' for backend in BACKENDS)
        raise ValueError(f"backend must be {_one_of(quoted)}, not {_quote(name)}")
    backend = _backends[name]
    backend.load()
    token = active_backend.set(backend)
    try:
        yield
    finally:
        active_backend.reset(token)


def _quote(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


# --- Threads --------------------------------------------------------------------------------------


def set_num_threads(num_threads: int | None) -> None:
    """Set the most threads that a call may use, in this process and for this package alone.

    Parameters
    ----------
    num_threads : int or None
        At least 1. None restores the default: ``FUSEDLOSS_NUM_THREADS``, else what OpenMP allows
        (``OMP_NUM_THREADS``, threadpoolctl), which is capped by the processors that this process
        may use unless ``OMP_NUM_THREADS`` is set.

    Raises
    ------
    TypeError
        The number is not an integer.
    ValueError
        The number is below 1.

    See Also
    --------
    get_num_threads

    Notes
    -----
    Small work is done by fewer threads, or by the calling one alone. The result of a call does not
    depend on the number of threads. The "numba" and "numpy" backends always use one thread.

    Examples
    --------
    >>> import fusedloss as fl
    >>> fl.set_num_threads(2)
    >>> fl.get_num_threads()
    2
    >>> fl.set_num_threads(None)
    """
    global _threads
    checked = check_num_threads(num_threads)
    _threads = _threads_at_import if checked is None else checked
    compiled = _backends["cython"].module
    if compiled is not None:
        _configure(compiled)


def get_num_threads() -> int:
    """Return the most threads that a call may use now.

    Returns
    -------
    int
        What `set_num_threads` or ``FUSEDLOSS_NUM_THREADS`` says; else what OpenMP and the
        processors that this process may use allow a large call of the compiled backend, and 1 for
        the other backends.

    See Also
    --------
    set_num_threads
    """
    backend = active()
    if backend.fast and backend.module is not None:
        return int(backend.module.max_threads())
    return _threads or 1


# --- Saying what is in use ------------------------------------------------------------------------


def runtime_info() -> dict[str, Any]:
    """Return which backend is in use and why, and what it runs on.

    Returns
    -------
    dict
        With the keys

        - ``version``: of this package;
        - ``backend``: "cython", "numba" or "numpy", for calls made here and now;
        - ``isa``: the instruction set level of the compiled kernels in use, None with another
          backend;
        - ``detected_isa``: the highest level that this CPU can run, None if that is not known;
        - ``num_threads``: as `get_num_threads`;
        - ``usable_cpus``: affinity and container quota, as read at import;
        - ``openmp``: the date of the OpenMP standard that the kernels were compiled for, 0 if
          without OpenMP, None with another backend;
        - ``compiler``: which compiled the kernels, None with another backend;
        - ``not_taken``: a dict from each better backend that was not taken to the reason;
        - ``python``, ``numpy``: versions;
        - ``environment``: the variables among ``FUSEDLOSS_*`` and ``OMP_NUM_THREADS`` that are set.

    See Also
    --------
    show_config : print the same.

    Examples
    --------
    >>> import fusedloss as fl
    >>> with fl.use_backend("numpy"):
    ...     fl.runtime_info()["backend"]
    'numpy'
    """
    from . import __version__

    backend = active()
    name = backend.name
    compiled = backend.module if backend.fast else None
    better = BACKENDS[: BACKENDS.index(name)]
    return {
        "version": __version__,
        "backend": name,
        "isa": compiled.isa if compiled else None,
        "detected_isa": _detected_isa(),
        "num_threads": get_num_threads(),
        "usable_cpus": _cpus,
        "openmp": compiled.openmp() if compiled else None,
        "compiler": compiled.compiler() if compiled else None,
        "not_taken": {other: _why_not(other, name) for other in better},
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _detected_isa() -> str | None:
    try:
        cpu = import_module(".kernels.cpu", __package__)
    except ImportError:  # this is a report: with another backend it may be broken
        return None
    return str(cpu.detected_isa())


def _why_not(better: str, name: str) -> str:
    """Say why `name` is in use instead of a better backend."""
    if better in _reasons:
        return _reasons[better]
    if name != _default.name:
        return f'use_backend("{name}") is in force'
    return f"FUSEDLOSS_BACKEND is {_requested}"


def show_config(file: IO[str] | None = None) -> None:
    """Print what `runtime_info` returns.

    Parameters
    ----------
    file : text file, optional
        Where to print; ``sys.stdout`` by default.
    """
    for key, value in runtime_info().items():
        lines = [value]
        if isinstance(value, dict):
            lines = [f"{name}: {text}" for name, text in value.items()] or [None]
        label = key.replace("_", " ")
        for line in lines:
            print(f"{label:<14}{'-' if line is None else line}", file=file)
            label = ""

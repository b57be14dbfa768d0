"""What a run measures besides the times of its rows: accuracy, and unless it is a quick one, one
core and an import; a full run also the memory of calls, and a lower level of instructions.

It is put into the JSON of the run, so that a report can be made again from there.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from . import accuracy, core

HERE = Path(__file__).parent

IMPORTS = 10
IMPORT = """
import time
import numpy
start = time.perf_counter()
import fusedloss
print(time.perf_counter() - start)
"""

MEMORY_USE = HERE.parent / "tests" / "memory_use.py"
CONTROL = "a temporary array"  # a call that does need memory: a byte for each of two million items
SEEN = 1_000_000  # bytes of it that must show, or the measurement is blind

# The level below, where there is one, on some of the rows that stream
LOWER = {"x86-64-v4": "x86-64-v3"}
LOWER_ROWS = (
    r"^(cross_entropy|binary_cross_entropy_with_logits|mse_loss) value(_and_grad)? float32 "
    r"(1024x32000|20000000 items)$"
)
LOWER_TURNS = 3


def add(json_path, options):
    """Measure, and put the figures into the JSON of a run. Those that this machine cannot tell are
    None, and so are those that failed: name -> why, the result.
    """
    content = json.loads(json_path.read_text())
    machine = content["machine_info"]
    wanted = {}
    if not (options.without_accuracy or options.only or options.contenders):
        # A full run takes the quick data too: its errors are those of any run before it.
        plan = "smoke" if options.plan == "smoke" else "quick"
        wanted["accuracy"] = lambda: accuracy.measure(plan, not options.without_peers)
    if options.plan != "quick" and not options.without_extras:
        wanted["core"] = lambda: core.measure(machine["isa"], options.out)
        wanted["import_seconds"] = import_seconds
    if options.plan == "full" and not options.without_extras:
        wanted["memory_growth"] = lambda: memory_growth(machine)
        if not options.only:
            wanted["lower_level"] = lambda: lower_level(machine, options.out)
    content["extras"], failures = {}, {}
    for name, measure in wanted.items():
        content["extras"][name] = None
        try:
            content["extras"][name] = measure()
        except subprocess.CalledProcessError as error:
            said = (error.stdout + error.stderr).strip().splitlines() or [str(error)]
            failures[name] = said[-1]
    json_path.write_text(json.dumps(content))
    return failures


def import_seconds():
    """The time of `import fusedloss` where NumPy was imported before; the fastest of some fresh
    processes.
    """
    return min(float(_python(["-c", IMPORT], os.environ)) for _ in range(IMPORTS))


def memory_growth(machine):
    """The most bytes by which any call of tests/memory_use.py made its process grow."""
    if machine["isa"] == "none" or not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(machine["threads"]),
        # Every large array is mapped and unmapped: freed memory cannot serve unseen again.
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    report = json.loads(_python([str(MEMORY_USE), "cython"], environment))
    control = report.pop(CONTROL)
    if min(control.values()) < SEEN:
        return None
    return max(growth for calls in report.values() for growth in calls.values())


def lower_level(machine, folder):
    """The benchmarks of a run on the level below, and which it is; None where there is none."""
    level = LOWER.get(machine["isa"])
    if level is None:
        return None
    folder = folder / level
    arguments = [
        *("-m", "benches", "--full", "--without-peers", "--without-extras"),
        *("--contenders", "^cython$", "--only", LOWER_ROWS, "--turns", str(LOWER_TURNS)),
        *("--threads", str(machine["threads"]), "--out", str(folder)),
    ]
    _python(arguments, {**os.environ, "FUSEDLOSS_ISA": level})
    content = json.loads((folder / "full.json").read_text())
    return {"isa": content["machine_info"]["isa"], "benchmarks": content["benchmarks"]}


def _python(arguments, environment):
    """What a fresh Python prints; CalledProcessError if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout

"""Two builds of fusedloss in turn, call by call: `python -m benches.pairs OTHER` says for each row
how long this one takes over the other.

OTHER is the folder that holds the other package `fusedloss`, built in place: the `src` of another
checkout, or a copy of this one before a change. On a machine that others use too, times differ by
a third from minute to minute; the ratios of neighbours differ by a few hundredths.
"""

import argparse
import importlib
import math
import os
import re
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import axes, machine

PACKAGE = "fusedloss"


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benches.pairs", description="Two builds of fusedloss in turn."
    )
    parser.add_argument("other", type=Path, help="the folder of the other package, built in place")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="the rows of the full plan with such a title"
    )
    parser.add_argument(
        "--row",
        action="append",
        default=[],
        type=_row,
        metavar="TITLE",
        help='instead: rows of any size, such as "softmax float32 4096x64"; repeatable',
    )
    parser.add_argument("--threads", type=int, default=machine.usable_cpus())
    parser.add_argument("--in-place", action="store_true", help="gradients over the logits")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row (default: 1)")
    return parser.parse_args(arguments)


def _row(title):
    try:
        return axes.named(title)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def load(folder):
    """The package of that folder, beside the one of the same name that is already imported."""
    if not (folder / PACKAGE / "__init__.py").is_file():
        sys.exit(f"other must be a folder that holds {PACKAGE}, not {folder}")
    mine = {name: sys.modules.pop(name) for name in list(sys.modules) if _inside(name)}
    sys.path.insert(0, str(folder.resolve()))
    try:
        return importlib.import_module(PACKAGE)
    finally:
        sys.path.pop(0)
        for name in [name for name in sys.modules if _inside(name)]:
            del sys.modules[name]
        sys.modules.update(mine)


def _inside(name):
    return name.partition(".")[0] == PACKAGE


def compare(jobs, seconds):
    """The times of one call each, round by round; who begins a round alternates."""
    times = [[] for _ in jobs]
    order = list(range(len(jobs)))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 4:
        for index in order:
            job = jobs[index]
            start = time.perf_counter()
            for _ in range(job.iterations):
                job.call()
            times[index].append((time.perf_counter() - start) / job.iterations)
        order.reverse()
    return times


def main(arguments=None):
    options = parse(arguments)
    machine.limit_threads(options.threads)
    # Only now: they import NumPy, and with it what reads its thread count when it loads.
    import fusedloss as mine

    from .contenders import Backend
    from .workbench import Point, Workbench

    other = load(options.other)
    gradient = "in place" if options.in_place else "out"
    contenders = [
        Backend(name, "cython", options.threads, gradient=gradient, library=library)
        for name, library in (("other", other), ("this", mine))
    ]
    wanted = re.compile(options.only)
    cases = options.row or [case for case in axes.full() if wanted.search(case.title)]
    bench = Workbench(axes.PLANS["full"], None, machine.last_level_cache())
    level = os.environ.get("FUSEDLOSS_ISA") or mine.runtime_info()["isa"]
    table = Table(title=f"{level}, {options.threads} threads", title_justify="left")
    table.add_column("row")
    for heading in ("other", "this", "fastest: this / other", "median ratio of neighbours"):
        table.add_column(heading, justify="right")
    ratios = []
    for case in cases:
        with ExitStack() as stack:
            jobs = []
            for contender in contenders:
                stack.enter_context(contender.settings())
                jobs.append(bench.prepare(Point(case, contender, 0)))
            before, after = compare(jobs, options.seconds)
        ratio = statistics.median(b / a for a, b in zip(before, after, strict=True))
        ratios.append(ratio)
        table.add_row(
            case.title,
            *(f"{1e6 * min(times):.1f} µs" for times in (before, after)),
            f"{min(after) / min(before):.3f}",
            f"{ratio:.3f}",
        )
    console = Console()
    console = console if console.is_terminal else Console(width=150)
    console.print(table)
    if ratios:
        console.print(f"geometric mean {math.exp(statistics.fmean(map(math.log, ratios))):.3f}")


if __name__ == "__main__":
    main()

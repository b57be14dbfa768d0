"""Run the benches and report: `python -m benches [--smoke | --quick | --full]`; `./ci/bench` sets
up and calls this.
"""

import argparse
import contextlib
import sys
from pathlib import Path

from rich.console import Console

from . import extras, machine
from .axes import add_plans
from .progress import Progress

HERE = Path(__file__).parent
COMMITTED = HERE / "RESULTS.md"


def parse(arguments):
    parser = argparse.ArgumentParser(prog="./ci/bench", description=__doc__.partition(":")[0] + ".")
    add_plans(
        parser,
        smoke="a few seconds on tiny arrays: do the benches run, is every result right",
        quick="the common calls, small and large, in about three minutes (default)",
        full="all shapes, dtypes and functions: half an hour and up to 8 GB",
    )
    parser.add_argument(
        "--without-peers", action="store_true", help="only the backends of fusedloss"
    )
    parser.add_argument(
        "--without-extras",
        action="store_true",
        help="only the rows: no import, memory, or lower level of instructions",
    )
    parser.add_argument(
        "--without-accuracy",
        action="store_true",
        help="only times; so it is too where --only or --contenders choose among the rows",
    )
    parser.add_argument(
        "--contenders",
        default="",
        metavar="PATTERN",
        help="only the contenders whose name this pattern finds",
    )
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="only the rows whose title this pattern finds"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=None,
        help="threads of every library (default: the usable CPUs)",
    )
    parser.add_argument(
        "--turns", type=int, default=None, help="how often every contender has its turn"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=HERE.parent / "out" / "bench",
        help="folder of JSON, report and plots",
    )
    parser.add_argument(
        "--commit-report",
        action="store_true",
        help="write the report to benches/RESULTS.md and the tables of the README as well",
    )
    parser.add_argument("--from-json", type=Path, help="run nothing: report on an earlier run")
    options = parser.parse_args(arguments)
    options.plan = options.plan or "quick"
    for name in ("threads", "turns"):
        number = getattr(options, name)
        if number is not None and number < 1:
            parser.error(f"--{name} must be at least 1, not {number}")
    return options


def run(options, json_path, log_path, console):
    """Run the plan with pytest; its own output goes to the log. Gives the tests that failed, or
    raises SystemExit.
    """
    # Before pytest, NumPy or anything else that counts threads is imported.
    machine.limit_threads(options.threads or machine.usable_cpus())
    import pytest

    arguments = [
        str(HERE / "test_losses.py"),
        f"--config-file={HERE / 'pytest.ini'}",
        f"--rootdir={HERE.parent}",
        "--capture=no",
        f"--plan={options.plan}",
        f"--only={options.only}",
        f"--contenders={options.contenders}",
        f"--work-folder={options.out}",
        f"--benchmark-json={json_path}",
        "--benchmark-disable-gc",
    ]
    for name in ("threads", "turns"):
        if getattr(options, name):
            arguments.append(f"--{name}={getattr(options, name)}")
    if options.without_peers:
        arguments.append("--without-peers")
    with (
        Progress(console) as progress,
        open(log_path, "w", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        status = pytest.main(arguments, plugins=[progress])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        sys.exit(f"pytest ended with status {int(status)}; {log_path} says why")
    return progress.failures


def main(arguments=None):
    options = parse(arguments)
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(file=sys.stdout)  # this one, also while pytest's output goes elsewhere
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=120)
    json_path = options.from_json or options.out / f"{options.plan}.json"
    failures = {}
    if not options.from_json:
        json_path.unlink(missing_ok=True)
        failures = run(options, json_path, options.out / f"{options.plan}.log", console)
        if json_path.exists():
            with console.status("accuracy, import, memory, the level of instructions below"):
                failures |= extras.add(json_path, options)

    from . import accuracy_report
    from .readme import README, put
    from .report import excerpt, markdown, plots, terminal_table
    from .results import load

    if json_path.exists():
        results = load(json_path)
        console.print(terminal_table(results))
        for name, reason in results.machine["absent"].items():
            console.print(f"absent: {name}: {reason}", style="dim", highlight=False)
        report = options.out / f"{results.plan}.md"
        report.write_text(markdown(results), encoding="utf-8")
        written = [json_path, report, *plots(results, options.out)]
        if options.commit_report and not failures:
            COMMITTED.write_text(markdown(results), encoding="utf-8")
            put("speed table", excerpt(results))
            if results.extras.get("accuracy"):
                put("accuracy table", accuracy_report.summary(results.extras["accuracy"]))
            written += [COMMITTED, README]
        console.print("written: " + ", ".join(map(_short, written)), style="dim", highlight=False)
    for name, reason in failures.items():
        console.print(f"FAILED {name}: {reason}", style="bold red", highlight=False, markup=False)
    return 1 if failures else 0


def _short(path):
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


if __name__ == "__main__":
    sys.exit(main())

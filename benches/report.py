"""What a reader sees of a run: one table in the terminal, a Markdown report, plots."""

import math

from rich.box import SIMPLE_HEAD
from rich.table import Table

from . import accuracy_report, axes
from .results import REFERENCE
from .targets import evaluate, geometric_mean_at_roofs

NOTHING = "-"


def time_text(seconds):
    for unit, scale in (("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * scale:
            return f"{_three_digits(seconds / scale)} {unit}"
    return f"{_three_digits(seconds)} s"


def _three_digits(number):
    digits = 2 - math.floor(math.log10(number)) if number > 0 else 0
    return f"{number:.{max(0, digits)}f}"


def _ratio_text(ratio):
    if ratio is None:
        return NOTHING
    return f"{ratio:.2f}" if ratio < 9.995 else f"{_three_digits(ratio)}"


def _percent_text(share):
    return NOTHING if share is None else f"{share:.0%}"


def _columns(group, one):
    """The figures of one contender in one group, as text."""
    rate = group.rate(one)
    return (
        time_text(one.median),
        time_text(one.minimum),
        _ratio_text(group.ratio_to(REFERENCE, one)),
        _ratio_text(group.ratio_to_best_peer(one)),
        NOTHING if group.case.memory == axes.SMALL else f"{rate / 1e9:.1f}",
        _percent_text(group.share_of_roof(one)),
    )


def terminal_table(results):
    """Every contender of every group: "times as fast as" in the ratios, so that more is better."""
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("")
    for name in ("threads", "median", "minimum", "x NumPy", "x best peer", "GB/s", "of roof"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in results.groups:
        table.add_row(f"[bold]{group.case.title}[/bold]")
        fastest = min(one.median for one in group.measurements.values())
        for one in sorted(group.measurements.values(), key=lambda one: one.median):
            style = "green" if one.median == fastest else None
            name = f"  {one.contender}" + (" (peer)" if not one.ours else "")
            table.add_row(name, str(one.threads), *_columns(group, one), style=style)
        table.add_section()
    return table


def markdown(results):
    only = f" --only '{results.only}'" if results.only else ""
    parts = [
        "# Speed and accuracy",
        f"Written by `./ci/bench --{results.plan}{only}` on {results.date}; not edited by hand.",
        "## Machine",
        _machine(results),
        "## How to read it",
        _explanation(results),
        "## Roofs",
        _roofs(results),
    ]
    if results.plan == "full":
        parts += ["## Targets", _targets(results)]
    parts += ["## Times", *_times(results)]
    if results.lower_level:
        parts += [f"## On {results.extras['lower_level']['isa']}", _lower_level(results)]
    if results.extras.get("accuracy"):
        parts += ["## Accuracy", accuracy_report.markdown(results.extras["accuracy"])]
    return "\n\n".join(parts) + "\n"


def excerpt(results):
    """What the README shows of a full run: float32 losses, the backend that a user gets."""
    rows = [
        (
            f"`{group.case.title}`",
            time_text(group.main.median),
            _ratio_text(group.ratio_to(REFERENCE, group.main)),
            _ratio_text(group.ratio_to("PyTorch", group.main)),
            _ratio_text(group.ratio_to_best_peer(group.main)),
            group.best_peer.contender if group.best_peer else NOTHING,
            _percent_text(group.share_of_roof(group.main)),
        )
        for group in results.groups
        if group.main
        and group.case.dtype == "float32"
        and group.case.work in axes.LOSSES
        and group.case.verb in axes.REDUCED
        and group.case.target in ("int64", "float32")
        and not group.case.title.endswith("probabilities")
    ]
    machine = results.machine
    return (
        f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['isa']}, {machine['compiler']}; "
        f"medians by `./ci/bench --{results.plan}` on {results.date}. Ratios say how many times "
        'as long\nthe others take; "NumPy" is the reference backend; "of roof" is the share of the '
        "machine's streaming bandwidth,\nfor rows larger than its caches.\n\n"
        + _table(("call", "time", "x NumPy", "x PyTorch", "x best peer", "which", "of roof"), rows)
    )


def _table(header, rows, right=1):
    """A Markdown table; columns from `right` on are figures."""
    rules = ["---" if column < right else "--:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (header, rules, *rows))


def _machine(results):
    machine = results.machine
    signature = f" ({machine['cpu_signature']})" if machine["cpu_signature"] else ""
    ours = ", ".join(
        (
            machine["fusedloss"],
            machine["isa"],
            f"compiler {machine['compiler']}",
            f"OpenMP {machine['openmp']}",
        )
    )
    rows = [
        ("CPU", machine["cpu"] + signature),
        ("CPUs usable", machine["cpus"]),
        ("threads of each library that has any", machine["threads"]),
        ("last-level cache", f"{machine['last_level_cache'] / 2**20:.0f} MiB"),
        ("memory", f"{machine['memory'] / 2**30:.1f} GiB"),
        ("system", machine["system"]),
        ("load average before the run", f"{machine['load_before']:.2f}"),
        ("largest memory of the run", f"{machine['peak_memory'] / 2**30:.2f} GiB"),
        ("Python", machine["python"]),
        ("fusedloss", ours),
        ("libraries", ", ".join(f"{name} {of}" for name, of in machine["versions"].items())),
    ]
    rows += [
        (f"absent: {name}", reason.splitlines()[0]) for name, reason in machine["absent"].items()
    ]
    return _table(("", ""), rows, right=2)


EXPLANATION = """\
- Every result was compared with the NumPy backend in float64 before its time was taken.
- Times are medians over the rounds of all turns. In a turn every contender of a row runs for a
  short while, one after the other; a round is at least 50 µs long. The loop around a call costs
  {empty_call} of each time.
- cython, numba and numpy are the backends of fusedloss. cython runs on all threads, or on one
  where it says so; small work is serial anyway. Gradients go into a reused `out=`; what it costs to
  allocate them, or saves to write them over the logits, is in tables of its own.
- The peers' calls are in `benches/peers.py`. Their inputs were converted to what each wants
  beforehand, they write into `out=` where they offer it, else they allocate. PyTorch's
  value_and_grad is its forward and backward pass. NumPy and SciPy have one thread.
- "x NumPy" and "x best peer": how many times as long the NumPy backend and the fastest peer take
  as the best backend of fusedloss. More is better; below 1 we lose.
- GB/s counts the bytes that must move: each input read once, each result written once.
- Large rows are streamed: several sets of buffers in turn, many times the last-level cache
  together. "of roof" is their share of the roof measured beside them in the same turns."""


def _explanation(results):
    return EXPLANATION.format(empty_call=time_text(results.machine["empty_call"]))


CORE = """\
One core runs at {clock:.2f} GHz, by a chain of multiplications, and starts {rate:.2f} fused
multiply-adds on 512 bits per cycle, on the widest vectors of the kernels in use."""


def _roofs(results):
    rows = [
        (
            name,
            how,
            f"{_median(rates) / 1e9:.1f}",
            f"{min(rates) / 1e9:.1f} to {max(rates) / 1e9:.1f}",
        )
        for name, (how, rates) in results.roofs().items()
    ]
    text = "None measured: no row of this run is larger than the caches."
    if rows:
        header = "roof", "measured as", "median GB/s", "range over the run"
        text = _table(header, rows, right=2)
    core = results.extras.get("core")
    if core:
        rate = core["fma_per_second"] / core["clock"]
        text += "\n\n" + CORE.format(clock=core["clock"] / 1e9, rate=rate)
    return text


def _lower_level(results):
    """The rows that were run on the level below, beside the level of the run."""
    isa = results.extras["lower_level"]["isa"]
    here = {group.case: group.measurements.get("cython") for group in results.groups}
    rows = []
    for group in results.lower_level:
        one, other = group.measurements["cython"], here.get(group.case)
        rows.append(
            (
                group.case.title,
                time_text(one.median),
                f"{group.rate(one) / 1e9:.1f}",
                _percent_text(group.share_of_roof(one)),
                time_text(other.median) if other else NOTHING,
                _percent_text(group.share_of_roof(other)) if other else NOTHING,
            )
        )
    above = results.machine["isa"]
    return _table(("", isa, "GB/s", "of roof", above, "of roof"), rows)


def _median(values):
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def _targets(results):
    rows = []
    for reached in evaluate(results):
        target = reached.target
        sign = "≥" if target.at_least else "≤"
        share = target.unit == "of the roof"
        bound = f"{target.bound:.0%} {target.unit}" if share else f"{target.bound:g} {target.unit}"
        figure = reached.figure
        text = NOTHING if figure is None else (f"{figure:.0%}" if share else _ratio_text(figure))
        verdict = {None: "not measured", True: "yes", False: "**no**"}[reached.holds]
        rows.append((target.work, f"{sign} {bound}", text, verdict, reached.where, reached.reason))
    table = _table(("work", "target", "reached", "met", "decided by", "why"), rows, right=6)
    limit = geometric_mean_at_roofs(results.groups)
    if limit is None:
        return table
    return (
        f"{table}\n\nIf every streamed row were at its roof, and all others as they are, "
        f"the geometric mean against\nPyTorch would be {_ratio_text(limit)}."
    )


def _times(results):
    """For each work a table of times, a row per group and a column per contender, and one of where
    gradients go.
    """
    works = dict.fromkeys(group.case.work for group in results.groups)
    for work in works:
        groups = [group for group in results.groups if group.case.work == work]
        shown = _appearing(groups, [n for n in results.contenders() if n not in GRADIENT_PLACES])
        header = ("", *shown, "x NumPy", "x best peer", "GB/s", "of roof")
        rows = []
        for group in groups:
            ratios = _columns(group, group.main)[2:] if group.main else [NOTHING] * 4
            rows.append((_title(group), *(_cell(group, name) for name in shown), *ratios))
        yield f"### {work}\n\n" + _table(header, rows)
        yield from _gradient_places(groups)


GRADIENT_PLACES = {"cython, new gradient": "a new array", "cython, in place": "over the logits"}


def _gradient_places(groups):
    """How much it matters where value_and_grad puts the gradient."""
    groups = [group for group in groups if GRADIENT_PLACES.keys() & group.measurements.keys()]
    if groups:
        shown = ("cython", *_appearing(groups, GRADIENT_PLACES))
        header = ["gradient into"]
        for name in shown:
            header += [GRADIENT_PLACES.get(name, "`out=`, used again"), "of roof"]
        rows = []
        for group in groups:
            row = [_title(group)]
            for name in shown:
                one = group.measurements.get(name)
                row += [
                    _cell(group, name),
                    _percent_text(group.share_of_roof(one) if one else None),
                ]
            rows.append(row)
        yield _table(header, rows)


def _appearing(groups, names):
    return [name for name in names if any(name in group.measurements for group in groups)]


def _title(group):
    return group.case.title.removeprefix(group.case.work).strip()


def _cell(group, name):
    one = group.measurements.get(name)
    return time_text(one.median) if one else NOTHING


def plots(results, folder):
    """Time against size for every work and verb that has several sizes; one line a contender. Gives
    the paths.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    for (work, verb), groups in _curves(results).items():
        figure, axis = pyplot.subplots(figsize=(8, 5), layout="constrained")
        for name in results.contenders():
            if name in GRADIENT_PLACES:
                continue
            points = [
                (group.case.items, group.measurements[name].median)
                for group in groups
                if name in group.measurements
            ]
            if len(points) > 1:
                ours = next(g.measurements[name].ours for g in groups if name in g.measurements)
                axis.plot(
                    *zip(*points, strict=True),
                    marker="o",
                    label=name,
                    linestyle="-" if ours else "--",
                )
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="items",
            ylabel="median time, seconds",
            title=work if verb == axes.EVALUATE else f"{work} {verb}, float32",
        )
        axis.grid(alpha=0.3)
        figure.legend(loc="outside right upper")
        path = folder / (f"{work}.png" if verb == axes.EVALUATE else f"{work}-{verb}.png")
        figure.savefig(path, dpi=120)
        pyplot.close(figure)
        written.append(path)
    return written


def _curves(results):
    """float32 groups with the usual targets by (work, verb), smallest first, where there are at
    least two sizes.
    """
    found = {}
    for group in results.groups:
        case = group.case
        if (
            case.dtype == "float32"
            and case.target != "uint8"
            and not case.title.endswith("probabilities")
        ):
            found.setdefault((case.work, case.verb), []).append(group)
    for groups in found.values():
        groups.sort(key=lambda group: group.case.items)
    return {key: groups for key, groups in found.items() if len(groups) > 1}

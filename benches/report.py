"""What a reader sees of a run: one table in the terminal, a Markdown report, plots."""

import math

from rich.box import SIMPLE_HEAD
from rich.table import Table

from . import axes
from .results import REFERENCE
from .targets import evaluate

NOTHING = "–"


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
    parts = [
        "# Speed",
        f"Written by `./ci/bench --{results.plan}` on {results.date}; not edited by hand.",
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
    return "\n\n".join(parts) + "\n"


def _table(header, rows, right=1):
    """A Markdown table; columns from `right` on are figures."""
    rules = ["---" if column < right else "--:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (header, rules, *rows))


def _machine(results):
    machine = results.machine
    cpu = machine["cpu"] + (f" ({machine['cpu_signature']})" if machine["cpu_signature"] else "")
    rows = [
        ("CPU", cpu),
        ("CPUs usable; threads of each library that has any", f"{machine['cpus']}; {machine['threads']}"),
        ("last-level cache, memory", f"{machine['last_level_cache'] / 2**20:.0f} MiB, {machine['memory'] / 2**30:.1f} GiB"),
        ("system", machine["system"]),
        ("load average before the run", f"{machine['load_before']:.2f}"),
        ("largest memory of the run", f"{machine['peak_memory'] / 2**30:.2f} GiB"),
        ("Python", machine["python"]),
        ("fusedloss", f"{machine['fusedloss']}, {machine['isa']}, compiler {machine['compiler']}, OpenMP {machine['openmp']}"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in machine["versions"].items())),
    ]
    rows += [(f"absent: {name}", reason.splitlines()[0]) for name, reason in machine["absent"].items()]
    return _table(("", ""), rows, right=2)


def _explanation(results):
    return "\n".join(
        (
            "- Every result was compared with the NumPy backend in float64 before its time was taken.",
            "- Times are medians over rounds of all turns; in a turn every contender of a row runs, the turns are "
            "interleaved, and a round is at least 50 µs long. A call of an empty function costs about "
            "50 ns of each time.",
            "- cython, numba and numpy are the backends of fusedloss, on all threads (cython) or one. `cython, 1 thread` "
            "is the same on one. They write gradients into a reused `out=`; `new gradient` allocates one at each call; "
            "`in place` writes over the logits. Peers write into `out=` where they offer it, else they allocate.",
            "- Peers: the calls are in `benches/peers.py`. Inputs were converted to what each wants beforehand. "
            "PyTorch's value_and_grad is its forward and backward pass. NumPy and SciPy have one thread.",
            "- `x NumPy` and `x best peer` say how many times as long the NumPy backend and the fastest peer take as the "
            "best backend of fusedloss: more is better, and below 1 we lose.",
            "- GB/s counts the bytes that must move: each input read once, each result written once.",
            "- Large rows are streamed: several sets of buffers in turn, many times the last-level cache together. "
            "`of roof` is their share of the roof measured beside them in the same turns.",
        )
    )


def _roofs(results):
    rows = [
        (name, how, f"{_median(rates) / 1e9:.1f}", f"{min(rates) / 1e9:.1f} to {max(rates) / 1e9:.1f}")
        for name, (how, rates) in results.roofs().items()
    ]
    if not rows:
        return "None measured: no row of this run is larger than the caches."
    return _table(("roof", "measured as", "median GB/s", "range over the run"), rows, right=2)


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
        rows.append((target.work, f"{sign} {bound}", text, verdict, reached.where))
    return _table(("work", "target", "reached", "met", "decided by"), rows, right=1)


def _times(results):
    """One table a work: a row per group, a column per contender."""
    contenders = list(results.contenders())
    works = dict.fromkeys(group.case.work for group in results.groups)
    for work in works:
        groups = [group for group in results.groups if group.case.work == work]
        shown = [name for name in contenders if any(name in group.measurements for group in groups)]
        header = ("", *shown, "x NumPy", "x best peer", "GB/s", "of roof")
        rows = []
        for group in groups:
            title = group.case.title.removeprefix(work).strip()
            cells = [
                time_text(group.measurements[name].median) if name in group.measurements else NOTHING
                for name in shown
            ]
            rows.append((title, *cells, *(_columns(group, group.main)[2:] if group.main else [NOTHING] * 4)))
        yield f"### {work}\n\n" + _table(header, rows)


def plots(results, folder):
    """Time against size for every work and verb that has several sizes; one line a contender. Gives the paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    for (work, verb), groups in _curves(results).items():
        figure, axis = pyplot.subplots(figsize=(8, 5), layout="constrained")
        for name in results.contenders():
            points = [
                (group.case.items, group.measurements[name].median)
                for group in groups
                if name in group.measurements
            ]
            if len(points) > 1:
                ours = next(g.measurements[name].ours for g in groups if name in g.measurements)
                axis.plot(*zip(*points, strict=True), marker="o", label=name, linestyle="-" if ours else "--")
        axis.set(xscale="log", yscale="log", xlabel="items", ylabel="median time, seconds",
                 title=work if verb == axes.EVALUATE else f"{work} {verb}, float32")
        axis.grid(alpha=0.3)
        axis.legend()
        path = folder / (f"{work}.png" if verb == axes.EVALUATE else f"{work}-{verb}.png")
        figure.savefig(path, dpi=120)
        pyplot.close(figure)
        written.append(path)
    return written


def _curves(results):
    """float32 groups with the usual targets by (work, verb), smallest first, where there are at least two sizes."""
    found = {}
    for group in results.groups:
        case = group.case
        if case.dtype == "float32" and case.target != "uint8" and not case.title.endswith("probabilities"):
            found.setdefault((case.work, case.verb), []).append(group)
    for groups in found.values():
        groups.sort(key=lambda group: group.case.items)
    return {key: groups for key, groups in found.items() if len(groups) > 1}

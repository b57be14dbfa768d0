"""The tables of what `accuracy.py` has measured, in Markdown."""

import math

from fusedloss.functions import ERROR_BOUNDS
from fusedloss.losses import REGISTRY

DTYPES = ("float32", "float64")

INTRODUCTION = """\
Worst errors in ulp, by `./ci/accuracy`, over random data of every regime in `tests/regimes.py`,
whose truths are made in long double: rows of 1 to 250000 classes, and sums of 10000000 items. Means
and sums are rounded to the dtype first. Results below the smallest normal number may be 0; inf: nan
or infinity where a number was due. Bounds are those of hard labels without options."""


def summary(found):
    """One row for each output and dtype: the worst of all regimes."""
    header = ("worst error in ulp", "dtype", "stated bound", *found["contenders"])
    rows = []
    for name, output in _outputs(found):
        for dtype in DTYPES:
            cells = _worst(found, name, output, dtype)
            row = [_of_all(cells, contender) for contender in found["contenders"]]
            if any(row):
                title = f"`{name}` {output}".strip()
                rows.append((title, dtype, bound_text(name, output, dtype), *map(_text, row)))
    return f"{INTRODUCTION}\n\n{_table(header, rows, right=2)}"


def markdown(found):
    """The summary, and for each output a table of its regimes, with the input that the first of the
    contenders is worst at.
    """
    first = found["contenders"][0]
    parts = [summary(found)]
    for name, output in _outputs(found):
        cells = {dtype: _worst(found, name, output, dtype) for dtype in DTYPES}
        bounds = " and ".join(bound_text(name, output, dtype) for dtype in DTYPES)
        inputs = (f"worst input of {first}, {dtype}" for dtype in DTYPES)
        header = ("float32, float64", *found["contenders"], *inputs)
        rows = [
            (
                regime,
                *(
                    _text(*(cells[dtype].get((regime, contender)) for dtype in DTYPES))
                    for contender in found["contenders"]
                ),
                *((cells[dtype].get((regime, first)) or ("", ""))[1] for dtype in DTYPES),
            )
            for regime in dict.fromkeys(key[0] for dtype in DTYPES for key in cells[dtype])
        ]
        title = f"### `{name}` {output}".strip()
        parts.append(f"{title}\n\nStated bounds: {bounds}.\n\n{_table(header, rows, right=1)}")
    return "\n\n".join(parts)


def bound_text(name, output, dtype):
    """The stated bound; none for options."""
    if not output:
        return f"{ERROR_BOUNDS[name][dtype]:g}"
    if output == "mean with options":
        return "-"
    return f"{REGISTRY[name].error_bounds['mean' if output == 'mean, sum' else output][dtype]:g}"


def _outputs(found):
    """(loss or function, output), losses first."""
    pairs = dict.fromkeys((name, output) for name, output, *_ in found["worst"])
    order = [*REGISTRY, *ERROR_BOUNDS]
    outputs = ["value", "mean, sum", "grad", "hess", "mean with options", ""]
    return sorted(pairs, key=lambda pair: (order.index(pair[0]), outputs.index(pair[1])))


def _worst(found, name, output, dtype):
    """{(regime, contender): (error, where)}"""
    return {
        (regime, contender): (math.inf if error is None else error, where)
        for of, what, kind, regime, contender, error, where in found["worst"]
        if (of, what, kind) == (name, output, dtype)
    }


def _of_all(cells, contender):
    return max((cell for (_, who), cell in cells.items() if who == contender), default=None)


def _text(*cells):
    """The errors in these cells; one dash if there is none in any."""
    if not any(cells):
        return "-"
    errors = (cell[0] if cell else math.nan for cell in cells)
    return ", ".join(f"{error:.0e}" if error >= 1000 else f"{error:.2f}" for error in errors)


def _table(header, rows, right):
    """A Markdown table; columns from `right` on are figures."""
    rules = ["---" if column < right else "--:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (header, rules, *rows))

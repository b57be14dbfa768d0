"""How far the results are from the truth: worst errors over the tables in tests/tables, in ulp.

    python -m benches.accuracy          prints the table
    python -m benches.accuracy --readme writes it into README.md too

Only hard labels and default options, for which the bounds are stated. PyTorch has its column where
it is installed.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import fusedloss as fl
from fusedloss.functions import ERROR_BOUNDS
from fusedloss.losses import REGISTRY

from .readme import put

TESTS = Path(__file__).parent.parent / "tests"
VERBS = {"value": ("__call__",), "grad": ("value_and_grad", 1), "hess": ("grad_and_hess", 1)}
DTYPES = ("float32", "float64")
FUNCTIONS = tuple(ERROR_BOUNDS)


def truth_tables():
    """The reader of the tables, which lives with the tests."""
    sys.path.insert(0, str(TESTS))
    import truth_tables

    return truth_tables


def cases(loss, dtype):
    """The cases for which the bounds are stated."""
    return [
        case
        for case in truth_tables().load(loss)
        if case.dtype == dtype
        and not case.options
        and (case.target is None or case.target.dtype.kind != "f" or loss == "mse_loss")
    ]


def ours(loss, case, output, reduction):
    verb, *place = VERBS[output]
    result = getattr(REGISTRY[loss], verb)(case.input, case.target, reduction=reduction)
    return result[place[0]] if place else result


def torch_result(loss, case, output, reduction):
    """PyTorch's value or gradient; None for what it does not give."""
    import torch

    if output == "hess":
        return None
    x = torch.tensor(case.input, requires_grad=True)
    target = torch.tensor(case.target)
    if loss == "cross_entropy":
        target = target.long()
    else:
        target = target.to(x.dtype)
    value = getattr(torch.nn.functional, loss)(x, target, reduction=reduction)
    if output == "value":
        return value.detach().numpy()
    value.sum().backward()
    return x.grad.numpy()


def worst(results):
    """The largest of the errors; None if there is none."""
    errors = [np.max(error) for error in results if error is not None and np.size(error)]
    return max(errors, default=None)


def loss_errors(loss, output, dtype, compute):
    for case in cases(loss, dtype):
        for reduction in case.reductions(output):
            got = compute(loss, case, output, reduction)
            yield None if got is None else case.error(got, output, reduction)


def function_errors(name, dtype, compute):
    for case in cases("functions", dtype):
        if name in case.results:
            yield case.error(compute(name, case.input), name)


def contenders():
    """Column title -> (context, function of a loss, function of one array)."""
    found = {}
    for backend in ("cython", "numba", "numpy"):
        try:
            with fl.use_backend(backend):
                pass
        except ImportError:
            continue
        found[backend] = (backend, ours, lambda name, x: getattr(fl, name)(x))
    try:
        import torch
    except ImportError:
        return found

    def function(name, x):
        argument = torch.tensor(x)
        along = {"dim": -1} if name in ("softmax", "log_softmax", "logsumexp") else {}
        name = {"log_sigmoid": "logsigmoid"}.get(name, name)
        home = torch.nn.functional if name in ("softplus", "logsigmoid") else torch
        return getattr(home, name)(argument, **along).numpy()

    found[f"PyTorch {torch.__version__.partition('+')[0]}"] = ("numpy", torch_result, function)
    return found


def text(error):
    if error is None:
        return "-"
    return f"{error:.2f}" if error < 1000 else f"{error:.0e}"


def table():
    columns = contenders()
    header = ("worst error in ulp", "dtype", "stated bound", *columns)
    rows = []
    for loss, instance in REGISTRY.items():
        for output, bounds in instance.error_bounds.items():
            for dtype in DTYPES:
                row = [f"`{loss}` {output}", dtype, f"{bounds[dtype]:g}"]
                for backend, compute, _ in columns.values():
                    with fl.use_backend(backend):
                        row.append(text(worst(loss_errors(loss, output, dtype, compute))))
                rows.append(row)
    for name in FUNCTIONS:
        for dtype in DTYPES:
            row = [f"`{name}`", dtype, f"{ERROR_BOUNDS[name][dtype]:g}"]
            for backend, _, compute in columns.values():
                with fl.use_backend(backend):
                    row.append(text(worst(function_errors(name, dtype, compute))))
            rows.append(row)
    rule = ("---", "---", *("--:" for _ in header[2:]))
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def main():
    parser = argparse.ArgumentParser(prog="python -m benches.accuracy", description=__doc__)
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    options = parser.parse_args()
    lines = (
        "Measured by `python -m benches.accuracy` over the inputs of `tests/tables`, whose truths "
        "were made with mpmath:\nconfident rows, common offsets, wide spreads, ties and tiny "
        "losses among them. Results below the smallest normal\nnumber may be 0.\n\n" + table()
    )
    print(lines)
    if options.readme:
        put("accuracy table", lines)


if __name__ == "__main__":
    main()

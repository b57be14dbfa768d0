"""Every backend against a truth that was worked out in hundreds of digits.

The tables, made by tests/tables/make_tables.py, hold the regimes in which careless forms fail:
confident rows, common offsets, wide spreads, ties, tiny logits and losses.
"""

import numpy as np
import pytest
import truth_tables
from cases import (
    LOSSES,
    OPTIONS_FACTOR,
    call,
    compute_dtype,
    named_outputs,
    numpy_dtype,
    stated_bound,
)

import fusedloss as fl
from fusedloss.functions import ERROR_BOUNDS

# What changes no arithmetic; with anything else a bound is multiplied by OPTIONS_FACTOR.
PLAIN = {"ignore_index", "axis"}


def allowed(case, bounds, plain, out_dtype):
    compute = compute_dtype(case.dtype.name)
    ulp = bounds[compute.name] * (1 if plain else OPTIONS_FACTOR)
    if out_dtype == compute:
        return ulp
    # One rounding of a result whose error is `ulp` of the compute type.
    digits = {"float32": 24, "float64": 53}[compute.name]
    stored = {"float16": 11, "bfloat16": 8}[out_dtype.name]
    return 0.5 + ulp * 2.0 ** (stored - digits)


@pytest.mark.parametrize(
    ("loss", "case"),
    [
        pytest.param(loss, case, id=f"{loss}: {case}")
        for loss in LOSSES
        for case in truth_tables.load(loss)
    ],
)
def test_loss(loss, case, backend):
    plain = case.target.dtype.kind != "f" or loss == "mse_loss"
    plain = plain and set(case.options) <= PLAIN
    for verb, outputs in (
        ("value", ["value"]),
        ("value_and_grad", ["value", "grad"]),
        ("grad_and_hess", ["grad", "hess"]),
    ):
        for reduction in sorted({r for name in outputs for r in case.reductions(name)}):
            result = call(loss, verb, case.input, case.target, reduction=reduction, **case.options)
            for output, got in named_outputs(verb, result).items():
                if reduction not in case.reductions(output):
                    continue
                out_dtype = case.dtype if output != "value" else compute_dtype(case.dtype.name)
                bounds = {
                    dtype: stated_bound(loss, output, reduction, dtype)
                    for dtype in ("float32", "float64")
                }
                bound = allowed(case, bounds, plain, out_dtype)
                error = case.error(got, output, reduction)
                error = np.where(was_flushed(case, got, output, reduction), 0.0, error)
                hold(case, error, bound, got, (verb, reduction, output))


def was_flushed(case, got, output, reduction):
    """Where a zero stands for what was below the smallest normal number before it was weighted."""
    lift = np.prod(
        [np.abs(np.asarray(case.options.get(name, 1.0))).max() for name in ("weight", "pos_weight")]
    )
    smallest = np.finfo(compute_dtype(case.dtype.name)).smallest_normal
    truth = truth_tables.parse(case.results[output][reduction]["truth"])[0]
    return (np.asarray(got) == 0) & (np.abs(truth).reshape(np.shape(got)) < lift * smallest)


FUNCTIONS = ("softmax", "log_softmax", "logsumexp", "sigmoid", "log_sigmoid", "softplus")


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=str(case)) for case in truth_tables.load("functions")]
)
def test_functions(case, backend):
    for name in case.results:
        assert name in FUNCTIONS
        with np.errstate(all="raise"):
            got = getattr(fl, name)(case.input)
        bound = allowed(case, ERROR_BOUNDS[name], True, case.dtype)
        hold(case, case.error(got, name), bound, got, (name,))


def hold(case, error, bound, got, what):
    if not np.all(error <= bound):
        worst = np.unravel_index(np.argmax(error), error.shape)
        raise AssertionError(
            f"{case}, {what}, backend {fl.runtime_info()['backend']}: result "
            f"{np.asarray(got)[worst]!r} at {worst} is {error[worst]:.4g} ulp from the truth, "
            f"allowed {bound:.4g}\ninput {case.input!r}\ntarget {case.target!r}\n"
            f"options {case.options!r}"
        )


def test_the_tables_have_every_loss_dtype_and_output():
    """So that an empty table cannot pass for a correct backend."""
    for loss in LOSSES:
        cases = truth_tables.load(loss)
        dtypes = {case.dtype for case in cases}
        assert {numpy_dtype(name) for name in ("float32", "float64")} <= dtypes, loss
        found = {
            (output, reduction)
            for case in cases
            for output in case.results
            for reduction in case.results[output]
        }
        wanted = {("value", "none"), ("value", "sum"), ("value", "mean"), ("grad", "sum")}
        assert wanted | {("hess", "sum")} <= found, (loss, found)
    functions = {name for case in truth_tables.load("functions") for name in case.results}
    assert functions == set(FUNCTIONS)

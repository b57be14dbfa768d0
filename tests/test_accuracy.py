"""Every backend within its stated bounds, on random data of every regime.

The data and their truth are those of `regimes.py`; nothing is added to the bounds. A mean or a sum
is held to the bound of the value.
"""

from functools import lru_cache

import pytest
import regimes
from cases import stated_bound
from regimes import BCE, DTYPES, MSE
from ulp import assert_ulp

import fusedloss as fl
from fusedloss.functions import ERROR_BOUNDS

# With options a mean may have this, as the docstring of cross-entropy says.
OPTIONS_BOUND = 3.0

# Backends take turns on the same data, see conftest.py.
rows = lru_cache(maxsize=4)(regimes.rows)
rows_with_options = lru_cache(maxsize=4)(regimes.rows_with_options)
items = lru_cache(maxsize=4)(regimes.items)
sums = lru_cache(maxsize=1)(regimes.sums)


def bound(data, output):
    if not data.plain:
        return OPTIONS_BOUND
    if output in ERROR_BOUNDS:
        return ERROR_BOUNDS[output][data.dtype]
    reduced = output in regimes.REDUCED
    return stated_bound(
        data.loss, "value" if reduced else output, output if reduced else "none", data.dtype
    )


def hold(data, ours=regimes.ours):
    """Every output that `data` has the truth of."""
    found = ours(data)
    for output, truth in data.truths.items():
        what = f"{data.loss} {output}, {data.what}, {data.dtype}, {fl.runtime_info()['backend']}"
        assert_ulp(
            found[output],
            truth.high,
            bound(data, output),
            low=truth.low,
            size=truth.size,
            dtype=data.x.dtype if output in regimes.REDUCED else None,
            what=what,
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("regime", "classes"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] if case[1] > 5003 else [])
        for case in regimes.ROW_CASES
    ],
)
def test_rows(regime, classes, dtype, backend):
    """Cross-entropy, softmax, log_softmax and logsumexp."""
    hold(rows(regime, classes, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [3, 15, 33, 130, 1025])
@pytest.mark.parametrize("regime", ["outliers", "one ahead of equals", "confident and wrong"])
def test_rows_whose_classes_are_on_the_first_axis(regime, classes, dtype, backend):
    hold(rows(regime, classes, dtype), regimes.ours_on_the_first_axis)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("regime", "classes"), regimes.ROW_CASES)
def test_many_more_rows(regime, classes, dtype, backend):
    hold(rows(regime, classes, dtype, items=300_000, seed=1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("regime", regimes.ITEM_REGIMES)
def test_binary_cross_entropy_with_logits(regime, dtype, backend):
    """And sigmoid, log_sigmoid and softplus."""
    hold(items(regime, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("regime", regimes.PROBABILITY_REGIMES)
def test_binary_cross_entropy(regime, dtype, backend):
    hold(regimes.probabilities(regime, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("regime", regimes.ERROR_REGIMES)
def test_mse_loss(regime, dtype, backend):
    hold(regimes.errors(regime, dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", [BCE, MSE])
def test_sum_of_ten_million_items(loss, dtype, backend):
    hold(sums(loss, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 3, 41, 1000])
@pytest.mark.parametrize("regime", regimes.OPTION_REGIMES)
@pytest.mark.parametrize("option", regimes.ROW_OPTIONS)
def test_mean_of_rows_with_options(option, regime, classes, dtype, backend):
    hold(rows_with_options(option, regime, classes, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("regime", regimes.FINITE_ITEM_REGIMES)
@pytest.mark.parametrize("option", regimes.ITEM_OPTIONS)
def test_mean_of_items_with_options(option, regime, dtype, backend):
    hold(regimes.items_with_options(option, regime, dtype))

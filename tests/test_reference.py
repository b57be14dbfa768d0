"""The reference against the tables that mpmath made, and the tables against their script.

The other backends are tested against the reference, so it is held to its own bounds here, which are
tighter than what the losses promise: from float32 input its results are right to the last bit, up
to ties; from float64 input they are good to a few ulp.
"""

import json

import numpy as np
import pytest
import truth_tables

from fusedloss.backends import GRAD_AND_HESS, VALUE, VALUE_AND_GRAD, reference

# In ulp. 0.5 is the rounding of the result; float64 arithmetic before it costs 0.0001 of a float32.
NARROW = 0.501
FLOAT64 = {"value": 2.0, "grad": 3.0, "hess": 3.5, "function": 1.5}

LOSS_CASES = [
    pytest.param(loss, case, id=f"{loss}: {case}")
    for loss in truth_tables.LOSSES
    for case in truth_tables.load(loss)
]
FUNCTION_CASES = [
    pytest.param(function, case, id=f"{function}: {case}")
    for case in truth_tables.load("functions")
    for function in case.results
]


def evaluate(loss, verb, case, reduction):
    option = case.options.get
    if loss == "cross_entropy":
        more = [option("weight"), option("sample_weight"), option("ignore_index", -100)]
        more += [option("label_smoothing", 0.0), option("z_loss", 0.0), reduction, 1, None, None]
    elif loss == "binary_cross_entropy_with_logits":
        more = [option("weight"), option("pos_weight"), reduction, None, None]
    else:
        more = [option("weight"), reduction, None, None]
    return getattr(reference, loss)(verb, case.input, case.target, *more)


@pytest.mark.parametrize(("loss", "case"), LOSS_CASES)
def test_losses_are_right_to_a_few_ulp(loss, case):
    for reduction in ("none", "sum", "mean"):
        value, grad = evaluate(loss, VALUE_AND_GRAD, case, reduction)
        same_grad, hess = evaluate(loss, GRAD_AND_HESS, case, reduction)
        np.testing.assert_array_equal(evaluate(loss, VALUE, case, reduction), value)
        np.testing.assert_array_equal(same_grad, grad)
        for output, result in (("value", value), ("grad", grad), ("hess", hess)):
            if reduction not in case.reductions(output):
                continue
            error = case.error(result, output, reduction)
            bound = FLOAT64[output] if case.dtype == np.float64 else NARROW
            assert error.max() <= bound, f"{output}, {reduction}: {error.max()} ulp: {result}"


@pytest.mark.parametrize(("function", "case"), FUNCTION_CASES)
def test_functions_are_right_to_a_few_ulp(function, case):
    axis = [case.input.ndim - 1] if case.input.ndim == 2 else []
    result = getattr(reference, function)(case.input, *axis, None, None)
    assert result.dtype == case.dtype
    error = case.error(result, function)
    bound = FLOAT64["function"] if case.dtype == np.float64 else NARROW
    assert error.max() <= bound, f"{error.max()} ulp: {result}"


@pytest.mark.parametrize("loss", truth_tables.LOSSES)
def test_tables_have_every_output_and_reduction(loss):
    found = {
        (str(case.dtype), output, reduction)
        for case in truth_tables.load(loss)
        for output in ("value", "grad", "hess")
        for reduction in case.reductions(output)
    }
    for dtype in ("float32", "float64"):
        for reduction in ("none", "sum", "mean"):
            assert (dtype, "value", reduction) in found
        assert {(dtype, "grad", "sum"), (dtype, "hess", "sum")} <= found


@pytest.mark.parametrize("table", [*truth_tables.LOSSES, "functions"])
def test_tables_are_what_their_script_makes(table, monkeypatch):
    pytest.importorskip("mpmath")
    monkeypatch.syspath_prepend(truth_tables.FOLDER)
    import make_tables

    def as_read(case):
        return json.loads(json.dumps(case))

    lines = truth_tables.raw(table)
    made = list(make_tables.cases(table))
    inputs = [{key: line[key] for key in line if key != "results"} for line in lines]
    assert inputs == as_read(made)
    for line, case in list(zip(lines, made, strict=True))[::7]:
        assert line == as_read(make_tables.truth(table, case))


# --------------------------------------------------------------------------------------------------
# What the tables cannot show
# --------------------------------------------------------------------------------------------------


def test_sums_are_exact_to_the_last_bit():
    rng = np.random.default_rng(1)
    for count in (1, 2, 3, 7, 64, 1001):
        terms = rng.normal(size=(3, count)) * 10.0 ** rng.integers(-12, 13, size=(3, count))
        exact = [truth_tables.Fraction(0)] * 3
        for i, row in enumerate(terms):
            exact[i] = sum(map(truth_tables.Fraction, row.tolist()), exact[i])
        size = np.abs(terms).sum(axis=1)
        error = np.abs(reference.add_up(terms) - [float(number) for number in exact])
        assert np.all(error <= np.spacing(np.abs([float(n) for n in exact])) + 1e-28 * size)


@pytest.mark.parametrize(
    ("terms", "total"),
    [
        ([], 0.0),
        ([1e16, 1.0, -1e16], 1.0),
        ([np.inf, 1.0, 2.0], np.inf),
        ([np.inf, 1.0, -np.inf], np.nan),
        ([np.nan, 1.0, 2.0], np.nan),
        ([1.7e308, 1.7e308], np.inf),
    ],
)
def test_sums_of_special_terms(terms, total):
    with np.errstate(all="ignore"):
        np.testing.assert_equal(float(reference.add_up(np.array(terms))), total)


def test_blocks_do_not_show(monkeypatch):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(50, 7)), rng.integers(0, 7, size=50)
    y[::5] = -100

    def results():
        cross_entropy = reference.cross_entropy(
            GRAD_AND_HESS, x, y, None, None, -100, 0.1, 0.01, "mean", 1, None, None
        )
        softmax = reference.softmax(x, 0, None, None)
        mse = reference.mse_loss(VALUE_AND_GRAD, x, x[::-1].copy(), None, "none", None, None)
        return [*cross_entropy, softmax, *mse, reference.logsumexp(x, 1, None, None)]

    whole = results()
    monkeypatch.setattr(reference, "BLOCK", 16)
    for first, second in zip(whole, results(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_targets_and_item_weights_are_rounded_to_the_compute_type():
    x = np.array([[0.5, 0.25, 0.75]], np.float32)
    fine, coarse = (np.full((1, 3), 1 / 3).astype(dtype) for dtype in (np.float64, np.float32))
    for loss, options in {
        "cross_entropy": [None, None, -100, 0.0, 0.0, "mean", 1, None, None],
        "binary_cross_entropy_with_logits": [fine, fine, "mean", None, None],
        "binary_cross_entropy": [fine, "mean", None, None],
        "mse_loss": [fine, "mean", None, None],
    }.items():
        rounded = [coarse if option is fine else option for option in options]
        function = getattr(reference, loss)
        assert function(VALUE, x, fine, *options) == function(VALUE, x, coarse, *rounded)
        x64 = x.astype(np.float64)
        assert function(VALUE, x64, fine, *options) != function(VALUE, x64, coarse, *rounded)


def test_gradient_of_probabilities_close_to_the_target_keeps_its_digits():
    p = np.array([0.3, 0.5, 0.9, 1e-6])
    t = p * (1 + 1e-10)
    _, grad = reference.binary_cross_entropy(VALUE_AND_GRAD, p, t, None, "none", None, None)
    for p_i, t_i, result in zip(p.tolist(), t.tolist(), grad, strict=True):
        exact_p, exact_t = truth_tables.Fraction(p_i), truth_tables.Fraction(t_i)
        truth = float((exact_p - exact_t) / (exact_p * (1 - exact_p)))
        assert abs(result - truth) <= 3 * np.spacing(abs(truth))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis_and_rank(axis):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 3, 4))
    y = rng.integers(0, x.shape[axis], size=np.delete(x.shape, axis))
    options = [None, None, -100, 0.0, 0.0, "none"]
    value, grad = reference.cross_entropy(VALUE_AND_GRAD, x, y, *options, axis, None, None)
    assert value.shape == y.shape
    assert grad.shape == x.shape
    for position in np.ndindex(*y.shape):
        index = (*position[:axis], slice(None), *position[axis:])
        row = np.ascontiguousarray(x[index])
        label = np.asarray(y[position])
        one, g = reference.cross_entropy(VALUE_AND_GRAD, row, label, *options, 0, None, None)
        assert isinstance(one, np.ndarray)
        assert one.shape == ()
        assert one == value[position]
        np.testing.assert_array_equal(g, grad[index])


@pytest.mark.parametrize(
    ("target", "ignore_index", "good"),
    [
        (np.array([0, 2], np.uint8), -100, True),
        (np.array([0, 3], np.uint8), -100, False),
        (np.array([0, 255], np.uint8), -1, False),  # 255 is not -1
        (np.array([0, 255], np.uint8), 255, True),
        (np.array([0, -1], np.int8), 255, False),
        (np.array([0, -1], np.int8), -1, True),
        (np.array([0, 2**64 - 1], np.uint64), -1, False),
        (np.array([0, 2**64 - 1], np.uint64), 2**64 - 1, True),
        (np.array([0, 2**63], np.uint64), -(2**63), False),
        (np.array([0, 1], np.int64), 10**30, True),
        (np.array([-(2**63), 1], np.int64), -(2**63), True),
    ],
)
def test_labels_and_ignore_index_compare_as_integers(target, ignore_index, good):
    x, out = np.zeros((2, 3), np.float32), np.full((2, 3), 7, np.float32)
    options = [None, None, ignore_index, 0.0, 0.0, "mean", 1, None, out]
    result = reference.cross_entropy(VALUE_AND_GRAD, x, target, *options)
    assert (result is not NotImplemented) == good
    if not good:
        assert np.all(out == 7), "a bad label must leave out as it was"


def test_bad_values_are_not_implemented():
    x = np.array([0.5, 0.5])
    three = np.array([0, 3])
    with_logits = reference.binary_cross_entropy_with_logits
    from_probs = reference.binary_cross_entropy
    assert with_logits(VALUE, x, three, None, None, "mean", None, None) is NotImplemented
    assert with_logits(VALUE, x, three / 2, None, None, "mean", None, None) is not NotImplemented
    for probs, target in ((x, three), (x, three / 2), (x - 1, x), (x + 0.6, x)):
        assert from_probs(VALUE, probs, target, None, "mean", None, None) is NotImplemented
    nan = np.array([np.nan, 0.5])
    assert np.isnan(from_probs(VALUE, nan, x, None, "mean", None, None))


@pytest.mark.parametrize("place", ["grad", "hess", "both", "in place"])
def test_out_is_filled_and_returned(place):
    rng = np.random.default_rng(4)
    x, t = rng.normal(size=(6, 5)), rng.random((6, 5))
    arguments = {
        "cross_entropy": [None, None, -100, 0.0, 0.0, "mean", 0, None],
        "binary_cross_entropy_with_logits": [None, None, "mean", None],
        "mse_loss": [None, "mean", None],
    }
    for loss, options in arguments.items():
        z = x.copy()
        function = getattr(reference, loss)
        expected = function(GRAD_AND_HESS, x, t, *options, None)
        grad = z if place == "in place" else np.empty_like(x) if place != "hess" else None
        hess = np.empty_like(x) if place in ("hess", "both") else None
        result = function(GRAD_AND_HESS, z, t, *options, (grad, hess))
        assert grad is None or result[0] is grad
        assert hess is None or result[1] is hess
        np.testing.assert_array_equal(result, expected)
    y = x.copy()
    assert reference.softplus(y, None, y) is y
    np.testing.assert_array_equal(y, reference.softplus(x, None, None))

"""What must hold by mathematics, on every backend, whatever any other implementation says.

Gradients and Hessians are held against differences of values and gradients, and each loss against
relations between its own results: under shifts, permutations, weights, reductions and options, and
between the losses.
"""

import numpy as np
import pytest

import fusedloss as fl

DTYPES = ("float32", "float64")

# Two results that are equal by mathematics differ by the error of both, and of the arithmetic of
# the identity. 16 units of rounding, relative to the size of the terms, is enough for all of them;
# a wrong formula, weight or denominator is off by far more.
UNITS = 16

LOGITS = np.random.default_rng(10).normal(scale=2.5, size=(12, 7))
LABELS = np.random.default_rng(11).integers(0, 7, size=12)
SOFT = np.random.default_rng(12).dirichlet(np.ones(7), size=12)
WEIGHT = np.random.default_rng(13).uniform(0.25, 4, size=7)
SAMPLE_WEIGHT = np.random.default_rng(14).uniform(0.25, 4, size=12)


@pytest.fixture(params=DTYPES)
def dtype(request):
    return np.dtype(request.param)


def assert_same(actual, desired, dtype, size=0.0):
    """Equal but for the rounding of both, at their size or that of the terms they are made of."""
    actual = np.asarray(actual, dtype=np.float64)
    desired = np.asarray(desired, dtype=np.float64)
    assert actual.shape == desired.shape
    allowed = UNITS * np.finfo(dtype).eps * np.maximum(np.abs(desired), size)
    wrong = ~(np.abs(actual - desired) <= allowed)
    assert not wrong.any(), f"{actual[wrong]} is not {desired[wrong]}, allowed {allowed[wrong]}"


# --------------------------------------------------------------------------------------------------
# Finite differences, in float64
# --------------------------------------------------------------------------------------------------

STEP = 2.0**-17  # the error of a central difference: its square, and 2**-53 / it; both about 1e-11

_items = np.random.default_rng(15)
ITEMS = _items.normal(scale=3, size=(3, 4))
PROBS = _items.uniform(0.2, 0.8, size=(3, 4))
TARGETS = _items.uniform(size=(3, 4))
HARD = _items.integers(0, 2, size=(3, 4))
ITEM_WEIGHT = _items.uniform(0.25, 4, size=(3, 4))
POS_WEIGHT = _items.uniform(0.25, 4, size=4)
ROWS = LOGITS[:3, :4].copy()
EVERY_OPTION = {
    "weight": WEIGHT[:4],
    "sample_weight": SAMPLE_WEIGHT[:3],
    "label_smoothing": 0.2,
    "z_loss": 0.05,
}

DIFFERENTIABLE = {
    "indices": ("cross_entropy", ROWS, np.array([1, 0, 3]), {}),
    "indices, an ignored row": ("cross_entropy", ROWS, np.array([1, -100, 3]), {}),
    "indices, weight": ("cross_entropy", ROWS, np.array([1, 0, 3]), {"weight": WEIGHT[:4]}),
    "indices, smoothing": ("cross_entropy", ROWS, np.array([1, 0, 3]), {"label_smoothing": 0.3}),
    "indices, z_loss": ("cross_entropy", ROWS, np.array([1, 0, 3]), {"z_loss": 0.1}),
    "indices, every option": ("cross_entropy", ROWS, np.array([1, -100, 3]), EVERY_OPTION),
    "indices, other axis": ("cross_entropy", ROWS, np.array([1, 0, 2, 2]), {"axis": 0}),
    "probabilities": ("cross_entropy", ROWS, TARGETS, {}),
    "probabilities, every option": ("cross_entropy", ROWS, TARGETS, EVERY_OPTION),
    "with_logits, hard": ("binary_cross_entropy_with_logits", ITEMS, HARD, {}),
    "with_logits, soft": ("binary_cross_entropy_with_logits", ITEMS, TARGETS, {}),
    "with_logits, both weights": (
        "binary_cross_entropy_with_logits",
        ITEMS,
        TARGETS,
        {"weight": ITEM_WEIGHT, "pos_weight": POS_WEIGHT},
    ),
    "probs, hard": ("binary_cross_entropy", PROBS, HARD, {}),
    "probs, soft, weight": ("binary_cross_entropy", PROBS, TARGETS, {"weight": ITEM_WEIGHT}),
    "mse": ("mse_loss", ITEMS, TARGETS, {}),
    "mse, weight": ("mse_loss", ITEMS, TARGETS, {"weight": ITEM_WEIGHT}),
}


def difference(function, x):
    """(function(x + step) - function(x - step)) / (2 step), for a step in each entry of x."""
    slopes = []
    for index in np.ndindex(*x.shape):
        above, below = x.copy(), x.copy()
        above[index] += STEP
        below[index] -= STEP
        slopes.append((function(above, index) - function(below, index)) / (above - below)[index])
    return np.reshape(slopes, x.shape)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_grad_is_the_slope_of_the_value(backend, name, reduction):
    loss, x, target, options = DIFFERENTIABLE[name]
    loss = getattr(fl, loss)
    # The gradient of "none" is that of the sum: each item has its own value.
    options = {**options, "reduction": reduction}
    _, grad = loss.value_and_grad(x, target, **options)
    slope = difference(lambda x, _: np.sum(loss(x, target, **options)), x)
    np.testing.assert_allclose(grad, slope, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_hess_is_the_slope_of_the_grad(backend, name, reduction):
    loss, x, target, options = DIFFERENTIABLE[name]
    loss = getattr(fl, loss)
    options = {**options, "reduction": reduction}
    grad, hess = loss.grad_and_hess(x, target, **options)
    np.testing.assert_array_equal(grad, loss.value_and_grad(x, target, **options)[1])
    slope = difference(lambda x, i: loss.value_and_grad(x, target, **options)[1][i], x)
    np.testing.assert_allclose(hess, slope, rtol=1e-7, atol=1e-8)


# --------------------------------------------------------------------------------------------------
# Reductions: all losses
# --------------------------------------------------------------------------------------------------


def as_type(array, dtype):
    return (
        array.astype(dtype) if isinstance(array, np.ndarray) and array.dtype.kind == "f" else array
    )


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_none_sums_to_sum_and_sum_over_the_denominator_is_mean(backend, name, dtype):
    loss, x, target, options = DIFFERENTIABLE[name]
    if options.get("z_loss"):
        options = {**options, "z_loss": 0.0}  # it has a denominator of its own: see below
    function = getattr(fl, loss)
    x, target = as_type(x, dtype), as_type(target, dtype)

    value, grad, hess = {}, {}, {}
    for reduction in ("none", "sum", "mean"):
        value[reduction], grad[reduction] = function.value_and_grad(
            x, target, **options, reduction=reduction
        )
        same, hess[reduction] = function.grad_and_hess(x, target, **options, reduction=reduction)
        np.testing.assert_array_equal(same, grad[reduction])
        np.testing.assert_array_equal(
            function(x, target, **options, reduction=reduction), value[reduction]
        )

    denominator = expected_denominator(loss, x, target, options)
    assert_same(np.sum(value["none"], dtype=np.float64), value["sum"], dtype)
    assert_same(value["sum"] / denominator, value["mean"], dtype)
    for output in (grad, hess):
        np.testing.assert_array_equal(output["none"], output["sum"])
        assert_same(output["sum"] / denominator, output["mean"], dtype)


def expected_denominator(loss, x, target, options):
    if loss.startswith("binary"):
        return x.size
    if loss == "mse_loss":
        return options["weight"].sum() if "weight" in options else x.size
    if target.dtype.kind == "f":
        return options["sample_weight"].sum() if "sample_weight" in options else len(x)
    valid = target != -100
    weight = options.get("weight", np.ones(x.shape[options.get("axis", -1)]))
    sample_weight = options.get("sample_weight", np.ones(target.shape))
    return np.sum(sample_weight[valid] * weight[target[valid]])


def test_z_loss_is_the_mean_of_squared_logsumexp(backend, dtype):
    x = LOGITS.astype(dtype)
    labels = np.where(np.arange(12) % 4 == 0, -100, LABELS)
    options = {"weight": WEIGHT, "sample_weight": SAMPLE_WEIGHT}
    with_z = fl.cross_entropy(x, labels, z_loss=0.5, **options)
    valid = labels != -100
    squares = fl.logsumexp(x).astype(np.float64)[valid] ** 2
    z = 0.5 * np.sum(SAMPLE_WEIGHT[valid] * squares) / SAMPLE_WEIGHT[valid].sum()
    assert_same(with_z, fl.cross_entropy(x, labels, **options) + z, dtype)


# --------------------------------------------------------------------------------------------------
# Cross-entropy
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (LABELS, {}),
        (LABELS, {"weight": WEIGHT, "sample_weight": SAMPLE_WEIGHT}),
        (LABELS, {"weight": WEIGHT, "label_smoothing": 0.3}),
        (SOFT, {}),
        (SOFT * 3, {"weight": WEIGHT, "label_smoothing": 0.3}),
    ],
)
def test_gradient_rows_sum_to_zero(backend, dtype, target, options):
    x = LOGITS.astype(dtype)
    _, grad = fl.cross_entropy.value_and_grad(x, target, **options, reduction="sum")
    size = np.abs(grad).sum(axis=1, dtype=np.float64)
    assert_same(grad.sum(axis=1, dtype=np.float64), np.zeros(12), dtype, size)


@pytest.mark.parametrize("shift", [-4096.0, 3.0, 2.0**16])
@pytest.mark.parametrize("target", [LABELS, SOFT], ids=["indices", "probabilities"])
def test_a_common_shift_of_the_logits_changes_nothing(backend, dtype, target, shift):
    x = np.round(LOGITS * 32) / 32  # so that adding the shift is exact, in float32 too
    x = x.astype(dtype)
    shifted = x + dtype.type(shift)
    np.testing.assert_array_equal(shifted - dtype.type(shift), x)
    for verb in ("value_and_grad", "grad_and_hess"):
        options = {"label_smoothing": 0.1, "weight": WEIGHT, "reduction": "none"}
        moved = getattr(fl.cross_entropy, verb)(shifted, target, **options)
        stayed = getattr(fl.cross_entropy, verb)(x, target, **options)
        for first, second in zip(moved, stayed, strict=True):
            assert_same(first, second, dtype, size=WEIGHT.max() / 4)


def test_one_hot_probabilities_are_indices(backend, dtype):
    x = LOGITS.astype(dtype)
    one_hot = np.eye(7)[LABELS]
    options = {"weight": WEIGHT, "sample_weight": SAMPLE_WEIGHT, "z_loss": 0.01}
    for reduction in ("sum", "none"):
        by_index = fl.cross_entropy.value_and_grad(x, LABELS, **options, reduction=reduction)
        by_class = fl.cross_entropy.value_and_grad(x, one_hot, **options, reduction=reduction)
        assert_same(by_class[0], by_index[0], dtype)
        assert_same(by_class[1], by_index[1], dtype, size=0.2)
    # In the mean, only indices bring the weights of their classes into the denominator.
    assert_same(fl.cross_entropy(x, one_hot), fl.cross_entropy(x, LABELS), dtype)
    ratio = WEIGHT[LABELS].sum() / 12
    by_index, by_class = (fl.cross_entropy(x, t, weight=WEIGHT) for t in (LABELS, one_hot))
    assert_same(by_class, by_index * ratio, dtype)


def test_one_hot_gradients_keep_the_digits_of_confident_rows(backend, dtype):
    x = np.array([[20, 0, 1], [35, 0, 0], [60, 3, 0]], dtype)
    labels = np.zeros(3, int)
    _, by_index = fl.cross_entropy.value_and_grad(x, labels)
    _, by_class = fl.cross_entropy.value_and_grad(x, np.eye(3)[labels])
    assert np.all(by_index[:, 0] < 0)
    assert_same(by_class, by_index, dtype)


@pytest.mark.parametrize("label", [0, 1])
def test_two_classes_are_binary(backend, dtype, label):
    z = np.concatenate([LOGITS.ravel(), [20, -20, 50, -50, 1e-6]]).astype(dtype)
    x = np.stack([np.zeros_like(z), z], axis=1)
    labels = np.full(len(z), label)
    for reduction in ("none", "sum", "mean"):
        value, grad = fl.cross_entropy.value_and_grad(x, labels, reduction=reduction)
        _, hess = fl.cross_entropy.grad_and_hess(x, labels, reduction=reduction)
        binary = fl.binary_cross_entropy_with_logits
        one, one_grad = binary.value_and_grad(z, labels, reduction=reduction)
        _, one_hess = binary.grad_and_hess(z, labels, reduction=reduction)
        assert_same(value, one, dtype)
        assert_same(grad, np.stack([-one_grad, one_grad], axis=1), dtype)
        assert_same(hess, np.stack([one_hess, one_hess], axis=1), dtype)


def test_weights_multiply(backend, dtype):
    x = LOGITS.astype(dtype)
    plain, plain_grad = fl.cross_entropy.value_and_grad(x, LABELS, reduction="none")
    factor = SAMPLE_WEIGHT * WEIGHT[LABELS]
    value, grad = fl.cross_entropy.value_and_grad(
        x, LABELS, weight=WEIGHT, sample_weight=SAMPLE_WEIGHT, reduction="none"
    )
    assert_same(value, plain * factor, dtype)
    assert_same(grad, plain_grad * factor[:, None], dtype)


def test_integer_sample_weights_repeat_rows(backend, dtype):
    x = LOGITS.astype(dtype)
    times = np.arange(12) % 4
    repeated = [np.repeat(array, times, axis=0) for array in (x, LABELS)]
    for options in ({}, {"weight": WEIGHT, "label_smoothing": 0.1, "z_loss": 0.01}):
        for reduction in ("mean", "sum"):
            options["reduction"] = reduction
            weighted = fl.cross_entropy(x, LABELS, sample_weight=times, **options)
            assert_same(weighted, fl.cross_entropy(*repeated, **options), dtype)


def test_ignored_rows_are_absent_rows(backend, dtype):
    x = LOGITS.astype(dtype)
    labels = np.where(np.arange(12) % 3 == 1, -100, LABELS)
    rows = np.flatnonzero(labels != -100)
    x[labels == -100] = [np.nan, np.inf, -np.inf, 0, 1, 2, 3]
    options = {"label_smoothing": 0.1, "z_loss": 0.01, "weight": WEIGHT}
    value, grad = fl.cross_entropy.value_and_grad(x, labels, **options)
    kept_value, kept_grad = fl.cross_entropy.value_and_grad(x[rows], labels[rows], **options)
    assert_same(value, kept_value, dtype)
    assert_same(grad[rows], kept_grad, dtype)
    assert not np.any(grad[labels == -100])


@pytest.mark.parametrize("target", [LABELS, SOFT], ids=["indices", "probabilities"])
def test_smoothing_is_linear(backend, dtype, target):
    x = LOGITS.astype(dtype)

    def smoothed(amount):
        return fl.cross_entropy.value_and_grad(
            x, target, label_smoothing=amount, weight=WEIGHT, reduction="none"
        )

    sharp, flat, mixed = smoothed(0.0), smoothed(1.0), smoothed(0.25)
    for none, all_, some in zip(sharp, flat, mixed, strict=True):
        assert_same(some, 0.75 * none + 0.25 * all_, dtype, size=np.abs(none) + np.abs(all_))


def test_smoothed_indices_are_probabilities(backend, dtype):
    x = LOGITS.astype(dtype)
    mixed = 0.75 * np.eye(7)[LABELS] + 0.25 / 7
    options = {"weight": WEIGHT, "sample_weight": SAMPLE_WEIGHT, "reduction": "none"}
    for verb in ("value_and_grad", "grad_and_hess"):
        function = getattr(fl.cross_entropy, verb)
        smoothed = function(x, LABELS, label_smoothing=0.25, **options)
        for first, second in zip(smoothed, function(x, mixed, **options), strict=True):
            assert_same(first, second, dtype, size=WEIGHT.max() * SAMPLE_WEIGHT.max())


def test_soft_targets_are_linear(backend, dtype):
    x = LOGITS.astype(dtype)
    classes = [fl.cross_entropy(x, np.full(12, c), reduction="none") for c in range(7)]
    mixed = sum(SOFT[:, c] * classes[c].astype(np.float64) for c in range(7))
    assert_same(fl.cross_entropy(x, SOFT, reduction="none"), mixed, dtype)


def test_the_order_of_rows_and_classes_does_not_matter(backend, dtype):
    x = LOGITS.astype(dtype)
    rows, classes = (np.random.default_rng(5).permutation(n) for n in x.shape)
    place = np.argsort(classes)
    options = {"label_smoothing": 0.1, "reduction": "none"}
    value, grad = fl.cross_entropy.value_and_grad(x, LABELS, weight=WEIGHT, **options)
    moved = np.ascontiguousarray(x[rows][:, classes])
    moved_labels, moved_weight = place[LABELS[rows]], WEIGHT[classes]
    moved_value, moved_grad = fl.cross_entropy.value_and_grad(
        moved, moved_labels, weight=moved_weight, **options
    )
    assert_same(moved_value, value[rows], dtype)
    assert_same(moved_grad, grad[rows][:, classes], dtype, size=0.2)


def test_an_axis_is_a_view(backend, dtype):
    x = np.random.default_rng(6).normal(size=(3, 5, 4)).astype(dtype)
    labels = np.random.default_rng(7).integers(0, 5, size=(3, 4))
    options = {"label_smoothing": 0.1, "z_loss": 0.01, "reduction": "none"}
    value, grad = fl.cross_entropy.value_and_grad(x, labels, axis=1, **options)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    last_value, last_grad = fl.cross_entropy.value_and_grad(last, labels, **options)
    assert_same(value, last_value, dtype)
    assert_same(np.moveaxis(grad, 1, -1), last_grad, dtype, size=0.1)


# --------------------------------------------------------------------------------------------------
# Losses of single items
# --------------------------------------------------------------------------------------------------


def test_binary_is_symmetric(backend, dtype):
    x = np.concatenate([ITEMS.ravel(), [20, -20, 80, -80]]).astype(dtype)
    t = np.linspace(0, 1, len(x)).astype(dtype)
    loss = fl.binary_cross_entropy_with_logits
    value, grad = loss.value_and_grad(x, t, reduction="none")
    mirrored, mirrored_grad = loss.value_and_grad(-x, 1 - t, reduction="none")
    assert_same(mirrored, value, dtype)
    assert_same(mirrored_grad, -grad, dtype, size=1.0)


def test_binary_is_linear_in_the_target_and_its_weights(backend, dtype):
    x, t = ITEMS.astype(dtype), TARGETS.astype(dtype)
    loss = fl.binary_cross_entropy_with_logits
    weight = ITEM_WEIGHT.astype(dtype)
    pos_weight = POS_WEIGHT.astype(dtype)
    for verb in ("value_and_grad", "grad_and_hess"):
        function = getattr(loss, verb)
        ones = function(x, np.ones_like(t), reduction="none")
        zeros = function(x, np.zeros_like(t), reduction="none")
        mixed = function(x, t, weight=weight, pos_weight=pos_weight, reduction="none")
        for one, zero, result in zip(ones, zeros, mixed, strict=True):
            parts = weight * (1 - t) * zero, weight * t * pos_weight * one
            assert_same(result, sum(parts), dtype, size=sum(map(np.abs, parts)))


def test_binary_of_probabilities_is_binary_of_their_logits(backend):
    # Through the chain rule; sigmoid has an error of its own, which the loss magnifies.
    x, t = ITEMS, TARGETS
    p = fl.sigmoid(x)
    value, grad = fl.binary_cross_entropy.value_and_grad(p, t, weight=ITEM_WEIGHT)
    same, same_grad = fl.binary_cross_entropy_with_logits.value_and_grad(x, t, weight=ITEM_WEIGHT)
    np.testing.assert_allclose(value, same, rtol=1e-13)
    np.testing.assert_allclose(grad * p * (1 - p), same_grad, rtol=1e-10, atol=1e-13)


def test_mse_is_symmetric_and_weights_multiply(backend, dtype):
    x, t, weight = (array.astype(dtype) for array in (ITEMS, TARGETS, ITEM_WEIGHT))
    value, grad = fl.mse_loss.value_and_grad(x, t, reduction="none")
    swapped, swapped_grad = fl.mse_loss.value_and_grad(t, x, reduction="none")
    np.testing.assert_array_equal(value, swapped)
    np.testing.assert_array_equal(grad, -swapped_grad)
    weighted, weighted_grad = fl.mse_loss.value_and_grad(x, t, weight=weight, reduction="none")
    assert_same(weighted, value * weight, dtype)
    assert_same(weighted_grad, grad * weight, dtype)
    # weight and its sum cancel
    assert_same(fl.mse_loss(x, t, weight=np.full_like(x, 7)), fl.mse_loss(x, t), dtype)


# --------------------------------------------------------------------------------------------------
# Functions, and the losses in terms of them
# --------------------------------------------------------------------------------------------------


def test_softmax_and_its_logarithm(backend, dtype):
    x = LOGITS.astype(dtype)
    p, log_p, lse = fl.softmax(x), fl.log_softmax(x), fl.logsumexp(x)
    assert_same(p.sum(axis=1, dtype=np.float64), np.ones(12), dtype)
    assert_same(np.exp(log_p.astype(np.float64)), p, dtype, size=np.abs(p * log_p))
    assert_same(log_p, x - lse[:, None], dtype, size=np.abs(x) + np.abs(lse[:, None]))
    value = fl.cross_entropy(x, LABELS, reduction="none")
    assert_same(value, -log_p[np.arange(12), LABELS], dtype)
    _, hess = fl.cross_entropy.grad_and_hess(x, LABELS, reduction="sum")
    assert_same(hess, p * (1 - p.astype(np.float64)), dtype, size=p)


def test_sigmoid_and_its_logarithm(backend, dtype):
    x = np.concatenate([ITEMS.ravel(), [20, -20, 80, -80, 0, 1e-6]]).astype(dtype)
    assert_same(fl.log_sigmoid(x), -fl.softplus(-x), dtype)
    assert_same(fl.softplus(x) - fl.softplus(-x), x, dtype, size=fl.softplus(np.abs(x)))
    assert_same(fl.sigmoid(x).astype(np.float64) + fl.sigmoid(-x), np.ones_like(x), dtype)
    two = np.stack([np.zeros_like(x), x], axis=1)
    assert_same(fl.softmax(two)[:, 1], fl.sigmoid(x), dtype)
    assert_same(fl.logsumexp(two), fl.softplus(x), dtype)
    loss = fl.binary_cross_entropy_with_logits
    value, grad = loss.value_and_grad(x, np.zeros(x.shape, int), reduction="none")
    assert_same(value, fl.softplus(x), dtype)
    assert_same(grad, fl.sigmoid(x), dtype)

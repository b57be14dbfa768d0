"""Value, gradient and Hessian agree with torch.nn.functional over options, ranks and reductions.

Runs where PyTorch is installed. Left out are the documented differences: ignored rows that hold
nan, zero times infinity, saturated probabilities, small losses, 16-bit sums, errors, and shapes
that PyTorch broadcasts. The class axis is PyTorch's: `axis=1`, or 0 of a single row.
"""

import warnings

import numpy as np
import pytest
from cases import REDUCTIONS, option_subsets

import fusedloss as fl

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorch's own, while it is imported
    torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.filterwarnings("ignore")

# PyTorch's float32 results have an error of some ulp of the largest term; float64 is compared as
# closely as that allows.
TOLERANCES = {"float64": (1e-12, 1e-13), "float32": (3e-5, 1e-6)}

SHAPES = ((7,), (6, 7), (1, 2), (5, 1), (4, 7, 3), (3, 5, 2, 4), (2, 3, 2, 2, 2), (40, 130))
DTYPES = ("float32", "float64")


def close(got, expected, dtype, what):
    rtol, atol = TOLERANCES[dtype]
    got, expected = np.asarray(got, "float64"), np.asarray(expected, "float64")
    assert got.shape == expected.shape, what
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol, err_msg=str(what))


def from_torch(function, x, target, **options):
    """PyTorch's value, and the gradient of it, or of its sum where it is an array."""
    x = torch.tensor(x, requires_grad=True)
    options = {
        name: torch.tensor(value) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    value = function(x, torch.tensor(target), **options)
    value.sum().backward()
    return value.detach().numpy(), x.grad.numpy()


def compare(loss, function, x, target, ours, theirs, what):
    dtype = x.dtype.name
    for reduction in REDUCTIONS:
        expected = from_torch(function, x, target, **theirs, reduction=reduction)
        got = loss.value_and_grad(x, target, **ours, reduction=reduction)
        close(got[0], expected[0], dtype, (what, reduction, "value"))
        close(got[1], expected[1], dtype, (what, reduction, "gradient"))
        close(loss(x, target, **ours, reduction=reduction), expected[0], dtype, (what, reduction))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_entropy_with_class_indices(shape, dtype, backend):
    rng = np.random.default_rng(1)
    axis = min(1, len(shape) - 1)
    classes = shape[axis]
    x = (rng.normal(size=shape) * 3).astype(dtype)
    target = rng.integers(classes, size=np.delete(shape, axis))
    for names in option_subsets("cross_entropy", "indices"):
        if {"sample_weight", "z_loss"} & set(names):
            continue  # ours alone
        options = {}
        if "weight" in names:
            options["weight"] = rng.uniform(0.2, 2, size=classes).astype(dtype)
        if "label_smoothing" in names:
            options["label_smoothing"] = 0.2
        labels = target
        if "ignore_index" in names:
            options["ignore_index"] = -7
            labels = np.where(rng.random(target.shape) < 0.3, -7, target)
        compare(
            fl.cross_entropy, F.cross_entropy, x, labels, {**options, "axis": axis}, options, names
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_class_may_be_the_ignored_one(dtype, backend):
    rng = np.random.default_rng(2)
    x, labels = rng.normal(size=(30, 4)).astype(dtype), rng.integers(4, size=30)
    options = {"ignore_index": 2, "weight": rng.random(4).astype(dtype), "label_smoothing": 0.1}
    compare(fl.cross_entropy, F.cross_entropy, x, labels, options, options, "class 2")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_entropy_with_class_probabilities(shape, dtype, backend):
    """Also of rows that do not sum to 1, and with negative entries."""
    rng = np.random.default_rng(3)
    axis = min(1, len(shape) - 1)
    x = (rng.normal(size=shape) * 3).astype(dtype)
    soft = rng.dirichlet(np.ones(shape[axis]), size=np.delete(shape, axis))
    soft = np.moveaxis(soft, -1, axis)
    for target in (soft, 3 * soft, soft - 0.1, np.zeros(shape)):
        for names in option_subsets("cross_entropy", "probabilities"):
            if {"sample_weight", "z_loss"} & set(names):
                continue
            options = {}
            if "weight" in names:
                options["weight"] = rng.uniform(0.2, 2, size=shape[axis]).astype(dtype)
            if "label_smoothing" in names:
                options["label_smoothing"] = 0.2
            ours = {**options, "axis": axis}
            given = target.astype(dtype)
            compare(fl.cross_entropy, F.cross_entropy, x, given, ours, options, names)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sample_weights_and_z_loss_composed_of_torch_pieces(dtype, backend):
    rng = np.random.default_rng(4)
    x, labels = rng.normal(size=(20, 5)).astype(dtype), rng.integers(5, size=20)
    labels[3] = -100
    s, w = rng.uniform(0.5, 2, size=20), rng.uniform(0.5, 2, size=5)

    def composed(x, target, reduction):
        rows = F.cross_entropy(
            x, target, weight=torch.tensor(w, dtype=x.dtype), reduction="none", label_smoothing=0.1
        )
        weight = torch.tensor(s, dtype=x.dtype)
        valid = target != -100
        z = 0.05 * torch.logsumexp(x, 1) ** 2 * weight * valid
        rows = rows * weight
        if reduction == "none":
            return rows + z
        if reduction == "sum":
            return rows.sum() + z.sum()
        class_weight = torch.tensor(w, dtype=x.dtype)[target.clamp(min=0)]
        return rows.sum() / (weight * class_weight)[valid].sum() + z.sum() / weight[valid].sum()

    options = {"sample_weight": s, "weight": w, "z_loss": 0.05, "label_smoothing": 0.1}
    compare(fl.cross_entropy, composed, x, labels, options, {}, "pieces")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (9,), (6, 7), (3, 1, 5)], ids=str)
@pytest.mark.parametrize("hard", [True, False])
def test_binary_cross_entropy_with_logits(shape, hard, dtype, backend):
    rng = np.random.default_rng(5)
    x = (rng.normal(size=shape) * 2).astype(dtype)
    target = (rng.integers(2, size=shape) if hard else rng.uniform(-0.5, 1.5, size=shape)).astype(
        dtype
    )
    weights = {
        "weight": np.asarray(rng.uniform(0.2, 2, size=shape), dtype),
        "pos_weight": np.asarray(rng.uniform(0.2, 3, size=shape[-1:]), dtype),
    }
    for names in option_subsets("binary_cross_entropy_with_logits", "labels"):
        options = {name: weights[name] for name in names}
        compare(
            fl.binary_cross_entropy_with_logits,
            F.binary_cross_entropy_with_logits,
            x,
            target,
            options,
            options,
            names,
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (9,), (6, 7), (3, 1, 5)], ids=str)
@pytest.mark.parametrize("hard", [True, False])
def test_binary_cross_entropy(shape, hard, dtype, backend):
    rng = np.random.default_rng(6)
    x = rng.uniform(0.01, 0.99, size=shape).astype(dtype)
    target = (rng.integers(2, size=shape) if hard else rng.random(size=shape)).astype(dtype)
    for options in ({}, {"weight": np.asarray(rng.uniform(0.2, 2, size=shape[-1:]), dtype)}):
        compare(
            fl.binary_cross_entropy, F.binary_cross_entropy, x, target, options, options, options
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (9,), (6, 7), (3, 1, 5)], ids=str)
def test_mse_loss(shape, dtype, backend):
    rng = np.random.default_rng(7)
    x, target = (np.asarray(rng.normal(size=shape) * 3, dtype) for _ in range(2))
    for options in ({}, {"weight": np.asarray(rng.uniform(0.2, 2, size=shape), dtype)}):
        compare(fl.mse_loss, F.mse_loss, x, target, options, options, options)


# ------------------------------------------------------------------------------------ Hessians


def hessian_diagonal(function, x):
    full = torch.autograd.functional.hessian(function, torch.tensor(x))
    return torch.diagonal(full.reshape(x.size, x.size)).reshape(x.shape).numpy()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_hessians(reduction, backend):
    rng = np.random.default_rng(8)
    x = rng.normal(size=(4, 3)) * 2
    labels, soft = np.array([0, 2, -100, 1]), rng.dirichlet(np.ones(3), size=4)
    w = rng.uniform(0.5, 2, size=3)
    more = {"weight": w, "label_smoothing": 0.2, "reduction": reduction}
    torch_more = {**more, "weight": torch.tensor(w)}
    for target in (labels, soft):
        got = fl.cross_entropy.grad_and_hess(x, target, **more)[1]
        expected = hessian_diagonal(
            lambda z, target=target: F.cross_entropy(z, torch.tensor(target), **torch_more), x
        )
        close(got, expected, "float64", "cross_entropy")

    items = rng.normal(size=(4, 3))
    hard = rng.integers(2, size=(4, 3)).astype(float)
    pairs = (
        (fl.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits, items),
        (fl.binary_cross_entropy, F.binary_cross_entropy, rng.uniform(0.1, 0.9, size=(4, 3))),
        (fl.mse_loss, F.mse_loss, items),
    )
    for loss, function, z in pairs:
        for target in (hard, rng.random((4, 3))):
            got = loss.grad_and_hess(z, target, reduction=reduction)[1]
            expected = hessian_diagonal(
                lambda z, f=function, t=target: f(z, torch.tensor(t), reduction=reduction), z
            )
            np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12, err_msg=loss.name)


# --------------------------------------------------------------------- corner cases in common

INF, NAN = np.inf, np.nan
SAME = [
    ("zero rows", np.zeros((0, 3)), np.zeros(0, int), {}),
    ("zero rows of probabilities", np.zeros((0, 3)), np.zeros((0, 3)), {}),
    ("all rows ignored", np.ones((2, 3)), np.array([-100, -100]), {}),
    ("all weights zero", np.ones((2, 3)), np.array([0, 1]), {"weight": np.zeros(3)}),
    ("negative weights", np.eye(3), np.arange(3), {"weight": np.array([-1.0, 2.0, 3.0])}),
    ("nan weight", np.eye(3), np.arange(3), {"weight": np.array([NAN, 2.0, 3.0])}),
    ("one class", np.array([[3.0], [-2.0]]), np.array([0, 0]), {}),
    ("-inf at another class", np.array([[1.0, -INF, 2.0]]), np.array([0]), {}),
    ("-inf at the target", np.array([[-INF, 1.0, 2.0]]), np.array([0]), {}),
    ("-inf and smoothing", np.array([[1.0, -INF]]), np.array([0]), {"label_smoothing": 0.5}),
    ("a row of -inf", np.array([[-INF, -INF], [1, 2]]), np.array([0, 0]), {}),
    ("inf", np.array([[INF, 0], [1, 2]]), np.array([0, 0]), {}),
    ("nan", np.array([[0, NAN], [1, 2]]), np.array([0, 0]), {}),
    ("a common offset", np.full((2, 3), 1e8), np.array([0, 1]), {}),
]


@pytest.mark.parametrize(
    ("x", "target", "options"), [s[1:] for s in SAME], ids=[s[0] for s in SAME]
)
def test_corner_cases_of_cross_entropy_in_common(x, target, options, backend):
    compare(fl.cross_entropy, F.cross_entropy, x, target, options, options, "corner")


def test_corner_cases_of_items_in_common(backend):
    empty = np.zeros((0, 2))
    for loss, function in (
        (fl.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits),
        (fl.binary_cross_entropy, F.binary_cross_entropy),
        (fl.mse_loss, F.mse_loss),
    ):
        compare(loss, function, empty, empty, {}, {}, loss.name)
    wrong = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    value, grad = fl.binary_cross_entropy.value_and_grad(*wrong)
    expected = from_torch(F.binary_cross_entropy, *wrong)
    assert value == expected[0] == 100
    np.testing.assert_allclose(grad, expected[1], rtol=1e-8)  # PyTorch's 1e-12 is a float32
    x, target = np.array([INF, INF, NAN, 1.0]), np.array([INF, 0.0, 0.0, 0.0])
    compare(fl.mse_loss, F.mse_loss, x, target, {}, {}, "not finite")
    weight = np.array([-1.0, 2.0])
    x, target = np.array([0.5, -2.0]), np.array([0.0, 1.0])
    compare(
        fl.binary_cross_entropy_with_logits,
        F.binary_cross_entropy_with_logits,
        x,
        target,
        {"weight": weight, "pos_weight": weight},
        {"weight": weight, "pos_weight": weight},
        "negative weights",
    )


def test_tensors_are_arrays(backend):
    """CPU tensors are read where they are."""
    x, labels = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    value, grad = fl.cross_entropy.value_and_grad(x, labels)
    expected = fl.cross_entropy.value_and_grad(x.numpy(), labels.numpy())
    assert value == expected[0]
    assert isinstance(grad, np.ndarray)
    np.testing.assert_array_equal(grad, expected[1])
    assert fl.mse_loss(x.t(), x.t() * 0) == fl.mse_loss(x.numpy().T, np.zeros((3, 5)))

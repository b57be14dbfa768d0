"""Every backend within its stated bounds, on random data of every regime.

The truth is worked out in long double, by formulae that cancel nothing; its 11 more bits are
enough to judge float64. Where long double is no wider than float64, float32 alone is judged. The
bounds are those of hard labels without options, and nothing is added to them.
"""

from functools import cache

import numpy as np
import pytest
from cases import call, named_outputs
from ulp import assert_ulp

import fusedloss as fl
from fusedloss.functions import ERROR_BOUNDS
from fusedloss.losses import REGISTRY

LONG = np.longdouble
DTYPES = ("float32", "float64") if np.finfo(LONG).nmant >= 63 else ("float32",)

CLASSES = (2, 3, 10, 33, 41, 130, 1000, 5003)
ITEMS = 20_000


def confident(rng, rows, classes):
    """One class leads by 5 to 100."""
    leads = np.arange(classes) == rng.integers(classes, size=(rows, 1))
    return rng.normal(size=(rows, classes)) + leads * rng.uniform(5, 100, size=(rows, 1))


ROW_REGIMES = {
    "normal": lambda rng, n, c: rng.normal(size=(n, c)) * 3,
    "wide": lambda rng, n, c: rng.normal(size=(n, c)) * 30,
    "hopeless": lambda rng, n, c: rng.normal(size=(n, c)) * 1e4,
    "tiny": lambda rng, n, c: rng.normal(size=(n, c)) * 1e-5,
    "ties": lambda rng, n, c: rng.integers(3, size=(n, c)).astype(float),
    "offset 100": lambda rng, n, c: rng.normal(size=(n, c)) * 3 + 100,
    "offset -1e4": lambda rng, n, c: rng.normal(size=(n, c)) * 3 - 1e4,
    "offset 1e8": lambda rng, n, c: rng.normal(size=(n, c)) * 30 + 1e8,
    "confident": confident,
    "half far below": lambda rng, n, c: (
        np.where(rng.random((n, c)) < 0.5, -60, 0) + rng.normal(size=(n, c))
    ),
    "masked": lambda rng, n, c: np.where(
        (rng.random((n, c)) < 0.3) & (np.arange(c) > 0), -np.inf, rng.normal(size=(n, c)) * 3
    ),
}

ITEM_REGIMES = {
    f"size {size:g}": lambda rng, n, size=size: rng.normal(size=n) * size
    for size in (1e-30, 1e-10, 0.01, 1.0, 5.0, 30.0, 200.0, 1e4)
}


@cache
def rows(regime, classes, dtype):
    """Logits, labels (half of them right) and the softmax of the rows in long double."""
    rng = np.random.default_rng(classes)
    n = max(ITEMS // classes, 20)
    x = ROW_REGIMES[regime](rng, n, classes).astype(dtype)
    labels = np.where(rng.random(n) < 0.5, x.argmax(axis=1), rng.integers(classes, size=n))
    labels = np.where(np.isfinite(x[np.arange(n), labels]), labels, x.argmax(axis=1))
    return x, labels, Softmax(x.astype(LONG), labels)


class Softmax:
    def __init__(self, x, y):
        at = np.arange(len(x))
        k = x.argmax(axis=1)
        self.m = x[at, k]
        self.shifted = x - self.m[:, None]
        e = np.exp(self.shifted)
        others = e.copy()
        others[at, k] = 0
        without_max = others.sum(axis=1)
        total = 1 + without_max
        self.log_total = np.log1p(without_max)
        without_label = e.copy()
        without_label[at, y] = 0
        self.p = e / total[:, None]
        self.value = -self.shifted[at, y] + self.log_total
        self.grad = self.p.copy()
        self.grad[at, y] = -without_label.sum(axis=1) / total
        one_minus_p = 1 - self.p
        one_minus_p[at, k] = without_max / total
        self.hess = self.p * one_minus_p


def size_where_one_ulp_is(lost, dtype):
    return lost / float(np.finfo(dtype).eps)


def hold(loss, x, target, truths, what, lost=0.0):
    """Each output, and the reduced values. `lost`: what terms that were flushed may add up to."""
    lost_size = size_where_one_ulp_is(lost, x.dtype)
    bounds = REGISTRY[loss].error_bounds
    dtype = x.dtype.name
    backend = fl.runtime_info()["backend"]
    results = {}
    for verb in ("value_and_grad", "grad_and_hess"):
        results |= named_outputs(verb, call(loss, verb, x, target, reduction="none"))
    for output, truth in truths.items():
        size = np.maximum(np.abs(truth), lost_size)
        assert_ulp(
            results[output],
            truth,
            bounds[output][dtype],
            size=np.asarray(size, "float64"),
            what=f"{loss}, {what}, {dtype}, {output}, {backend}",
        )
    total = truths["value"].sum()
    for reduction, truth in (("sum", total), ("mean", total / truths["value"].size)):
        got = call(loss, "value", x, target, reduction=reduction)
        assert_ulp(
            got,
            np.asarray(truth),
            bounds["value"][dtype],
            dtype=x.dtype,
            size=lost_size,
            what=f"{loss}, {what}, {dtype}, {reduction}, {backend}",
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("regime", ROW_REGIMES)
def test_cross_entropy(regime, classes, dtype, backend):
    x, labels, truth = rows(regime, classes, dtype)
    truths = {"value": truth.value, "grad": truth.grad, "hess": truth.hess}
    # A class below the smallest normal number may be flushed, and there are many.
    lost = classes * float(np.finfo(dtype).smallest_normal)
    hold("cross_entropy", x, labels, truths, f"{regime}, {classes} classes", lost)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("regime", ROW_REGIMES)
def test_functions_of_rows(regime, classes, dtype, backend):
    x, _, truth = rows(regime, classes, dtype)
    log_p = truth.shifted - truth.log_total[:, None]
    # logsumexp may be the difference of two numbers; a sum may lack what was flushed.
    lost = size_where_one_ulp_is(classes * float(np.finfo(dtype).smallest_normal), dtype)
    for name, expected, at in (
        ("softmax", truth.p, 0.0),
        ("log_softmax", log_p, np.maximum(np.abs(log_p), lost)),
        ("logsumexp", truth.m + truth.log_total, np.abs(truth.m) + truth.log_total),
    ):
        assert_ulp(
            getattr(fl, name)(x),
            expected,
            ERROR_BOUNDS[name][dtype],
            size=np.asarray(at, "float64"),
            what=f"{name}, {regime}, {classes} classes, {dtype}, {fl.runtime_info()['backend']}",
        )


@cache
def items(regime, dtype):
    rng = np.random.default_rng(1)
    x = ITEM_REGIMES[regime](rng, 5 * ITEMS).astype(dtype)
    return x, rng.integers(2, size=x.size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("regime", ITEM_REGIMES)
def test_binary_cross_entropy_with_logits(regime, dtype, backend):
    x, t = items(regime, dtype)
    z = np.where(t == 1, -x.astype(LONG), x)  # wrong by z
    e = np.exp(-np.abs(z))
    truths = {
        "value": np.maximum(z, 0) + np.log1p(e),
        "grad": np.where(z >= 0, 1, e) / (1 + e) * np.where(t == 1, -1, 1),
        "hess": e / (1 + e) ** 2,
    }
    hold("binary_cross_entropy_with_logits", x, t, truths, regime)


@pytest.mark.parametrize("dtype", DTYPES)
def test_binary_cross_entropy(dtype, backend):
    """Probabilities of all sizes above the bound of 1e-12, and close to 1."""
    rng = np.random.default_rng(2)
    p = np.concatenate([rng.random(ITEMS), 10.0 ** rng.uniform(-11, 0, size=ITEMS)])
    p = np.concatenate([p, 1 - p]).astype(dtype)
    p = p[(p > 0) & (p < 1)]
    t = rng.integers(2, size=p.size)
    wide = p.astype(LONG)
    of_truth = np.where(t == 1, wide, 1 - wide)
    truths = {
        "value": np.where(t == 1, -np.log(wide), -np.log1p(-wide)),
        "grad": np.where(t == 1, -1, 1) / of_truth,
        "hess": 1 / of_truth**2,
    }
    hold("binary_cross_entropy", p, t, truths, "all sizes")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("size", [1e-15, 1.0, 1e15])
def test_mse_loss(size, offset, dtype, backend):
    rng = np.random.default_rng(3)
    x, t = (((rng.normal(size=2 * ITEMS) + offset) * size).astype(dtype) for _ in range(2))
    d = x.astype(LONG) - t
    truths = {"value": d**2, "grad": 2 * d, "hess": np.full(d.shape, LONG(2))}
    hold("mse_loss", x, t, truths, f"size {size:g}, offset {offset:g}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("regime", ITEM_REGIMES)
def test_functions_of_items(regime, dtype, backend):
    x, _ = items(regime, dtype)
    wide = x.astype(LONG)
    e = np.exp(-np.abs(wide))
    for name, truth in (
        ("sigmoid", np.where(wide >= 0, 1, e) / (1 + e)),
        ("softplus", np.maximum(wide, 0) + np.log1p(e)),
        ("log_sigmoid", np.minimum(wide, 0) - np.log1p(e)),
    ):
        assert_ulp(
            getattr(fl, name)(x),
            truth,
            ERROR_BOUNDS[name][dtype],
            what=f"{name}, {regime}, {dtype}, {fl.runtime_info()['backend']}",
        )

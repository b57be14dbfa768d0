"""Random data of every regime in which careless forms lose digits, with their truth.

The truth is worked out in long double, by formulae that cancel nothing; its 11 more bits are enough
to judge float64. Where long double is no wider than float64, float32 alone is judged.

    data = rows("confident and right", classes=41, dtype="float32")
    data.error("grad", ours(data)["grad"])         # in ulp, see ulp.py
    data.where("grad", (3, 17))                     # what to type to see that entry again

`test_accuracy.py` holds the backends to their stated bounds with it, and `benches/accuracy.py`
makes the report. A `Data` has one input, one target and the truths of what is computed from them,
by name: "value" (one per row or item), "mean", "sum", "grad", "hess", or that of a function. Labels
are hard, and there are no options, except in the `..._with_options`.
"""

from dataclasses import dataclass, field

import numpy as np
from cases import call, named_outputs
from ulp import split, ulp_error

import fusedloss as fl

LONG = np.longdouble
DTYPES = ("float32", "float64") if np.finfo(LONG).nmant >= 63 else ("float32",)

CE, BCE, PROBS, MSE = (
    "cross_entropy",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy",
    "mse_loss",
)
ROW_FUNCTIONS = ("softmax", "log_softmax", "logsumexp")
ITEM_FUNCTIONS = ("sigmoid", "log_sigmoid", "softplus")
PER_ENTRY = ("value", "grad", "hess")
REDUCED = ("mean", "sum")

# Around the vectors (16), their fours (64), blocks of columns (1024, 4096) and the rows that
# threads share (131 072); primes among them, which leave a rest everywhere.
CLASSES = (1, 2, 3, 10, 15, 16, 17, 31, 33, 41, 63, 65, 127, 1000, 1025, 4095, 4097, 5003, 16_385)
MANY_CLASSES = 250_000
MANY_REGIMES = ("normal", "outliers", "within 80", "one ahead", "half far below", "masked")


class Truth:
    """A truth, good to more digits than float64, and the size of the terms it is made of."""

    def __init__(self, number, size=0.0):
        number = np.asarray(number)
        self.high, self.low = split(number)
        with np.errstate(over="ignore"):  # infinite for a truth that float64 cannot hold either
            self.size = np.broadcast_to(np.asarray(size, "float64"), number.shape)


@dataclass
class Data:
    loss: str
    regime: str
    what: str  # the regime, and what else tells which data these are
    x: np.ndarray
    target: np.ndarray
    truths: dict[str, Truth]
    options: dict = field(default_factory=dict)

    @property
    def dtype(self):
        return self.x.dtype.name

    @property
    def plain(self):
        """Hard labels and no options: what the bounds are stated for."""
        return not self.options and (self.loss == MSE or self.target.dtype.kind != "f")

    def error(self, output, actual):
        """The error of each entry in ulp; of a mean or sum, after rounding to the input's dtype."""
        truth = self.truths[output]
        dtype = self.x.dtype if output in REDUCED else None
        return ulp_error(actual, truth.high, low=truth.low, size=truth.size, dtype=dtype)

    def where(self, output, index):
        """The entry as words: of items the numbers, of rows their place in the drawn data."""
        if output in REDUCED:
            return self.what
        if self.loss == CE:
            return f"{self.what}, " + ", ".join(
                f"{axis} {at}" for axis, at in zip(("row", "class"), index, strict=False)
            )
        target = f", t = {self.target[index].item()!r}" if output in PER_ENTRY else ""
        return f"x = {self.x[index].item()!r}{target}"


def ours(data):
    """Everything that `data` has the truth of, by the backend in use."""
    return _found(data, data.x, data.options)


def ours_on_the_first_axis(data):
    """The same of rows whose classes are on the first axis, with the classes last again."""
    found = _found(data, np.ascontiguousarray(data.x.T), {**data.options, "axis": 0}, axis=0)
    return {name: value.T if np.ndim(value) == 2 else value for name, value in found.items()}


def _found(data, x, options, **axis):
    found = {}
    if data.truths.keys() & {"value", "grad"}:
        for verb in ("value_and_grad", "grad_and_hess"):
            found |= named_outputs(
                verb, call(data.loss, verb, x, data.target, reduction="none", **options)
            )
    for output in data.truths:
        if output in REDUCED:
            found[output] = call(data.loss, "value", x, data.target, reduction=output, **options)
        elif output not in PER_ENTRY:
            with np.errstate(all="raise"):
                found[output] = getattr(fl, output)(x, **axis)
    return found


def reduced(values):
    """The truths of mean and sum; of no sum that is too large for float64."""
    total = values.sum()
    if np.isfinite(values).all() and not abs(total) < LONG(np.finfo("float64").max):
        return {}
    return {"mean": Truth(total / values.size), "sum": Truth(total)}


# -------------------------------------------------------------------------------------------- rows


def _ahead(rng, rows, classes, low, high):
    """One class leads by `low` to `high`."""
    leads = np.arange(classes) == rng.integers(classes, size=(rows, 1))
    return rng.normal(size=(rows, classes)) + leads * rng.uniform(low, high, size=(rows, 1))


def _two_ahead(rng, rows, classes):
    """The second of them makes nearly all of what is left beside the first."""
    x, at = rng.normal(size=(rows, classes)), np.arange(rows)
    first, second = (at * (at + 1)) % classes, rng.integers(classes, size=rows)
    x[at, second] += 20
    x[at, first] = x[at, second] + rng.uniform(0, 8, size=rows)
    return x


def _few_ahead(rng, rows, classes):
    """Four of them, side by side or 16 apart: in float32 each is rounded as often as added."""
    x = rng.normal(size=(rows, classes))
    apart = np.where(np.arange(rows) % 2, 1, 16)[:, None]
    at = rng.integers(classes, size=(rows, 1)) + apart * np.arange(4)
    x[np.arange(rows)[:, None], at % classes] += 12
    return x


def _outliers(rng, rows, classes):
    return rng.normal(size=(rows, classes)) * np.where(rng.random((rows, classes)) < 0.05, 15, 3)


def _masked(rng, rows, classes):
    gone = (rng.random((rows, classes)) < 0.3) & (np.arange(classes) > 0)
    return np.where(gone, -np.inf, rng.normal(size=(rows, classes)) * 3)


def _half_far_below(rng, rows, classes):
    below = np.where(rng.random((rows, classes)) < 0.5, -60, 0)
    return below + rng.normal(size=(rows, classes))


def _one_ahead_of_equals(rng, rows, classes):
    """Many small terms, none of which is most of their sum: their roundings would add up."""
    x = np.full((rows, classes), rng.normal())
    x[np.arange(rows), rng.integers(classes, size=rows)] += rng.choice((20, 32, 40, 80), size=rows)
    return x


EDGES = (-95, -88, -62, -58, -50, -46, -43, 79, 84, 87, 89, 95)


def _at_the_edges(rng, rows, classes):
    """Largest logits around those whose exponential float32 still holds, as do their sums."""
    return rng.normal(size=(rows, classes)) * 2 + rng.choice(EDGES, size=(rows, 1))


def _sums_near_1(rng, rows, classes):
    x = rng.normal(size=(rows, classes)) * 3
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True)) + rng.normal(size=(rows, 1)) * 0.4


# Regime -> logits, for (rng, rows, classes); "right" and "wrong" rows say so in their name, in the
# others half of the labels are the largest class.
ROW_REGIMES = {
    "normal": lambda rng, n, c: rng.normal(size=(n, c)) * 3,
    "outliers": _outliers,
    "wide": lambda rng, n, c: rng.normal(size=(n, c)) * 30,
    "within 80": lambda rng, n, c: rng.uniform(-80, 80, size=(n, c)),
    "within 1e4": lambda rng, n, c: rng.uniform(-1e4, 1e4, size=(n, c)),
    "tiny": lambda rng, n, c: rng.normal(size=(n, c)) * 1e-5,
    "ties": lambda rng, n, c: rng.integers(3, size=(n, c)).astype(float),
    "offset 100": lambda rng, n, c: rng.normal(size=(n, c)) * 3 + 100,
    "offset -1e4": lambda rng, n, c: rng.normal(size=(n, c)) * 3 - 1e4,
    "offset 1e8": lambda rng, n, c: rng.normal(size=(n, c)) * 30 + 1e8,
    "near overflow": lambda rng, n, c: rng.uniform(-1, 1, size=(n, c)),  # times the largest number
    "two ahead": _two_ahead,
    "few ahead": _few_ahead,
    "one ahead": lambda rng, n, c: _ahead(rng, n, c, 1, 15),
    "confident and right": lambda rng, n, c: _ahead(rng, n, c, 15, 100),
    "confident and wrong": lambda rng, n, c: _ahead(rng, n, c, 15, 100),
    "one ahead of equals": _one_ahead_of_equals,
    "half far below": _half_far_below,
    "masked": _masked,
    "at the edges": _at_the_edges,
    "sums near 1": _sums_near_1,
}


ROW_CASES = (
    *((regime, classes) for regime in ROW_REGIMES for classes in CLASSES),
    *((regime, MANY_CLASSES) for regime in MANY_REGIMES),
)


def rows(regime, classes, dtype, items=20_000, seed=0):
    """Logits and labels of as many rows as make `items`, but 20 at least, or 2 of many classes."""
    rng = np.random.default_rng([seed, classes])
    count = max(min(items // classes, 4000), 2 if classes > 20_000 else 20)
    x = ROW_REGIMES[regime](rng, count, classes)
    if regime == "near overflow":
        x = x * float(np.finfo(dtype).max)
    x = x.astype(dtype)
    labels, at = _labels(rng, regime, x), np.arange(count)
    softmax = Softmax(x.astype(LONG), labels)
    # A class below the smallest normal number may be flushed, and there are many.
    lost = classes * float(np.finfo(dtype).smallest_normal) / float(np.finfo(dtype).eps)
    truths = {
        "value": Truth(softmax.value, np.maximum(softmax.value, lost)),
        "grad": Truth(softmax.grad, np.maximum(np.abs(softmax.grad), lost)),
        "hess": Truth(softmax.hess, np.maximum(softmax.hess, lost)),
        "softmax": Truth(softmax.p),
        "log_softmax": Truth(softmax.log_p, np.maximum(np.abs(softmax.log_p), lost)),
        # The difference of two numbers, if the largest logit is negative
        "logsumexp": Truth(softmax.lse, np.abs(x[at, softmax.k]) + softmax.log_total),
    }
    for name, truth in reduced(softmax.value).items():
        truths[name] = truth
        truth.size = np.maximum(truth.size, lost)
    what = f"{regime}, {classes} classes" + (f", seed {seed}" if seed else "")
    return Data(CE, regime, what, x, labels, truths)


def _labels(rng, regime, x):
    """Classes of finite logits."""
    at, top = np.arange(len(x)), x.argmax(axis=1)
    labels = rng.integers(x.shape[1], size=len(x))
    if regime.endswith("wrong"):
        return np.where(labels == top, (labels + 1) % x.shape[1], labels)
    share = 1.0 if regime.endswith("right") else 0.5
    labels = np.where(rng.random(len(x)) < share, top, labels)
    return np.where(np.isfinite(x[at, labels]), labels, top)


class Softmax:
    """Everything about rows x of long double and their labels y, where nothing cancels."""

    def __init__(self, x, y):
        at = np.arange(len(x))
        self.k = k = x.argmax(axis=1)
        shifted = x - x[at, k][:, None]
        e = np.exp(shifted)
        others = e.copy()
        others[at, k] = 0
        without_max = others.sum(axis=1)
        total = 1 + without_max
        self.log_total = np.log1p(without_max)
        self.lse = x[at, k] + self.log_total
        self.log_p = shifted - self.log_total[:, None]
        self.p = e / total[:, None]
        self.value = -self.log_p[at, y]
        without_label = e
        without_label[at, y] = 0
        self.grad = self.p.copy()
        self.grad[at, y] = -without_label.sum(axis=1) / total
        one_minus_p = 1 - self.p
        one_minus_p[at, k] = without_max / total
        self.hess = self.p * one_minus_p


# ------------------------------------------------------------------------------------------- items


ITEM_REGIMES = {
    **{
        f"near {size:g}": lambda rng, n, size=size: rng.normal(size=n) * size
        for size in (1e-30, 1e-10, 1e-4, 0.01, 1.0, 5.0, 30.0, 200.0, 1e4)
    },
    "all sizes": lambda rng, n: (
        10.0 ** rng.uniform(-30, 4, size=n) * np.where(rng.random(n) < 0.5, -1, 1)
    ),
    "infinite": lambda rng, n: np.where(rng.random(n) < 0.5, -np.inf, np.inf),
}

FINITE_ITEM_REGIMES = tuple(regime for regime in ITEM_REGIMES if regime != "infinite")


def logistic(z):
    """softplus(z), sigmoid(z) and its derivative, for z of long double."""
    e = np.exp(-np.abs(z))
    return np.maximum(z, 0) + np.log1p(e), np.where(z >= 0, 1, e) / (1 + e), e / (1 + e) ** 2


def items(regime, dtype, count=100_000, seed=1):
    """Logits of single items and labels 0 and 1."""
    rng = np.random.default_rng(seed)
    x = ITEM_REGIMES[regime](rng, count).astype(dtype)
    t = rng.integers(2, size=count)
    wide = x.astype(LONG)
    value, wrong, hess = logistic(np.where(t == 1, -wide, wide))
    softplus, sigmoid, _ = logistic(wide)
    truths = {
        "value": Truth(value),
        "grad": Truth(wrong * np.where(t == 1, -1, 1)),
        "hess": Truth(hess),
        "sigmoid": Truth(sigmoid),
        "softplus": Truth(softplus),
        "log_sigmoid": Truth(-logistic(-wide)[0]),
        **reduced(value),
    }
    return Data(BCE, regime, regime, x, t, truths)


PROBABILITY_REGIMES = {
    "uniform": lambda rng, n: rng.random(n),
    "near 0 and 1": lambda rng, n: 10.0 ** rng.uniform(-11, 0, size=n),
}


def probabilities(regime, dtype, count=80_000):
    """Probabilities above the bound of 1e-12, and as close to 1."""
    rng = np.random.default_rng(2)
    p = PROBABILITY_REGIMES[regime](rng, count)
    p = np.where(rng.random(count) < 0.5, p, 1 - p).astype(dtype)
    p = p[(p > 0) & (p < 1)]
    t = rng.integers(2, size=p.size)
    wide = p.astype(LONG)
    of_truth = np.where(t == 1, wide, 1 - wide)
    value = np.where(t == 1, -np.log(wide), -np.log1p(-wide))
    truths = {
        "value": Truth(value),
        "grad": Truth(np.where(t == 1, -1, 1) / of_truth),
        "hess": Truth(1 / of_truth**2),
        **reduced(value),
    }
    return Data(PROBS, regime, regime, p, t, truths)


ERROR_REGIMES = {
    f"size {size:g}{', close at 1000' if offset else ''}": (size, offset)
    for size in (1e-15, 1.0, 1e15)
    for offset in (0.0, 1e3)
}


def errors(regime, dtype, count=40_000):
    """Numbers and what they should be; "close" ones differ in their last three digits or less."""
    rng = np.random.default_rng(3)
    size, offset = ERROR_REGIMES[regime]
    x, t = (((rng.normal(size=count) + offset) * size).astype(dtype) for _ in range(2))
    d = x.astype(LONG) - t
    truths = {
        "value": Truth(d**2),
        "grad": Truth(2 * d),
        "hess": Truth(np.full(d.shape, LONG(2))),
        **reduced(d**2),
    }
    return Data(MSE, regime, regime, x, t, truths)


# ----------------------------------------------------------------------------------- sums, options


def sums(loss, dtype, count=10_000_000):
    """Mean and sum of many items; the truth is made in pieces, since long double takes memory."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal(count, dtype=dtype) * np.dtype(dtype).type(5)
    if loss == BCE:
        t = rng.integers(2, size=count, dtype="uint8")
    else:
        t = rng.standard_normal(count, dtype=dtype)
    total = LONG(0)
    for start in range(0, count, 2**20):
        part = slice(start, start + 2**20)
        wide = x[part].astype(LONG)
        if loss == BCE:
            total += logistic(np.where(t[part] == 1, -wide, wide))[0].sum()
        else:
            total += ((wide - t[part]) ** 2).sum()
    truths = {"mean": Truth(total / count), "sum": Truth(total)}
    what = f"{count} items"
    return Data(loss, what, what, x, t, truths)


ROW_OPTIONS = (
    "soft targets",
    "label_smoothing",
    "z_loss",
    "weight",
    "sample_weight",
    "all of them",
)
OPTION_REGIMES = ("normal", "wide", "one ahead", "confident and wrong", "masked")
ITEM_OPTIONS = ("soft targets", "weight", "pos_weight", "all of them")


def rows_with_options(option, regime, classes, dtype):
    """The mean of cross-entropy with an option, or with all; every term is positive."""
    plain = rows(regime, classes, dtype)
    x, labels, count = plain.x, plain.target, len(plain.x)
    rng = np.random.default_rng(classes)
    chosen = set(ROW_OPTIONS) if option == "all of them" else {option}
    weight, sample_weight = np.ones(classes), np.ones(count)
    smoothing, z_loss, options = 0.0, 0.0, {}
    if "label_smoothing" in chosen:
        smoothing = options["label_smoothing"] = 0.1
    if "z_loss" in chosen:
        z_loss = options["z_loss"] = 0.05
    if "weight" in chosen:
        weight = options["weight"] = rng.uniform(0.1, 3, size=classes)
    if "sample_weight" in chosen:
        sample_weight = options["sample_weight"] = rng.uniform(0.1, 3, size=count)
    hot = np.arange(classes) == labels[:, None]
    q, target = hot.astype(LONG), labels
    if "soft targets" in chosen:
        target = (rng.random((count, classes)) ** 4 * np.isfinite(x)).astype(dtype)
        q = target.astype(LONG)
        weighed = sample_weight.astype(LONG).sum()
    else:
        weighed = (weight[labels].astype(LONG) * sample_weight).sum()
    softmax = Softmax(x.astype(LONG), labels)
    q = weight * ((1 - LONG(smoothing)) * q + LONG(smoothing) / classes)
    with np.errstate(invalid="ignore"):
        losses = np.where(q == 0, 0, -softmax.log_p * q).sum(axis=1) * sample_weight
    squares = LONG(z_loss) * softmax.lse**2 * sample_weight
    mean = losses.sum() / weighed + squares.sum() / sample_weight.astype(LONG).sum()
    what = f"{option}, {plain.what}"
    return Data(CE, option, what, x, target, {"mean": Truth(mean)}, options)


def items_with_options(option, regime, dtype):
    """The mean of the binary loss of logits with an option, or with all."""
    plain = items(regime, dtype, count=20_000)
    x, t = plain.x, plain.target
    rng = np.random.default_rng(5)
    chosen = set(ITEM_OPTIONS) if option == "all of them" else {option}
    weight, pos_weight, options = LONG(1), LONG(1), {}
    if "soft targets" in chosen:
        t = rng.random(x.size).astype(dtype)
    if "weight" in chosen:
        weight = options["weight"] = rng.uniform(0.1, 3, size=x.size).astype(dtype)
    if "pos_weight" in chosen:
        pos_weight = options["pos_weight"] = rng.uniform(0.1, 3, size=x.size).astype(dtype)
    wide, share = x.astype(LONG), t.astype(LONG)
    if_one, if_zero = logistic(-wide)[0], logistic(wide)[0]
    losses = weight * (pos_weight * share * if_one + (1 - share) * if_zero)
    return Data(
        BCE, option, f"{option}, {regime}", x, t, {"mean": reduced(losses)["mean"]}, options
    )

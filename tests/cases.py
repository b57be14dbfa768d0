"""One call of one loss on drawn data, its truth, and how far from it a result may be.

A `Key` names a case completely, so that every backend is asked the same question and the truth is
computed once:

    key = Key("cross_entropy", kind="indices", shape=(5, 7), dtype="float32", options=("weight",
    "label_smoothing")) got = evaluate(key, "value_and_grad", reduction="mean") check(key,
    "value_and_grad", "mean", got)

A loss that joins the registry needs an entry in `KINDS`, in `OPTIONS` and in `_draw_...`;
test_contract.py says so.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from zlib import crc32

import magnitudes
import numpy as np
from ulp import spacing_exponent, ulp_error

import fusedloss as fl
from fusedloss.losses import REGISTRY

try:
    import ml_dtypes
except ImportError:  # bfloat16 is an extra
    ml_dtypes = None

VERBS = ("value", "value_and_grad", "grad_and_hess")
REDUCTIONS = ("mean", "sum", "none")
LOSSES = tuple(sorted(REGISTRY))

DTYPES = (
    ("float16", "bfloat16", "float32", "float64")
    if ml_dtypes
    else ("float16", "float32", "float64")
)

# The kinds of target of each loss. The dtype is what tells them apart.
KINDS = {
    "cross_entropy": ("indices", "probabilities"),
    "binary_cross_entropy_with_logits": ("labels", "probabilities"),
    "binary_cross_entropy": ("labels", "probabilities"),
    "mse_loss": ("values",),
}

# The options of each loss and kind; every subset is a case.
OPTIONS = {
    ("cross_entropy", "indices"): (
        "weight",
        "sample_weight",
        "ignore_index",
        "label_smoothing",
        "z_loss",
    ),
    ("cross_entropy", "probabilities"): ("weight", "sample_weight", "label_smoothing", "z_loss"),
    ("binary_cross_entropy_with_logits", "labels"): ("weight", "pos_weight"),
    ("binary_cross_entropy_with_logits", "probabilities"): ("weight", "pos_weight"),
    ("binary_cross_entropy", "labels"): ("weight",),
    ("binary_cross_entropy", "probabilities"): ("weight",),
    ("mse_loss", "values"): ("weight",),
}

HAS_AXIS = ("cross_entropy",)

# What a bound is multiplied with, and why. Options: a soft target, a weight, smoothing and z-loss
# each add a rounding or two. The stated bounds are for hard labels and no option; twice that
# covers the "<= 3" that the targets allow for all options together.
OPTIONS_FACTOR = 2
# Witness: for float64 input the reference has the same precision as what it judges, so its own
# error is allowed on top. (For narrower input the reference is exact for our purposes, and the
# factor is 1. The mpmath tables judge float64 strictly.)
WITNESS_FACTOR = 2


def numpy_dtype(name):
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def compute_dtype(name):
    return np.dtype("float64" if name == "float64" else "float32")


@dataclass(frozen=True)
class Key:
    loss: str
    kind: str
    shape: tuple
    dtype: str = "float32"
    options: tuple = ()
    axis: int = -1
    seed: int = 0


@dataclass
class Case:
    """The arguments of one call: positional arrays and keyword options (reduction excluded)."""

    input: np.ndarray
    target: np.ndarray
    options: dict = field(default_factory=dict)


def option_subsets(loss, kind):
    """Every subset of the options, the empty one first."""
    names = OPTIONS[loss, kind]
    return [chosen for size in range(len(names) + 1) for chosen in combinations(names, size)]


# ------------------------------------------------------------------------------------------ drawing
#
# Out of `random` and `integers` alone, by operations that IEEE 754 rounds: so the data have the
# same bits on every machine, which committed hashes of results rely on. What else a generator draws
# comes by way of the C library's exp and log, or of a multiply-add that some compilers fuse.


def _rng(key):
    return np.random.default_rng(
        crc32(repr((key.loss, key.kind, key.shape, key.axis, key.seed)).encode())
    )


def bell(rng, shape):
    """Nearly N(0, 1), but within 3.5 of 0."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    first, second, third, fourth = rng.random((4, *shape))
    return ((first + second) + (third + fourth) - 2.0) * 1.75


def between(rng, low, high, shape):
    return low + (high - low) * rng.random(shape)


def normal_logits(rng, shape, dtype):
    """Logits as users have them: about N(0, 3), one in twenty confident."""
    x = bell(rng, shape) * np.where(rng.random(shape) < 0.05, 15.0, 3.0)
    return x.astype(numpy_dtype(dtype))


def _draw_cross_entropy(key, rng):
    axis = key.axis % len(key.shape)
    classes = key.shape[axis]
    rows = key.shape[:axis] + key.shape[axis + 1 :]
    x = normal_logits(rng, key.shape, key.dtype)
    options = {"axis": key.axis}
    if key.kind == "indices":
        target = rng.integers(classes, size=rows, dtype=np.int64)
        if "ignore_index" in key.options:
            # A valid class of the data: such rows go, the class stays in the softmax. A quarter of
            # the rows at most.
            ignored = int(rng.integers(classes))
            options["ignore_index"] = ignored
            if classes > 1:
                other = (ignored + 1) % classes
                target = np.where((target == ignored) & (rng.random(rows) < 0.5), other, target)
            target = np.where(rng.random(rows) < 0.2, ignored, target)
            target = np.asarray(target, dtype=np.int64)
    else:
        # Integers, whose sum is the same in any order; squares, so that some are far ahead.
        mass = rng.integers(1, 1000, size=key.shape) ** 2 * (rng.random(key.shape) < 0.7)
        total = np.maximum(mass.sum(axis=axis, keepdims=True), 1)
        target = (mass / total).astype("float32")
    if "weight" in key.options:
        weight = between(rng, 0.1, 3, classes)
        weight = np.where(rng.random(classes) < 0.1, 0.0, weight)
        if key.kind == "indices":
            # Not a zero at every label: a mean over nothing is a corner case of its own.
            weight[target.reshape(-1)[:20]] += 0.1
        options["weight"] = weight
    if "sample_weight" in key.options:
        options["sample_weight"] = between(rng, 0.1, 3, rows)
    if "label_smoothing" in key.options:
        options["label_smoothing"] = 0.1
    if "z_loss" in key.options:
        options["z_loss"] = 0.05
    return Case(x, target, options)


def _binary_target(key, rng):
    if key.kind == "labels":
        return rng.integers(2, size=key.shape).astype("int8")
    soft = rng.random(key.shape)
    return np.where(rng.random(key.shape) < 0.2, np.round(soft), soft).astype("float32")


def _draw_binary_cross_entropy_with_logits(key, rng):
    case = Case(normal_logits(rng, key.shape, key.dtype), _binary_target(key, rng))
    if "weight" in key.options:
        case.options["weight"] = between(rng, 0.1, 3, key.shape).astype("float32")
    if "pos_weight" in key.options:
        case.options["pos_weight"] = between(rng, 0.1, 3, key.shape[-1:]).astype("float32")
    return case


def _draw_binary_cross_entropy(key, rng):
    # Both ends are approached, down to 2**-40; 16-bit rounding may give exact zeros and ones, which
    # is welcome.
    small = np.ldexp(rng.random(key.shape), -rng.integers(40, size=key.shape))
    middle = np.where(rng.random(key.shape) < 0.5, rng.random(key.shape), small)
    probs = np.where(rng.random(key.shape) < 0.5, middle, 1 - middle)
    case = Case(probs.astype(numpy_dtype(key.dtype)), _binary_target(key, rng))
    if "weight" in key.options:
        case.options["weight"] = between(rng, 0.1, 3, key.shape[-1:]).astype("float64")
    return case


def _draw_mse_loss(key, rng):
    x = (bell(rng, key.shape) * 5 + 100).astype(numpy_dtype(key.dtype))
    target = (np.asarray(x, dtype="float64") + bell(rng, key.shape)).astype("float32")
    case = Case(x, target)
    if "weight" in key.options:
        case.options["weight"] = between(rng, 0.1, 3, key.shape).astype("float32")
    return case


@lru_cache(maxsize=128)
def draw(key):
    """The data of a case, read-only: a backend that writes to its inputs fails on the spot."""
    draw_one = globals()[f"_draw_{key.loss}"]
    case = draw_one(key, _rng(key))
    for array in (case.input, case.target, *case.options.values()):
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return case


# --------------------------------------------------------------------------------------- evaluating


def call(loss, verb, *args, **options):
    """One call of one verb. Under errstate "raise": no backend may be swayed by that, or warn."""
    loss = REGISTRY[loss] if isinstance(loss, str) else loss
    function = loss if verb == "value" else getattr(loss, verb)
    with np.errstate(all="raise"):
        return function(*args, **options)


def evaluate(key, verb, reduction, **extra):
    case = draw(key)
    return call(
        key.loss, verb, case.input, case.target, **{**case.options, "reduction": reduction, **extra}
    )


def widened(key):
    """The case as the reference must see it: items rounded to the compute type, then float64."""
    case = draw(key)
    compute = compute_dtype(key.dtype)

    def rounded(array):
        return array.astype(compute).astype("float64") if array.dtype.kind == "f" else array

    options = dict(case.options)
    if (
        key.loss != "cross_entropy"
    ):  # there the weights are scalars of a class or a row, and stay float64
        options = {name: rounded(value) for name, value in options.items()}
    return Case(case.input.astype("float64"), rounded(case.target), options)


@lru_cache(maxsize=256)
def truth(key, reduction):
    """{"value": ..., "grad": ..., "hess": ...} by the reference."""
    case = widened(key)
    outputs = {}
    with fl.use_backend("numpy"):
        for verb in ("value_and_grad", "grad_and_hess"):
            result = call(
                key.loss, verb, case.input, case.target, **case.options, reduction=reduction
            )
            outputs |= named_outputs(verb, result)
    return outputs


@lru_cache(maxsize=256)
def magnitude(key, reduction):
    case = widened(key)
    with np.errstate(all="ignore"):
        return getattr(magnitudes, key.loss)(
            case.input, case.target, reduction=reduction, **case.options
        )


def named_outputs(verb, result):
    """{"value": ..., "grad": ..., "hess": ...} of what the verb returned."""
    if verb == "value":
        return {"value": result}
    names = ("value", "grad") if verb == "value_and_grad" else ("grad", "hess")
    return dict(zip(names, result, strict=True))


# ------------------------------------------------------------------------------------------ judging


def compare(got, truth, *, dtype, out_dtype, ulp, size=0.0, describe=lambda: ""):
    """Hold every entry of a result of `out_dtype` against the truth (float64).

    Allowed are `ulp` units of the compute type of `dtype`, at `size` (the metric's word). Where
    the result is stored in 16 bits, that error is small, and what is allowed on top is the half
    unit of one rounding.
    """
    compute = compute_dtype(dtype)
    out_dtype = np.dtype(out_dtype)
    truth = np.asarray(truth, dtype="float64")
    if out_dtype == compute:
        error = ulp_error(got, truth, dtype=compute, size=size)
        allowed = np.full(error.shape, float(ulp))
    else:
        error = ulp_error(got, truth, dtype=out_dtype)
        with np.errstate(all="ignore"):
            at = np.where(np.isfinite(truth), truth, 0.0)
            finer = spacing_exponent(np.fmax(np.abs(at), size), compute)
            allowed = 0.5 + np.ldexp(float(ulp), finer - spacing_exponent(at, out_dtype))
    good = error <= allowed
    if good.all():
        return
    worst = np.unravel_index(np.argmax(np.where(good, -1.0, error / allowed)), good.shape)
    raise AssertionError(
        f"{np.count_nonzero(~good)} of {good.size} entries are wrong; the worst at "
        f"{tuple(map(int, worst))}: result {np.asarray(got)[worst]!r}, truth {truth[worst]!r}, "
        f"error {error[worst]:.4g} ulp, allowed {allowed[worst]:.4g} ulp\n{describe()}"
    )


def stated_bound(loss, output, reduction, dtype):
    """The loss's own bound for an output, in ulp of float32 or float64."""
    reduced = output == "value" and reduction != "none"
    return REGISTRY[loss].error_bounds["mean" if reduced else output][dtype]


def check(key, verb, reduction, result):
    """Hold a result against the reference; on failure say all that is needed to reproduce it."""
    hard = key.kind in ("indices", "labels", "values")
    plain = hard and not set(key.options) - {"ignore_index"}  # ignore_index changes no arithmetic
    factor = (1 if plain else OPTIONS_FACTOR) * (WITNESS_FACTOR if key.dtype == "float64" else 1)
    expected = truth(key, reduction)
    sizes = magnitude(key, reduction)
    compute = compute_dtype(key.dtype)
    for output, got in named_outputs(verb, result).items():
        bound = stated_bound(key.loss, output, reduction, compute.name)

        def describe(output=output, bound=bound):
            case = draw(key)
            return (
                f"{key}, {verb}, reduction={reduction!r}, output {output!r}, "
                f"backend {fl.runtime_info()['backend']}, bound {bound} ulp x {factor}\n"
                f"input {case.input!r}\ntarget {case.target!r}\noptions {case.options!r}"
            )

        if output == "value" and reduction != "none":
            # Compared after rounding to the input's dtype (float32 for 16 bits): so much is
            # promised.
            assert type(got) is float, f"a reduced value is a float, not {type(got)}\n{describe()}"
            out_dtype = compute
        else:
            out_dtype = compute if output == "value" else numpy_dtype(key.dtype)
            assert isinstance(got, np.ndarray), f"{type(got)} is not an array\n{describe()}"
            assert got.dtype == out_dtype, f"dtype {got.dtype}, not {out_dtype}\n{describe()}"
            assert got.shape == expected[output].shape, f"shape {got.shape}\n{describe()}"
        compare(
            got,
            expected[output],
            dtype=key.dtype,
            out_dtype=out_dtype,
            ulp=bound * factor,
            size=sizes[output],
            describe=describe,
        )


def same_bits(first, second):
    """Equal in dtype, shape and every bit; any nan equals any nan (nobody promises its payload)."""
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(same_bits, first, second))
    first, second = np.asarray(first), np.asarray(second)
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    if first.tobytes() == second.tobytes():
        return True
    first, second = first.reshape(-1), second.reshape(-1)
    bits = f"u{first.dtype.itemsize}"
    both_nan = np.isnan(first) & np.isnan(second)
    return bool(np.all(both_nan | (first.view(bits) == second.view(bits))))

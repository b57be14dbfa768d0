"""Every backend, loss, verb, dtype, option, reduction and kind of target against the reference.

The truth is the reference in float64, whatever the input's dtype. For the "numpy" backend this
holds its handling of dtypes and rounding; its arithmetic is held by the tables of test_tables.py.
"""

import numpy as np
import pytest
from cases import (
    DTYPES,
    HAS_AXIS,
    KINDS,
    LOSSES,
    REDUCTIONS,
    VERBS,
    Key,
    call,
    check,
    compare,
    compute_dtype,
    draw,
    evaluate,
    named_outputs,
    normal_logits,
    numpy_dtype,
    option_subsets,
    stated_bound,
)

import fusedloss as fl
from fusedloss.functions import ERROR_BOUNDS

LOSS_KINDS = [(loss, kind) for loss in LOSSES for kind in KINDS[loss]]
ROW_LOSS_KINDS = [(loss, kind) for loss, kind in LOSS_KINDS if loss in HAS_AXIS]
ITEM_LOSS_KINDS = [(loss, kind) for loss, kind in LOSS_KINDS if loss not in HAS_AXIS]

# Numbers of classes. Kernels put 16 rows or 16 classes side by side and cut a row into blocks.
CLASSES = (
    1,  # a softmax that is always 1
    2, 3, 5, 10,  # fewer classes than lanes
    15, 16, 17, 31, 33,  # around one lane array and two
    40, 41, 64, 100, 127, 130,  # few side by side, many one by one; whole lane arrays, and not
    1000, 1023, 1024, 1025, 4095, 4096, 4097,  # around the sizes that blocks tend to have
    5000, 20000,  # several blocks and a rest
)  # fmt: skip
ROWS = (0, 1, 2, 15, 16, 17, 33, 100)
ITEMS_AT_MOST = 45_000  # per case; above, fewer rows

# One long row: blocks of columns of one row, shared between threads.
LONG_ROWS = ((3, 16_385), (2, 65_537), (1, 100_003), (2, 131_073))

INNER = (1, 3, 16, 17, 100)  # items from one class to the next
SIZES = (0, 1, 15, 16, 17, 1000, 1023, 1024, 1025, 16_383, 16_384, 16_385, 100_003)


def check_verbs(loss, kind, shape, dtype, options, reduction, axis=-1):
    key = Key(loss, kind, shape, dtype, options, axis)
    for verb in VERBS:
        check(key, verb, reduction, evaluate(key, verb, reduction))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("loss", "kind"), LOSS_KINDS)
def test_every_subset_of_the_options(loss, kind, reduction, dtype, backend):
    """On a few rows; 21 columns are one lane array and a rest."""
    for options in option_subsets(loss, kind):
        check_verbs(loss, kind, (6, 21), dtype, options, reduction)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(("loss", "kind"), ROW_LOSS_KINDS)
def test_every_number_of_classes_and_rows(loss, kind, classes, dtype, backend):
    combinations = turns(loss, kind, start=classes)
    for rows in ROWS:
        if rows * classes <= ITEMS_AT_MOST:
            options, reduction = next(combinations)
            check_verbs(loss, kind, (rows, classes), dtype, options, reduction)
            check_verbs(loss, kind, (rows, classes), dtype, (), "mean")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", LONG_ROWS, ids=str)
@pytest.mark.parametrize(("loss", "kind"), ROW_LOSS_KINDS)
def test_few_rows_of_very_many_classes(loss, kind, shape, dtype, backend):
    options, reduction = next(turns(loss, kind, start=shape[1]))
    check_verbs(loss, kind, shape, dtype, options, reduction)
    check_verbs(loss, kind, shape, dtype, (), "none")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(("loss", "kind"), ROW_LOSS_KINDS)
def test_the_class_axis_may_be_any(loss, kind, inner, dtype, backend):
    combinations = turns(loss, kind, start=inner)
    for classes in (1, 2, 7, 17, 64, 65, 130):
        for shape, axis in (
            ((classes, inner), 0),
            ((3, classes, inner), 1),
            ((2, classes, 2, inner), -3),
            ((2, inner, classes), -1),
        ):
            options, reduction = next(combinations)
            check_verbs(loss, kind, shape, dtype, options, reduction, axis)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("loss", "kind"), ITEM_LOSS_KINDS)
def test_every_number_of_items(loss, kind, size, dtype, backend):
    combinations = turns(loss, kind, start=size)
    for _ in range(2):
        options, reduction = next(combinations)
        check_verbs(loss, kind, (size,), dtype, options, reduction)
    check_verbs(loss, kind, (size,), dtype, (), "mean")
    check_verbs(loss, kind, (size,), dtype, (), "sum")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1, 1, 1), (3, 0, 2), (7, 1), (1, 7), (5, 4, 33)], ids=str)
@pytest.mark.parametrize(("loss", "kind"), ITEM_LOSS_KINDS)
def test_items_of_any_rank(loss, kind, shape, dtype, backend):
    for options in option_subsets(loss, kind):
        for reduction in REDUCTIONS:
            check_verbs(loss, kind, shape, dtype, options, reduction)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_one_row_of_logits_with_a_scalar_target(kind, dtype, backend):
    """1-d logits are one row: `none` has shape ()."""
    for options in option_subsets("cross_entropy", kind):
        check_verbs("cross_entropy", kind, (19,), dtype, options, "none")


def turns(loss, kind, start):
    """Subset after subset of the options, each with another reduction."""
    subsets = option_subsets(loss, kind)
    number = start * 7
    while True:
        # 7 and 3 have no common divisor with the 4, 8, 16 or 32 subsets and 3 reductions together
        yield subsets[number % len(subsets)], REDUCTIONS[(number // 2) % 3]
        number += 7


# ---------------------------------------------------------------------- functions of one array

AXIS_FUNCTIONS = ("softmax", "log_softmax", "logsumexp")
ITEM_FUNCTIONS = ("sigmoid", "log_sigmoid", "softplus")


def check_function(name, x, axis=None):
    """Against the function in float64, of the same numbers."""
    options = {} if axis is None else {"axis": axis}
    function = getattr(fl, name)
    with np.errstate(all="raise"):
        got = function(x, **options)
    x64 = x.astype("float64")
    with fl.use_backend("numpy"):
        truth = function(x64, **options)
    dtype = x.dtype.name
    size = 0.0
    if name == "logsumexp":  # max + log(sum) may be the difference of two numbers
        with np.errstate(all="ignore"):
            m = np.max(x64, axis=axis)
            size = np.abs(m) + np.abs(truth - m)
    bound = ERROR_BOUNDS[name][compute_dtype(dtype).name]
    assert isinstance(got, np.ndarray)
    assert got.dtype == x.dtype
    assert got.shape == truth.shape
    compare(
        got,
        truth,
        dtype=dtype,
        out_dtype=x.dtype,
        ulp=bound * (2 if dtype == "float64" else 1),
        size=size,
        describe=lambda: (
            f"{name}, axis {axis}, backend {fl.runtime_info()['backend']}, bound {bound}\nx {x!r}"
        ),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("name", AXIS_FUNCTIONS)
def test_functions_along_an_axis(name, classes, dtype, backend):
    rng = np.random.default_rng(classes)
    for rows in ROWS:
        if rows * classes <= ITEMS_AT_MOST:
            check_function(name, normal_logits(rng, (rows, classes), dtype), axis=-1)
    for inner in INNER:
        if inner * classes <= 2000:
            check_function(name, normal_logits(rng, (classes, inner), dtype), axis=0)
            check_function(name, normal_logits(rng, (2, classes, inner), dtype), axis=1)
    check_function(name, normal_logits(rng, (classes,), dtype), axis=-1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ITEM_FUNCTIONS)
def test_functions_of_each_item(name, dtype, backend):
    rng = np.random.default_rng(5)
    for size in SIZES:
        check_function(name, normal_logits(rng, (size,), dtype))
    for shape in ((), (3, 0), (5, 1, 33)):
        check_function(name, normal_logits(rng, shape, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ITEM_FUNCTIONS)
def test_functions_over_the_whole_range(name, dtype, backend):
    """Magnitudes from the smallest subnormal to the largest number, both signs."""
    limits = np.finfo(dtype)
    low, high = np.log2(float(limits.smallest_subnormal)), np.log2(float(limits.max))
    size = np.exp2(np.linspace(low, high - 1e-9, 2001)).astype(dtype)
    size = np.append(size, limits.max)
    check_function(name, np.concatenate([size, -size, np.array([0.0, -0.0], dtype)]))


# ------------------------------------------------------------------------ magnitudes of the data


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("offset", [0.0, 100.0, -1e4, 1e8, -1e8])
@pytest.mark.parametrize("spread", [1e-6, 1.0, 80.0, 1e4])
def test_cross_entropy_of_spread_and_shifted_logits(spread, offset, dtype, backend):
    """Common offsets to 1e8, ties, and spreads from nothing to hopeless."""
    rng = np.random.default_rng(3)
    for classes in (2, 16, 33, 1000):
        x = (rng.normal(size=(9, classes)) * spread + offset).astype(dtype)
        target = rng.integers(classes, size=9)
        target[:4] = x.argmax(axis=1)[:4]
        check_raw("cross_entropy", x, target)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("margin", [15.0, 20.0, 40.0, 80.0, 100.0])
def test_cross_entropy_of_confident_rows(margin, dtype, backend):
    """Right and wrong by a margin: the loss of the former is tiny, and all its digits count."""
    for classes in (2, 5, 17, 1000):
        for right in (True, False):
            x = np.linspace(-1, 1, 3 * classes).reshape(3, classes)
            x[:, classes // 2] += margin
            target = np.full(3, classes // 2 if right else 0)
            check_raw("cross_entropy", x.astype(dtype), target)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_binary_cross_entropy_with_logits_over_the_whole_range(dtype, backend):
    x = np.geomspace(1e-30, 1e4, 999)
    x = np.concatenate([x, -x, [0.0]]).astype(dtype)
    for label in (0, 1):
        check_raw("binary_cross_entropy_with_logits", x, np.full(x.shape, label))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mse_of_close_numbers_and_of_all_magnitudes(dtype, backend):
    rng = np.random.default_rng(4)
    x = (1000 + rng.normal(size=5000)).astype(dtype)
    check_raw("mse_loss", x, np.nextafter(x, x.dtype.type(0)))
    size = (10.0 ** rng.uniform(-15, 15, size=5000)).astype(dtype)
    check_raw("mse_loss", size, -size[::-1].copy())


def check_raw(loss, x, target):
    """Hard targets, no option: the stated bound itself, on data made by the test."""
    factor = 2 if x.dtype == np.float64 else 1  # the reference's own error, see cases.py
    for verb in VERBS:
        for reduction in REDUCTIONS:
            got = call(loss, verb, x, target, reduction=reduction)
            with fl.use_backend("numpy"):
                truth = call(loss, verb, x.astype("float64"), as64(target), reduction=reduction)
            truth = named_outputs(verb, truth)
            for name, one in named_outputs(verb, got).items():
                compare(
                    one,
                    truth[name],
                    dtype=x.dtype.name,
                    out_dtype=x.dtype,
                    ulp=stated_bound(loss, name, reduction, x.dtype.name) * factor,
                    describe=lambda name=name, verb=verb, reduction=reduction: (
                        f"{loss}, {verb}, {reduction}, {name}, "
                        f"backend {fl.runtime_info()['backend']}\nx {x!r}\ntarget {target!r}"
                    ),
                )


def as64(array):
    return array.astype("float64") if array.dtype.kind == "f" else array


def test_a_float16_mean_over_70_000_rows_is_right(backend):
    """Sums and counts kept in 16 bits would give 0 or inf here."""
    x = np.zeros((70_000, 2), "float16")
    value = fl.cross_entropy(x, np.zeros(70_000, "int8"))
    assert abs(value - np.log(2)) < 1e-7, value


@pytest.mark.parametrize("dtype", [d for d in DTYPES if numpy_dtype(d).itemsize == 2])
def test_16_bit_gradients_are_rounded_once(dtype, backend):
    """The mean's 1/D is applied before the rounding to 16 bits, not after."""
    for loss, kind in LOSS_KINDS:
        key = Key(loss, kind, (700, 3), dtype)
        case = draw(key)
        _, got = call(loss, "value_and_grad", case.input, case.target, **case.options)
        check(key, "value_and_grad", "mean", (evaluate(key, "value", "mean"), got))

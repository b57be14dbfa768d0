"""Whatever holds numbers is accepted, read as it is, never changed; `out` is filled as it is.

The truth of a strange array is the result for the plain array with the same numbers, bit for bit.
"""

import ctypes
import sys
from array import array as stdlib_array

import numpy as np
import pytest
from cases import (
    DTYPES,
    KINDS,
    LOSSES,
    REDUCTIONS,
    VERBS,
    Key,
    call,
    draw,
    ml_dtypes,
    numpy_dtype,
    option_subsets,
    same_bits,
)

import fusedloss as fl

# ------------------------------------------------------------------- the same numbers, laid out


def fortran(x):
    return np.asfortranarray(x)


def reversed_(x):
    """Negative steps along every axis."""
    flip = tuple(slice(None, None, -1) for _ in range(x.ndim))
    return np.ascontiguousarray(x[flip])[flip]


def strided(x):
    """Every second item of the last axis, with other numbers in between."""
    if x.ndim == 0:
        return x
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1] + 1), 33).astype(x.dtype)
    wide[..., 1::2] = x
    return wide[..., 1::2]


def transposed(x):
    return np.ascontiguousarray(x.T).T


def unaligned(x):
    raw = np.zeros(x.nbytes + 1, "u1")
    view = raw[1 : 1 + x.nbytes].view(x.dtype).reshape(x.shape)
    view[...] = x
    assert x.dtype.itemsize == 1 or x.size == 0 or not view.flags.aligned
    return view


def other_byte_order(x):
    return x.astype(x.dtype.newbyteorder("S"))


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


class Subclass(np.ndarray):
    """An ndarray whose arithmetic nobody should call."""

    def __array_ufunc__(self, *args, **kwargs):
        raise AssertionError("a loss must not compute with a subclass's own arithmetic")


def subclass(x):
    return x.copy().view(Subclass)


class ByArrayMethod:
    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return np.array(self.x, dtype=dtype)


class ByInterface:
    def __init__(self, x):
        self.x = x
        self.__array_interface__ = x.__array_interface__


class ByDLPack:
    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **options):
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


class OldDLPack(ByDLPack):
    """As written before the protocol knew any options."""

    def __dlpack__(self, stream=None):
        return self.x.__dlpack__()


LAYOUTS = (fortran, reversed_, strided, transposed, unaligned, read_only, subclass)
PROTOCOLS = (ByArrayMethod, ByInterface, ByDLPack, OldDLPack, memoryview)

EVERYTHING = [
    Key(loss, kind, (6, 5), options=option_subsets(loss, kind)[-1])
    for loss in LOSSES
    for kind in KINDS[loss]
]


def with_dtype(key, dtype):
    return Key(key.loss, key.kind, key.shape, dtype, key.options)


def all_results(loss, x, target, options):
    return [
        call(loss, verb, x, target, reduction=reduction, **options)
        for verb in VERBS
        for reduction in REDUCTIONS
    ]


def plain_results(key):
    case = draw(key)
    return all_results(key.loss, case.input, case.target, case.options)


def assert_same_results(got, plain, what):
    for one, other in zip(got, plain, strict=True):
        assert same_bits(one, other), f"{what}: {one!r} is not {other!r}"


def convert(change, key):
    """The arguments of a case, each array changed; and copies of all to compare with."""
    case = draw(key)
    options = {
        name: change(value) if isinstance(value, np.ndarray) else value
        for name, value in case.options.items()
    }
    return change(case.input), change(case.target), options


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key", EVERYTHING, ids=lambda key: f"{key.loss}-{key.kind}")
@pytest.mark.parametrize("change", LAYOUTS)
def test_any_layout(change, key, dtype, backend):
    key = with_dtype(key, dtype)
    x, target, options = convert(change, key)
    arrays = [x, target, *(v for v in options.values() if isinstance(v, np.ndarray))]
    before = [a.tobytes() for a in arrays]
    got = all_results(key.loss, x, target, options)
    assert_same_results(got, plain_results(key), change.__name__)
    assert before == [a.tobytes() for a in arrays], "an input was modified"
    for result in got:
        for one in result if isinstance(result, tuple) else (result,):
            assert type(one) in (float, np.ndarray), f"a result is a {type(one)}"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("key", EVERYTHING, ids=lambda key: f"{key.loss}-{key.kind}")
def test_the_other_byte_order(key, dtype, backend):
    key = with_dtype(key, dtype)
    got = all_results(key.loss, *convert(other_byte_order, key))
    assert_same_results(got, plain_results(key), "byte order")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("key", EVERYTHING, ids=lambda key: f"{key.loss}-{key.kind}")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_any_protocol(protocol, key, dtype, backend):
    """`__array__`, `__array_interface__`, DLPack, the buffer protocol."""
    key = with_dtype(key, dtype)
    case = draw(key)

    def offer(x):
        return protocol(np.array(x))  # a writeable copy: some versions export nothing else

    options = {
        name: offer(value) if isinstance(value, np.ndarray) else value
        for name, value in case.options.items()
    }
    got = all_results(key.loss, offer(case.input), offer(case.target), options)
    assert_same_results(got, plain_results(key), protocol.__name__)


@pytest.mark.parametrize("key", EVERYTHING, ids=lambda key: f"{key.loss}-{key.kind}")
def test_lists_and_tuples(key, backend):
    """Lists of floats are float64, as by numpy.asarray."""
    key = with_dtype(key, "float64")
    x, target, options = convert(np.ndarray.tolist, key)
    got = all_results(
        key.loss, x, tuple(map(tuple, target)) if key.kind != "indices" else target, options
    )
    # The targets of the plain case are float32 or int8; as lists they are float64 and int64.
    case = draw(key)
    plain = all_results(
        key.loss,
        case.input,
        np.asarray(target),
        {k: np.asarray(v) if isinstance(v, list) else v for k, v in options.items()},
    )
    assert_same_results(got, plain, "lists")


def test_a_memory_map(tmp_path, backend):
    x = np.random.default_rng(1).normal(size=(50, 7)).astype("float32")
    labels = np.arange(50) % 7
    x.tofile(tmp_path / "logits")
    labels.tofile(tmp_path / "labels")
    for mode in ("r", "c", "r+"):
        mapped = np.memmap(tmp_path / "logits", "float32", mode, shape=(50, 7))
        mapped_labels = np.memmap(tmp_path / "labels", labels.dtype, mode)
        assert_same_results(
            all_results("cross_entropy", mapped, mapped_labels, {}),
            all_results("cross_entropy", x, labels, {}),
            mode,
        )
    assert (tmp_path / "logits").read_bytes() == x.tobytes()
    out = np.memmap(tmp_path / "gradient", "float32", "w+", shape=(50, 7))
    _, grad = fl.cross_entropy.value_and_grad(x, labels, out=out)
    assert grad is out
    out.flush()
    expected = fl.cross_entropy.value_and_grad(x, labels)[1]
    assert (tmp_path / "gradient").read_bytes() == expected.tobytes()


def test_buffers_of_the_standard_library(backend):
    x = [0.5, -1.25, 3.0]
    expected = fl.binary_cross_entropy_with_logits(np.array(x), np.array([1, 0, 1], "int8"))
    given = (ctypes.c_double * 3)(*x), stdlib_array("b", [1, 0, 1])
    assert fl.binary_cross_entropy_with_logits(*given) == expected
    assert fl.mse_loss(stdlib_array("f", x), bytearray(b"\1\0\1")) == fl.mse_loss(
        np.array(x, "f4"), np.array([1, 0, 1], "u1")
    )


def test_0_d_items(backend):
    """A NumPy scalar, a Python float and a 0-d array are one item; `none` has shape ()."""
    for loss in (fl.binary_cross_entropy_with_logits, fl.binary_cross_entropy, fl.mse_loss):
        for x in (0.25, np.float64(0.25), np.array(0.25)):
            assert loss(x, 1) == loss([0.25], [1])
            value, grad = loss.value_and_grad(x, 1, reduction="none")
            assert value.shape == grad.shape == ()
            assert value == loss([0.25], [1])
            out = np.empty(())
            assert loss.value_and_grad(x, 1, out=out)[1] is out
            assert out == grad


def test_one_row_with_a_0_d_target(backend):
    for target in (2, np.int8(2), np.array(2, "uint64")):
        value, grad = fl.cross_entropy.value_and_grad([1.0, 2.0, 4.0], target, reduction="none")
        assert value.shape == ()
        assert grad.shape == (3,)
        assert fl.cross_entropy([1.0, 2.0, 4.0], target, sample_weight=3.0) == float(value)


# ------------------------------------------------------------------------------------- dtypes

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
# ignore_index: ordinary, matching a label, never matching, and out of the range of every dtype.
IGNORED = (-100, 3, -1, 0, 127, 255, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**70))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_of_every_integer_dtype_with_every_ignore_index(dtype, backend):
    """Labels and ignore_index compare as mathematical integers."""
    rng = np.random.default_rng(2)
    labels = rng.integers(5, size=(4, 6))
    x = rng.normal(size=(4, 6, 5)).astype("float32")
    for ignored in IGNORED:
        expected = all_results("cross_entropy", x, labels, {"ignore_index": ignored})
        for values in (labels.astype(dtype), other_byte_order(labels.astype(dtype))):
            got = all_results("cross_entropy", x, values, {"ignore_index": ignored})
            assert_same_results(got, expected, (dtype, ignored))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_extreme_integers_may_be_the_ignored_label(dtype, backend):
    x = np.random.default_rng(3).normal(size=(5, 4))
    expected = all_results("cross_entropy", x, np.array([0, -100, 2, -100, 3]), {})
    for extreme in (np.iinfo(dtype).min, np.iinfo(dtype).max):
        if 0 <= extreme < 4:
            continue  # 0 of the unsigned dtypes is a class
        labels = np.array([0, extreme, 2, extreme, 3], dtype)
        for ignored in (int(extreme), np.dtype(dtype).type(extreme)):
            got = all_results("cross_entropy", x, labels, {"ignore_index": ignored})
            assert_same_results(got, expected, (dtype, extreme))


def test_a_label_is_not_the_ignored_one_by_wrapping(backend):
    """uint8 156 is not -100, and uint64 2**64 - 1 is not -1."""
    x = np.zeros((2, 3))
    for label, dtype, ignored in (
        (156, "uint8", -100),
        (2**16 - 100, "uint16", -100),
        (2**32 - 100, "uint32", -100),
        (2**64 - 100, "uint64", -100),
        (2**64 - 1, "uint64", -1),
        (-1, "int8", 255),
        (-1, "int64", 2**64 - 1),
        (1, "int8", 257),
    ):
        labels = np.array([0, label], dtype)
        if 0 <= label < 3:
            expected = fl.cross_entropy(x, labels)
            assert fl.cross_entropy(x, labels, ignore_index=ignored) == expected
        else:
            with pytest.raises(IndexError, match=rf"^target\[1\] must be .*, not {label}$"):
                fl.cross_entropy(x, labels, ignore_index=ignored)


def test_more_classes_than_the_label_dtype_can_name(backend):
    x = np.random.default_rng(4).normal(size=(3, 300)).astype("float32")
    labels = np.array([0, 100, 127])
    for dtype in INTEGERS:
        got = all_results("cross_entropy", x, labels.astype(dtype), {})
        assert_same_results(got, all_results("cross_entropy", x, labels, {}), dtype)


REAL = ("bool", *INTEGERS, *DTYPES, np.longdouble)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "loss", ["binary_cross_entropy_with_logits", "binary_cross_entropy", "mse_loss"]
)
def test_targets_and_weights_of_every_real_dtype(loss, dtype, backend):
    """They are numbers; their dtype changes neither the result's bits nor its dtype."""
    rng = np.random.default_rng(5)
    x = rng.uniform(0.1, 0.9, size=(9, 11)).astype(numpy_dtype(dtype))
    target, weight = rng.integers(2, size=x.shape), rng.integers(2, size=x.shape)
    names = ("weight", "pos_weight") if loss == "binary_cross_entropy_with_logits" else ("weight",)
    expected = all_results(loss, x, target, dict.fromkeys(names, weight))
    for other in REAL:
        other = numpy_dtype(other) if isinstance(other, str) else other
        given = weight.astype(other)
        got = all_results(loss, x, target.astype(other), dict.fromkeys(names, given))
        assert_same_results(got, expected, other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_class_weights_and_probabilities_of_every_real_dtype(dtype, backend):
    rng = np.random.default_rng(6)
    x = rng.normal(size=(9, 11)).astype(numpy_dtype(dtype))
    labels = rng.integers(11, size=9)
    weight, sample_weight = rng.integers(2, size=11), rng.integers(2, size=9)
    one_hot = np.eye(11)[labels]
    by_index = all_results(
        "cross_entropy", x, labels, {"weight": weight, "sample_weight": sample_weight}
    )
    by_class = all_results("cross_entropy", x, one_hot, {"weight": weight})
    for other in REAL:
        other = numpy_dtype(other) if isinstance(other, str) else other
        options = {"weight": weight.astype(other), "sample_weight": sample_weight.astype(other)}
        got = all_results("cross_entropy", x, labels, options)
        assert_same_results(got, by_index, other)
        if other in REAL[9:]:
            options = {"weight": weight.astype(other)}
            got = all_results("cross_entropy", x, one_hot.astype(other), options)
            assert_same_results(got, by_class, other)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (1, 7), (5, 1), (5, 7), (2, 1, 7), (2, 5, 1)])
@pytest.mark.parametrize("loss", ["binary_cross_entropy_with_logits", "binary_cross_entropy"])
def test_weights_are_broadcast_without_being_copied(loss, shape, backend):
    """Repeated by strides of zero: the same bits as the whole array."""
    rng = np.random.default_rng(7)
    x, target = rng.uniform(size=(2, 5, 7)), rng.integers(2, size=(2, 5, 7))
    weight = rng.uniform(0.5, 2, size=shape)
    whole = np.array(np.broadcast_to(weight, x.shape))
    names = ("weight", "pos_weight") if loss == "binary_cross_entropy_with_logits" else ("weight",)
    for name in names:
        expected = all_results(loss, x, target, {name: whole})
        assert_same_results(all_results(loss, x, target, {name: weight}), expected, name)
        view = np.broadcast_to(weight, x.shape)
        assert_same_results(all_results(loss, x, target, {name: view}), expected, name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [1, 3, 30, 1024, 1500])
def test_weights_of_many_rows_are_repeated(columns, dtype, backend):
    """Over several of the chunks that kernels read, which begin anywhere in a row."""
    rng = np.random.default_rng(8)
    shape = (4000 // columns + 1, columns)
    x = rng.normal(size=shape).astype(dtype)
    target = rng.integers(2, size=shape)
    row = rng.uniform(0.5, 2, size=2 * columns)
    weights = [row[:columns].astype(dtype), row[::2], rng.integers(1, 5, size=columns)]
    weights += [rng.uniform(0.5, 2, size=(len(x), 1)), 1.5, np.float32(1.5)]
    weights += [np.float64(1.5), 2, -3, True, 2**53 + 1]
    for weight in weights:
        whole = np.array(np.broadcast_to(weight, x.shape))
        for name in ("weight", "pos_weight"):
            expected = all_results("binary_cross_entropy_with_logits", x, target, {name: whole})
            got = all_results("binary_cross_entropy_with_logits", x, target, {name: weight})
            assert_same_results(got, expected, (name, weight))


HALVES = [d for d in DTYPES if numpy_dtype(d).itemsize == 2]


@pytest.mark.parametrize("dtype", HALVES)
def test_every_16_bit_number_is_read_right(dtype, backend):
    """All 65 536 patterns: subnormals, infinities and nan among them."""
    x = np.arange(2**16, dtype="uint16").view(numpy_dtype(dtype))
    with np.errstate(all="ignore"):
        expected = x.astype("float32") ** 2
    got = fl.mse_loss(x, np.zeros(x.shape, bool), reduction="none")
    assert same_bits(got, expected)


@pytest.mark.parametrize("dtype", HALVES)
def test_16_bit_results_are_rounded_to_nearest_even(dtype, backend):
    """2 (0 - t) is exact in float32. All 16-bit numbers, the middles between them, and beside."""
    near = np.arange(2**16, dtype="uint16").view(numpy_dtype(dtype)).astype("float32")
    near = np.sort(near[np.isfinite(near)])
    middle = ((near[:-1].astype("float64") + near[1:]) / 2).astype("float32")
    edge = near[-1] + np.float32(near[-1] - near[-2]) * np.array([0.25, 0.5, 0.75], "float32")
    wanted = np.concatenate(
        [near, middle, np.nextafter(middle, -np.inf), np.nextafter(middle, np.inf), edge, -edge]
    )
    # Halves of subnormal float32 numbers would not be exact.
    wanted = wanted[(wanted == 0) | (np.abs(wanted) >= 2.0**-125)]
    zero = np.zeros(wanted.shape, numpy_dtype(dtype))
    _, got = fl.mse_loss.value_and_grad(zero, -wanted / 2, reduction="sum")
    with np.errstate(all="ignore"):
        expected = wanted.astype(numpy_dtype(dtype))
    np.testing.assert_array_equal(got.astype("float32"), expected.astype("float32"))


def test_integers_that_float32_cannot_hold_are_rounded_once(backend):
    """As NumPy converts them, element by element, to the compute type."""
    large = [2**24 + 1, 2**24 + 3, 2**31 - 1, 2**53 + 1, 2**62 + 2**38 + 1, -(2**24) - 1]
    for dtype in ("int64", "uint64"):
        target = np.array([n for n in large if n > 0 or dtype == "int64"], dtype)
        for float_dtype in ("float32", "float64"):
            x = np.zeros(target.shape, float_dtype)
            _, got = fl.mse_loss.value_and_grad(x, target, reduction="sum")
            assert same_bits(got, -2 * target.astype(float_dtype)), (dtype, float_dtype)
            weighted = fl.mse_loss.value_and_grad(x + 1, x, weight=target, reduction="sum")[1]
            assert same_bits(weighted, 2 * target.astype(float_dtype)), (dtype, float_dtype)


# -------------------------------------------------------------------------------- the output

OUT_LAYOUTS = {
    "contiguous": np.zeros_like,
    "fortran": lambda x: np.zeros_like(x, order="F"),
    "strided": lambda x: strided(np.zeros_like(x)),
    "reversed": lambda x: reversed_(np.zeros_like(x)),
    "unaligned": lambda x: unaligned(np.zeros_like(x)),
    "other byte order": lambda x: np.zeros_like(x, dtype=x.dtype.newbyteorder("S")),
    "subclass": lambda x: np.zeros_like(x).view(np.memmap),
}


@pytest.mark.parametrize("layout", OUT_LAYOUTS)
@pytest.mark.parametrize("key", EVERYTHING, ids=lambda key: f"{key.loss}-{key.kind}")
def test_an_output_of_any_layout_is_filled_and_returned(key, layout, backend):
    case = draw(key)

    def outputs(count):
        return tuple(OUT_LAYOUTS[layout](np.array(case.input)) for _ in range(count))

    for reduction in REDUCTIONS:
        options = {**case.options, "reduction": reduction}
        value, grad = call(key.loss, "value_and_grad", case.input, case.target, **options)
        (out,) = outputs(1)
        got = call(key.loss, "value_and_grad", case.input, case.target, **options, out=out)
        assert got[1] is out
        assert same_bits(got[0], value)
        np.testing.assert_array_equal(out, grad)

        grad, hess = call(key.loss, "grad_and_hess", case.input, case.target, **options)
        for wanted in ((True, True), (True, False), (False, True), (False, False)):
            pair = outputs(2)
            given = tuple(o if use else None for o, use in zip(pair, wanted, strict=True))
            got = call(key.loss, "grad_and_hess", case.input, case.target, **options, out=given)
            for result, expected, out in zip(got, (grad, hess), given, strict=True):
                assert out is None or result is out
                np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_in_place(axis, dtype, backend):
    """out=logits overwrites them with the gradient, in every shape that kernels tell apart."""
    rng = np.random.default_rng(8)
    for shape in ((3, 2, 4), (20, 17, 33), (2, 1500, 3), (3000, 2, 2), (1, 1, 20_000)):
        x = rng.normal(size=shape).astype(numpy_dtype(dtype))
        target = rng.integers(shape[axis], size=np.delete(shape, axis))
        value, grad = fl.cross_entropy.value_and_grad(x, target, axis=axis)
        _, hess = fl.cross_entropy.grad_and_hess(x, target, axis=axis)
        buffer = x.copy()
        got = fl.cross_entropy.value_and_grad(buffer, target, axis=axis, out=buffer)
        assert got[1] is buffer
        assert same_bits(got, (value, grad)), shape
        for pair in ((True, False), (False, True)):
            buffer = x.copy()
            given = tuple(buffer if use else None for use in pair)
            got = fl.cross_entropy.grad_and_hess(buffer, target, axis=axis, out=given)
            assert same_bits(got, (grad, hess)), (shape, pair)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "classes", [1, 2, 3, 8, 31, 33, 63, 64, 100, 128, 129, 200, 256, 257, 700, 1025, 2049, 4097]
)
def test_rows_in_place(classes, dtype, backend):
    """Rows of one batch are written while others of it are still to be read."""
    rng = np.random.default_rng(classes)
    rows = 37 if classes < 1000 else 5
    x = rng.normal(scale=2, size=(rows, classes)).astype(numpy_dtype(dtype))
    labels = rng.integers(classes, size=rows)
    weight = rng.uniform(0.5, 2, size=rows)
    probabilities = rng.dirichlet(np.ones(classes), size=rows).astype(numpy_dtype(dtype))
    for target, options in (
        (labels, {}),
        (labels, {"reduction": "none", "sample_weight": weight}),
        (labels, {"label_smoothing": 0.1, "z_loss": 1e-3}),
        (probabilities, {"reduction": "none"}),
    ):
        expected = fl.cross_entropy.value_and_grad(x, target, **options)
        buffer = x.copy()
        got = fl.cross_entropy.value_and_grad(buffer, target, out=buffer, **options)
        assert same_bits(got, expected), options
        expected = fl.cross_entropy.grad_and_hess(x, target, **options)
        for pair in ((True, False), (False, True)):
            buffer = x.copy()
            given = tuple(buffer if use else None for use in pair)
            got = fl.cross_entropy.grad_and_hess(buffer, target, out=given, **options)
            assert same_bits(got, expected), (options, pair)
    for function in (fl.softmax, fl.log_softmax):
        buffer = x.copy()
        assert same_bits(function(buffer, out=buffer), function(x)), function


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize(
    "loss", ["binary_cross_entropy_with_logits", "binary_cross_entropy", "mse_loss"]
)
def test_items_in_place(loss, kind, dtype, backend):
    for size in (5, 1000, 40_000):
        case = draw(Key(loss, "values" if loss == "mse_loss" else kind, (size,), dtype))
        value, grad = call(loss, "value_and_grad", case.input, case.target)
        buffer = np.array(case.input)
        got = call(loss, "value_and_grad", buffer, case.target, out=buffer)
        assert got[1] is buffer
        assert same_bits(got, (value, grad)), size
        expected = call(loss, "grad_and_hess", case.input, case.target)
        for pair in ((True, False), (False, True)):
            buffer = np.array(case.input)
            given = tuple(buffer if use else None for use in pair)
            got = call(loss, "grad_and_hess", buffer, case.target, out=given)
            assert same_bits(got, expected), (size, pair)


def test_outputs_that_overlap_inputs_otherwise(backend):
    """Shifted, reversed, or the memory of target or weight: as if nothing overlapped."""
    rng = np.random.default_rng(9)
    memory = rng.uniform(0.1, 0.9, size=5000)
    for loss in ("binary_cross_entropy_with_logits", "binary_cross_entropy", "mse_loss"):
        for x, out in (
            (slice(0, 3000), slice(1, 3001)),
            (slice(1, 3001), slice(0, 3000)),
            (slice(0, 3000), slice(2000, 5000)),
            (slice(0, 3000), slice(2999, None, -1)),
            (slice(0, 3000, 2), slice(1, 3001, 2)),
        ):
            buffer = memory.copy()
            target = rng.random(memory[x].size)
            expected = call(loss, "value_and_grad", memory[x], target)
            view = buffer[out]
            got = call(loss, "value_and_grad", buffer[x], target, out=view)
            assert got[1] is view
            assert same_bits(got[0], expected[0]), (loss, x, out)
            np.testing.assert_array_equal(view, expected[1], err_msg=f"{loss} {x} {out}")

            buffer = memory.copy()
            view = buffer[out]
            expected = call(loss, "grad_and_hess", memory[x], target)
            got = call(loss, "grad_and_hess", buffer[x], target, out=(None, view))
            np.testing.assert_array_equal(got[0], expected[0], err_msg=f"{loss} {x} {out}")
            np.testing.assert_array_equal(view, expected[1], err_msg=f"{loss} {x} {out}")

        x, target, weight = memory[:900], memory[900:1800].copy(), memory[1800:2700].copy()
        expected = call(loss, "value_and_grad", x, target, weight=weight)
        for name in ("target", "weight"):
            arrays = {"target": target.copy(), "weight": weight.copy()}
            got = call(
                loss,
                "value_and_grad",
                x,
                arrays["target"],
                weight=arrays["weight"],
                out=arrays[name],
            )
            assert got[1] is arrays[name]
            assert same_bits(got, expected), (loss, name)


@pytest.mark.parametrize("loss", ["binary_cross_entropy_with_logits", "binary_cross_entropy"])
def test_outputs_in_the_memory_of_a_broadcast_weight(loss, backend):
    """A row, a column or an item of the output weighs all of it: as it was before the call."""
    rng = np.random.default_rng(12)
    x, target = rng.uniform(0.1, 0.9, size=(300, 7)), rng.integers(2, size=(300, 7))
    names = ("weight", "pos_weight") if loss == "binary_cross_entropy_with_logits" else ("weight",)
    for name in names:
        for part in (np.s_[0], np.s_[299], np.s_[:, 3:4], np.s_[150, 2], np.s_[::-1, ::-1]):
            for verb in ("value_and_grad", "grad_and_hess"):
                out = rng.uniform(0.5, 2, size=x.shape)
                expected = call(loss, verb, x, target, **{name: out[part].copy()})
                given = out if verb == "value_and_grad" else (None, out)
                got = call(loss, verb, x, target, **{name: out[part]}, out=given)
                assert same_bits(got, expected), (name, part, verb)


def test_cross_entropy_outputs_that_overlap_inputs_otherwise(backend):
    rng = np.random.default_rng(10)
    memory = rng.uniform(0.1, 0.9, size=20_000)
    labels = rng.integers(7, size=2000)
    x = memory[:14_000].reshape(2000, 7)
    expected = fl.cross_entropy.value_and_grad(x, labels)
    for start in (1, 7, 3500):
        buffer = memory.copy()
        out = buffer[start : start + 14_000].reshape(2000, 7)
        got = fl.cross_entropy.value_and_grad(buffer[:14_000].reshape(2000, 7), labels, out=out)
        assert same_bits(got, expected), start
    square = memory[:49].reshape(7, 7)
    expected = fl.cross_entropy.value_and_grad(square, labels[:7])
    buffer = square.copy()
    got = fl.cross_entropy.value_and_grad(buffer, labels[:7], out=buffer.T)
    assert same_bits(got[0], expected[0])
    np.testing.assert_array_equal(buffer.T, expected[1])
    soft = rng.random((2000, 7))
    expected = fl.cross_entropy.value_and_grad(x, soft)
    got = fl.cross_entropy.value_and_grad(x, soft, out=soft)
    assert got[1] is soft
    assert same_bits(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name", ["softmax", "log_softmax", "logsumexp", "sigmoid", "log_sigmoid", "softplus"]
)
def test_functions_of_any_layout_and_into_any_output(name, dtype, backend):
    function = getattr(fl, name)
    x = np.random.default_rng(11).normal(size=(6, 21)).astype(numpy_dtype(dtype))
    expected = function(x)
    orders = () if dtype == "bfloat16" else (other_byte_order,)
    for change in (*LAYOUTS, *orders):
        assert same_bits(function(change(x)), expected), change.__name__
    for layout, make in OUT_LAYOUTS.items():
        if layout == "other byte order" and dtype == "bfloat16":
            continue
        out = make(expected)
        assert function(x, out=out) is out
        np.testing.assert_array_equal(out, expected, err_msg=layout)
    if name != "logsumexp":
        buffer = x.copy()
        assert function(buffer, out=buffer) is buffer
        assert same_bits(buffer, expected)
        buffer = np.concatenate([x.ravel(), x.ravel()[:5]])
        out = buffer[5:].reshape(x.shape)
        function(buffer[:-5].reshape(x.shape), out=out)
        np.testing.assert_array_equal(out, expected)
    if name in ("softmax", "log_softmax", "logsumexp"):
        for axis in (0, 1):
            moved = function(np.ascontiguousarray(np.moveaxis(x, axis, -1)))
            moved = moved if name == "logsumexp" else np.moveaxis(moved, -1, axis)
            got = function(x, axis=axis)
            assert got.dtype == x.dtype
            # Columns may be added up in another order than rows.
            eps = float((ml_dtypes or np).finfo(x.dtype).eps)
            np.testing.assert_allclose(
                got.astype(float), moved.astype(float), rtol=4 * eps, atol=4 * eps
            )


@pytest.mark.parametrize("size", [1, 70, 3000])
def test_every_byte_of_a_bool_but_0_is_1(size, backend):
    """As views of other memory have them."""
    rng = np.random.default_rng(size)
    x = rng.normal(size=size).astype("float32")
    seen = rng.choice(np.array([0, 0, 1, 2, 128, 255], "uint8"), size=size)
    for loss in (fl.binary_cross_entropy_with_logits, fl.mse_loss):
        for reduction in ("sum", "none"):
            got = loss(x, seen.view(bool), reduction=reduction)
            np.testing.assert_array_equal(got, loss(x, seen != 0, reduction=reduction))


# ------------------------------------------------------------------------------------ very large


@pytest.mark.slow
@pytest.mark.skipif(sys.maxsize < 2**40, reason="needs a 64-bit address space")
def test_more_than_2_to_the_31_items(compiled):
    """Positions are 64-bit: a wrong one would read or write 4 gigabytes away, or not at all."""
    size = 2**31 + 100
    x = np.zeros(size, "float16")
    x[-1] = 3
    target = np.zeros(size, bool)
    target[-1] = True
    value = fl.mse_loss(x, target, reduction="sum")
    assert value == 4.0
    loss, grad = fl.mse_loss.value_and_grad(x, target, reduction="sum", out=x)
    assert loss == 4.0
    assert grad[-1] == 4
    assert not grad[:-1].any()


@pytest.mark.slow
@pytest.mark.skipif(sys.maxsize < 2**40, reason="needs a 64-bit address space")
def test_more_than_2_to_the_31_logits(compiled):
    rows = 2**20 + 1
    x = np.zeros((rows, 2**11), "float16")
    labels = np.zeros(rows, "uint16")
    labels[-1] = 2047
    x[-1, -1] = 10
    loss, grad = fl.cross_entropy.value_and_grad(x, labels, reduction="none", out=x)
    np.testing.assert_allclose(loss[:-1], np.log(2048), rtol=1e-6)
    assert loss[-1] < 0.1
    assert abs(float(grad[-1, -1])) < 0.1
    assert (grad[:-1, 0] == grad[0, 0]).all()
    labels[-1] = 2048
    with pytest.raises(IndexError, match=rf"^target\[{rows - 1}\] must be"):
        fl.cross_entropy(x, labels)

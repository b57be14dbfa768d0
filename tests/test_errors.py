"""Every mistake has one message, the same from every backend, and leaves everything as it was."""

import re

import numpy as np
import pytest
from cases import REDUCTIONS, VERBS, call
from numpy.exceptions import AxisError

import fusedloss as fl

CE = "cross_entropy"
LOGITS = "binary_cross_entropy_with_logits"
PROBS = "binary_cross_entropy"
MSE = "mse_loss"


def f32(*shape):
    return np.full(shape, 0.5, "float32")


def labels(*shape, dtype="int64"):
    return np.zeros(shape, dtype)


def with_item(array, index, value):
    array = np.array(array)
    array[index] = value
    return array


def masked(array):
    return np.ma.masked_array(array, mask=False)


X, Y = f32(4, 10), labels(4)
LONG_DOUBLE = np.dtype(np.longdouble).name  # float128, or what the platform has

# Of the first argument of every loss: name of the argument, loss, a good target.
FIRST = {
    CE: ("logits", Y),
    LOGITS: ("logits", f32(4, 10)),
    PROBS: ("probs", f32(4, 10)),
    MSE: ("input", f32(4, 10)),
}
NOT_FLOATING = {
    "int64": labels(4, 10),
    "bool": labels(4, 10, dtype=bool),
    "complex128": labels(4, 10, dtype=complex),
    "object": labels(4, 10, dtype=object),
}
if np.dtype(np.longdouble).itemsize > 8:
    NOT_FLOATING[LONG_DOUBLE] = labels(4, 10, dtype=np.longdouble)

# loss, first array, target, options, type of the error, message
MISTAKES = [
    *(
        (loss, x, target, {}, TypeError,
         f"{name} must be an array of float16, bfloat16, float32 or float64, not {dtype}")
        for loss, (name, target) in FIRST.items()
        for dtype, x in NOT_FLOATING.items()
    ),
    *(
        (loss, [[1, 2], [3, 4]], target, {}, TypeError,
         f"{name} must be an array of float16, bfloat16, float32 or float64, not "
         f"{np.asarray([1]).dtype.name}")
        for loss, (name, target) in FIRST.items()
    ),
    *(
        (loss, masked(X), target, {}, TypeError,
         f"{name} must be a plain array, not a masked array")
        for loss, (name, target) in FIRST.items()
    ),
    *(
        (loss, X, masked(target), {}, TypeError,
         "target must be a plain array, not a masked array")
        for loss, (_, target) in FIRST.items()
    ),
    *(
        (loss, X, target, {"weight": masked(f32(10) if loss == CE else X)}, TypeError,
         "weight must be a plain array, not a masked array")
        for loss, (_, target) in FIRST.items()
    ),
    (CE, np.float32(1), 0, {}, ValueError,
     "logits must be an array of at least 1 dimension, not 0"),
    (CE, f32(2, 0), labels(2), {}, ValueError,
     "logits must be an array with at least one class along axis -1, not of shape (2, 0)"),
    (CE, f32(0, 0), labels(0), {}, ValueError,
     "logits must be an array with at least one class along axis -1, not of shape (0, 0)"),
    (CE, f32(3, 0, 2), labels(3, 2), {"axis": 1}, ValueError,
     "logits must be an array with at least one class along axis 1, not of shape (3, 0, 2)"),
    (CE, X, Y, {"axis": 2}, AxisError, "axis must be from -2 to 1, not 2"),
    (CE, X, Y, {"axis": -3}, AxisError, "axis must be from -2 to 1, not -3"),
    (CE, f32(5), 0, {"axis": 1}, AxisError, "axis must be from -1 to 0, not 1"),
    (CE, X, labels(4, dtype=bool), {}, TypeError,
     "target must be an array of integer or floating dtype, not bool"),
    (CE, X, labels(4, dtype=complex), {}, TypeError,
     "target must be an array of integer or floating dtype, not complex128"),
    (CE, X, labels(4, 10), {}, ValueError,
     "target must be of shape (4,) when it holds class indices (int64), not (4, 10)"),
    (CE, X, labels(4, 1, dtype="uint8"), {}, ValueError,
     "target must be of shape (4,) when it holds class indices (uint8), not (4, 1)"),
    (CE, f32(2, 3, 4), labels(2, 3), {"axis": 1}, ValueError,
     "target must be of shape (2, 4) when it holds class indices (int64), not (2, 3)"),
    (CE, X, f32(4), {}, ValueError,
     "target must be of shape (4, 10) when it holds class probabilities (float32), not (4,)"),
    (CE, X, np.zeros((10, 4)), {}, ValueError,
     "target must be of shape (4, 10) when it holds class probabilities (float64), not (10, 4)"),
    (CE, X, with_item(Y, 3, 10), {}, IndexError,
     "target[3] must be a class index from 0 to 9 (10 classes), not 10"),
    (CE, X, with_item(Y, 1, -1), {}, IndexError,
     "target[1] must be a class index from 0 to 9 (10 classes), not -1"),
    (CE, X, with_item(Y, 2, -100), {"ignore_index": 3}, IndexError,
     "target[2] must be a class index from 0 to 9 (10 classes), not -100"),
    (CE, X, with_item(labels(4, dtype="uint8"), 2, 156), {}, IndexError,
     "target[2] must be a class index from 0 to 9 (10 classes), not 156"),
    (CE, X, with_item(labels(4, dtype="uint64"), 2, 2**64 - 1), {"ignore_index": -1}, IndexError,
     "target[2] must be a class index from 0 to 9 (10 classes), not 18446744073709551615"),
    (CE, X, with_item(labels(4, dtype="uint64"), 2, 2**63), {}, IndexError,
     "target[2] must be a class index from 0 to 9 (10 classes), not 9223372036854775808"),
    (CE, f32(3, 4, 6), with_item(labels(3, 6), (2, 5), 4), {"axis": 1}, IndexError,
     "target[2, 5] must be a class index from 0 to 3 (4 classes), not 4"),
    (CE, f32(3, 2, 6, 4), with_item(labels(3, 2, 6), (2, 0, 5), 4), {}, IndexError,
     "target[2, 0, 5] must be a class index from 0 to 3 (4 classes), not 4"),
    (CE, f32(4), np.array(4), {}, IndexError,
     "target must be a class index from 0 to 3 (4 classes), not 4"),
    (CE, X, Y, {"ignore_index": 1.5}, TypeError, "ignore_index must be an integer, not 1.5"),
    (CE, X, f32(4, 10), {"ignore_index": 1}, ValueError,
     "ignore_index must be negative when target holds class probabilities, not 1"),
    (CE, X, f32(4, 10), {"ignore_index": 0}, ValueError,
     "ignore_index must be negative when target holds class probabilities, not 0"),
    (CE, X, Y, {"weight": f32(3)}, ValueError, "weight must be of shape (10,), not (3,)"),
    (CE, X, Y, {"weight": f32(10, 1)}, ValueError, "weight must be of shape (10,), not (10, 1)"),
    (CE, X, Y, {"weight": 2.0}, ValueError, "weight must be of shape (10,), not ()"),
    (CE, X, Y, {"sample_weight": f32(4, 1)}, ValueError,
     "sample_weight must be of shape (4,), not (4, 1)"),
    (CE, X, Y, {"sample_weight": f32(10)}, ValueError,
     "sample_weight must be of shape (4,), not (10,)"),
    *(
        (loss, X, target, {name: np.ones(10, complex)}, TypeError,
         f"{name} must be an array of real numbers, not complex128")
        for loss, (_, target) in FIRST.items()
        for name in {CE: ("weight", "sample_weight"), LOGITS: ("weight", "pos_weight")}.get(
            loss, ("weight",)
        )
    ),
    (CE, X, Y, {"weight": np.array(["a"] * 10)}, TypeError,
     "weight must be an array of real numbers, not str32"),
    *(
        (CE, X, Y, {"label_smoothing": given}, ValueError,
         f"label_smoothing must be between 0 and 1, not {shown}")
        for given, shown in ((1.1, "1.1"), (-0.1, "-0.1"), (np.nan, "nan"), (np.inf, "inf"))
    ),
    *(
        (CE, X, Y, {"z_loss": given}, ValueError,
         f"z_loss must be finite and at least 0, not {shown}")
        for given, shown in ((-1, "-1"), (-0.5, "-0.5"), (np.nan, "nan"), (np.inf, "inf"))
    ),
    *(
        (loss, X, target, {"reduction": "avg"}, ValueError,
         'reduction must be "mean", "sum" or "none", not "avg"')
        for loss, (_, target) in FIRST.items()
    ),
    (CE, X, Y, {"reduction": None}, ValueError,
     'reduction must be "mean", "sum" or "none", not None'),
    *(
        (loss, X, target, {"num_threads": given}, error,
         f"num_threads must be a positive integer or None, not {given}")
        for loss, (_, target) in FIRST.items()
        for given, error in ((0, ValueError), (-2, ValueError), (1.5, TypeError))
    ),
    *(
        (loss, f32(8, 1), f32(8), {}, ValueError, "target must be of shape (8, 1), not (8,)")
        for loss in (LOGITS, PROBS, MSE)
    ),
    *(
        (loss, f32(8), f32(8, 1), {}, ValueError, "target must be of shape (8,), not (8, 1)")
        for loss in (LOGITS, PROBS, MSE)
    ),
    *(
        (loss, f32(8, 3), f32(8, 3), {name: f32(*shape)}, ValueError,
         f"{name} must be broadcastable to shape (8, 3), not of shape {shape}")
        for loss, name in ((LOGITS, "weight"), (LOGITS, "pos_weight"), (PROBS, "weight"))
        for shape in ((2,), (8,), (2, 8, 3), (1, 8, 3))
    ),
    (LOGITS, f32(1, 3), f32(1, 3), {"weight": f32(8, 3)}, ValueError,
     "weight must be broadcastable to shape (1, 3), not of shape (8, 3)"),
    (MSE, f32(8, 3), f32(8, 3), {"weight": f32(3)}, ValueError,
     "weight must be of shape (8, 3), not (3,)"),
    (MSE, f32(8, 3), f32(8, 3), {"weight": 2.0}, ValueError,
     "weight must be of shape (8, 3), not ()"),
    *(
        (loss, f32(5), with_item(labels(5), 3, value), {}, ValueError,
         f"target[3] must be 0 or 1 when of integer dtype, not {value}")
        for loss in (LOGITS, PROBS)
        for value in (-1, 2)
    ),
    (LOGITS, f32(2, 3), with_item(labels(2, 3, dtype="uint8"), (1, 2), 255), {}, ValueError,
     "target[1, 2] must be 0 or 1 when of integer dtype, not 255"),
    (LOGITS, np.float32(1), np.array(2), {}, ValueError,
     "target must be 0 or 1 when of integer dtype, not 2"),
    (PROBS, with_item(np.full((4, 2), 0.5), (3, 1), 1.2), np.zeros((4, 2)), {}, ValueError,
     "probs[3, 1] must be between 0 and 1, not 1.2"),
    (PROBS, with_item(f32(4), 2, -0.5), f32(4), {}, ValueError,
     "probs[2] must be between 0 and 1, not -0.5"),
    (PROBS, with_item(f32(4), 2, np.inf), f32(4), {}, ValueError,
     "probs[2] must be between 0 and 1, not inf"),
    (PROBS, f32(4), with_item(f32(4), 1, 1.5), {}, ValueError,
     "target[1] must be between 0 and 1, not 1.5"),
    (PROBS, f32(4), with_item(f32(4), 1, -np.inf), {}, ValueError,
     "target[1] must be between 0 and 1, not -inf"),
]  # fmt: skip


def mistake_id(mistake):
    loss, x, _, options, _, message = mistake
    return f"{loss}-{getattr(x, 'dtype', 'list')}-{','.join(options)}-{message}"


def copies(*arrays):
    return [np.array(array, copy=True) for array in arrays if isinstance(array, np.ndarray)]


@pytest.mark.parametrize("mistake", MISTAKES, ids=mistake_id)
def test_the_message_of_every_mistake(mistake, backend):
    loss, x, target, options, error, message = mistake
    arrays = [x, target, *options.values()]
    before = copies(*arrays)
    for verb in VERBS:
        for more in outputs_of(verb, x):
            with pytest.raises(error) as caught:
                call(loss, verb, x, target, **options, **more)
            assert str(caught.value) == message
            assert type(caught.value) is error
            assert_untouched(loss, message, more.get("out"))
    for one, other in zip(before, copies(*arrays), strict=True):
        assert one.tobytes() == other.tobytes(), "an input was modified"


def outputs_of(verb, x):
    """No out, and the outputs that this call could have written to."""
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or verb == "value":
        return [{}]
    grad, hess = (np.full(x.shape, 77, x.dtype) for _ in range(2))
    return [{}, {"out": grad if verb == "value_and_grad" else (grad, hess)}]


def assert_untouched(loss, message, out):
    if loss == PROBS and "between" in message:
        return  # after a bad probability the content of out is unspecified
    for array in out if isinstance(out, tuple) else [out]:
        assert array is None or (array == 77).all(), "out was written to"


def test_an_axis_error_is_a_value_error_and_an_index_error(backend):
    with pytest.raises(AxisError) as caught:
        fl.cross_entropy(X, Y, axis=5)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, IndexError)


# --------------------------------------------------------------------------- the output argument

READ_ONLY = f32(4, 10)
READ_ONLY.flags.writeable = False

OUT_MISTAKES = [
    (f32(4), ValueError, "{} must be of shape (4, 10), not (4,)"),
    (f32(10, 4), ValueError, "{} must be of shape (4, 10), not (10, 4)"),
    (np.zeros((4, 10)), TypeError, "{} must be an array of float32, not float64"),
    (labels(4, 10), TypeError, "{} must be an array of float32, not int64"),
    (READ_ONLY, ValueError, "{} must be writeable, not read-only"),
    (masked(f32(4, 10)), TypeError, "{} must be a plain array, not a masked array"),
]


@pytest.mark.parametrize("loss", FIRST)
@pytest.mark.parametrize(("out", "error", "message"), OUT_MISTAKES, ids=lambda v: str(v)[:60])
def test_an_output_that_does_not_fit(loss, out, error, message, backend):
    target = FIRST[loss][1]
    before = np.array(out)
    for verb, given, name in (
        ("value_and_grad", out, "out"),
        ("grad_and_hess", (out, None), "out[0]"),
        ("grad_and_hess", (None, out), "out[1]"),
        ("grad_and_hess", (f32(4, 10), out), "out[1]"),
    ):
        with pytest.raises(error) as caught:
            call(loss, verb, X, target, out=given)
        assert str(caught.value) == message.format(name)
        np.testing.assert_array_equal(np.array(out), before)


@pytest.mark.parametrize("loss", FIRST)
def test_an_output_pair_must_be_a_pair(loss, backend):
    target = FIRST[loss][1]
    for out, error in (
        (f32(4, 10), TypeError),
        ((f32(4, 10),), ValueError),
        ((f32(4, 10),) * 3, ValueError),
    ):
        with pytest.raises(error, match=r"^out must be a pair \(grad, hess\), not "):
            call(loss, "grad_and_hess", X, target, out=out)


@pytest.mark.parametrize("loss", FIRST)
def test_gradient_and_hessian_cannot_share_memory(loss, backend):
    target = FIRST[loss][1]
    out = f32(4, 10)
    with pytest.raises(ValueError, match=r"^out must be "):
        call(loss, "grad_and_hess", X, target, out=(out, out))
    assert (out == 0.5).all()


@pytest.mark.parametrize("loss", FIRST)
def test_a_list_is_no_output(loss, backend):
    target = FIRST[loss][1]
    with pytest.raises(TypeError, match=r"^out must be a NumPy array, not list$"):
        call(loss, "value_and_grad", X, target, out=X.tolist())


# ------------------------------------------------------------------------ which mistake comes first

BAD_LABEL = with_item(Y, 2, 99)
IN_ORDER = [
    (CE, labels(4, 10), labels(4, dtype=bool), {}, "logits "),
    (CE, X, labels(4, dtype=bool), {"weight": f32(3)}, "target "),
    (CE, X, BAD_LABEL, {"weight": f32(3), "sample_weight": f32(9)}, "weight "),
    (CE, X, BAD_LABEL, {"sample_weight": f32(9), "ignore_index": 1.5}, "sample_weight "),
    (CE, X, BAD_LABEL, {"ignore_index": 1.5, "label_smoothing": 2.0}, "ignore_index "),
    (CE, X, BAD_LABEL, {"label_smoothing": 2.0, "z_loss": -1.0}, "label_smoothing "),
    (CE, X, BAD_LABEL, {"z_loss": -1.0, "reduction": "avg"}, "z_loss "),
    (CE, X, BAD_LABEL, {"reduction": "avg", "num_threads": 0}, "reduction "),
    (CE, X, BAD_LABEL, {"num_threads": 0}, "num_threads "),
    (CE, X, BAD_LABEL, {}, "target[2] "),
    (LOGITS, labels(4), labels(5), {}, "logits "),
    (LOGITS, f32(4), labels(5), {"weight": f32(3)}, "target "),
    (LOGITS, f32(4), BAD_LABEL, {"weight": f32(3), "pos_weight": f32(3)}, "weight "),
    (LOGITS, f32(4), BAD_LABEL, {"pos_weight": f32(3), "reduction": "avg"}, "pos_weight "),
    (LOGITS, f32(4), BAD_LABEL, {"reduction": "avg", "num_threads": 0}, "reduction "),
    (LOGITS, f32(4), BAD_LABEL, {"num_threads": 0}, "num_threads "),
    (PROBS, f32(4) + 5, BAD_LABEL, {"num_threads": 0}, "num_threads "),
    (PROBS, f32(4) + 5, BAD_LABEL, {}, "target[2] "),  # labels, then values
    (PROBS, f32(4) + 5, f32(4) + 5, {}, "probs[0] "),
    (MSE, labels(4), labels(5), {}, "input "),
    (MSE, f32(4), labels(5), {"weight": f32(3)}, "target "),
    (MSE, f32(4), labels(4), {"weight": f32(3), "reduction": "avg"}, "weight "),
    (MSE, f32(4), labels(4), {"reduction": "avg", "num_threads": 0}, "reduction "),
]


@pytest.mark.parametrize(("loss", "x", "target", "options", "first"), IN_ORDER)
def test_arguments_are_checked_in_the_order_of_the_signature(
    loss, x, target, options, first, backend
):
    for verb in VERBS:
        with pytest.raises((TypeError, ValueError, IndexError)) as caught:
            call(loss, verb, x, target, **options)
        assert str(caught.value).startswith(first + "must be ")


def test_a_bad_output_is_found_before_a_bad_label(backend):
    with pytest.raises(ValueError, match=r"^out must be of shape"):
        fl.cross_entropy.value_and_grad(X, BAD_LABEL, out=f32(3))


@pytest.mark.parametrize("num_threads", [None, 1, 2, 7])
@pytest.mark.parametrize("verb", VERBS)
def test_the_first_bad_position_in_c_order(verb, num_threads, backend):
    """In large arrays, where threads meet the bad values in another order."""
    options = {"num_threads": num_threads}
    x = np.full((150_000, 2), 0.5, "float32")
    target = labels(150_000)
    target[[140_007, 90_001, 149_999]] = (-7, 5, 2)
    with pytest.raises(IndexError, match=r"^target\[90001\] must be .*, not 5$"):
        call(CE, verb, x, target, **options)
    target[0] = 2
    with pytest.raises(IndexError, match=r"^target\[0\] must be .*, not 2$"):
        call(CE, verb, x, target, **options)

    target = np.ones((2, 150_000), "int8")
    target[1, 7], target[1, 100_000], target[0, 149_999] = 3, 4, 5
    with pytest.raises(ValueError, match=r"^target\[0, 149999\] must be 0 or 1 .*, not 5$"):
        call(LOGITS, verb, np.zeros(target.shape), target, **options)

    probs = np.full((2, 150_000), 0.5)
    probs[1, 7], probs[1, 100_000], probs[0, 149_999] = 3, 4, 5
    with pytest.raises(ValueError, match=r"^probs\[0, 149999\] must be between .*, not 5\.0$"):
        call(PROBS, verb, probs, np.zeros_like(probs), **options)


def test_the_first_bad_label_of_an_inner_axis_is_the_first_of_the_target(backend):
    """C order of the target, not the order in which rows are computed."""
    target = labels(2, 3, 4)
    target[0, 2, 3], target[1, 0, 0] = 9, 8
    for axis in range(4):
        shape = [2, 3, 4]
        shape.insert(axis, 5)
        with pytest.raises(IndexError, match=r"^target\[0, 2, 3\] must be .*, not 9$"):
            fl.cross_entropy(f32(*shape), target, axis=axis)


def test_a_bad_label_leaves_logits_in_place_alone(backend):
    """out=logits: nothing may have been overwritten when the mistake is found."""
    x = np.linspace(-1, 1, 3000, dtype="float32").reshape(1000, 3)
    target = labels(1000)
    target[999] = 3
    before = x.copy()
    for verb, out in (("value_and_grad", x), ("grad_and_hess", (x, None))):
        with pytest.raises(IndexError):
            call(CE, verb, x, target, out=out)
        assert x.tobytes() == before.tobytes()


@pytest.mark.parametrize("size", [5, 1000, 40_000])
def test_a_bad_probability_is_named_in_place_too(size, backend):
    """Although gradients may have replaced other probabilities by then."""
    for verb in ("value_and_grad", "grad_and_hess"):
        for name in ("probs", "target"):
            arrays = {"probs": np.full(size, 0.25), "target": np.full(size, 0.75)}
            arrays[name][[-2, -1]] = 1.5, 7.0
            out = arrays["probs"] if verb == "value_and_grad" else (arrays["probs"], None)
            with pytest.raises(ValueError, match=rf"^{name}\[{size - 2}\] must be .*, not 1\.5$"):
                call(PROBS, verb, **arrays, out=out)


# -------------------------------------------------------------------------------- other mistakes

GRAMMAR = re.compile(r"^[a-z_]+(\[[\d, ]+\])? must be .+, not .+$")

MORE = [
    (CE, None, Y, {}),
    (CE, "logits", Y, {}),
    (CE, [[1.0, 2.0], [3.0]], [0, 1], {}),
    (CE, X, None, {}),
    (CE, X, "target", {}),
    (CE, X, [0, 1, 2, "3"], {}),
    (CE, X, Y, {"weight": "heavy"}),
    (CE, X, Y, {"sample_weight": object()}),
    (CE, X, Y, {"ignore_index": None}),
    (CE, X, Y, {"ignore_index": "5"}),
    (CE, X, Y, {"label_smoothing": "0.1"}),
    (CE, X, Y, {"label_smoothing": None}),
    (CE, X, Y, {"label_smoothing": 1j}),
    (CE, X, Y, {"z_loss": [0.1]}),
    (CE, X, Y, {"z_loss": None}),
    (CE, X, Y, {"axis": None}),
    (CE, X, Y, {"axis": 1.0}),
    (CE, X, Y, {"axis": (0, 1)}),
    (CE, X, Y, {"reduction": 3}),
    (CE, X, Y, {"reduction": ["mean"]}),
    (CE, X, Y, {"reduction": np.array(["mean", "sum"])}),
    (MSE, X, X, {"reduction": b"mean"}),
    (CE, X, Y, {"axis": np.array([0, 1])}),
    (CE, X, Y, {"ignore_index": np.array([1, 2])}),
    (CE, X, Y, {"label_smoothing": np.array([0.1, 0.2])}),
    (MSE, X, X, {"num_threads": np.array([1, 2])}),
    (CE, X, Y, {"num_threads": "2"}),
    (LOGITS, X, X.astype(complex), {}),
    (LOGITS, X, X.astype(object), {}),
    (LOGITS, X, X.astype("S4"), {}),
    (PROBS, X, np.zeros((4, 10), "datetime64[s]"), {}),
    (MSE, X, X.astype(complex), {}),
    (MSE, X, X, {"weight": X.astype(object)}),
]


@pytest.mark.parametrize(("loss", "x", "target", "options"), MORE, ids=lambda v: str(v)[:40])
def test_other_mistakes_speak_the_same_language(loss, x, target, options, backend):
    for verb in VERBS:
        with pytest.raises((TypeError, ValueError)) as caught:
            call(loss, verb, x, target, **options)
        assert GRAMMAR.match(str(caught.value)), str(caught.value)


FUNCTIONS = ("softmax", "log_softmax", "logsumexp", "sigmoid", "log_sigmoid", "softplus")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_messages_of_functions(name, backend):
    function = getattr(fl, name)
    for dtype, x in NOT_FLOATING.items():
        message = f"x must be an array of float16, bfloat16, float32 or float64, not {dtype}"
        with pytest.raises(TypeError, match=rf"^{message}$"):
            function(x)
    with pytest.raises(TypeError, match=r"^x must be a plain array, not a masked array$"):
        function(masked(X))
    with pytest.raises(TypeError, match=r"^out must be an array of float32, not float64$"):
        function(X, out=np.zeros(function(X).shape))
    with pytest.raises(ValueError, match=r"^out must be of shape \([\d, ]+\), not \(3,\)$"):
        function(X, out=f32(3))
    out = function(X)
    out.flags.writeable = False
    with pytest.raises(ValueError, match=r"^out must be writeable, not read-only$"):
        function(X, out=out)
    for given, error in ((0, ValueError), (1.5, TypeError)):
        message = rf"^num_threads must be a positive integer or None, not {given}$"
        with pytest.raises(error, match=message):
            function(X, num_threads=given)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_the_messages_about_the_axis_of_functions(name, backend):
    function = getattr(fl, name)
    with pytest.raises(AxisError, match=r"^axis must be from -2 to 1, not 2$"):
        function(X, axis=2)
    with pytest.raises(ValueError, match=r"^x must be an array of at least 1 dimension, not 0$"):
        function(np.float32(1))
    with pytest.raises(
        ValueError,
        match=r"^x must be an array with at least one class along axis -1, not of shape \(2, 0\)$",
    ):
        function(f32(2, 0))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_positional_options_and_unknown_ones_are_refused(reduction, backend):
    """Options are keyword-only, so that an added option cannot change an old call."""
    for verb in VERBS:
        with pytest.raises(TypeError):
            call(CE, verb, X, Y, reduction)
        with pytest.raises(TypeError):
            call(CE, verb, X, Y, reduction=reduction, size_average=True)
    with pytest.raises(TypeError):
        fl.cross_entropy(X, Y, out=f32(4, 10))

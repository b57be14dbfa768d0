"""No input crashes, none is written to, and what must be equal is, for arrays that nobody chose.

Identities that hold up to rounding are in test_identities.py; here are those that hold bit for
bit.
"""

import math

import numpy as np
import pytest
from cases import (
    DTYPES,
    HAS_AXIS,
    LOSSES,
    REDUCTIONS,
    VERBS,
    call,
    numpy_dtype,
    same_bits,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fusedloss as fl

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

# ------------------------------------------------------------------------------ any array at all

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)
ANY_DTYPE = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(endianness="="),
    hnp.byte_string_dtypes(max_len=4),
    hnp.unicode_string_dtypes(max_len=4),
    hnp.datetime64_dtypes(max_period="D", min_period="D"),
)


@st.composite
def laid_out(draw, array):
    """The same numbers: turned, reversed, read-only, unaligned, with other numbers in between."""
    how = draw(st.sampled_from(["plain", "reversed", "transposed", "strided", "unaligned"]))
    if how == "reversed":
        array = array[(..., *(slice(None, None, -1) for _ in array.shape))]
    elif how == "transposed":
        array = array.T
    elif how == "strided" and array.ndim:
        array = np.repeat(array, 2, axis=0)[::2]
    elif how == "unaligned":
        raw = np.zeros(array.nbytes + 1, "u1")
        view = raw[1 : 1 + array.nbytes].view(array.dtype).reshape(array.shape)
        view[...] = array
        array = view
    if draw(st.booleans()):
        array.flags.writeable = False
    return array


FLOATING = hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64))
REAL = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    FLOATING,
)


@st.composite
def garbage(draw, dtype=ANY_DTYPE, shape=SHAPES, elements=None):
    return draw(laid_out(draw(hnp.arrays(dtype, shape, elements=elements))))


def mostly(good, otherwise):
    """Nine times out of ten what fits, so that calls get beyond their first argument."""
    return st.integers(0, 9).flatmap(lambda number: otherwise if number == 9 else good)


@st.composite
def calls(draw):
    """A loss with arguments that mostly fit in kind and shape, and hold any values."""
    loss = draw(st.sampled_from(LOSSES))
    rows_and_classes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=6)
    shape = draw(mostly(rows_and_classes, SHAPES) if loss in HAS_AXIS else SHAPES)
    x = draw(mostly(garbage(FLOATING, shape), garbage()))
    numbers = st.one_of(st.floats(), st.integers(), st.none(), st.text(max_size=3))
    options = {"reduction": draw(mostly(st.sampled_from(REDUCTIONS), st.just("avg")))}
    options["num_threads"] = draw(st.sampled_from((None, 1, 3)))

    def weights(*shapes):
        fitting = st.one_of(*(garbage(REAL, one) for one in shapes))
        return mostly(st.none() | fitting, garbage())

    if loss in HAS_AXIS:
        axis = draw(mostly(st.integers(0, max(len(shape) - 1, 0)), st.integers(-5, 5)))
        place = axis if 0 <= axis < len(shape) else 0
        rows, classes = shape[:place] + shape[place + 1 :], (*shape, 1)[place]
        labels = st.integers(0, max(classes - 1, 0)) | st.just(100)
        target = st.one_of(
            garbage(st.sampled_from(INTEGERS), rows, labels),
            garbage(hnp.integer_dtypes(), rows),
            garbage(FLOATING, shape),
        )
        options |= {
            "axis": axis,
            "weight": draw(weights((classes,))),
            "sample_weight": draw(weights(rows)),
            "ignore_index": draw(mostly(st.sampled_from((-100, 100, -1, 0)), numbers)),
            "label_smoothing": draw(mostly(st.sampled_from((0.0, 0.1, 1.0)), numbers)),
            "z_loss": draw(mostly(st.sampled_from((0.0, 0.1, 1e300)), numbers)),
        }
    else:
        unit = st.sampled_from((0, 1))
        target = garbage(REAL, shape) | garbage(st.sampled_from(INTEGERS), shape, unit)
        if loss == "mse_loss":
            options["weight"] = draw(weights(shape))
        else:
            options["weight"] = draw(weights(shape, shape[-1:], (), (1,) * len(shape)))
        if loss == "binary_cross_entropy" and draw(st.booleans()):
            inside = st.floats(0, 1, width=16) | st.just(float("nan"))
            x = draw(garbage(FLOATING, shape, inside))
            target = garbage(FLOATING, shape, inside)
        if loss == "binary_cross_entropy_with_logits":
            options["pos_weight"] = draw(weights(shape, shape[-1:], ()))
    return loss, draw(st.sampled_from(VERBS)), x, draw(mostly(target, garbage())), options


@given(one=calls())
def test_any_arrays_give_a_result_or_an_error_in_our_words(one, backend):
    """Never a crash, another exception, a warning, or a change of an input."""
    loss, verb, x, target, options = one
    arrays = [a for a in (x, target, *options.values()) if isinstance(a, np.ndarray)]
    before = [a.tobytes() for a in arrays]
    try:
        result = call(loss, verb, x, target, **options)
    except (TypeError, ValueError, IndexError) as error:
        message = str(error)
    else:
        message = "none must be missing"
        outputs = result if isinstance(result, tuple) else (result,)
        for output in outputs[0 if verb == "grad_and_hess" else 1 :]:
            assert output.shape == x.shape
            assert output.dtype == x.dtype.newbyteorder("=")
    assert " must be " in message
    assert before == [a.tobytes() for a in arrays], "an input was modified"


@given(
    name=st.sampled_from(
        ("softmax", "log_softmax", "logsumexp", "sigmoid", "log_sigmoid", "softplus")
    ),
    x=garbage(),
)
def test_any_array_in_a_function(name, x, backend):
    before = x.tobytes()
    try:
        with np.errstate(all="raise"):
            result = getattr(fl, name)(x)
    except (TypeError, ValueError) as error:
        message = str(error)
    else:
        message = "none must be missing"
        assert result.dtype == x.dtype.newbyteorder("=")
    assert " must be " in message
    assert before == x.tobytes(), "the input was modified"


# ---------------------------------------------------------------------------- bit for bit equal


@st.composite
def floats(draw, dtype, shape):
    """Numbers of all kinds: mostly ordinary, among them zeros, infinities, nan and extremes."""
    dtype = numpy_dtype(dtype)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    array = (rng.normal(size=shape) * draw(st.sampled_from((1e-3, 1.0, 5.0, 100.0)))).astype(dtype)
    odd = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 6e-8, 65504.0, -65504.0)
    places = draw(st.lists(st.integers(0, max(array.size - 1, 0)), max_size=3))
    with np.errstate(all="ignore"):
        for place in places if array.size else ():
            array.reshape(-1)[place] = draw(st.sampled_from(odd))
    return array


@st.composite
def rows(draw):
    """Logits with labels, some of them ignored, and options."""
    dtype = draw(st.sampled_from(DTYPES))
    count = draw(st.integers(0, 40))
    classes = draw(st.sampled_from((1, 2, 3, 8, 15, 16, 17, 32, 33, 100, 257)))
    x = draw(floats(dtype, (count, classes)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = rng.integers(classes, size=count)
    labels[rng.random(count) < draw(st.sampled_from((0.0, 0.3)))] = -100
    options = {"label_smoothing": draw(st.sampled_from((0.0, 0.1)))}
    options["z_loss"] = draw(st.sampled_from((0.0, 0.1)))
    if draw(st.booleans()):
        options["weight"] = rng.uniform(0, 2, size=classes)
    if draw(st.booleans()):
        options["sample_weight"] = rng.uniform(0, 2, size=count)
    return x, labels, options


@given(data=rows())
def test_verbs_agree_bit_for_bit(data, backend):
    x, labels, options = data
    for reduction in REDUCTIONS:
        value = fl.cross_entropy(x, labels, reduction=reduction, **options)
        with_grad = fl.cross_entropy.value_and_grad(x, labels, reduction=reduction, **options)
        with_hess = fl.cross_entropy.grad_and_hess(x, labels, reduction=reduction, **options)
        assert same_bits(value, with_grad[0])
        assert same_bits(with_grad[1], with_hess[0])


@given(data=rows())
def test_the_gradient_of_none_is_that_of_the_sum(data, backend):
    x, labels, options = data
    for verb in ("value_and_grad", "grad_and_hess"):
        one = call("cross_entropy", verb, x, labels, reduction="none", **options)
        other = call("cross_entropy", verb, x, labels, reduction="sum", **options)
        assert same_bits(one[1], other[1])


@given(data=rows(), seed=st.integers(0, 2**32))
def test_a_row_does_not_depend_on_its_neighbours(data, seed, backend):
    """Permuted, repeated or alone: each row of `none` and its gradient have the same bits."""
    x, labels, options = data
    sample_weight = options.pop("sample_weight", None)
    everything = {**options, "reduction": "none"}
    value, grad = fl.cross_entropy.value_and_grad(
        x, labels, sample_weight=sample_weight, **everything
    )
    if not len(x):
        return
    chosen = np.random.default_rng(seed).integers(len(x), size=len(x) + 3)
    for pick in (chosen, chosen[:1]):
        weight = None if sample_weight is None else sample_weight[pick]
        got = fl.cross_entropy.value_and_grad(
            x[pick], labels[pick], sample_weight=weight, **everything
        )
        assert same_bits(got[0], value[pick]), pick
        assert same_bits(got[1], grad[pick]), pick


@pytest.mark.parametrize("classes", [2, 3, 5, 16, 31, 63])
def test_masked_classes_have_the_same_bits_beside_large_logits(classes, backend):
    """Groups of rows go another way where one of them needs a shift. Masks are as people have
    them, and about as far down as exponentials begin to count."""
    rng = np.random.default_rng(classes)
    masks = (-np.inf, -1e30, -1e9, -1e4, -201.0, -200.0, -199.0, -150.0, -120.0, -90.0, -31.0)
    x = rng.normal(scale=4, size=(160, classes)).astype("float32")
    labels = rng.integers(classes, size=160)
    masked = rng.random(x.shape) < 0.3
    masked[np.arange(160), labels] = rng.random(160) < 0.05
    x[masked] = rng.choice(masks, size=masked.sum())
    large = x.copy()
    large[::16, 0] = 100.0
    others = np.arange(160) % 16 > 0
    for verb in ("value_and_grad", "grad_and_hess"):
        one = call("cross_entropy", verb, x, labels, reduction="none")
        other = call("cross_entropy", verb, large, labels, reduction="none")
        for a, b in zip(one, other, strict=True):
            assert same_bits(a[others], b[others])
    finite = fl.cross_entropy(x, labels, reduction="none") < 1000
    losses = fl.cross_entropy(x[finite].astype("float64"), labels[finite], reduction="none")
    total = fl.cross_entropy(x[finite], labels[finite], reduction="sum")
    assert abs(float(total) - math.fsum(losses)) <= 2e-7 * math.fsum(losses)


@pytest.mark.parametrize("classes", [1, 2, 12, 40, 100, 300])
def test_no_loss_is_minus_zero(classes, backend):
    """Of one class, or where all others are masked, in groups of rows and beside them."""
    for dtype in DTYPES:
        x = np.full((21, classes), -np.inf, numpy_dtype(dtype))
        x[:, 0] = 0
        weight = np.full(classes, -1.0)
        for options in ({"weight": weight}, {"sample_weight": np.full(21, -1.0)}):
            labels = np.zeros(21, int)
            losses = fl.cross_entropy(x, labels, reduction="none", **options)
            assert not np.signbit(losses.astype("float64")).any()


@given(data=rows(), dtype=st.sampled_from(INTEGERS), ignored=st.sampled_from((-100, 101, 126)))
def test_the_dtype_of_labels_and_the_ignored_number_do_not_matter(data, dtype, ignored, backend):
    x, labels, options = data
    if x.shape[1] > 100 or (ignored < 0 and dtype.startswith("u")):
        return
    other = np.where(labels == -100, ignored, labels).astype(dtype)
    for verb in VERBS:
        assert same_bits(
            call("cross_entropy", verb, x, labels, **options),
            call("cross_entropy", verb, x, other, ignore_index=ignored, **options),
        )


@given(data=rows())
def test_nan_in_ignored_rows_changes_no_bit(data, backend):
    x, labels, options = data
    poisoned = x.copy()
    poisoned[labels == -100] = np.nan
    for verb in VERBS:
        for reduction in REDUCTIONS:
            assert same_bits(
                call("cross_entropy", verb, x, labels, reduction=reduction, **options),
                call("cross_entropy", verb, poisoned, labels, reduction=reduction, **options),
            )


@st.composite
def items(draw):
    """A loss of single items with an input, a target and weights."""
    loss = draw(st.sampled_from([loss for loss in LOSSES if loss not in HAS_AXIS]))
    dtype = draw(st.sampled_from(DTYPES))
    size = draw(st.sampled_from((0, 1, 5, 15, 16, 17, 33, 1000, 1025)))
    x = draw(floats(dtype, (size,)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if loss == "binary_cross_entropy":
        x = rng.random(size).astype(x.dtype)
    target = rng.integers(2, size=size) if draw(st.booleans()) else rng.random(size)
    options = {}
    if draw(st.booleans()):
        options["weight"] = rng.uniform(0, 2, size=size)
    if loss == "binary_cross_entropy_with_logits" and draw(st.booleans()):
        options["pos_weight"] = rng.uniform(0, 2, size=size)
    return loss, x, target, options


@given(data=items())
def test_verbs_agree_bit_for_bit_on_items(data, backend):
    loss, x, target, options = data
    for reduction in REDUCTIONS:
        value = call(loss, "value", x, target, reduction=reduction, **options)
        with_grad = call(loss, "value_and_grad", x, target, reduction=reduction, **options)
        with_hess = call(loss, "grad_and_hess", x, target, reduction=reduction, **options)
        assert same_bits(value, with_grad[0])
        assert same_bits(with_grad[1], with_hess[0])


@given(data=items(), seed=st.integers(0, 2**32))
def test_an_item_does_not_depend_on_its_neighbours(data, seed, backend):
    loss, x, target, options = data
    for verb in ("value_and_grad", "grad_and_hess"):
        results = call(loss, verb, x, target, reduction="none", **options)
        chosen = np.random.default_rng(seed).integers(max(len(x), 1), size=len(x))
        picked = {name: value[chosen] for name, value in options.items()}
        got = call(loss, verb, x[chosen], target[chosen], reduction="none", **picked)
        for one, whole in zip(got, results, strict=True):
            assert same_bits(one, whole[chosen])


@given(data=items())
def test_the_shape_of_items_does_not_matter(data, backend):
    """A sum over (n,) is the sum over (1, n, 1), bit for bit."""
    loss, x, target, options = data
    options = {name: value[None, :, None] for name, value in options.items()}
    for verb in VERBS:
        flat = call(loss, verb, x, target, **{k: v.reshape(-1) for k, v in options.items()})
        solid = call(loss, verb, x[None, :, None], target[None, :, None], **options)
        flat, solid = (r if isinstance(r, tuple) else (r,) for r in (flat, solid))
        for one, other in zip(flat, solid, strict=True):
            assert same_bits(np.reshape(one, -1), np.reshape(other, -1))


def assert_same_kinds_of_numbers(loss, x, target, options):
    """nan where the reference has nan, infinities where it has them; the rest is not far away."""
    for verb in VERBS:
        for reduction in REDUCTIONS:
            got = call(loss, verb, x, target, reduction=reduction, **options)
            with fl.use_backend("numpy"):
                expected = call(loss, verb, x, target, reduction=reduction, **options)
            got, expected = (r if isinstance(r, tuple) else (r,) for r in (got, expected))
            for one, other in zip(got, expected, strict=True):
                # Loose: how accurate results are is held elsewhere.
                np.testing.assert_allclose(
                    np.asarray(one, "float64"),
                    np.asarray(other, "float64"),
                    rtol=0.02,
                    atol=0.02,
                    err_msg=f"{loss}, {verb}, {reduction}",
                )


@given(data=rows())
def test_rows_of_odd_numbers_are_what_the_reference_says(data, backend):
    x, labels, options = data
    assert_same_kinds_of_numbers("cross_entropy", x, labels, options)


@given(data=items())
def test_odd_items_are_what_the_reference_says(data, backend):
    assert_same_kinds_of_numbers(*data)


@pytest.mark.parametrize("loss", LOSSES)
def test_calls_in_a_row_give_the_same_bits(loss, backend):
    """No state stays behind from one call to the next."""
    rng = np.random.default_rng(1)
    x = rng.random((200, 12)).astype("float32")
    target = rng.integers(2, size=200 if loss in HAS_AXIS else x.shape)
    first = call(loss, "value_and_grad", x, target)
    call(loss, "grad_and_hess", x[::-3] * 0, target[::-3])
    call(loss, "value", x[:0], target[:0])
    assert same_bits(first, call(loss, "value_and_grad", x, target))

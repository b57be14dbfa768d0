"""The same bits for any number of threads, alignment and batch.

Threads are only woken for work that is worth it, so the arrays here are large: a few milliseconds.
"""

import contextvars
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cases import (
    DTYPES,
    KINDS,
    LOSSES,
    VERBS,
    Key,
    call,
    draw,
    evaluate,
    normal_logits,
    numpy_dtype,
    option_subsets,
    same_bits,
)

import fusedloss as fl

THREADS = (1, 2, 3, 7, 16)

ROW_LOSS_SHAPES = (
    ((100_001, 3), -1),  # rows side by side in lanes
    ((20_011, 33), -1),
    ((301, 2047), -1),
    ((3, 250_000), -1),  # rows cut into columns, which threads share
    ((1, 500_003), -1),
    ((20, 100, 301), 1),  # classes far from each other
    ((400_001,), 0),
)
ITEM_LOSS_SHAPES = (((1_000_003,), -1),)

CASES = [
    pytest.param(
        Key(loss, kind, shape, options=options, axis=axis),
        id=f"{loss}-{kind}-{shape}-{axis}-{'all' if options else 'no'} options",
    )
    for loss in LOSSES
    for kind in KINDS[loss]
    for shape, axis in (ROW_LOSS_SHAPES if loss == "cross_entropy" else ITEM_LOSS_SHAPES)
    for options in ((), option_subsets(loss, kind)[-1])
]


@pytest.mark.parametrize("key", CASES)
def test_any_number_of_threads_gives_the_same_bits(key, compiled):
    for reduction, dtype in (("mean", "float32"), ("none", "float64"), ("sum", "float16")):
        typed = Key(key.loss, key.kind, key.shape, dtype, key.options, key.axis)
        for verb in VERBS:
            one = evaluate(typed, verb, reduction, num_threads=1)
            for count in THREADS[1:]:
                many = evaluate(typed, verb, reduction, num_threads=count)
                assert same_bits(one, many), (typed, verb, reduction, count)
    draw.cache_clear()  # these are large


@pytest.mark.parametrize(
    "name", ["softmax", "log_softmax", "logsumexp", "sigmoid", "log_sigmoid", "softplus"]
)
def test_functions_give_the_same_bits_with_any_number_of_threads(name, compiled):
    function = getattr(fl, name)
    rng = np.random.default_rng(1)
    for shape in ((300_001, 3), (301, 2047), (1, 700_003), (1_000_001,)):
        x = normal_logits(rng, shape, "float32")
        one = function(x, num_threads=1)
        for count in THREADS[1:]:
            assert same_bits(one, function(x, num_threads=count)), (shape, count)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_several_threads_do_run(compiled):
    """Without this the tests above might compare one thread with one thread."""
    if not fl.runtime_info()["openmp"]:
        pytest.skip("compiled without OpenMP")
    x = np.zeros((2000, 1000), "float32")
    fl.cross_entropy.value_and_grad(x, np.zeros(2000, int), num_threads=5)
    assert len(os.listdir("/proc/self/task")) >= 5


def test_the_setting_does_not_change_bits_either(compiled):
    key = Key("cross_entropy", "indices", (20_011, 33), options=("weight", "z_loss"))
    one = evaluate(key, "value_and_grad", "mean", num_threads=1)
    try:
        for count in THREADS:
            fl.set_num_threads(count)
            assert fl.get_num_threads() == count
            assert same_bits(one, evaluate(key, "value_and_grad", "mean"))
    finally:
        fl.set_num_threads(None)


# --------------------------------------------------------------------------------- alignment


def at_offset(array, items):
    """A copy that starts that many items after a 64-byte boundary."""
    size = array.dtype.itemsize
    raw = np.zeros(array.nbytes + 64 + 16 * size, "u1")
    start = -raw.ctypes.data % 64 + items * size
    view = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def nothing_around(view):
    """Whether what at_offset has around an array is still zero."""
    start = view.ctypes.data - view.base.ctypes.data
    return not (view.base[:start].any() or view.base[start + view.nbytes :].any())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("loss", "kind"), [(loss, kind) for loss in LOSSES for kind in KINDS[loss]]
)
def test_any_alignment_of_inputs_and_output_gives_the_same_bits(loss, kind, dtype, backend):
    shapes = ((7, 3), (3, 37), (2, 1500)) if loss == "cross_entropy" else ((45,), (3001,))
    for shape in shapes:
        key = Key(loss, kind, shape, dtype, option_subsets(loss, kind)[-1])
        case = draw(key)
        plain = evaluate(key, "value_and_grad", "mean")
        for offset in range(16):
            given = {
                name: at_offset(value, 15 - offset) if isinstance(value, np.ndarray) else value
                for name, value in case.options.items()
            }
            got = call(
                loss,
                "value_and_grad",
                at_offset(case.input, offset),
                at_offset(case.target, offset // 2),
                out=at_offset(np.zeros(shape, numpy_dtype(dtype)), (3 * offset) % 16),
                **given,
            )
            assert same_bits(got, plain), (key, offset)


# ------------------------------------------------------------------------------------- batches


def some_probabilities(rng, shape, dtype):
    """Rows of them, of which every third has nearly all in one class."""
    p = rng.random(shape)
    p[::3, shape[1] // 2] += 5 * shape[1]
    return (p / p.sum(axis=1, keepdims=True)).astype(numpy_dtype(dtype))


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 3, 7, 15, 16, 17, 33, 64, 100, 256, 1000, 5000])
def test_a_row_does_not_depend_on_its_batch(classes, dtype, probabilities, compiled):
    """Alone, in a few, among many, with one thread or several: the same loss and gradient."""
    rng = np.random.default_rng(classes)
    rows = min(3000, 400_000 // classes)
    x = normal_logits(rng, (rows, classes), dtype)
    # Among them rows that need more care, and rows without a softmax
    x[1::9] *= 20
    x[5::14] += 100
    x[12::17, classes // 2] = np.inf
    x[8::19, 0] = np.nan
    labels = rng.integers(classes, size=rows)
    target = some_probabilities(rng, x.shape, dtype) if probabilities else labels
    # Gradients of some are more than float32 can take on the way, or nothing.
    weights = rng.choice([1.0, 0.3, 1e14, 1e-15, 0.0], size=rows)
    for options in (
        {},
        {"sample_weight": weights},
        {"label_smoothing": 0.1},
        {"label_smoothing": 0.1, "z_loss": 0.01},
    ):
        more = {**options, "reduction": "none"}
        value, grad = fl.cross_entropy.value_and_grad(x, target, **more)
        _, hess = fl.cross_entropy.grad_and_hess(x, target, **more)
        for start, count in ((0, 1), (5, 1), (12, 1), (3, 2), (1, 15), (7, 16), (2, 17), (11, 40)):
            part = slice(start, start + count)
            if "sample_weight" in more:
                more["sample_weight"] = weights[part]
            got = fl.cross_entropy(x[part], target[part], **more)
            assert same_bits(got, value[part]), (start, count)
            got = fl.cross_entropy.value_and_grad(x[part], target[part], **more)
            assert same_bits(got[0], value[part]), (start, count)
            assert same_bits(got[1], grad[part]), (start, count)
            got = fl.cross_entropy.grad_and_hess(x[part], target[part], **more)
            assert same_bits(got, (grad[part], hess[part])), (start, count)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_long_row_does_not_depend_on_its_batch(dtype, compiled):
    """Among few, threads share it; among many, each thread has rows of its own."""
    rng = np.random.default_rng(1)
    x = normal_logits(rng, (17, 140_001), dtype)
    labels = rng.integers(140_001, size=17)
    for target in (labels, some_probabilities(rng, x.shape, dtype)):
        for more in ({}, {"label_smoothing": 0.1, "z_loss": 0.01}):
            more = {**more, "reduction": "none"}
            whole = fl.cross_entropy.value_and_grad(x, target, **more)
            for part in (slice(0, 1), slice(3, 6), slice(2, 17)):
                got = fl.cross_entropy.value_and_grad(x[part], target[part], **more)
                assert same_bits(got, (whole[0][part], whole[1][part])), (part, more)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_item_does_not_depend_on_the_others(dtype, compiled):
    """On soft targets among labels, on targets and logits that are treated with more care."""
    rng = np.random.default_rng(7)
    x = rng.normal(0, 4, 3000).astype(dtype)
    soft = rng.uniform(0, 1, x.size).astype(dtype)
    labels = (soft > 0.5).astype(dtype)
    p = fl.sigmoid(x)
    logits, probabilities = fl.binary_cross_entropy_with_logits, fl.binary_cross_entropy
    odd = np.arange(x.size) % 100 == 5

    def items(loss, x, target):
        value, grad = loss.value_and_grad(x, target, reduction="none")
        sums = (loss.value_and_grad(x, target)[1], *loss.grad_and_hess(x, target))
        return loss(x, target, reduction="none"), value, grad, *sums

    def unchanged(was, are):
        for old, new in zip(was, are, strict=True):
            assert same_bits(old[~odd], new[~odd])

    unchanged(items(probabilities, p, labels), items(probabilities, p, np.where(odd, soft, labels)))
    unchanged(items(logits, x, labels), items(logits, x, np.where(odd, soft, labels)))
    huge = np.finfo(dtype).max / 2
    unchanged(items(logits, x, soft), items(logits, x, np.where(odd, huge, soft).astype(dtype)))
    for other in (-90, 100, 800, -np.inf, np.inf):
        y = np.where(odd, other, x).astype(dtype)
        unchanged(items(logits, x, soft), items(logits, y, soft))
        for function in (fl.sigmoid, fl.softplus, fl.log_sigmoid):
            unchanged([function(x)], [function(y)])


def repeated(array, times):
    return np.tile(array, (times,) + (1,) * (array.ndim - 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [3, 33, 64, 130, 301, 1000, 5003])
@pytest.mark.parametrize("target", ["labels", "smoothed labels", "probabilities"])
def test_rows_in_outputs_of_many_megabytes_have_the_same_bits(target, classes, dtype, compiled):
    """Such outputs may be written past the caches, whose lines they need not begin on."""
    rng = np.random.default_rng(classes)
    dtype = numpy_dtype(dtype)
    rows = -(-20_000 // classes)
    times = -(-18_000_000 // (rows * classes * dtype.itemsize))
    x, targets = normal_logits(rng, (rows, classes), dtype), rng.integers(classes, size=rows)
    # Among them rows that need more care, and rows that take no part
    x[1::9] += 100
    targets[2::7] = -100
    if target == "probabilities":
        targets = some_probabilities(rng, x.shape, dtype)
    options = {"reduction": "none", "label_smoothing": 0.1 if target == "smoothed labels" else 0.0}
    options["z_loss"] = 0.01 if target != "labels" else 0.0
    value, grad = fl.cross_entropy.value_and_grad(x, targets, **options)
    _, hess = fl.cross_entropy.grad_and_hess(x, targets, **options)
    many, many_targets = repeated(x, times), repeated(targets, times)
    # Of some, both outputs begin at the same place in a line.
    out, more = at_offset(many, 3), at_offset(many, 3 if classes == 5003 else 5)
    got = fl.cross_entropy.value_and_grad(many, many_targets, **options, out=out)
    assert same_bits(got, (repeated(value, times), repeated(grad, times)))
    got = fl.cross_entropy.grad_and_hess(many, many_targets, **options, out=(out, more))
    assert same_bits(got, (repeated(grad, times), repeated(hess, times)))
    for function in (fl.softmax, fl.log_softmax):
        assert same_bits(function(many, out=out), repeated(function(x), times))
    assert nothing_around(out)
    assert nothing_around(more)
    out[...] = many
    got = fl.cross_entropy.value_and_grad(out, many_targets, **options, out=out)
    assert same_bits(got[1], repeated(grad, times))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "cross_entropy"])
def test_items_in_outputs_of_many_megabytes_have_the_same_bits(loss, dtype, compiled):
    key = Key(loss, KINDS[loss][0], (10_007,), dtype)
    case = draw(key)
    times = -(-18_000_000 // case.input.nbytes)
    many, many_targets = repeated(case.input, times), repeated(case.target, times)
    out, more = at_offset(many, 3), at_offset(many, 5)
    value, grad = evaluate(key, "value_and_grad", "none")
    got = call(loss, "value_and_grad", many, many_targets, reduction="none", out=out)
    assert same_bits(got, (repeated(value, times), repeated(grad, times)))
    grad, hess = evaluate(key, "grad_and_hess", "none")
    got = call(loss, "grad_and_hess", many, many_targets, reduction="none", out=(out, more))
    assert same_bits(got, (repeated(grad, times), repeated(hess, times)))


# --------------------------------------------------------------------------------- side by side


def test_calls_from_several_python_threads_do_not_disturb_each_other(backend):
    """Each with OpenMP threads of its own; the results are those of calls one by one."""
    keys = [
        Key(loss, kind, shape, dtype, option_subsets(loss, kind)[-1])
        for loss in LOSSES
        for kind in KINDS[loss]
        for shape in ((4001, 13), (5, 9))
        for dtype in ("float32", "float16")
    ]
    jobs = [(key, verb, count) for key in keys for verb in VERBS for count in (1, 3)]
    expected = [evaluate(key, verb, "mean", num_threads=count) for key, verb, count in jobs]

    def work(job):
        key, verb, count = job
        return evaluate(key, verb, "mean", num_threads=count)

    with ThreadPoolExecutor(4) as pool:
        # The backend belongs to the context, which a new thread does not inherit by itself.
        futures = [pool.submit(contextvars.copy_context().run, work, job) for job in jobs * 2]
        got = [future.result() for future in futures]
    for job, one, other in zip(jobs * 2, got, expected * 2, strict=True):
        assert same_bits(one, other), job

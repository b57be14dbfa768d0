"""Calls every loss and function on rows of many class counts and items of many numbers, and prints
how many calls there were: for kernels that check where they read and write, as `./ci/sanitize`
builds them. Results are not looked at.

    python tests/bounds.py
"""

import numpy as np
from cases import DTYPES, numpy_dtype

import fusedloss as fl

# All counts of classes up to some vectors, and both sides of each limit beyond.
CLASSES = (*range(1, 70), 99, 127, 128, 129, 255, 256, 257, 300)
CLASSES += (1000, 1024, 1025, 2047, 2049, 4095, 4096, 4097, 5003, 9001)
ROWS = (1, 5, 16, 19, 33)
ITEMS = (*range(1, 70), 1000, 1023, 1024, 1025, 2050, 16_383, 16_385, 33_000)
SHAPES = ((7,), (3, 5), (400, 30), (3, 1500), (100, 1))
SIZES = (1, 60)  # of logits: those of the second need a shift, or more than float16 holds

# Outputs this large go past the caches, and are shared by the threads.
LARGE_ROWS, LARGE_ITEMS = 70_000, 5_000_001

calls = 0


def all_verbs(loss, x, target, **options):
    global calls
    loss(x, target, **options)
    loss(x, target, reduction="none", **options)
    loss.value_and_grad(x, target, **options)
    loss.grad_and_hess(x, target, **options)
    calls += 4


def in_place(function, x, *target):
    global calls
    copy = x.copy()
    getattr(function, "value_and_grad", function)(copy, *target, out=copy)
    calls += 1


def rows(rng, count, classes, dtype, size):
    x = (rng.standard_normal((count, classes)) * size).astype(dtype)
    labels = rng.integers(classes, size=count)
    weight, sample_weight = rng.uniform(0.1, 1, classes).astype("f"), rng.random(count)
    shares = rng.random(x.shape, dtype="f")
    shares /= shares.sum(axis=1, keepdims=True)
    all_verbs(fl.cross_entropy, x, labels)
    all_verbs(fl.cross_entropy, x, labels, weight=weight)
    all_verbs(fl.cross_entropy, x, labels, sample_weight=sample_weight, label_smoothing=0.1)
    all_verbs(fl.cross_entropy, x, labels, weight=weight, label_smoothing=0.1, z_loss=0.1)
    all_verbs(fl.cross_entropy, x, np.where(labels == 0, -100, labels), z_loss=0.1)
    all_verbs(fl.cross_entropy, x, shares)
    all_verbs(fl.cross_entropy, x, shares, weight=weight, label_smoothing=0.1)
    in_place(fl.cross_entropy, x, labels)
    for function in (fl.softmax, fl.log_softmax):
        function(x)
        function(x, axis=0)
        in_place(function, x)
    fl.logsumexp(x)
    fl.logsumexp(x, axis=0)


def items(rng, count, dtype, size):
    x = (rng.standard_normal(count) * size).astype(dtype)
    probs = (1 / (1 + np.exp(-x.astype("d")))).astype(dtype)
    labels, shares = rng.integers(2, size=count), rng.random(count, dtype="f")
    for target in (labels, labels.astype("f"), labels.astype("u1"), shares):
        for loss, given in (
            (fl.binary_cross_entropy_with_logits, x),
            (fl.binary_cross_entropy, probs),
            (fl.mse_loss, x),
        ):
            all_verbs(loss, given, target)
            all_verbs(loss, given, target, weight=shares)
        all_verbs(fl.binary_cross_entropy_with_logits, x, target, pos_weight=2.0)
        all_verbs(fl.binary_cross_entropy_with_logits, x, target, weight=2, pos_weight=shares)
    in_place(fl.binary_cross_entropy_with_logits, x, labels)
    in_place(fl.mse_loss, x, labels)
    for function in (fl.sigmoid, fl.log_sigmoid, fl.softplus):
        function(x)
        in_place(function, x)


def broadcast(rng, shape, dtype):
    x, target = rng.random(shape).astype(dtype), rng.integers(2, size=shape)
    row = rng.uniform(0.5, 2, size=2 * shape[-1])
    weights = [row[: shape[-1]], row[: shape[-1]].astype("f"), row[::2]]
    weights += [rng.integers(1, 4, size=shape[-1]), rng.random((*shape[:-1], 1))]
    for weight in weights:
        all_verbs(fl.binary_cross_entropy_with_logits, x, target, weight=weight)
        all_verbs(fl.binary_cross_entropy_with_logits, x, target, pos_weight=weight)
        all_verbs(fl.binary_cross_entropy, x, target, weight=weight)


def main():
    rng = np.random.default_rng(0)
    for dtype in map(numpy_dtype, DTYPES):
        for size in SIZES:
            for classes in CLASSES:
                for count in ROWS:
                    rows(rng, count, classes, dtype, size)
            for count in ITEMS:
                items(rng, count, dtype, size)
        for shape in SHAPES:
            broadcast(rng, shape, dtype)
    for classes in (10, 63, 64):
        rows(rng, LARGE_ROWS, classes, "float32", 1)
    items(rng, LARGE_ITEMS, "float32", 1)
    print(f"{fl.runtime_info()['isa']}: {calls} calls")


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        main()

"""The arrays that contenders read and write: made once, touched before the clock starts, and used
again.
"""

import math
from functools import cached_property

import numpy as np

from . import axes

# Streamed cases: all sets of buffers together are this many times the last-level cache, or as near
# as the limit allows.
CACHE_MULTIPLE = 8
ROTATION_LIMIT = 2**29

SEED = 20_240_229


def numpy_dtype(name):
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _touched(shape, dtype):
    array = np.empty(shape, dtype)
    array.fill(0)
    return array


class Buffers:
    """One set: the inputs of a case and room for its results, pages in place."""

    def __init__(self, x, target):
        self.x = x
        self.target = target

    @cached_property
    def grad(self):
        return _touched(self.x.shape, self.x.dtype)

    @cached_property
    def hess(self):
        return _touched(self.x.shape, self.x.dtype)

    @cached_property
    def row_result(self):
        return _touched(self.x.shape[:-1], self.x.dtype)

    @cached_property
    def in_place(self):
        """A copy of x that may be written over."""
        return self.x.copy()

    def copy(self):
        return Buffers(self.x.copy(), None if self.target is None else self.target.copy())


def make_sets(case, last_level_cache):
    """The sets of buffers of a case: one, or, if it streams, enough of them that no cache holds
    what comes next.
    """
    sets = [_make(case)]
    if case.memory == axes.STREAMED:
        wanted = math.ceil(CACHE_MULTIPLE * last_level_cache / case.bytes_read)
        allowed = max(1, ROTATION_LIMIT // case.bytes_read)
        sets += [sets[0].copy() for _ in range(min(wanted, allowed) - 1)]
    return sets


def _make(case):
    """Data like users' data: logits of spread 2 with a few outliers; labels and targets that follow
    from nothing.

    Uniform or enormous logits would make nearly all probabilities zero, and time underflow.
    """
    rng = np.random.default_rng(SEED)
    x = _normal(rng, case.shape)
    x *= 2
    x.reshape(-1)[:: max(1, case.items // 7)] *= 8
    if case.work == "binary_cross_entropy":
        np.negative(x, out=x)
        np.exp(x, out=x)
        x += 1
        np.divide(1, x, out=x)
        np.clip(x, 1e-6, 1 - 1e-6, out=x)
    return Buffers(x.astype(numpy_dtype(case.dtype), copy=False), _make_target(rng, case))


def _normal(rng, shape):
    return rng.standard_normal(shape, dtype=np.float32)


def _make_target(rng, case):
    if not case.target:
        return None
    if case.work == "cross_entropy" and not case.target.startswith("float"):
        high = min(case.shape[-1], 256 if case.target == "uint8" else case.shape[-1])
        return rng.integers(0, high, case.shape[:-1]).astype(case.target)
    if case.work == "cross_entropy":
        weights = rng.random(case.shape, dtype=np.float32)
        weights /= weights.sum(axis=-1, keepdims=True)
        return weights.astype(case.target, copy=False)
    if case.work == "mse_loss":
        return _normal(rng, case.shape).astype(case.target, copy=False)
    return rng.integers(0, 2, case.shape, dtype=np.uint8).astype(case.target, copy=False)

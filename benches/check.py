"""Verify, then time: every result is held against the reference backend, in float64, before its
clock may start.
"""

import math

import numpy as np

import fusedloss as fl

from . import axes

HALF_TOLERANCES = {"float16": 1e-3, "bfloat16": 8e-3}  # of an array entry: one rounding, doubled


def reference(case, buffers):
    """The named results of a case, from the NumPy backend and the inputs widened to float64."""
    function = getattr(fl, case.work)
    x = buffers.x.astype(np.float64)
    with fl.use_backend("numpy"):
        if case.verb == axes.EVALUATE:
            return {"result": _narrow(case, function(x))}
        if case.verb == axes.VALUE:
            return {"value": function(x, buffers.target)}
        first, second = getattr(function, case.verb)(x, buffers.target)
    if case.verb == axes.VALUE_AND_GRAD:
        return {"value": first, "grad": _narrow(case, second)}
    return {"grad": _narrow(case, first), "hess": _narrow(case, second)}


def _narrow(case, array):
    """What is compared needs no more digits than this, and large cases need the memory."""
    return array if case.dtype == "float64" else array.astype(np.float32)


def verify(case, contender, outcome, expected):
    """Raise AssertionError if a result is not what the reference says."""
    who = f"{contender.name}, {case.title}"
    if outcome.keys() != expected.keys():
        raise AssertionError(f"{who}: got {sorted(outcome)} where {sorted(expected)} was asked for")
    for part, wanted in expected.items():
        error = largest_error(outcome[part], wanted)
        allowed = tolerance(case, contender, part)
        if not error <= allowed:  # so that nan fails
            raise AssertionError(f"{who}: {part} is off by {error:.2g}, allowed is {allowed:.2g}")


def tolerance(case, contender, part):
    """How far a result may lie from the reference, relative to the largest entry.

    For ours this catches a wrong result, not a lost bit: the error bounds are held by the tests.
    Peers add up in the input's precision, and some compute in 16 bits.
    """
    if case.dtype in HALF_TOLERANCES:
        if not contender.ours:
            return 5e-2
        return 1e-5 if part == "value" else HALF_TOLERANCES[case.dtype]
    if case.dtype == "float64":
        return 1e-12 if contender.ours else 1e-9
    return 2e-6 if contender.ours else 1e-3


def largest_error(actual, expected):
    """The largest difference over the largest expected entry; nan if there is one, inf if the
    shapes differ.

    In pieces, so that no temporary has the arrays' size.
    """
    actual, expected = np.atleast_1d(actual), np.atleast_1d(expected)
    if actual.shape != expected.shape:
        return math.inf
    actual, expected = actual.reshape(-1), expected.reshape(-1)
    worst = scale = 0.0
    for first in range(0, actual.size, 2**20):
        piece = slice(first, first + 2**20)
        wanted = expected[piece].astype(np.float64)
        difference = np.abs(actual[piece].astype(np.float64) - wanted).max()
        worst = np.maximum(worst, difference)  # keeps nan, unlike max()
        scale = np.maximum(scale, np.abs(wanted).max())
    if worst == 0:
        return 0.0
    return float(worst / scale) if scale else math.inf

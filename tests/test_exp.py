"""The exponential that the kernels are made of, by itself: float32 on every input, float64 on many.

`exp` of a kernel module is there for this file alone. Where a result is no normal number it may be
anything, so these inputs are left out: the kernels scale their rows so that none of them counts.
"""

from importlib import import_module

import numpy as np
import pytest
from regimes import DTYPES, LONG
from ulp import ulp_error

from fusedloss.backends import compiled as compiled_backend

BOUND = {"float32": 0.9, "float64": 1.0}
PIECE = 2**20


@pytest.fixture
def exp(compiled):
    name = compiled_backend.MODULES[compiled_backend.isa]
    return import_module(f"fusedloss.kernels.{name}").exp


def limits(dtype):
    """The arguments whose exponentials are normal numbers, less the last 1/16 of a power of two:
    there the nearest of the table's powers, of which there are eight, is infinite.
    """
    info = np.finfo(dtype)
    return info.minexp * np.log(LONG(2)), (info.maxexp - LONG(1) / 16) * np.log(LONG(2))


def errors_of_float32(got, truth):
    """As `ulp_error`, in a tenth of the time: for truths of float64 that are normal in float32."""
    ulp = (truth.view("int64") & 0x7FF0000000000000).view("float64") * 2.0**-23
    return np.abs(got - truth) / ulp


@pytest.mark.parametrize("step", [4099, pytest.param(1, marks=pytest.mark.slow, id="every number")])
def test_float32(step, exp):
    low, high = limits("float32")
    worst, where = 0.0, None
    for start in range(0, 2**32, step * PIECE):
        codes = np.arange(start, min(start + step * PIECE, 2**32), step, dtype=np.uint64)
        x = codes.astype(np.uint32).view("float32")
        x = x[(x > low) & (x < high)]
        x = np.concatenate([x, np.zeros(-x.size % 16, "float32")])
        if x.size:
            error = errors_of_float32(exp(x), np.exp(x.astype("float64")))
            if not error.max() <= worst:
                worst, where = error.max(), x[error.argmax()]
    assert 0.5 <= worst <= BOUND["float32"], f"{worst:.4f} ulp at {where!r}"


@pytest.mark.skipif(
    "float64" not in DTYPES,
    reason="the truth is long double, which must be wider than float64 to judge it",
)
@pytest.mark.parametrize(
    "count", [2**20, pytest.param(2**27, marks=pytest.mark.slow, id="very many")]
)
def test_float64(count, exp):
    rng = np.random.default_rng(6)
    low, high = -700.0, float(limits("float64")[1])  # below, the truth itself loses digits
    for _ in range(0, count, PIECE):
        sizes = 10.0 ** rng.uniform(-20, 2, size=PIECE // 2) * rng.choice([-1, 1], size=PIECE // 2)
        x = np.concatenate([rng.uniform(low, high, size=PIECE // 2), sizes])
        error = ulp_error(exp(x), np.exp(x.astype(LONG)))
        assert error.max() <= BOUND["float64"], f"{error.max()} ulp at {x[error.argmax()]!r}"


def test_float32_of_what_ulp_error_says():
    """The quick measure of errors is the slow one."""
    rng = np.random.default_rng(7)
    truth = np.exp(rng.uniform(-80, 80, size=1000))
    got = (truth * (1 + rng.normal(size=1000) * 1e-7)).astype("float32")
    assert np.array_equal(errors_of_float32(got, truth), ulp_error(got, truth))

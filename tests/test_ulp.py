"""The metric itself: what it calls right, and what it calls wrong."""

import numpy as np
import pytest
from ulp import FORMATS, assert_ulp, spacing_exponent, ulp_error

INF, NAN = np.inf, np.nan
LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("dtype", list(FORMATS), ids=str)
def test_spacing_is_the_distance_to_the_next_number(dtype):
    # Signed zero, subnormal, smallest normal, both sides of a power of two, and large
    bits, smallest, _ = FORMATS[dtype]
    tiny = np.ldexp(1.0, smallest)
    x = np.array([0.0, -0.0, tiny / 2, tiny, 1.0, 1.0 - 2.0**-bits, -1.5, 2.0, 1000.0])
    x = x.astype(dtype).astype(np.float64)
    spacing = np.ldexp(1.0, spacing_exponent(x, dtype))
    above = (np.abs(x) + spacing).astype(dtype).astype(np.float64)
    between = (np.abs(x) + spacing * 0.25).astype(dtype).astype(np.float64)
    np.testing.assert_array_equal(above, np.abs(x) + spacing)
    np.testing.assert_array_equal(between, np.abs(x))


@pytest.mark.parametrize(
    ("actual", "truth", "error"),
    [
        (1.0, 1.0, 0),
        (1.0, 1 + 2.0**-24, 0.5),
        (-1.0, 1.0, 2.0**24),
        (2.0**-149, 0.0, 1),  # a truth of zero: in smallest subnormals
        (-0.0, 0.0, 0),
        (NAN, NAN, 0),
        (NAN, 1.0, INF),
        (1.0, NAN, INF),
        (NAN, INF, INF),
        (INF, INF, 0),
        (INF, -INF, INF),
        (LARGEST, INF, INF),
        (INF, NAN, INF),
        (INF, 1e39, 0),  # beyond the range
        (-INF, 1e39, pytest.approx((2.0**128 + 1e39) / 2.0**106)),  # on the wrong side
        (INF, LARGEST, 1),  # overflows too early
        (0.0, 1e-40, 0),  # flushed
        (0.0, 2.0**-126, 2.0**23),  # not subnormal, so must not be flushed
        (2e-40, 1e-40, pytest.approx(1e-40 * 2.0**149, rel=1e-4)),
    ],
)
def test_float32_errors(actual, truth, error):
    assert ulp_error(np.float32(actual), truth) == error


def test_float64_errors_are_measured_against_more_digits():
    third = 1 / 3
    longer = 1 / 3 / 2**54  # 1/3 = 0.010101..., so this is what the float64 lacks
    assert ulp_error(third, third, low=longer) == pytest.approx(1 / 3, rel=1e-3)


def test_float64_errors_against_mpmath_numbers():
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(50):
        truth = np.array([mpmath.mpf(1) / 3, mpmath.mpf(10) ** 400, -mpmath.inf, mpmath.nan])
    error = ulp_error(np.array([1 / 3, INF, -INF, NAN]), truth)
    np.testing.assert_allclose(error, [1 / 3, 0, 0, 0], rtol=1e-3)
    assert ulp_error(np.float64(1 / 3), np.array(truth[0])) == error[0]


def test_16_bit_results_may_not_be_flushed_while_float32_holds_them():
    assert ulp_error(np.float16(0), 1e-6) > 10


def test_a_reduced_value_is_rounded_first():
    assert ulp_error(0.1, 0.1, dtype=np.float32) == pytest.approx(0.2, rel=1e-3)


def test_a_difference_is_measured_at_the_size_of_its_terms():
    assert ulp_error(np.float32(1e-7), 2e-7, size=1.0) == pytest.approx(0.84, abs=0.01)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        ulp_error(np.ones(3), np.ones((3, 1)))


def test_assert_ulp_names_the_worst():
    actual = np.array([1.0, 1.0 + 2.0**-50, 2.0])
    with pytest.raises(AssertionError, match=r"\(1,\).* error 4 ulp"):
        assert_ulp(actual, np.array([1.0, 1.0, 2.0]), 3)
    assert_ulp(actual, np.array([1.0, 1.0, 2.0]), 4)
    assert_ulp(np.empty((0, 3)), np.empty((0, 3)), 0)

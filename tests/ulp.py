"""The one metric of accuracy: how many ulp a result is away from the truth.

An ulp is the distance of two neighbouring numbers of the *result's* dtype, at the size of the
*truth*. Below the smallest normal number, and for a truth of zero, it is the smallest subnormal.

- A result that was computed exactly and rounded once has an error of at most 0.5.
- nan for a number, a number for nan, infinity of the wrong sign: infinitely wrong. nan for nan: 0.
- Where the truth rounds to infinity, infinity is right. A result that overflows although the truth
  does not is taken for the first power of two beyond the dtype, not for infinitely wrong.
- A truth below the smallest normal number of the compute type may be flushed to zero.
- A difference cannot be more accurate than its terms. `size` is their size: then an ulp is measured
  there, if it is larger than the truth.

The truth should be good to more digits than the result. It may be of float64 or long double, hold
mpmath numbers (dtype object), or be a pair of float64 arrays, `truth + low`.
"""

import numpy as np

try:
    import ml_dtypes
except ImportError:  # bfloat16 is an extra
    ml_dtypes = None

# dtype: bits of the significand, exponent of the smallest normal number (1 - that of the largest),
# smallest normal number of the compute type.
FORMATS = {
    np.dtype(np.float16): (11, -14, 2.0**-126),
    np.dtype(np.float32): (24, -126, 2.0**-126),
    np.dtype(np.float64): (53, -1022, 2.0**-1022),
}
if ml_dtypes is not None:
    FORMATS[np.dtype(ml_dtypes.bfloat16)] = (8, -126, 2.0**-126)


def split(truth):
    """The truth as a pair of float64 arrays (high, low): their sum is good to about 106 bits."""
    truth = np.asarray(truth)
    if truth.dtype == object:  # mpmath
        high = np.array([float(number) for number in truth.flat]).reshape(truth.shape)
        pairs = zip(truth.flat, high.flat, strict=True)
        low = [float(number - near) if np.isfinite(near) else 0.0 for number, near in pairs]
        return high, np.array(low).reshape(truth.shape)
    with np.errstate(all="ignore"):
        high = truth.astype(np.float64)
        low = np.where(np.isfinite(high), truth - high, 0.0).astype(np.float64)
    return high, low


def spacing_exponent(x, dtype):
    """The e for which 2**e is the distance of neighbours in `dtype` at the size of finite x."""
    bits, smallest, _ = FORMATS[np.dtype(dtype)]
    exponent = np.frexp(x)[1] - 1
    return np.where(x == 0, smallest, np.maximum(exponent, smallest)) - (bits - 1)


def ulp_error(actual, truth, *, low=None, dtype=None, size=0.0, flush=None):
    """The error of each entry of `actual` in ulp, a float64 array of its shape.

    Parameters
    ----------
    actual : array or number
        The result, of float16, bfloat16, float32 or float64.
    truth : array or number of the same shape
        float64, long double or mpmath numbers.
    low : float64 array, optional
        What `truth` (float64) lacks: the truth is their sum.
    dtype : dtype, optional
        Round `actual` to it first. A mean of float32 losses is a Python float that carries more
        than a float32, but is promised to be right as a float32.
    size : float or array
        The size of the terms whose sum or difference the result is.
    flush : float, optional
        Truths below it may be flushed to zero, instead of those below the smallest normal number.
    """
    actual = np.asarray(actual)
    with np.errstate(all="ignore"):
        if dtype is not None:
            actual = actual.astype(dtype)
        bits, smallest, tiny = FORMATS[actual.dtype]
        result = actual.astype(np.float64)
        high, low = split(truth) if low is None else (np.asarray(truth), np.asarray(low))
        if result.shape != high.shape:
            raise ValueError(f"actual is of shape {result.shape}, but truth of {high.shape}")

        # In units of an ulp nothing overflows: infinite results become a power of two, too.
        scale = np.maximum(np.abs(high), size)
        ulp = spacing_exponent(np.where(np.isfinite(scale), scale, 1.0), actual.dtype)
        result_ulps = np.where(
            np.isinf(result),
            np.ldexp(np.sign(result), 2 - smallest - ulp),
            np.ldexp(result, -ulp),
        )
        error = np.abs((result_ulps - np.ldexp(high, -ulp)) - np.ldexp(low, -ulp))

        # From half an ulp above the largest number on, numbers round to infinity. Both sides are
        # a quarter of themselves, to stay finite; for float64, high itself is infinite there.
        limit = np.ldexp(2.0 - 2.0**-bits, -1 - smallest)
        infinite = np.isinf(high) | (np.ldexp(np.abs(high), -2) >= limit)
        same_sign = np.sign(result) == np.sign(high)
        error = np.where(infinite & np.isinf(result) & same_sign, 0.0, error)
        error = np.where(np.isinf(high) & ~(np.isinf(result) & same_sign), np.inf, error)
        may_flush = np.abs(high) < (tiny if flush is None else flush)
        error = np.where(may_flush & (result == 0), 0.0, error)
        error = np.where(np.isnan(result) != np.isnan(high), np.inf, error)
        return np.where(np.isnan(result) & np.isnan(high), 0.0, error)


def assert_ulp(actual, truth, bound, *, what="", **options):
    """Fail, naming the worst entry, unless each error is at most `bound`. See `ulp_error`."""
    error = ulp_error(actual, truth, **options)
    if error.size == 0 or error.max() <= bound:
        return
    worst = np.unravel_index(error.argmax(), error.shape)
    high, _ = split(truth)
    raise AssertionError(
        f"{what}: {np.count_nonzero(error > bound)} of {error.size} entries are wrong. "
        f"The worst is at {tuple(map(int, worst))}: result {np.asarray(actual)[worst]!r}, "
        f"truth {high[worst]!r}, error {error[worst]:.4g} ulp, bound {bound:.4g} ulp"
    )

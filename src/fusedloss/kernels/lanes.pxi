# Lanes: exp, log and log1p on one number, and sums over fixed lanes.
#
# Everything here is plain scalar code that the compiler turns into vectors when it is called from a loop
# over an array. The order of every operation is written down (explicit fma, -ffp-contract=off, no libm but fma
# and rint, which are single instructions), so each instruction set gives the same bits.
#
# Bounds are in units in the last place (ulp) of the result; the polynomials and their minimax errors come
# from ci/fit_polynomials.py.

include "coefficients.pxi"

from libc.stdint cimport (int8_t, int16_t, int32_t, int64_t,
                          uint8_t, uint16_t, uint32_t, uint64_t)
from libc.math cimport fma, fmaf, rint, isfinite, isnan, INFINITY, NAN
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    /* C has no bit cast; memcpy of a register is free and, unlike a pointer cast, defined. */
    #include <stdint.h>
    #include <string.h>
    static inline uint32_t fl_bits_f32(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
    static inline float fl_float_bits(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }
    static inline uint64_t fl_bits_f64(double x) { uint64_t u; memcpy(&u, &x, 8); return u; }
    static inline double fl_double_bits(uint64_t u) { double x; memcpy(&x, &u, 8); return x; }
    """
    uint32_t fl_bits_f32(float x) noexcept nogil
    float fl_float_bits(uint32_t u) noexcept nogil
    uint64_t fl_bits_f64(double x) noexcept nogil
    double fl_double_bits(uint64_t u) noexcept nogil

ctypedef fused real:
    float
    double

cdef enum:
    # Both are part of the order of summation, hence of the bits of every result.
    CHUNK = 1024    # items staged in L1 at a time
    LANES = 16      # rows, or partial sums, side by side


cdef inline real multiply_add(real a, real b, real c) noexcept nogil:
    """a*b + c, rounded once."""
    if real is float:
        return fmaf(a, b, c)
    else:
        return fma(a, b, c)


# ---------------------------------------------------------------------------------------------------- exp

cdef struct Shift:
    # exp is computed as e^(x - base) / 2^scale. Either base = 0 and the shift is made on the integer exponent,
    # exactly; or, for rows whose maximum is too large for that, base = maximum and scale = 0.
    double base
    double scale


cdef inline Shift shift_of(double maximum, real tag) noexcept nogil:
    """Shift for a row with this maximum: afterwards exp of the maximum lies in [2^43, 2^45], in double in [2^63, 2^65].

    scale is even, so that x*log2(e) + magic rounds ties the same way for each row. 44 is taken off it so that terms far
    below the smallest normal number still count: many of them together may be above it. In double it is 64, since
    exponentials below the smallest normal number are wrong, and must be too small for a subnormal probability.
    Up to 2^16 (float) or 2^40 (double) x*log2(e) + magic rounds to the nearest integer, without loss.
    A maximum of -inf (nothing but -inf and nan) takes scale 0, which keeps exp(-inf) = 0 and nan = nan;
    a maximum of +inf gives inf - inf = nan on purpose: such a row has no softmax.
    """
    cdef Shift shift
    cdef double limit = 65536.0 if real is float else 1099511627776.0
    cdef double below = 44.0 if real is float else 64.0
    cdef double scale = 2.0 * rint(maximum * (0.5 * FL_LOG2E)) - below
    cdef double apart = 0.0 if maximum == -INFINITY else -below
    cdef bint inside = (maximum >= -limit) & (maximum <= limit)
    shift.scale = scale if inside else apart
    shift.base = 0.0 if inside | (maximum == -INFINITY) else maximum
    return shift


cdef inline real magic_of(double scale, real tag) noexcept nogil:
    """1.5*2^23 + 127 - scale: adding it leaves round(x*log2 e) + 127 - scale in the low bits."""
    if real is float:
        return <float>(12582912.0 + 127.0 - scale)
    else:
        return 6755399441055744.0 + 1023.0 - scale


cdef inline real floor_of(double scale, real tag) noexcept nogil:
    """Below this argument the scaled exponential is flushed to zero (it is under the smallest normal number)."""
    if real is float:
        return <float>((scale - 126.0) * FL_LN2_HI)
    else:
        return (scale - 1022.0) * FL_LN2_HI


cdef inline real exp_one_plus(real r) noexcept nogil:
    """e^r for |r| <= ln(2)/2 by Horner's rule: degree 6 (float), 12 (double)."""
    cdef real p
    if real is float:
        p = fmaf(FL_EXPF_C6, r, FL_EXPF_C5)
        p = fmaf(p, r, FL_EXPF_C4)
        p = fmaf(p, r, FL_EXPF_C3)
        p = fmaf(p, r, FL_EXPF_C2)
        p = fmaf(p, r, <float>1.0)
        return fmaf(p, r, <float>1.0)
    else:
        p = fma(FL_EXP_C12, r, FL_EXP_C11)
        p = fma(p, r, FL_EXP_C10)
        p = fma(p, r, FL_EXP_C9)
        p = fma(p, r, FL_EXP_C8)
        p = fma(p, r, FL_EXP_C7)
        p = fma(p, r, FL_EXP_C6)
        p = fma(p, r, FL_EXP_C5)
        p = fma(p, r, FL_EXP_C4)
        p = fma(p, r, FL_EXP_C3)
        p = fma(p, r, FL_EXP_C2)
        p = fma(p, r, 1.0)
        return fma(p, r, 1.0)


cdef inline real exp_minus_one_over(real r) noexcept nogil:
    """t with 1 + t = e^r, for callers that fold a factor into the last step."""
    cdef real p
    if real is float:
        p = fmaf(FL_EXPF_C6, r, FL_EXPF_C5)
        p = fmaf(p, r, FL_EXPF_C4)
        p = fmaf(p, r, FL_EXPF_C3)
        p = fmaf(p, r, FL_EXPF_C2)
        return fmaf(r * r, p, r)
    else:
        p = fma(FL_EXP_C12, r, FL_EXP_C11)
        p = fma(p, r, FL_EXP_C10)
        p = fma(p, r, FL_EXP_C9)
        p = fma(p, r, FL_EXP_C8)
        p = fma(p, r, FL_EXP_C7)
        p = fma(p, r, FL_EXP_C6)
        p = fma(p, r, FL_EXP_C5)
        p = fma(p, r, FL_EXP_C4)
        p = fma(p, r, FL_EXP_C3)
        p = fma(p, r, FL_EXP_C2)
        return fma(r * r, p, r)


cdef inline real reduce_argument(real y, real z, real magic) noexcept nogil:
    """y - n ln 2 with n = z - magic; the first product is exact (Cody and Waite)."""
    cdef real n = z - magic
    cdef real r
    if real is float:
        r = fmaf(n, -FL_LN2F_HI, y)
        return fmaf(n, -FL_LN2F_LO, r)
    else:
        r = fma(n, -FL_LN2_HI, y)
        return fma(n, -FL_LN2_LO, r)


cdef inline real round_to_exponent(real y, real magic) noexcept nogil:
    """y*log2(e) + magic in one rounding: its low bits are the biased exponent of the result."""
    if real is float:
        return fmaf(y, FL_LOG2EF, magic)
    else:
        return fma(y, FL_LOG2E, magic)


cdef inline real power_of_two(real z) noexcept nogil:
    """2^(n - scale) from the low bits of z."""
    if real is float:
        return fl_float_bits(fl_bits_f32(z) << 23)
    else:
        return fl_double_bits(fl_bits_f64(z) << 52)


cdef inline real exp_shifted(real x, real base, real magic, real floor) noexcept nogil:
    """e^(x - base) / 2^scale, with magic and floor from the same scale.

    x <= maximum of the row. -inf gives 0, nan gives nan. Below `floor` 0.
    Max error: float 0.9 ulp, double 0.9 ulp; the worst that ci/fit_polynomials.py --measure found are 0.877 at
    -0x1.778dfep+2 and 0.844 at 0x1.39d36e9d0f7cep+9.
    The power of two is multiplied, not added to the exponent bits, which could turn a nan into a number.
    """
    cdef real y = x - base
    cdef real z = round_to_exponent(y, magic)
    cdef real p = exp_one_plus(reduce_argument(y, z, magic)) * power_of_two(z)
    return <real>0.0 if y < floor else p


cdef inline double exp_shifted_low(double x, double base, double magic, double floor) noexcept nogil:
    """What exp_shifted has rounded away in its last addition: with it the result is good to 0.4 ulp."""
    cdef double y = x - base
    cdef double z = round_to_exponent(y, magic)
    cdef double r = reduce_argument(y, z, magic)
    cdef double p = exp_one_plus(r)
    # p = 1 + r h rounded; 1 - p is exact, and r h is formed again the same way.
    cdef double low = exp_minus_one_over(r) - (p - 1.0)
    return 0.0 if y < floor else low * power_of_two(z)


# -------------------------------------------------------------------------------------------- log, log1p

cdef inline double log_plus(double u, double c) noexcept nogil:
    """log(u) + c, for u > 0 normal and |c| small against 1; c is added before the last rounding.

    u = 2^k m with m in [sqrt(1/2), sqrt(2)), s = (m-1)/(m+1), log m = 2s + 2s^3 P(s^2), evaluated as
    f - (f^2/2 - s (f^2/2 + R)) with f = m - 1, which rounds once at the size of the result (the form of fdlibm's
    e_log.c). k ln 2 is split so that its high part is exact. Max error 0.9 ulp; 0.831 at
    0x1.677baf70f13d5p+0 is the worst found.
    """
    cdef uint64_t bits = fl_bits_f64(u)
    # 0x3fe6a09e667f3bcd is sqrt(1/2); 0x3ff << 52 keeps the difference positive, so one logical shift does.
    cdef uint64_t offset = bits - <uint64_t>0x3fe6a09e667f3bcd + (<uint64_t>0x3ff << 52)
    cdef uint64_t biased = offset >> 52
    cdef double k = fl_double_bits(<uint64_t>0x4330000000000000 | biased) - (4503599627370496.0 + 1023.0)
    cdef double m = fl_double_bits(bits - ((biased - 1023) << 52))
    cdef double f = m - 1.0
    cdef double s = f / (2.0 + f)
    cdef double w = s * s
    cdef double p = fma(FL_LOG_C8, w, FL_LOG_C7)
    p = fma(p, w, FL_LOG_C6)
    p = fma(p, w, FL_LOG_C5)
    p = fma(p, w, FL_LOG_C4)
    p = fma(p, w, FL_LOG_C3)
    p = fma(p, w, FL_LOG_C2)
    p = fma(p, w, FL_LOG_C1)
    cdef double half = 0.5 * f * f
    cdef double tail = fma(s, half + 2.0 * w * p, fma(k, FL_LN2_SPLIT_LO, c))
    return fma(k, FL_LN2_SPLIT_HI, f - (half - tail))


cdef inline double log1p_of_two(double v, double low) noexcept nogil:
    """log(1 + v + low) for v > -1/2 up to +inf and low small against v: what 1 + v has lost is carried as a correction.

    Max error 1 ulp; 0.809 at v = 0x1.9e3418b2a559cp-2 is the worst found. nan gives nan, +inf gives +inf.
    """
    cdef double u = 1.0 + v
    cdef double back = u - 1.0
    cdef double c = (1.0 - (u - back)) + (v - back) + low
    cdef double y = log_plus(u, c / u)
    return v if not (v < INFINITY) else y


cdef inline double log1p_accurate(double v) noexcept nogil:
    return log1p_of_two(v, 0.0)


cdef inline double minus_sum(double m, double x, double low) noexcept nogil:
    """-((m - x) + low), rounded once; infinities as by plain operations."""
    cdef double d = m - x
    cdef double back = d - m
    cdef double lost = (m - (d - back)) - (x + back)
    cdef double s = d + low
    cdef double t
    back = s - d
    t = s + (lost + ((d - (s - back)) + (low - back)))
    return -(t if t - t == 0.0 else s)


cdef inline double hessian_entry(double e, double low, double inverse, double inverse_low,
                                 double factor) noexcept nogil:
    """factor p (1 - p) with p = (e + low) (inverse + inverse_low), rounded twice at most, unless p is near 1."""
    cdef double p = e * inverse
    cdef double p_low = fma(e, inverse, -p) + fma(e, inverse_low, low * inverse)
    cdef double q = 1.0 - p
    cdef double h = p * q
    cdef double h_low = fma(p, q, -h) + fma(p, ((1.0 - q) - p) - p_low, p_low * q)
    return fma(h, factor, h_low * factor)


# --------------------------------------------------------------------------------------------------- sums

cdef inline double fold_lanes(double* a) noexcept nogil:
    """Sum of 16 lanes in the order 16 -> 8 -> 4 -> 2 -> 1."""
    cdef double b[8]
    cdef int i
    for i in range(8):
        b[i] = a[i] + a[i + 8]
    for i in range(4):
        b[i] = b[i] + b[i + 4]
    return (b[0] + b[2]) + (b[1] + b[3])


cdef inline double tree_sum(double* a, Py_ssize_t n) noexcept nogil:
    """Sum of a[0:n], n <= 1024, as a balanced tree: OUT a is used as scratch up to the next power of two, 128 at least.

    Pairwise throughout (error below log2(n) * 2^-53). Three levels at a time, since a pass over memory costs more than
    the additions.
    """
    cdef double wide[LANES]
    cdef Py_ssize_t size = 128
    cdef Py_ssize_t i
    while size < n:
        size *= 2
    for i in range(n, size):
        a[i] = 0.0
    if size == 1024:
        for i in range(128):
            a[i] = (((a[i] + a[i + 512]) + (a[i + 256] + a[i + 768]))
                    + ((a[i + 128] + a[i + 640]) + (a[i + 384] + a[i + 896])))
    else:
        while size > 128:
            size //= 2
            for i in range(size):
                a[i] = a[i] + a[i + size]
    for i in range(LANES):
        wide[i] = ((a[i] + a[i + 64]) + (a[i + 32] + a[i + 96])) + ((a[i + 16] + a[i + 80]) + (a[i + 48] + a[i + 112]))
    return fold_lanes(wide)


cdef struct Sum:
    # A sum in twice the working precision: high part and the rounding errors so far.
    double high
    double low


cdef inline void add(Sum* total, double value) noexcept nogil:
    """TwoSum (Knuth): the rounding error of each addition is kept. inf or nan in `high` makes `low` nan,
    which `value_of` leaves out."""
    cdef double s = total.high + value
    cdef double back = s - total.high
    total.low += (total.high - (s - back)) + (value - back)
    total.high = s


cdef inline double quotient(const Sum* total, double divisor) noexcept nogil:
    """The sum divided, rounded once; the IEEE quotient where that is not finite."""
    cdef double q = total.high / divisor
    cdef double corrected = q + (fma(-q, divisor, total.high) + total.low) / divisor
    return corrected if isfinite(corrected) else q


cdef inline double value_of(const Sum* total) noexcept nogil:
    """The sum rounded to double; an infinite sum stays infinite."""
    return total.high + total.low if isfinite(total.high) else total.high


cdef inline void fold_sums(double* high, double* low, Py_ssize_t half) noexcept nogil:
    """Sums k + half to sums k, for k below half, as `add` does it."""
    cdef double s, back
    cdef Py_ssize_t k
    for k in range(half):
        s = high[k] + high[k + half]
        back = s - high[k]
        low[k] = (low[k] + low[k + half]) + ((high[k] - (s - back)) + (high[k + half] - back))
        high[k] = s


cdef inline void add_carefully(Sum* total, double* a, Py_ssize_t n) noexcept nogil:
    """Add a[0:n], n <= CHUNK, as a balanced tree that keeps the rounding error of every addition: the sum is right to
    the last bit, as if made in twice the precision. OUT a is scratch up to the next power of two."""
    cdef double lost[CHUNK]
    cdef Py_ssize_t size = LANES
    cdef Py_ssize_t i
    while size < n:
        size *= 2
    for i in range(n, size):
        a[i] = 0.0
    for i in range(size):
        lost[i] = 0.0
    while size > 1:
        size //= 2
        fold_sums(a, lost, size)
    add(total, a[0])
    total.low += lost[0]


cdef struct LaneSums:
    # 16 sums side by side, each as Sum.
    double high[LANES]
    double low[LANES]


cdef inline void add_lanes(LaneSums* total, const double* values) noexcept nogil:
    """`add` in each lane."""
    cdef double s, back
    cdef int i
    for i in range(LANES):
        s = total.high[i] + values[i]
        back = s - total.high[i]
        total.low[i] += (total.high[i] - (s - back)) + (values[i] - back)
        total.high[i] = s


cdef inline Sum fold(const LaneSums* total) noexcept nogil:
    """The 16 sums, added in order."""
    cdef Sum result
    cdef int i
    memset(&result, 0, sizeof(Sum))
    for i in range(LANES):
        add(&result, total.high[i])
        result.low += total.low[i]
    return result

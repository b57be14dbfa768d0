# Items: the loops of the pointwise losses over a chunk, on whole registers.
#
# A chunk is read at most twice: once for e^-|x|, which lies in the first-level cache afterwards, and once for what is
# made of it. Sums of logarithms are logarithms of products; what is written goes straight to its array.

# float32 exponentials of less than this are made 2^64 times as large first: they, or a share of them, may be subnormal.
cdef enum:
    PLAIN_FLOOR = -80

# log(1 + e) = log_sums[j] + log(log_factors[j] (1 + e)), where j is rint(FL_LOGTF_STEPS e), or nearly.
cdef float log_factors[8]
cdef float log_sums[8]


cdef void fill_log_tables() noexcept:
    log_factors[0] = FL_LOGTF_T0
    log_sums[0] = FL_LOGTF_L0
    log_factors[1] = FL_LOGTF_T1
    log_sums[1] = FL_LOGTF_L1
    log_factors[2] = FL_LOGTF_T2
    log_sums[2] = FL_LOGTF_L2
    log_factors[3] = FL_LOGTF_T3
    log_sums[3] = FL_LOGTF_L3
    log_factors[4] = FL_LOGTF_T4
    log_sums[4] = FL_LOGTF_L4
    log_factors[5] = FL_LOGTF_T5
    log_sums[5] = FL_LOGTF_L5
    log_factors[6] = FL_LOGTF_T6
    log_sums[6] = FL_LOGTF_L6
    log_factors[7] = FL_LOGTF_T7
    log_sums[7] = FL_LOGTF_L7


fill_log_tables()


cdef inline Py_ssize_t ahead() noexcept nogil:
    """Items from what is read to what is fetched meanwhile: a chunk of the quickest loops takes less time than memory,
    where registers are wide."""
    return 2 * CHUNK if FL_WIDE else CHUNK


cdef inline Exponents plain_exponents() noexcept nogil:
    """For exponentials of PLAIN_FLOOR and more, which are normal as they are."""
    cdef Exponents k = exponents_of(0.0)
    k.floor = vf_set(PLAIN_FLOOR)
    return k


cdef inline bint goes_below_floor(vf least) noexcept nogil:
    return vf_largest(vf_neg(least)) > -PLAIN_FLOOR


cdef inline void exp_in_parts(vf x, const Exponents* k, vf* parts, vf* least) noexcept nogil:
    """OUT e^-|x| as a power and a rest, not rounded to one number: the rest is up to 4 % of the power."""
    cdef vf v = vf_neg_abs(x)
    cdef vf z, t
    least[0] = vf_min(v, least[0])      # nan is passed over
    v = vf_max(k.floor, v)
    z = vf_fma(v, vf_set(FL_LOG2EF), k.magic)
    t = exp_rest(v, z, k.magic, k.errors, False)
    parts[0] = exp_power(z, k.offsets)
    parts[1] = vf_mul(parts[0], t)


cdef inline vf log1p_tail(vf u) noexcept nogil:
    """(log(1 + u) - u) / u^2 for small u."""
    cdef vf p = vf_fma(vf_set(FL_LOGTF_C5), u, vf_set(FL_LOGTF_C4))
    p = vf_fma(p, u, vf_set(FL_LOGTF_C3))
    return vf_fma(p, u, vf_set(FL_LOGTF_C2))


cdef inline vf log1p_of_parts(vf power, vf rest, vf factors, vf sums) noexcept nogil:
    """log(1 + power + rest) for what exp_in_parts gives. Max error 1.022 ulp, at x = -0x1.473986p+1 (all x).

    1 + u = factor (1 + power + rest). `start` is the larger part of u, exact where the result is small, since the
    factor is 1 there; so that there is one rounding of the size of the result.
    """
    cdef vi index = vf_bits(vf_fma(power, vf_set(FL_LOGTF_STEPS), vf_set(12582912.0)))
    cdef vf factor = vf_look_up(factors, index)
    cdef vf start = vf_fma(power, factor, vf_sub(factor, vf_set(1.0)))
    cdef vf more = vf_mul(rest, factor)
    cdef vf u = vf_add(start, more)
    return vf_add(vf_look_up(sums, index), vf_add(start, vf_fma(vf_mul(u, u), log1p_tail(u), more)))


cdef struct Logarithms:
    # log(1 + e^-|x|) of a chunk, all but the last steps: for each vector its power and rest, which lie side by side,
    # since stores 4096 bytes apart hinder each other. The first vector may be one of fewer items.
    vf parts[132]
    bint scaled           # the parts are 2^64 times as large
    bint infinite         # some x are
    vf factors
    vf sums


cdef inline vf write_parts(const float* x, Py_ssize_t head, Py_ssize_t n, const Exponents* table,
                           vf* parts) noexcept nogil:
    """OUT parts of n <= CHUNK items; the smallest -|x|, or 0, in each lane."""
    cdef Exponents k = table[0]      # what is stored could be this, as far as a compiler knows
    cdef vf least = vf_set(0.0)
    cdef Py_ssize_t i = head
    if head:
        exp_in_parts(load_first(x, head), &k, parts, &least)
        parts += 2
    while n - i >= LANES:
        fl_prefetch(x + ahead() + (i >> 1))      # the other half of what comes next is fetched by the loop that writes
        exp_in_parts(vf_load(x + i), &k, parts, &least)
        parts += 2
        i += LANES
    if i < n:
        exp_in_parts(load_first(x + i, n - i), &k, parts, &least)
    return least


cdef void begin_logarithms(const float* x, Py_ssize_t head, Py_ssize_t n, Logarithms* s, bint* wide) noexcept nogil:
    """The first vector has head items, if that is not 0, the others 16 each, of n <= CHUNK items. wide: as in
    exp_of_minus_size."""
    cdef Exponents k
    cdef vf least
    if not wide[0]:
        k = plain_exponents()
        least = write_parts(x, head, n, &k, s.parts)
        wide[0] = goes_below_floor(least)
    s.scaled = wide[0]
    if s.scaled:
        k = exponents_of(-64.0)
        least = write_parts(x, head, n, &k, s.parts)
        wide[0] = goes_below_floor(least)
    s.infinite = vf_largest(vf_neg(least)) == INFINITY
    s.factors = vf_table(log_factors)
    s.sums = vf_table(log_sums)


cdef inline vf logarithm_at(const Logarithms* s, Py_ssize_t k, vf x, bint scaled) noexcept nogil:
    """log(1 + e^-|x|) of the k-th vector, which is given again; `scaled` is that of s."""
    cdef vf power = s.parts[2 * k]
    cdef vf rest = s.parts[2 * k + 1]
    cdef vf down = vf_set(<float>5.421010862427522e-20)
    cdef vf y
    if not scaled:
        return log1p_of_parts(power, rest, s.factors, s.sums)
    # Below the floor the logarithm is e itself.
    y = log1p_of_parts(vf_mul(power, down), vf_mul(rest, down), s.factors, s.sums)
    return vf_if_less(vf_neg_abs(x), vf_set(PLAIN_FLOOR), vf_mul(vf_add(power, rest), down), y)


cdef inline vector divide_vector(vector numerator, vector e) noexcept nogil:
    """numerator / (1 + e) for 0 <= e <= 1: the quotient by the rounded 1 + e, corrected with its exact remainder."""
    cdef vector one = v_same(1.0, e)
    cdef vector d = v_plus(one, e)
    cdef vector rest = v_minus(e, v_minus(d, one))
    cdef vector inverse = v_over(one, d)
    cdef vector q = v_times(numerator, inverse)
    return v_times_plus(v_less_times(q, rest, v_less_times(q, d, numerator)), inverse, q)


cdef inline Py_ssize_t until_line(const void* p, Py_ssize_t size) noexcept nogil:
    """How many items of `size` bytes lie before the first whole line: only whole lines go past the caches."""
    return <Py_ssize_t>(((64 - (<size_t>p & 63)) & 63) // <size_t>size)


cdef inline Py_ssize_t place_in_line(const void* p, Py_ssize_t size) noexcept nogil:
    """How many items of `size` bytes lie between the start of the line and p."""
    return <Py_ssize_t>((<size_t>p & 63) // <size_t>size)


cdef inline vf exp_below_zero(vf v, const Exponents* scaled) noexcept nogil:
    """e^v for v <= 0, subnormal results included: computed as 2^64 e^v, which is normal where e^v is not zero."""
    return vf_mul(exp_vector(v, scaled.magic, scaled.floor, scaled.offsets, scaled.errors),
                  vf_set(<float>5.421010862427522e-20))


cdef void exp_of_minus_size(const real* x, Py_ssize_t n, real* e, bint* wide) noexcept nogil:
    """OUT e^-|x| of n items: room for whole vectors, which are 0 beyond the end. What lies CHUNK further on is
    fetched meanwhile; targets are fetched by the loops after it, so that requests to memory are spread.
    wide: some e are below e^PLAIN_FLOOR; as a guess, which saves time where it is right, and OUT as it is."""
    cdef Exponents plain, scaled
    cdef DoubleExp doubles
    cdef vd a, b
    cdef vf v, least
    cdef Py_ssize_t i, k
    if real is float:
        plain = plain_exponents()
        scaled = exponents_of(-64.0)
        least = vf_set(0.0)
        if not wide[0]:
            for k in range(n // LANES):
                i = k * LANES
                v = vf_neg_abs(vf_load(x + i))
                fl_prefetch(x + i + ahead())
                least = vf_min(v, least)      # nan is passed over
                vf_store(e + i, exp_vector(v, plain.magic, plain.floor, plain.offsets, plain.errors))
            wide[0] = goes_below_floor(least)
        if wide[0]:
            for k in range(n // LANES):
                i = k * LANES
                v = vf_neg_abs(vf_load(x + i))
                fl_prefetch(x + i + ahead())
                least = vf_min(v, least)
                vf_store(e + i, exp_below_zero(v, &scaled))
            wide[0] = goes_below_floor(least)
        if n % LANES:
            i = n - n % LANES
            vf_store(e + i, exp_below_zero(vf_neg_abs(vf_load_part(x + i, n - i, INFINITY)), &scaled))
    else:
        # 2^64 e^v is normal where e^v is not zero, so that a subnormal result is rounded once more only.
        doubles = double_exp(-64.0)
        for k in range((n + LANES - 1) // LANES):
            i = k * LANES
            fl_prefetch(x + i + ahead())
            fl_prefetch(x + i + ahead() + 8)
            a = vd_load(x + i) if n - i >= 8 else vd_load_part(x + i, n - i, INFINITY)
            b = vd_load(x + i + 8) if n - i >= LANES else vd_load_part(x + i + 8, n - i - 8, INFINITY)
            a = vd_neg_abs(a)
            b = vd_neg_abs(b)
            exp_vectors(&a, &b, &doubles)
            vd_store(e + i, vd_mul(a, vd_set(5.421010862427522e-20)))
            vd_store(e + i + 8, vd_mul(b, vd_set(5.421010862427522e-20)))


cdef inline vd exponent_of(vd u) noexcept nogil:
    """The exponent of u in the low bits, 1023 added, for a significand from sqrt(1/2) to sqrt(2): see log_plus."""
    cdef vd root = vd_set(fl_double_bits(<uint64_t>0x3fe6a09e667f3bcd - (<uint64_t>0x3ff << 52)))
    return vd_shift_right(vd_sub_bits(u, root), 52)


cdef inline void log_vectors(vd* a, vd* b, vd c, vd d) noexcept nogil:
    """log_plus of a and c, and of b and d, in place: the same bits. The operations alternate, since one chain of them
    is longer than what a processor looks ahead."""
    cdef vd one = vd_set(1.0)
    cdef vd two = vd_set(2.0)
    cdef vd k = exponent_of(a[0])
    cdef vd m = exponent_of(b[0])
    cdef vd f = vd_sub_bits(a[0], vd_shift_left(vd_sub_bits(k, vd_set(fl_double_bits(1023))), 52))
    cdef vd g = vd_sub_bits(b[0], vd_shift_left(vd_sub_bits(m, vd_set(fl_double_bits(1023))), 52))
    # The bits of 2^52 + n, for n < 2^52, are those of 2^52 and n.
    k = vd_sub(vd_add_bits(k, vd_set(4503599627370496.0)), vd_set(4503599627370496.0 + 1023.0))
    m = vd_sub(vd_add_bits(m, vd_set(4503599627370496.0)), vd_set(4503599627370496.0 + 1023.0))
    f = vd_sub(f, one)
    g = vd_sub(g, one)
    cdef vd s = vd_div(f, vd_add(two, f))
    cdef vd t = vd_div(g, vd_add(two, g))
    cdef vd w = vd_mul(s, s)
    cdef vd x = vd_mul(t, t)
    cdef vd p = vd_fma(vd_set(FL_LOG_C8), w, vd_set(FL_LOG_C7))
    cdef vd q = vd_fma(vd_set(FL_LOG_C8), x, vd_set(FL_LOG_C7))
    p = vd_fma(p, w, vd_set(FL_LOG_C6))
    q = vd_fma(q, x, vd_set(FL_LOG_C6))
    p = vd_fma(p, w, vd_set(FL_LOG_C5))
    q = vd_fma(q, x, vd_set(FL_LOG_C5))
    p = vd_fma(p, w, vd_set(FL_LOG_C4))
    q = vd_fma(q, x, vd_set(FL_LOG_C4))
    p = vd_fma(p, w, vd_set(FL_LOG_C3))
    q = vd_fma(q, x, vd_set(FL_LOG_C3))
    p = vd_fma(p, w, vd_set(FL_LOG_C2))
    q = vd_fma(q, x, vd_set(FL_LOG_C2))
    p = vd_fma(p, w, vd_set(FL_LOG_C1))
    q = vd_fma(q, x, vd_set(FL_LOG_C1))
    cdef vd half = vd_mul(vd_mul(vd_set(0.5), f), f)
    cdef vd other = vd_mul(vd_mul(vd_set(0.5), g), g)
    p = vd_add(half, vd_mul(vd_mul(two, w), p))
    q = vd_add(other, vd_mul(vd_mul(two, x), q))
    p = vd_fma(s, p, vd_fma(k, vd_set(FL_LN2_SPLIT_LO), c))
    q = vd_fma(t, q, vd_fma(m, vd_set(FL_LN2_SPLIT_LO), d))
    a[0] = vd_fma(k, vd_set(FL_LN2_SPLIT_HI), vd_sub(f, vd_sub(half, p)))
    b[0] = vd_fma(m, vd_set(FL_LN2_SPLIT_HI), vd_sub(g, vd_sub(other, q)))


cdef void log1p_of_floats(const float* e, Py_ssize_t n, float* out) noexcept nogil:
    """OUT log(1 + e) of 0 <= e <= 1, as log1p_of_parts has it of e without a rest, for whole vectors."""
    cdef vf factors = vf_table(log_factors)
    cdef vf sums = vf_table(log_sums)
    cdef vf factor, u
    cdef vi index
    cdef Py_ssize_t i
    for i in range(0, n, 16):      # LANES
        u = vf_load(e + i)
        index = vf_bits(vf_fma(u, vf_set(FL_LOGTF_STEPS), vf_set(12582912.0)))
        factor = vf_look_up(factors, index)
        u = vf_fma(u, factor, vf_sub(factor, vf_set(1.0)))
        vf_store(out + i, vf_add(vf_look_up(sums, index), vf_fma(vf_mul(u, u), log1p_tail(u), u)))


cdef void log1p_of_units(const double* e, Py_ssize_t n, double* out) noexcept nogil:
    """OUT log1p_accurate of 0 <= e <= 1, for whole vectors: the same bits. out may be e."""
    cdef vd one = vd_set(1.0)
    cdef vd a, b, u, v, c, d
    cdef Py_ssize_t i, k
    for k in range((n + LANES - 1) // LANES):
        i = k * LANES
        a = vd_load(e + i)
        b = vd_load(e + i + 8)
        u = vd_add(one, a)
        v = vd_add(one, b)
        c = vd_sub(u, one)
        d = vd_sub(v, one)
        c = vd_div(vd_add(vd_sub(one, vd_sub(u, c)), vd_sub(a, c)), u)
        d = vd_div(vd_add(vd_sub(one, vd_sub(v, d)), vd_sub(b, d)), v)
        log_vectors(&u, &v, c, d)
        # nan stays
        vd_store(out + i, vd_if_less(a, vd_set(INFINITY), u, a))
        vd_store(out + i + 8, vd_if_less(b, vd_set(INFINITY), v, b))


cdef inline void sigmoid_at(const real* x, const real* e, Py_ssize_t m, real* out, bint stream) noexcept nogil:
    """1/(1 + e) or e/(1 + e) of one vector, or of the first m items of it."""
    cdef vf a, b
    cdef vd c, d
    if real is float:
        a = vf_load(x) if m >= LANES else vf_load_part(x, m, 0.0)
        b = vf_load(e) if m >= LANES else vf_load_part(e, m, 0.0)
        write_vector(out, divide_vector(vf_if_negative(a, b, vf_set(1.0)), b), m, stream)
    else:
        c = vd_load(x) if m >= 8 else vd_load_part(x, m, 0.0)
        d = vd_load(e) if m >= 8 else vd_load_part(e, m, 0.0)
        write_vector(out, divide_vector(vd_if_negative(c, d, vd_set(1.0)), d), m, stream)


cdef void sigmoids(const real* x, Py_ssize_t n, real* out, bint stream, bint* wide) noexcept nogil:
    """OUT sigmoid of n <= CHUNK items; past the caches if `stream`. out may be x."""
    cdef vf lines[128]        # CHUNK numbers, which begin where a line does
    cdef real* e = <real*>lines
    cdef Py_ssize_t width = 64 // <Py_ssize_t>sizeof(real)
    cdef Py_ssize_t i = min(n, until_line(out, sizeof(real))) if stream else 0
    exp_of_minus_size(x, n, e, wide)
    if i:
        sigmoid_at(x, e, i, out, False)
    while n - i >= width:
        sigmoid_at(x + i, e + i, width, out + i, stream)
        i += width
    if i < n:
        sigmoid_at(x + i, e + i, n - i, out + i, False)


cdef inline void softplus_at(bint log_sigmoid, vf x, const Logarithms* s, Py_ssize_t k, bint scaled, Py_ssize_t m,
                             float* out, bint stream) noexcept nogil:
    """max(x, 0) + log1p(e) of the k-th vector, or the first m items of it; log_sigmoid(x) = -softplus(-x)."""
    cdef vf y = logarithm_at(s, k, x, scaled)
    if log_sigmoid:
        y = vf_sub(vf_min(x, vf_set(<float>-0.0)), y)
    else:
        y = vf_add(vf_max(x, vf_set(0.0)), y)
    write_vector(out, y, m, stream)


cdef void softpluses(bint log_sigmoid, const float* x, Py_ssize_t n, float* out, bint stream,
                     bint* wide) noexcept nogil:
    """OUT softplus, or log_sigmoid, of n <= CHUNK items; past the caches if `stream`. out may be x."""
    cdef Logarithms s
    # Whole lines are written: 6 % less time, also where they stay in the caches.
    cdef Py_ssize_t i = min(n, until_line(out, sizeof(float)))
    cdef Py_ssize_t k = 0
    begin_logarithms(x, i, n, &s, wide)
    if i:
        softplus_at(log_sigmoid, load_first(x, i), &s, 0, s.scaled, i, out, False)
        k = 1
    if not s.scaled:
        # The usual loop, without what x86-64-v3 has no registers for.
        while n - i >= LANES:
            fl_prefetch(x + ahead() + CHUNK // 2 + (i >> 1))
            softplus_at(log_sigmoid, vf_load(x + i), &s, k, False, LANES, out + i, stream)
            k += 1
            i += LANES
    while n - i >= LANES:
        fl_prefetch(x + ahead() + CHUNK // 2 + (i >> 1))
        softplus_at(log_sigmoid, vf_load(x + i), &s, k, True, LANES, out + i, stream)
        k += 1
        i += LANES
    if i < n:
        softplus_at(log_sigmoid, load_first(x + i, n - i), &s, k, s.scaled, n - i, out + i, False)


cdef inline vf load_first(const float* p, Py_ssize_t n) noexcept nogil:
    """The first n numbers, and 0 for what is not there."""
    return v_load_first(p, n if n > 0 else 0, vf_set(0.0))


cdef struct LogProducts:
    # Sums of log(1 + e) as logarithms of products of 1 + e, in 32 lanes: a block's 512 factors in a lane, each 2 at
    # most, do not overflow. float32: `high` is the product less 1, so that small e keep all their digits. float64:
    # the product, and its rounding errors in `low`.
    vd high[4]
    vd low[4]


cdef inline void begin_products(LogProducts* p, double start) noexcept nogil:
    cdef int k
    for k in range(4):
        p.high[k] = vd_set(start)
        p.low[k] = vd_set(0.0)


cdef void add_products(Sum* total, const LogProducts* p, bint double_items) noexcept nogil:
    """Add the logarithms of all lanes."""
    cdef double highs[32]
    cdef double lows[32]
    cdef double logs[CHUNK]
    cdef int k
    for k in range(4):
        vd_store(highs + 8 * k, p.high[k])
        vd_store(lows + 8 * k, p.low[k])
    if double_items:
        for k in range(32):
            logs[k] = log_plus(highs[k], lows[k] / highs[k])
    else:
        for k in range(32):
            logs[k] = log1p_accurate(highs[k])
    add_carefully(total, logs, 32)


cdef inline vector minus_wrong(vector x, vector t, bint masked) noexcept nogil:
    """-c |x| with c = t for x < 0, 1 - t else: how wrong the sign of x is. 0 times infinity is 0 if `masked`; without
    masks it is t x - max(x, 0), which needs fewer operations and is nan where x is infinite."""
    cdef vector zero = v_same(0.0, x)
    cdef vector wrong
    if not masked:
        return v_times_minus(t, x, v_maximum(x, zero))
    wrong = v_if_negative(x, t, v_minus(v_same(1.0, x), t))
    return v_if_equal(wrong, zero, zero, v_times(wrong, v_minus_size(x)))


cdef inline void add_pair(vf e, vf f, vd* p_0, vd* p_1) noexcept nogil:
    """Multiply products by (1 + e) (1 + f): both as products less 1, in float32 and in float64."""
    cdef vf both = vf_fma(e, f, vf_add(e, f))
    cdef vd low = vd_low(both)
    cdef vd high = vd_high(both)
    p_0[0] = vd_fma(p_0[0], low, vd_add(p_0[0], low))
    p_1[0] = vd_fma(p_1[0], high, vd_add(p_1[0], high))


ctypedef fused narrow:
    # Targets as they lie in memory.
    float
    uint8_t


cdef inline vf load_target(const narrow* t) noexcept nogil:
    if narrow is float:
        return vf_load(t)
    else:
        return vf_from_bytes(t)


cdef inline vf load_targets(const narrow* t, Py_ssize_t n) noexcept nogil:
    """The first n, and 0 in the lanes beyond."""
    cdef uint8_t bytes[LANES]
    if narrow is float:
        return vf_load_part(t, n, 0.0)
    else:
        memset(bytes, 0, sizeof(bytes))
        memcpy(bytes, t, min(n, <Py_ssize_t>LANES))
        return vf_from_bytes(bytes)


cdef double add_binary_losses(const float* x, const narrow* t, const float* e, Py_ssize_t n, LogProducts* products,
                              bint masked, bint* moderate) noexcept nogil:
    """Sum of c |x| over n <= CHUNK items; log(1 + e) goes to `products`. OUT moderate, unless NULL: all targets,
    floats then, are below 2 in size. Conversions to float64 cost more than what is converted: pairs of factors are
    multiplied, and four terms added, in float32.

    Masks cost a comparison for each item, and only infinities need them: where the sum is not finite it is made again
    with masks, and without sums in float32, which overflow near its largest number."""
    cdef vd sum_0 = vd_set(0.0), sum_1 = vd_set(0.0)
    cdef vd p_0 = products.high[0], p_1 = products.high[1], p_2 = products.high[2], p_3 = products.high[3]
    cdef vf four
    cdef vi bits = vf_bits(vf_set(0.0))
    cdef float lanes[LANES]
    cdef Py_ssize_t full = 0 if masked else n - n % WIDE
    cdef Py_ssize_t i, k
    cdef double total
    for k in range(full // WIDE):
        i = k * WIDE
        # As many bytes from what is read, whatever a target has.
        fl_prefetch(t + i + 4 * ahead() // <Py_ssize_t>sizeof(t[0]))
        if narrow is float:
            fl_prefetch(t + i + ahead() + LANES)
            fl_prefetch(t + i + ahead() + 2 * LANES)
            fl_prefetch(t + i + ahead() + 3 * LANES)
            if moderate != NULL:
                bits = vi_or(vi_or(bits, vf_bits(vf_load(t + i))), vf_bits(vf_load(t + i + LANES)))
                bits = vi_or(vi_or(bits, vf_bits(vf_load(t + i + 2 * LANES))), vf_bits(vf_load(t + i + 3 * LANES)))
        add_pair(vf_load(e + i), vf_load(e + i + LANES), &p_0, &p_1)
        add_pair(vf_load(e + i + 2 * LANES), vf_load(e + i + 3 * LANES), &p_2, &p_3)
        four = vf_add(
            vf_add(minus_wrong(vf_load(x + i), load_target(t + i), masked),
                   minus_wrong(vf_load(x + i + LANES), load_target(t + i + LANES), masked)),
            vf_add(minus_wrong(vf_load(x + i + 2 * LANES), load_target(t + i + 2 * LANES), masked),
                   minus_wrong(vf_load(x + i + 3 * LANES), load_target(t + i + 3 * LANES), masked)))
        sum_0 = vd_sub(sum_0, vd_low(four))
        sum_1 = vd_sub(sum_1, vd_high(four))
    for k in range((n - full + LANES - 1) // LANES):
        # Beyond the end 0 |0| is added, and e is 0.
        i = full + k * LANES
        four = minus_wrong(vf_load_part(x + i, n - i, 0.0), load_targets(t + i, n - i), masked)
        if k % 2 == 0:
            add_pair(vf_load(e + i), vf_set(0.0), &p_0, &p_1)
        else:
            add_pair(vf_load(e + i), vf_set(0.0), &p_2, &p_3)
        sum_0 = vd_sub(sum_0, vd_low(four))
        sum_1 = vd_sub(sum_1, vd_high(four))
    total = fold_vectors(sum_0, sum_1)
    if not masked and not isfinite(total):
        return add_binary_losses(x, t, e, n, products, True, moderate)
    if narrow is float:
        if moderate != NULL:
            vf_store(lanes, vf_of_bits(bits))
            moderate[0] = all_moderate(lanes, LANES) and all_moderate(t + full, n - full)
    products.high[0] = p_0
    products.high[1] = p_1
    products.high[2] = p_2
    products.high[3] = p_3
    return total


cdef inline void binary_value_at(vf x, vf t, const Logarithms* s, Py_ssize_t k, bint scaled, Py_ssize_t m,
                                 float* out, bint stream) noexcept nogil:
    """The losses of the k-th vector, or of the first m items of it."""
    cdef vf wrong = minus_wrong(x, t, False)
    if scaled and s.infinite:
        # Infinities need masks; the others keep their bits.
        wrong = vf_if_equal(vf_neg_abs(x), vf_set(-INFINITY), minus_wrong(x, t, True), wrong)
    write_vector(out, vf_sub(logarithm_at(s, k, x, scaled), wrong), m, stream)


cdef void binary_values(const float* x, const float* t, Py_ssize_t n, float* out, bint stream,
                        bint* wide) noexcept nogil:
    """OUT the losses of n <= CHUNK items; past the caches if `stream`. out may be x or t."""
    cdef Logarithms s
    cdef Py_ssize_t i = min(n, until_line(out, sizeof(float)))
    cdef Py_ssize_t k = 0
    begin_logarithms(x, i, n, &s, wide)
    if i:
        binary_value_at(load_first(x, i), load_first(t, i), &s, 0, s.scaled, i, out, False)
        k = 1
    if not s.scaled:
        # The usual loop, without what x86-64-v3 has no registers for.
        while n - i >= LANES:
            fl_prefetch(x + ahead() + CHUNK // 2 + (i >> 1))
            fl_prefetch(t + i + ahead())
            binary_value_at(vf_load(x + i), vf_load(t + i), &s, k, False, LANES, out + i, stream)
            k += 1
            i += LANES
    while n - i >= LANES:
        binary_value_at(vf_load(x + i), vf_load(t + i), &s, k, True, LANES, out + i, stream)
        k += 1
        i += LANES
    if i < n:
        binary_value_at(load_first(x + i, n - i), load_first(t + i, n - i), &s, k, s.scaled, n - i, out + i, False)


cdef inline void binary_values_double(const double* x, const double* t, const double* e, Py_ssize_t n,
                                      double* values) noexcept nogil:
    """The same in float64. OUT values: room for whole vectors."""
    cdef double wrong
    cdef Py_ssize_t i
    log1p_of_units(e, n, values)
    for i in range(n):
        wrong = t[i] if x[i] < 0.0 else 1.0 - t[i]
        wrong = 0.0 if wrong == 0.0 else wrong * (-x[i] if x[i] < 0.0 else x[i])
        values[i] = wrong + values[i]


cdef bint all_moderate(const real* t, Py_ssize_t n) noexcept nogil:
    """Whether n numbers are below 2 in size: only then the highest bit of the exponent is 0."""
    cdef uint32_t bits = 0
    cdef uint64_t wide = 0
    cdef Py_ssize_t i
    if real is float:
        for i in range(n):
            bits |= (<const uint32_t*>t)[i]
        return not bits & <uint32_t>0x40000000
    else:
        for i in range(n):
            wide |= (<const uint64_t*>t)[i]
        return not wide & <uint64_t>0x4000000000000000


cdef inline void binary_derivatives(vector x, vector t, vector e, vector high, vector low, vector inverse,
                                    bint moderate, bint second, vector* g, vector* h) noexcept nogil:
    """Gradient and Hessian with the factor high + low:
    g = ((1 - t) - t e) / (1 + e) for x >= 0, ((e - t) - t e) / (1 + e) below: no error in these for hard t;
    h = e / (1 + e)^2.

    One division for both: f + lost is the factor over 1 + e, s (1 + lacking) is 1 / (1 + e), p + p_low = e / (1 + e).
    `inverse` is 1 over the factor, or nearly. Unless targets are `moderate` the numerator may overflow, or be infinite.
    """
    cdef vector one = v_same(1.0, x)
    cdef vector zero = v_same(0.0, x)
    cdef vector numerator = v_less_times(t, e, v_minus(v_if_negative(x, e, one), t))
    cdef vector d = v_plus(one, e)
    cdef vector rest = v_minus(e, v_minus(d, one))
    cdef vector f = v_over(high, d)
    cdef vector s = v_times(f, inverse)
    cdef vector lost = v_times(s, v_less_times(f, rest, v_plus(v_less_times(f, d, high), low)))
    cdef vector lacking, p, p_low, quarter
    g[0] = v_times_plus(numerator, f, v_times(numerator, lost))
    if not moderate:
        quarter = v_times(v_same(0.25, x), t)
        quarter = v_less_times(quarter, e, v_minus(v_times(v_same(0.25, x), v_if_negative(x, e, one)), quarter))
        p = v_times_plus(quarter, f, v_times(quarter, lost))
        p = v_times(v_same(4.0, x), v_if_equal(v_minus(quarter, quarter), zero, p, v_times(quarter, f)))
        g[0] = v_if_equal(v_minus(numerator, numerator), zero, g[0], p)
    if second:
        lacking = v_less_times(s, rest, v_less_times(s, d, one))
        p = v_times(e, s)
        p_low = v_times_plus(p, lacking, v_times_minus(e, s, p))
        h[0] = v_times_plus(p, f, v_times_plus(p, lost, v_times(p_low, f)))
        if not moderate:
            h[0] = v_times_plus(t, zero, h[0])       # nan where t is


cdef inline void probability_derivatives(vector p, vector t, vector high, vector low, bint second, vector* g,
                                         vector* h) noexcept nogil:
    """Gradient and Hessian of -log(p) for t = 1, -log(1 - p) for t = 0, with the factor high + low, p and 1 - p being
    1e-12 at least: u + rest is p or 1 - p, and the rest as in binary_derivatives."""
    cdef vector one = v_same(1.0, p)
    cdef vector other = v_minus(one, t)
    cdef vector sum = v_times_minus(v_plus(t, t), p, p)      # p or -p
    cdef vector u = v_plus(other, sum)
    cdef vector rest = v_plus(v_minus(other, u), sum)
    cdef vector least = v_same(1e-12, p)
    cdef vector s, lacking, f, f_low
    rest = v_if_less(u, least, v_same(1e-12 - <double><float>1e-12 if vector is vf else 0.0, p), rest)
    u = v_maximum(least, u)
    s = v_over(one, u)
    lacking = v_less_times(s, rest, v_less_times(s, u, one))
    f = v_times(s, high)
    f_low = v_times_plus(f, lacking, v_times_plus(s, low, v_times_minus(s, high, f)))
    g[0] = v_times(v_minus(other, t), v_plus(f, f_low))
    if second:
        h[0] = v_times_plus(s, f, v_times(s, v_times_plus(f, lacking, f_low)))


cdef inline void derivatives_of_line(const real* x, const real* t, const real* e, Py_ssize_t m, vector high,
                                     vector low, vector inverse, bint moderate, real* grad, real* hess, bint stream,
                                     bint stream_hess) noexcept nogil:
    """write_derivatives of one vector, or of the first m items of it."""
    cdef vector logit = v_load_first(x, m, high)
    cdef vector target = v_load_first(t, m, high)
    cdef vector g
    cdef vector h = high
    fl_prefetch(t + ahead())
    if e == NULL:
        fl_prefetch(x + ahead())
        probability_derivatives(logit, target, high, low, hess != NULL, &g, &h)
    else:
        binary_derivatives(logit, target, v_load_first(e, m, high), high, low, inverse, moderate, hess != NULL, &g, &h)
    write_vector(grad, g, m, stream)
    if hess != NULL:
        write_vector(hess, h, m, stream_hess)


cdef inline void derivatives_of_lines(const real* x, const real* t, const real* e, Py_ssize_t n, vector high,
                                      vector low, vector inverse, bint moderate, real* grad, real* hess, bint stream,
                                      bint stream_hess) noexcept nogil:
    """A loop for each case that is common: what is constant in it stays in registers."""
    cdef Py_ssize_t width = 64 // <Py_ssize_t>sizeof(real)
    cdef Py_ssize_t i, k
    if e == NULL and hess == NULL:
        for k in range(n // width):
            i = k * width
            derivatives_of_line(x + i, t + i, <const real*>NULL, width, high, low, inverse, True, grad + i,
                                <real*>NULL, stream, False)
    elif e == NULL:
        for k in range(n // width):
            i = k * width
            derivatives_of_line(x + i, t + i, <const real*>NULL, width, high, low, inverse, True, grad + i,
                                hess + i, stream, stream_hess)
    elif moderate and hess == NULL:
        for k in range(n // width):
            i = k * width
            derivatives_of_line(x + i, t + i, e + i, width, high, low, inverse, True, grad + i, <real*>NULL, stream,
                                False)
    elif moderate:
        for k in range(n // width):
            i = k * width
            derivatives_of_line(x + i, t + i, e + i, width, high, low, inverse, True, grad + i, hess + i, stream,
                                stream_hess)
    else:
        for k in range(n // width):
            i = k * width
            derivatives_of_line(x + i, t + i, e + i, width, high, low, inverse, False, grad + i,
                                hess + i if hess != NULL else NULL, stream, stream_hess)


cdef void whole_lines(const real* x, const real* t, const real* e, Py_ssize_t n, real high, real low, bint moderate,
                      real* grad, real* hess, bint stream, bint stream_hess) noexcept nogil:
    """write_derivatives of a multiple of 64 bytes."""
    if real is float:
        derivatives_of_lines(x, t, e, n, vf_set(high), vf_set(low), vf_set(<float>1.0 / high), moderate, grad, hess,
                             stream, stream_hess)
    else:
        derivatives_of_lines(x, t, e, n, vd_set(high), vd_set(low), vd_set(1.0 / high), moderate, grad, hess, stream,
                             stream_hess)


cdef void part_of_line(const real* x, const real* t, const real* e, Py_ssize_t n, real high, real low, bint moderate,
                       real* grad, real* hess) noexcept nogil:
    """write_derivatives of less than 64 bytes."""
    if real is float:
        derivatives_of_line(x, t, e, n, vf_set(high), vf_set(low), vf_set(<float>1.0 / high), moderate, grad, hess,
                            False, False)
    else:
        derivatives_of_line(x, t, e, n, vd_set(high), vd_set(low), vd_set(1.0 / high), moderate, grad, hess, False,
                            False)


cdef void write_derivatives(const real* x, const real* t, const real* e, Py_ssize_t n, real high, real low,
                            bint moderate, real* grad, real* hess, bint stream) noexcept nogil:
    """OUT grad and hess, which may be NULL, of n <= CHUNK items; one of them may be x. Past the caches if `stream`.
    x are logits; or, if e is NULL, probabilities, and t nothing but 0 and 1. `moderate`: as found by all_moderate."""
    # Where the lines of the two outputs begin at different items, the second goes through the caches.
    cdef bint both = stream and (<size_t>grad & 63) == (<size_t>hess & 63)
    cdef Py_ssize_t width = 64 // <Py_ssize_t>sizeof(real)
    cdef Py_ssize_t head = min(n, until_line(grad, sizeof(real))) if stream else 0
    cdef Py_ssize_t last = n - (n - head) % width
    if head:
        part_of_line(x, t, e, head, high, low, moderate, grad, hess)
    whole_lines(x + head, t + head, e + head if e != NULL else NULL, last - head, high, low, moderate, grad + head,
                hess + head if hess != NULL else NULL, stream, both)
    if last < n:
        part_of_line(x + last, t + last, e + last if e != NULL else NULL, n - last, high, low, moderate, grad + last,
                     hess + last if hess != NULL else NULL)


cdef inline void add_factor(vd* high, vd* low, vd e) noexcept nogil:
    """Multiply the product high + low by 1 + e. What the fma has lost is found by another: the difference is exact."""
    cdef vd p = vd_fma(high[0], e, high[0])
    cdef vd lost = vd_fma(high[0], e, vd_sub(high[0], p))
    low[0] = vd_fma(low[0], e, vd_add(low[0], lost))
    high[0] = p


cdef void add_binary_losses_double(const double* x, const double* t, const double* e, Py_ssize_t n,
                                   LogProducts* products, bint masked, Sum* total) noexcept nogil:
    """add_binary_losses in float64: sums and products keep their rounding errors."""
    cdef vd high_0 = vd_set(0.0), high_1 = vd_set(0.0), low_0 = vd_set(0.0), low_1 = vd_set(0.0)
    cdef vd p_0 = products.high[0], p_1 = products.high[1], p_2 = products.high[2], p_3 = products.high[3]
    cdef vd q_0 = products.low[0], q_1 = products.low[1], q_2 = products.low[2], q_3 = products.low[3]
    cdef double highs[8]
    cdef double lows[8]
    cdef Sum sum
    cdef Py_ssize_t full = n - n % 32
    cdef Py_ssize_t i, k
    for k in range(full // 32):
        i = k * 32
        fl_prefetch(t + i + ahead())
        fl_prefetch(t + i + ahead() + 8)
        fl_prefetch(t + i + ahead() + 16)
        fl_prefetch(t + i + ahead() + 24)
        add_factor(&p_0, &q_0, vd_load(e + i))
        add_factor(&p_1, &q_1, vd_load(e + i + 8))
        add_factor(&p_2, &q_2, vd_load(e + i + 16))
        add_factor(&p_3, &q_3, vd_load(e + i + 24))
        add_vector(&high_0, &low_0, minus_wrong(vd_load(x + i), vd_load(t + i), masked))
        add_vector(&high_1, &low_1, minus_wrong(vd_load(x + i + 8), vd_load(t + i + 8), masked))
        add_vector(&high_0, &low_0, minus_wrong(vd_load(x + i + 16), vd_load(t + i + 16), masked))
        add_vector(&high_1, &low_1, minus_wrong(vd_load(x + i + 24), vd_load(t + i + 24), masked))
    for k in range((n - full + 7) // 8):
        # Beyond the end 0 |0| is added, and e is 0.
        i = full + k * 8
        add_factor(&p_0, &q_0, vd_load_part(e + i, n - i, 0.0))
        add_vector(&high_0, &low_0,
                   minus_wrong(vd_load_part(x + i, n - i, 0.0), vd_load_part(t + i, n - i, 0.0), masked))
    add_vector(&high_0, &low_0, high_1)
    vd_store(highs, high_0)
    vd_store(lows, vd_add(low_0, low_1))
    memset(&sum, 0, sizeof(Sum))
    for k in range(8):
        add(&sum, -highs[k])
        sum.low -= lows[k]
    if not masked and not isfinite(sum.high):
        add_binary_losses_double(x, t, e, n, products, True, total)
        return
    add(total, sum.high)
    total.low += sum.low
    products.high[0] = p_0
    products.high[1] = p_1
    products.high[2] = p_2
    products.high[3] = p_3
    products.low[0] = q_0
    products.low[1] = q_1
    products.low[2] = q_2
    products.low[3] = q_3


# Probabilities and labels 0 and 1: the sum of the losses is the logarithm of a product of p and 1 - p. Factors may be
# as small as e^-100, so that the product gives up its exponent after every four.

cdef struct Likelihood:
    vd high[2]            # the product as significands in 16 lanes, from sqrt(1/2) to sqrt(2),
    vd low[2]             # its rounding errors,
    vd exponents[2]       # integers: the exponents given up, with 1023 more each time,
    int64_t times         # and how often that was
    vd least              # the smallest factor


cdef inline void begin_likelihood(Likelihood* s) noexcept nogil:
    cdef int k
    for k in range(2):
        s.high[k] = vd_set(1.0)
        s.low[k] = vd_set(0.0)
        s.exponents[k] = vd_set(0.0)
    s.times = 0
    s.least = vd_set(1.0)


cdef inline void multiply_by(vd other, vd sum, vd* high, vd* low, vd* least) noexcept nogil:
    """Multiply high + low by p = 0 + p or 1 - p, of which the sum is rounded, and its rounding error kept."""
    cdef vd u = vd_add(other, sum)
    cdef vd rest = vd_add(vd_sub(other, u), sum)
    cdef vd p = vd_mul(high[0], u)
    cdef vd lost = vd_fma(high[0], rest, vd_fms(high[0], u, p))
    low[0] = vd_fma(low[0], u, lost)
    high[0] = p
    least[0] = vd_min(u, least[0])


cdef inline void give_up_exponent(vd* high, vd* low, vd* exponents) noexcept nogil:
    cdef vd biased = exponent_of(high[0])
    cdef vd scale = vd_shift_left(vd_sub_bits(vd_set(fl_double_bits(2046)), biased), 52)
    exponents[0] = vd_add_bits(exponents[0], biased)
    high[0] = vd_mul(high[0], scale)
    low[0] = vd_mul(low[0], scale)


cdef inline void multiply_by_16(const real* x, const real* t, Py_ssize_t n, Likelihood* s) noexcept nogil:
    """By n <= 16 items; what is beyond the end has probability 1, and happened."""
    cdef vf p, label
    cdef vd one = vd_set(1.0)
    cdef vd a, b, c, d
    if real is float:
        p = vf_load(x) if n >= LANES else vf_load_part(x, n if n > 0 else 0, 1.0)
        label = vf_load(t) if n >= LANES else vf_load_part(t, n if n > 0 else 0, 1.0)
        p = vf_fms(vf_add(label, label), p, p)
        label = vf_sub(vf_set(1.0), label)
        multiply_by(vd_low(label), vd_low(p), &s.high[0], &s.low[0], &s.least)
        multiply_by(vd_high(label), vd_high(p), &s.high[1], &s.low[1], &s.least)
    else:
        a = vd_load(x) if n >= 8 else vd_load_part(x, n, 1.0)
        b = vd_load(t) if n >= 8 else vd_load_part(t, n, 1.0)
        c = vd_load(x + 8) if n >= LANES else vd_load_part(x + 8, n - 8, 1.0)
        d = vd_load(t + 8) if n >= LANES else vd_load_part(t + 8, n - 8, 1.0)
        multiply_by(vd_sub(one, b), vd_fms(vd_add(b, b), a, a), &s.high[0], &s.low[0], &s.least)
        multiply_by(vd_sub(one, d), vd_fms(vd_add(d, d), c, c), &s.high[1], &s.low[1], &s.least)


cdef bint add_likelihoods(const real* x, const real* t, Py_ssize_t n, Likelihood* products) noexcept nogil:
    """Multiply by n <= CHUNK items. Not done, and False, if there is one whose loss must be cut off at 100."""
    cdef Likelihood s = products[0]
    cdef double least[8]
    cdef Py_ssize_t full = n // 64
    cdef Py_ssize_t i, j, k
    for k in range((n + 63) // 64):
        i = k * 64
        for j in range(<Py_ssize_t>sizeof(real)):
            # As many lines as an item has bytes.
            fl_prefetch(t + i + ahead() + j * 64 // <Py_ssize_t>sizeof(real))
            fl_prefetch(x + ahead() + CHUNK // 2 + ((i + j * 64 // <Py_ssize_t>sizeof(real)) >> 1))
        if k < full:
            multiply_by_16(x + i, t + i, LANES, &s)
            multiply_by_16(x + i + 16, t + i + 16, LANES, &s)
            multiply_by_16(x + i + 32, t + i + 32, LANES, &s)
            multiply_by_16(x + i + 48, t + i + 48, LANES, &s)
        else:
            multiply_by_16(x + i, t + i, n - i, &s)
            multiply_by_16(x + i + 16, t + i + 16, n - i - 16, &s)
            multiply_by_16(x + i + 32, t + i + 32, n - i - 32, &s)
            multiply_by_16(x + i + 48, t + i + 48, n - i - 48, &s)
        give_up_exponent(&s.high[0], &s.low[0], &s.exponents[0])
        give_up_exponent(&s.high[1], &s.low[1], &s.exponents[1])
        s.times += 1
    vd_store(least, s.least)
    for k in range(8):
        if least[k] < FL_E_MINUS_100:
            return False
    products[0] = s
    return True


cdef void add_log_likelihood(Sum* total, const Likelihood* s) noexcept nogil:
    """Subtract the logarithms of all lanes: n ln 2 with n the sum of the exponents, and those of the significands."""
    cdef double highs[16]
    cdef double lows[16]
    cdef double exponents[16]
    cdef double logs[CHUNK]
    cdef int64_t sum = -16 * 1023 * s.times
    cdef double n, product
    cdef int k
    for k in range(2):
        vd_store(highs + 8 * k, s.high[k])
        vd_store(lows + 8 * k, s.low[k])
        vd_store(exponents + 8 * k, s.exponents[k])
    for k in range(16):
        sum += <int64_t>fl_bits_f64(exponents[k])
        logs[k] = -log_plus(highs[k], lows[k] / highs[k])
    add_carefully(total, logs, 16)
    n = -<double>sum
    product = n * FL_LN2_HI
    add(total, product)
    total.low += fma(n, FL_LN2_LO, fma(n, FL_LN2_HI, -product))


cdef inline void look_at(vector x, vector t, vector* high, vector* low, vector* soft) noexcept nogil:
    """The largest x, the largest -x, and 0 if t is 0 or 1."""
    cdef vector mixed = v_less_times(t, t, t)
    high[0] = v_maximum(x, high[0])
    low[0] = v_maximum(v_opposite(x), low[0])
    soft[0] = v_minus(soft[0], v_minus_size(mixed))      # no square: that of a tiny target would be 0


cdef bint labels_are_hard(const real* x, const real* t, Py_ssize_t n, bint* outside) noexcept nogil:
    """Whether targets of n <= CHUNK items are 0 or 1 each. OUT outside: some x is not within 0 and 1; nan is."""
    cdef vf high = vf_set(0.0), low = vf_set(0.0), soft = vf_set(0.0)
    cdef vd a = vd_set(0.0), b = vd_set(0.0), c = vd_set(0.0)
    cdef real highs[LANES]
    cdef real lows[LANES]
    cdef real softs[LANES]
    cdef bint hard = True
    cdef Py_ssize_t width = 64 // <Py_ssize_t>sizeof(real)
    cdef Py_ssize_t i, k
    for k in range((n + width - 1) // width):
        i = k * width
        fl_prefetch(x + ahead() + (i >> 1))
        if real is float:
            look_at(load_first(x + i, n - i), load_first(t + i, n - i), &high, &low, &soft)
        elif n - i >= 8:
            look_at(vd_load(x + i), vd_load(t + i), &a, &b, &c)
        else:
            look_at(vd_load_part(x + i, n - i, 0.0), vd_load_part(t + i, n - i, 0.0), &a, &b, &c)
    if real is float:
        vf_store(highs, high)
        vf_store(lows, low)
        vf_store(softs, soft)
    else:
        vd_store(highs, a)
        vd_store(lows, b)
        vd_store(softs, c)
    outside[0] = False
    for k in range(width):
        outside[0] = outside[0] or highs[k] > 1.0 or lows[k] > 0.0
        hard = hard and softs[k] == 0.0
    return hard


cdef struct Factor:
    # A scale as high + low, so that multiplying by it rounds once.
    double high
    double low


cdef inline vf scaled_differences(vd low, vd high, vd factor) noexcept nogil:
    """The product with the factor is rounded to float64 and to float32."""
    return vf_narrow(vd_mul(low, factor), vd_mul(high, factor))


cdef inline void squared_errors_at(const float* x, const float* t, const float* w, vw factors, float* grad, vw* sum_0,
                                   vw* sum_1) noexcept nogil:
    """16 items of squared_errors."""
    cdef vw low = vw_sub(vw_load(x), vw_load(t))
    cdef vw high = vw_sub(vw_load(x + 8), vw_load(t + 8))
    cdef vw low_times = low
    cdef vw high_times = high
    if w != NULL:
        low_times = vw_mul(low, vw_load(w))
        high_times = vw_mul(high, vw_load(w + 8))
    sum_0[0] = vw_fma(low_times, low, sum_0[0])
    sum_1[0] = vw_fma(high_times, high, sum_1[0])
    if grad != NULL:
        # The product with the factor is rounded to float64 and to float32.
        vw_store(grad, vw_mul(low_times, factors))
        vw_store(grad + 8, vw_mul(high_times, factors))


cdef double squared_errors(const float* x, const float* t, const float* w, Py_ssize_t n, double factor,
                           float* grad) noexcept nogil:
    """Sum of w (x - t)^2 over n <= CHUNK items, and OUT grad = factor w (x - t), which may be NULL, or x. w may be
    NULL: 1. In float64: differences are exact."""
    cdef vw sum_0 = vw_set(0.0), sum_1 = vw_set(0.0)
    cdef vw factors = vw_set(factor)
    cdef float ends[48]
    cdef float gradients[16]
    cdef Py_ssize_t rest = n % LANES
    cdef Py_ssize_t i, k
    for k in range(n // LANES):
        i = k * LANES
        fl_prefetch(x + i + ahead())
        fl_prefetch(t + i + ahead())
        if w != NULL:
            fl_prefetch(w + i + ahead())
        squared_errors_at(x + i, t + i, w + i if w != NULL else NULL, factors, grad + i if grad != NULL else NULL,
                          &sum_0, &sum_1)
    if rest:
        # Beyond the end 0 - 0 adds nothing.
        vf_store(ends, vf_load_part(x + n - rest, rest, 0.0))
        vf_store(ends + 16, vf_load_part(t + n - rest, rest, 0.0))
        if w != NULL:
            vf_store(ends + 32, vf_load_part(w + n - rest, rest, 0.0))
        squared_errors_at(ends, ends + 16, ends + 32 if w != NULL else NULL, factors,
                          gradients if grad != NULL else NULL, &sum_0, &sum_1)
        if grad != NULL:
            vf_store_part(grad + n - rest, vf_load(gradients), rest)
    return fold_vectors(vw_whole(sum_0), vw_whole(sum_1))


cdef inline void difference_at(const real* x, const real* t, const real* w, Py_ssize_t m, Factor factor, real* out,
                               bint stream) noexcept nogil:
    """One vector of write_differences, or the first m items of it."""
    cdef vf a, b, weights
    cdef vd c, d
    cdef vd high = vd_set(factor.high)
    cdef vw first, second
    if real is float:
        if m >= LANES and not stream:
            first = vw_sub(vw_load(x), vw_load(t))
            second = vw_sub(vw_load(x + 8), vw_load(t + 8))
            if w != NULL:
                first = vw_mul(first, vw_load(w))
                second = vw_mul(second, vw_load(w + 8))
            vw_store(out, vw_mul(first, vw_set(factor.high)))
            vw_store(out + 8, vw_mul(second, vw_set(factor.high)))
            return
        a = load_first(x, m)
        b = load_first(t, m)
        c = vd_sub(vd_low(a), vd_low(b))
        d = vd_sub(vd_high(a), vd_high(b))
        if w != NULL:
            weights = load_first(w, m)
            c = vd_mul(c, vd_low(weights))
            d = vd_mul(d, vd_high(weights))
        write_vector(out, scaled_differences(c, d, high), m, stream)
    else:
        c = vd_sub(v_load_first(x, m, high), v_load_first(t, m, high))
        if w != NULL:
            c = vd_mul(c, v_load_first(w, m, high))
        d = vd_fma(c, high, vd_mul(c, vd_set(factor.low)))
        # Infinities as by a plain product
        d = vd_if_equal(vd_sub(d, d), vd_set(0.0), d, vd_mul(c, high))
        write_vector(out, d, m, stream)


cdef void write_differences(const real* x, const real* t, const real* w, Py_ssize_t n, Factor factor, real* out,
                            bint stream) noexcept nogil:
    """OUT factor w (x - t) of n items; past the caches if `stream`. out may be x, w NULL: 1."""
    cdef Py_ssize_t head = min(n, until_line(out, sizeof(real))) if stream else 0
    cdef Py_ssize_t width = 64 // <Py_ssize_t>sizeof(real)
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t m
    while i < n:
        m = min(width, head - i if i < head else n - i)
        if stream and real is float:     # numbers of float64 come in time: fetching them takes 1.5 times as long
            # Not ahead(): twice as far takes 1.3 times as long.
            fl_prefetch(x + i + CHUNK)
            fl_prefetch(t + i + CHUNK)
        if m == width:
            difference_at(x + i, t + i, w + i if w != NULL else NULL, width, factor, out + i, stream)
        else:
            difference_at(x + i, t + i, w + i if w != NULL else NULL, m, factor, out + i, False)
        i += m


cdef void write_constant(real value, Py_ssize_t n, real* out, bint stream) noexcept nogil:
    """OUT n times `value`; past the caches if `stream`."""
    cdef Py_ssize_t head = min(n, until_line(out, sizeof(real))) if stream else n
    cdef Py_ssize_t width = 64 // <Py_ssize_t>sizeof(real)
    cdef Py_ssize_t i, k
    cdef vf a
    cdef vd b
    for i in range(head):
        out[i] = value
    if real is float:
        a = vf_set(value)
        for k in range((n - head) // width):
            vf_stream(out + head + k * width, a)
    else:
        b = vd_set(value)
        for k in range((n - head) // width):
            vd_stream(out + head + k * width, b)
    for i in range(n - (n - head) % width, n):
        out[i] = value


cdef void add_squared_errors(Sum* total, const double* x, const double* t, const double* w, Py_ssize_t n,
                             bint fetch) noexcept nogil:
    """Add w (x - t)^2 of n items, each with the rounding errors of its difference, its square and its product, in eight
    lanes that keep the rounding errors of their sums (Dot2 of Ogita, Rump and Oishi, with a difference in front); w may
    be NULL: 1. With `fetch` ask for the next items, which pays where a gradient is written before they are read."""
    cdef vd high = vd_set(0.0)
    cdef vd low = vd_set(0.0)
    cdef vd a, b, d, back, lost, square, product
    cdef Py_ssize_t i = 0
    while i < n:
        a = v_load_first(x + i, n - i, high)
        b = v_load_first(t + i, n - i, high)
        d = vd_sub(a, b)
        back = minus(d, a)
        lost = vd_sub(vd_sub(a, minus(d, back)), plus(b, back))
        if fetch:
            fl_prefetch(x + i + ahead())
            fl_prefetch(t + i + ahead())
        square = vd_mul(d, d)
        lost = vd_fma(vd_mul(vd_set(2.0), d), lost, vd_fms(d, d, square))
        if w != NULL:
            a = v_load_first(w + i, n - i, a)
            product = vd_mul(a, square)
            lost = vd_fma(a, lost, vd_fms(a, square, product))
            square = product
        low = vd_add(low, lost)
        add_vector(&high, &low, square)
        i += 8
    add_vectors(total, high, low)

# Column blocks of float64 rows: the largest class of each, and the sum of all others.
#
# A block is read twice, 16 numbers at a time. The classes that are left out, and what lies beyond the end, are -inf in
# copies of the 16 numbers around them.

cdef enum:
    WIDE_PART = 8         # groups of 16 numbers that have a maximum of their own, so that its place is found soon

cdef struct WideBlock:
    const double* x          # [0:n], n <= COLUMNS
    Py_ssize_t n
    Py_ssize_t end_at        # where the groups begin that have copies; -1: none
    Py_ssize_t hole_at
    Py_ssize_t top_at
    double end_copy[LANES]
    double hole_copy[LANES]
    double top_copy[LANES]


cdef inline const double* wide_group(const WideBlock* b, Py_ssize_t at) noexcept nogil:
    cdef const double* p = b.x + at
    p = &b.end_copy[0] if at == b.end_at else p
    p = &b.hole_copy[0] if at == b.hole_at else p
    return &b.top_copy[0] if at == b.top_at else p


cdef inline Py_ssize_t leave_out_wide(const WideBlock* b, Py_ssize_t place, double* copy) noexcept nogil:
    """OUT copy: the group of x[place], with -inf in its place. Where it begins; -1 if there is none."""
    cdef const double* p
    cdef Py_ssize_t at = place - place % LANES
    cdef int i
    if place < 0:
        return -1
    p = wide_group(b, at)
    for i in range(LANES):
        copy[i] = p[i] if at + i != place else -INFINITY
    return at


cdef void begin_wide_block(WideBlock* b, const double* x, Py_ssize_t n, Py_ssize_t hole) noexcept nogil:
    """hole: a class that is left out; -1: none."""
    cdef Py_ssize_t i
    b.x = x
    b.n = n
    b.end_at = -1
    b.hole_at = -1
    b.top_at = -1
    if n % LANES > 0:
        for i in range(LANES):
            b.end_copy[i] = x[n - n % LANES + i] if i < n % LANES else -INFINITY
        b.end_at = n - n % LANES
    b.hole_at = leave_out_wide(b, hole, b.hole_copy)


cdef void find_top_wide(const WideBlock* b, double* top, Py_ssize_t* top_at) noexcept nogil:
    """OUT the largest of x but the hole, and the first place that has it, -1 if all are -inf or nan, which is passed
    over: a sum will see it."""
    cdef double maxima[256]      # of each part a vector
    cdef double lanes[8]
    cdef const double* p
    cdef vd best = vd_set(-INFINITY)
    cdef vd best_0, best_1
    cdef Py_ssize_t parts = 0
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t part, last
    cdef int i
    while at < b.n:
        last = min(at + WIDE_PART * LANES, b.n)
        best_0 = vd_set(-INFINITY)
        best_1 = vd_set(-INFINITY)
        while at < last:
            p = wide_group(b, at)
            best_0 = vd_max(vd_load(p), best_0)
            best_1 = vd_max(vd_load(p + 8), best_1)
            at += LANES
        best_0 = vd_max(best_1, best_0)
        vd_store(maxima + 8 * parts, best_0)
        best = vd_max(best_0, best)
        parts += 1
    vd_store(lanes, best)
    top[0] = lanes[0]
    for i in range(1, 8):
        top[0] = lanes[i] if lanes[i] > top[0] else top[0]
    top_at[0] = -1
    if top[0] == -INFINITY:
        return
    best = vd_set(top[0])
    for part in range(parts):
        if vd_first_equal(vd_load(maxima + 8 * part), best) == 8:
            continue
        for at in range(part * WIDE_PART * LANES, b.n, 16):      # LANES
            p = wide_group(b, at)
            i = vd_first_equal(vd_load(p), best)
            if i == 8:
                i += vd_first_equal(vd_load(p + 8), best)
            if i < LANES:
                top_at[0] = at + i
                return


cdef inline void leave_out_wide_top(WideBlock* b, Py_ssize_t place) noexcept nogil:
    """As leave_out_top."""
    b.top_at = leave_out_wide(b, place, b.top_copy)


cdef inline void keep_vector(double* e, Py_ssize_t n, vd power, vd t, vd value) noexcept nogil:
    """OUT value = power (1 + t), and KEPT further on what its last rounding has lost: those of its items that are among
    the next n, which may be none."""
    # The difference is exact: both are within a factor of two.
    cdef vd low = vd_fma(power, t, vd_sub(power, value))
    if n >= 8:
        vd_store(e, value)
        vd_store(e + KEPT, low)
    else:
        vd_store_part(e, value, n)
        vd_store_part(e + KEPT, low, n)


cdef inline bint add_wide_block(const WideBlock* b, const Shift* shift, double above, double least, double* e,
                                Sum* total) noexcept nogil:
    """exp_sum_wide. above: where sums begin, if each term is smaller than 2^-10 of it, so that add_smaller can have
    them; 0 if not. What terms lose there is summed without its own rounding errors: False if the sum is below `least`,
    and this could be seen."""
    cdef vd start = vd_set(above)
    cdef vd base = vd_set(shift.base)
    cdef DoubleExp exponents = double_exp(shift.scale)
    cdef OneWide one = one_of_nothing()
    cdef vd high_0 = start, high_1 = start, low_0 = vd_set(0.0), low_1 = vd_set(0.0)
    cdef vd value, power, t
    cdef const double* p = wide_group(b, 0)
    cdef const double* ahead = b.x + COLUMNS
    cdef Sum sum
    cdef Py_ssize_t n = b.n
    cdef Py_ssize_t at
    exp_of_one(vd_sub(vd_load(p), base), False, &exponents, &one, &power, &t)
    for at in range(0, n, 16):      # LANES
        fl_prefetch(ahead + at)
        exp_of_one(vd_sub(vd_load(p + 8), base), False, &exponents, &one, &power, &t)
        value = vd_fma(power, t, power)
        if e != NULL:
            keep_vector(e + at, n - at, power, t, value)
        if above > 0.0:
            add_smaller(&high_0, &low_0, value)
        else:
            add_vector(&high_0, &low_0, value)
        p = wide_group(b, at + LANES if at + LANES < n else at)
        fl_prefetch(ahead + at + 8)
        exp_of_one(vd_sub(vd_load(p), base), False, &exponents, &one, &power, &t)
        value = vd_fma(power, t, power)
        if e != NULL:
            keep_vector(e + at + 8, n - at - 8, power, t, value)
        if above > 0.0:
            add_smaller(&high_1, &low_1, value)
        else:
            add_vector(&high_1, &low_1, value)
    high_0 = vd_sub(high_0, start)
    add_vector(&high_0, &low_0, vd_sub(high_1, start))
    memset(&sum, 0, sizeof(Sum))
    add_vectors(&sum, high_0, vd_add(low_0, low_1))
    if sum.high < least:
        return False
    add(total, sum.high)
    total.low += sum.low
    return True


cdef void exp_sum_wide(const WideBlock* b, const Shift* shift, double largest, double* e, Sum* total) noexcept nogil:
    """Add e^(x - base) / 2^scale over the block but what is left out, of which no x is above `largest`, keeping the
    rounding error of each addition; OUT e[0:n] these, and KEPT further on what their last roundings have lost, unless
    it is NULL. nan gives nan, -inf counts as 0. What lies COLUMNS further on is fetched meanwhile.

    Sums begin at more than 2^10 times the largest term that may come. 256 terms in a lane lose 2^-41 of it each, and
    the sum of these is wrong by less than 2^-76 of it: nothing that a sum of 2^-18 of it would show."""
    cdef double exponent = (largest - shift.base) * FL_LOG2E - shift.scale
    # Of nothing but -inf, or beside +inf, -900.
    exponent = rint(exponent if exponent > -900.0 else -900.0) + 1.0
    cdef double bound = fl_double_bits(<uint64_t>(<int64_t>exponent + 1023) << 52)
    if not add_wide_block(b, shift, 3072.0 * bound, bound / 262144.0, e, total):
        add_wide_block(b, shift, 0.0, 0.0, e, total)

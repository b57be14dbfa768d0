# Sums of exponentials in 16 lanes: of columns of 16 rows of float32 that lie side by side.
#
# e^y is a power 2^n T_j, cut to 21 digits, and power * t. The sum is that of the cut powers, in float64, and that of
# power * t, in float32, which is at most 1/22 of it: right to more digits than a float has, and no exponential is
# rounded for it.

cdef enum:
    # Columns after which the second sum goes to the first: 8 roundings by 2^-24 of 1/22 of it are below 2^-25.
    GROUPED = 8


cdef struct ColumnSums:
    vd evens              # of the powers, times 2^-896, lanes 0, 2, ..., 14
    vd odds               # ... 1, 3, ..., 15
    vf rest               # of power * t, of the last columns
    vd rests_0            # ... of those before, lanes 0 to 7
    vd rests_1            # ... 8 to 15


cdef inline ColumnSums no_columns() noexcept nogil:
    cdef ColumnSums s
    s.evens = vd_set(0.0)
    s.odds = vd_set(0.0)
    s.rest = vf_set(0.0)
    s.rests_0 = vd_set(0.0)
    s.rests_1 = vd_set(0.0)
    return s


cdef inline void add_rest(ColumnSums* s) noexcept nogil:
    s.rests_0 = vd_add(s.rests_0, vd_low(s.rest))
    s.rests_1 = vd_add(s.rests_1, vd_high(s.rest))
    s.rest = vf_set(0.0)


cdef inline void add_exponential(vf power, vf t, ColumnSums* s) noexcept nogil:
    s.evens = vd_add(s.evens, vd_even_tiny(power))
    s.odds = vd_add(s.odds, vd_odd_tiny(power))
    s.rest = vf_fma(power, t, s.rest)


cdef inline void keep_column(vf power, vf t, Py_ssize_t c, float* e, float* low) noexcept nogil:
    """OUT e and low, unless NULL: the exponentials of column c, and what their last rounding has lost."""
    cdef vf v, lost
    if e != NULL:
        v = exp_of_parts(power, t, &lost)
        vf_store(e + c * LANES, v)
        if low != NULL:
            vf_store(low + c * LANES, lost)


cdef inline void sum_columns(const float* y, Py_ssize_t columns, const Exponents* k, ColumnSums* sums, float* e,
                             float* low) noexcept nogil:
    """Add e^y[column, lane] of arguments that are not below the floor; k has their scales. OUT e and low, unless NULL,
    which have room for an even number of columns. e may be y."""
    cdef ColumnSums s = sums[0]
    cdef Two two = two_of_nothing()
    cdef vf power, power_too, t, t_too
    cdef Py_ssize_t first, c
    if FL_WIDE:
        # Two columns are half done when the next two begin. What is beyond the last adds nothing.
        two_exp_parts(vf_load(y), vf_load(y + LANES) if columns > 1 else k.floor, k, False, False, &two, &power,
                      &power_too, &t, &t_too)
    for first in range(0, columns, 8):      # GROUPED
        if FL_WIDE:
            for c in range(first, min(first + GROUPED, columns), 2):
                two_exp_parts(vf_load(y + (c + 2) * LANES) if c + 2 < columns else k.floor,
                              vf_load(y + (c + 3) * LANES) if c + 3 < columns else k.floor,
                              k, False, False, &two, &power, &power_too, &t, &t_too)
                add_exponential(power, t, &s)
                add_exponential(power_too, t_too, &s)
                keep_column(power, t, c, e, low)
                keep_column(power_too, t_too, c + 1, e, low)
        else:
            for c in range(first, min(first + GROUPED, columns)):
                exp_parts_of(vf_load(y + c * LANES), k, False, &power, &t)
                add_exponential(power, t, &s)
                keep_column(power, t, c, e, low)
        add_rest(&s)
    sums[0] = s


cdef inline void store_sums(const ColumnSums* s, double* sums) noexcept nogil:
    """OUT sums in 16 lanes."""
    cdef vd a = s.evens
    cdef vd b = s.odds
    vd_zip(&a, &b)
    # The product is exact.
    vd_store(sums, vd_fma(a, vd_set(FL_FROM_TINY), s.rests_0))
    vd_store(sums + 8, vd_fma(b, vd_set(FL_FROM_TINY), s.rests_1))


cdef inline void move_rest(ColumnSums* s, double* rests) noexcept nogil:
    """add_rest, to memory."""
    vd_store(rests, vd_add(vd_load(rests), vd_low(s.rest)))
    vd_store(rests + 8, vd_add(vd_load(rests + 8), vd_high(s.rest)))
    s.rest = vf_set(0.0)


cdef inline void store_sums_beside(ColumnSums* s, double* sums) noexcept nogil:
    """store_sums, where move_rest has put the rests."""
    s.rests_0 = vd_load(sums)
    s.rests_1 = vd_load(sums + 8)
    store_sums(s, sums)


cdef inline void sum_pairs(const float* y, Py_ssize_t columns, Py_ssize_t pairs, const Exponents* k, double* sums,
                           float* e, float* low) noexcept nogil:
    """OUT what sum_columns and store_sums have, of pairs of groups of 16 rows: y[pair, column, group, lane],
    sums[pair, group, lane], and e and low, unless NULL, [pair, group, column, lane]. Where there are registers for both
    groups of a pair, no column waits for others of its row, and none is half of nothing."""
    cdef ColumnSums s, s_too
    cdef Two two = two_of_nothing()
    cdef vf power, power_too, t, t_too
    cdef Py_ssize_t last = pairs * columns - 1
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t pair, group, first, c
    if FL_WIDE:
        two_exp_parts(vf_load(y), vf_load(y + LANES), k, False, False, &two, &power, &power_too, &t, &t_too)
        for pair in range(pairs):
            s = no_columns()
            s_too = no_columns()
            # Second parts are gathered there: registers are needed for other things.
            memset(sums, 0, 2 * LANES * sizeof(double))
            for first in range(0, columns, 8):      # GROUPED
                for c in range(first, min(first + GROUPED, columns)):
                    at = min(at + 1, last)
                    two_exp_parts(vf_load(y + at * 2 * LANES), vf_load(y + (at * 2 + 1) * LANES), k, False, False, &two,
                                  &power, &power_too, &t, &t_too)
                    add_exponential(power, t, &s)
                    add_exponential(power_too, t_too, &s_too)
                    keep_column(power, t, c, e, low)
                    keep_column(power_too, t_too, columns + c, e, low)
                move_rest(&s, sums)
                move_rest(&s_too, sums + LANES)
            store_sums_beside(&s, sums)
            store_sums_beside(&s_too, sums + LANES)
            sums += 2 * LANES
            if e != NULL:
                e += 2 * columns * LANES
                low += 2 * columns * LANES
        return
    for group in range(2 * pairs):
        s = no_columns()
        at = group // 2 * columns * 2 + group % 2
        for first in range(0, columns, 8):      # GROUPED
            for c in range(first, min(first + GROUPED, columns)):
                exp_parts_of(vf_load(y + (at + 2 * c) * LANES), k, False, &power, &t)
                add_exponential(power, t, &s)
                keep_column(power, t, c, e, low)
            add_rest(&s)
        store_sums(&s, sums + group * LANES)
        if e != NULL:
            e += columns * LANES
            low += columns * LANES

# Sums of exponentials in 16 lanes: of columns of 16 rows of float32 that lie side by side.
#
# e^y is a power 2^n T_j, which is a float, times 1 + t. The sum is that of the powers, in float64, and that of
# power * t, in float32, which is at most 1/22 of it: right to more digits than a float has, and no exponential is
# rounded for it.

cdef enum:
    # Columns after which the second sum goes to the first: 8 roundings by 2^-24 of 1/22 of it are below 2^-25.
    GROUPED = 8


cdef struct ColumnSums:
    vd sum_0              # of the powers, lanes 0 to 7
    vd sum_1              # ... 8 to 15
    vf rests              # of power * t


cdef inline ColumnSums no_columns() noexcept nogil:
    cdef ColumnSums s
    s.sum_0 = vd_set(0.0)
    s.sum_1 = vd_set(0.0)
    s.rests = vf_set(0.0)
    return s


cdef inline void add_exponential(vf power, vf t, Py_ssize_t column, ColumnSums* s) noexcept nogil:
    s.sum_0 = vd_add(s.sum_0, vd_low(power))
    s.sum_1 = vd_add(s.sum_1, vd_high(power))
    s.rests = vf_fma(power, t, s.rests)
    if column % GROUPED == GROUPED - 1:
        s.sum_0 = vd_add(s.sum_0, vd_low(s.rests))
        s.sum_1 = vd_add(s.sum_1, vd_high(s.rests))
        s.rests = vf_set(0.0)


cdef inline void keep_exponential(vf power, vf t, float* e, float* low) noexcept nogil:
    """OUT e and low, unless NULL: an exponential, and what its last rounding has lost."""
    cdef vf v
    if e != NULL:
        v = vf_fma(power, t, power)
        vf_store(e, v)
        if low != NULL:
            vf_store(low, vf_fma(power, t, vf_sub(power, v)))


cdef inline void sum_columns(const float* y, Py_ssize_t columns, const Exponents* k, ColumnSums* s, float* e,
                             float* low) noexcept nogil:
    """Add e^y[column, lane] of arguments that are not below the floor; the number of columns added before is a multiple
    of GROUPED. OUT e and low, unless NULL, which have room for an even number of columns. e may be y."""
    cdef Two two = two_of_nothing()
    cdef vf power, power_too, t, t_too
    cdef Py_ssize_t c
    if FL_WIDE:
        # Two columns are half done when the next two begin. What is beyond the last adds nothing.
        two_exp_parts(vf_load(y), vf_load(y + LANES) if columns > 1 else k.floor, k, &two, &power, &power_too, &t,
                      &t_too)
        for c in range(0, columns, 2):
            two_exp_parts(vf_load(y + (c + 2) * LANES) if c + 2 < columns else k.floor,
                          vf_load(y + (c + 3) * LANES) if c + 3 < columns else k.floor,
                          k, &two, &power, &power_too, &t, &t_too)
            add_exponential(power, t, c, s)
            add_exponential(power_too, t_too, c + 1, s)
            keep_exponential(power, t, e + c * LANES if e != NULL else NULL, low + c * LANES if low != NULL else NULL)
            keep_exponential(power_too, t_too, e + (c + 1) * LANES if e != NULL else NULL,
                             low + (c + 1) * LANES if low != NULL else NULL)
        return
    for c in range(columns):
        exp_parts_of(vf_load(y + c * LANES), k, &power, &t)
        add_exponential(power, t, c, s)
        keep_exponential(power, t, e + c * LANES if e != NULL else NULL, low + c * LANES if low != NULL else NULL)


cdef inline void store_sums(const ColumnSums* s, double* sums) noexcept nogil:
    """OUT sums in 16 lanes."""
    vd_store(sums, vd_add(s.sum_0, vd_low(s.rests)))
    vd_store(sums + 8, vd_add(s.sum_1, vd_high(s.rests)))

# Vectors: float32 exp on 16 numbers in registers, and the loops over a row that need nothing else.
#
# exp: x = (n + j/8) ln 2 + r, so that e^x = 2^n T_j (1 + t) with a table of T_j = 2^(j/8) and t a polynomial of degree 4
# (with what T_j lacks added). One rounding at the end: max error 0.58 ulp (ci/fit_polynomials.py --measure), where
# a polynomial of degree 6 without the table has 0.9 and costs two operations more of the kind that limits the loop.

cdef extern from "vectors.h":
    ctypedef struct vf:
        pass
    ctypedef struct vi:
        pass
    ctypedef struct vd:
        pass
    vf vf_set(float a) noexcept nogil
    vf vf_load(const float* p) noexcept nogil
    vf vf_load_part(const float* p, long n, float rest) noexcept nogil
    void vf_store(float* p, vf a) noexcept nogil
    void vf_store_part(float* p, vf a, long n) noexcept nogil
    vf vf_count() noexcept nogil
    vf vf_if_equal(vf s, vf t, vf a, vf b) noexcept nogil     # s == t ? a : b
    vf vf_neg_abs(vf a) noexcept nogil
    void vf_stream(float* p, vf a) noexcept nogil
    vf vf_add(vf a, vf b) noexcept nogil
    vf vf_sub(vf a, vf b) noexcept nogil
    vf vf_mul(vf a, vf b) noexcept nogil
    vf vf_fma(vf a, vf b, vf c) noexcept nogil
    vf vf_nfma(vf a, vf b, vf c) noexcept nogil       # c - a*b
    vf vf_max(vf a, vf b) noexcept nogil              # a > b ? a : b
    vf vf_table(const float* p) noexcept nogil
    vf vf_look_up(vf table, vi index) noexcept nogil
    vi vf_bits(vf a) noexcept nogil
    vf vf_of_bits(vi a) noexcept nogil
    vi vi_add(vi a, vi b) noexcept nogil
    vi vi_shift_left(vi a, int n) noexcept nogil
    vi vi_shift_right(vi a, int n) noexcept nogil
    vd vd_set(double a) noexcept nogil
    void vd_store(double* p, vd a) noexcept nogil
    vd vd_low(vf a) noexcept nogil
    vd vd_high(vf a) noexcept nogil
    vd vd_add(vd a, vd b) noexcept nogil
    void fl_prefetch(const void* p) noexcept nogil

cdef enum:
    WIDE = 4 * LANES      # floats per step of the loops below; part of the order of summation

# The bits of T_j as a float, less its exponent of 127 and less j in the place where the shifted index adds it.
cdef float exp_offsets[8]
cdef float exp_errors[8]
cdef float exp_powers[8]


cdef void fill_exp_tables() noexcept:
    cdef int j
    exp_powers[0] = FL_EXPTF_T0
    exp_errors[0] = FL_EXPTF_E0
    exp_powers[1] = FL_EXPTF_T1
    exp_errors[1] = FL_EXPTF_E1
    exp_powers[2] = FL_EXPTF_T2
    exp_errors[2] = FL_EXPTF_E2
    exp_powers[3] = FL_EXPTF_T3
    exp_errors[3] = FL_EXPTF_E3
    exp_powers[4] = FL_EXPTF_T4
    exp_errors[4] = FL_EXPTF_E4
    exp_powers[5] = FL_EXPTF_T5
    exp_errors[5] = FL_EXPTF_E5
    exp_powers[6] = FL_EXPTF_T6
    exp_errors[6] = FL_EXPTF_E6
    exp_powers[7] = FL_EXPTF_T7
    exp_errors[7] = FL_EXPTF_E7
    for j in range(8):
        exp_offsets[j] = fl_float_bits(fl_bits_f32(exp_powers[j]) - (<uint32_t>127 << 23) - (<uint32_t>j << 20))


fill_exp_tables()


cdef inline float eighths_magic(double scale) noexcept nogil:
    """1.5*2^20 + 127 - scale: adding it leaves round(8 x log2 e), with 127 - scale eight times, in the low bits."""
    return <float>(1572864.0 + 127.0 - scale)


cdef inline float eighths_floor(double scale) noexcept nogil:
    """Where the exponent and the index of the result are both 0: T_0 has no other bits, so that the result is 0.
    Numbers below are raised to it, -inf among them."""
    return <float>((scale - 127.0) * FL_LN2_HI)


cdef inline vf exp_rest(vf y, vf z, vf magic, vf errors) noexcept nogil:
    """t with e^y = 2^n T_j (1 + t), from z = y*log2(e) + magic."""
    cdef vf n = vf_sub(z, magic)
    cdef vf r = vf_nfma(n, vf_set(FL_LN2F_LO), vf_nfma(n, vf_set(FL_LN2F_HI), y))
    cdef vf p = vf_fma(vf_set(FL_EXPTF_C4), r, vf_set(FL_EXPTF_C3))
    p = vf_fma(p, r, vf_set(FL_EXPTF_C2))
    p = vf_fma(p, r, vf_set(FL_EXPTF_C1))
    return vf_fma(p, r, vf_look_up(errors, vf_bits(z)))


cdef inline vf exp_power(vf z, vf offsets) noexcept nogil:
    """2^n T_j: the low bits of z are n's exponent and j, which is also where T_j's offset is found."""
    return vf_of_bits(vi_add(vi_shift_left(vf_bits(z), 20), vf_bits(vf_look_up(offsets, vf_bits(z)))))


cdef inline vf exp_vector(vf y, vf magic, vf floor, vf offsets, vf errors) noexcept nogil:
    """e^y / 2^scale."""
    cdef vf raised = vf_max(floor, y)
    cdef vf z = vf_fma(raised, vf_set(FL_LOG2EF), magic)
    cdef vf t = exp_rest(raised, z, magic, errors)
    cdef vf power = exp_power(z, offsets)
    return vf_fma(power, t, power)


cdef double exp_sum(const float* x, Py_ssize_t n, Py_ssize_t left_out, const Shift* shift) noexcept nogil:
    """Sum of e^(x - base) / 2^scale over x[0:n], n <= COLUMNS, without x[left_out] (-1: over all).

    Four terms are added in float32 (relative error below 2*2^-24), then all in float64. nan gives nan, -inf counts as
    0. What lies COLUMNS further on is fetched meanwhile: the next block of columns, or the next row.
    """
    cdef vf magic = vf_set(eighths_magic(shift.scale))
    cdef vf floor = vf_set(eighths_floor(shift.scale))
    cdef vf offsets = vf_table(exp_offsets)
    cdef vf errors = vf_table(exp_errors)
    cdef vd sum_0 = vd_set(0.0), sum_1 = vd_set(0.0)
    cdef vf q_0, q_1, v
    cdef float moved[COLUMNS]
    cdef double lanes[8]
    cdef const float* ahead = x + COLUMNS
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t full = n - n % WIDE
    cdef Py_ssize_t special = left_out - left_out % WIDE if left_out >= 0 else n
    cdef Py_ssize_t stop, at, k
    if shift.base != 0.0:
        for k in range(n):
            moved[k] = x[k] - <float>shift.base
        x = moved
    while i < n:
        if i == special or i == full:
            # Where a class is left out, and at the row's end: -inf stands for what is not there.
            at = i
            q_0 = vf_set(0.0)
            q_1 = vf_set(0.0)
            for k in range(4):
                if at >= n:
                    break
                v = vf_load_part(x + at, n - at, -INFINITY)
                v = vf_if_equal(vf_count(), vf_set(<float>(left_out - at)), vf_set(-INFINITY), v)
                v = exp_vector(v, magic, floor, offsets, errors)
                if k < 2:
                    q_0 = vf_add(q_0, v)
                else:
                    q_1 = vf_add(q_1, v)
                at += LANES
            q_0 = vf_add(q_0, q_1)
            sum_0 = vd_add(sum_0, vd_low(q_0))
            sum_1 = vd_add(sum_1, vd_high(q_0))
            i += WIDE
            continue
        stop = special if i < special < full else full
        while i < stop:
            fl_prefetch(ahead + i)
            fl_prefetch(ahead + i + LANES)
            fl_prefetch(ahead + i + 2 * LANES)
            fl_prefetch(ahead + i + 3 * LANES)
            q_0 = exp_vector(vf_load(x + i), magic, floor, offsets, errors)
            q_0 = vf_add(q_0, exp_vector(vf_load(x + i + LANES), magic, floor, offsets, errors))
            q_1 = exp_vector(vf_load(x + i + 2 * LANES), magic, floor, offsets, errors)
            q_1 = vf_add(q_1, exp_vector(vf_load(x + i + 3 * LANES), magic, floor, offsets, errors))
            q_0 = vf_add(q_0, q_1)
            sum_0 = vd_add(sum_0, vd_low(q_0))
            sum_1 = vd_add(sum_1, vd_high(q_0))
            i += WIDE
    vd_store(lanes, vd_add(sum_0, sum_1))
    return (((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7])))


cdef inline real magic_of_lane(double scale, real tag) noexcept nogil:
    return eighths_magic(scale) if real is float else magic_of(scale, tag)


cdef inline real floor_of_lane(double scale, real tag) noexcept nogil:
    return eighths_floor(scale) if real is float else floor_of(scale, tag)


cdef inline void exp_lanes(const real* x, Py_ssize_t classes, const real* base, const real* magic, const real* floor,
                           real* e) noexcept nogil:
    """e[class, lane] = e^(x - base) / 2^scale, magic and floor made by the two functions above."""
    cdef Py_ssize_t c
    cdef int i
    cdef vf bases, magics, floors, offsets, errors
    if real is float:
        bases = vf_load(base)
        magics = vf_load(magic)
        floors = vf_load(floor)
        offsets = vf_table(exp_offsets)
        errors = vf_table(exp_errors)
        for c in range(classes):
            vf_store(e + c * LANES, exp_vector(vf_sub(vf_load(x + c * LANES), bases), magics, floors, offsets, errors))
    else:
        for c in range(classes):
            for i in range(LANES):
                e[c * LANES + i] = exp_shifted(x[c * LANES + i], base[i], magic[i], floor[i])


cdef struct ScaledExp:
    # factor * e^(x - base): the factor is in the table, its exponent in magic and floor.
    float base
    float magic
    float floor
    float powers[8]
    float errors[8]


cdef bint set_scaled_exp(ScaledExp* s, double factor, double base, double scale) noexcept nogil:
    """False if the factor is 0, not finite, or so large or small that exponents could leave their range. `factor` is
    in units of 2^-scale, for arguments up to the row's maximum."""
    cdef uint64_t bits = fl_bits_f64(factor)
    cdef int64_t exponent = <int64_t>((bits >> 52) & 0x7ff) - 1023
    cdef double significand, power
    cdef int j
    # e^(x - base) / 2^scale is at most 2^45.
    if not -500 < exponent < 126 - 50:
        return False
    # The table's numbers are put between 1/4 and 1, so that the power of two beside them is normal wherever the result is.
    significand = 0.25 * fl_double_bits((bits & <uint64_t>0x800fffffffffffff) | (<uint64_t>1023 << 52))
    s.base = <float>base
    s.magic = eighths_magic(scale - <double>(exponent + 2))
    s.floor = eighths_floor(scale - <double>(exponent + 2))
    for j in range(8):
        power = (<double>exp_powers[j] + <double>exp_powers[j] * <double>exp_errors[j]) * significand
        s.powers[j] = <float>power
        s.errors[j] = <float>((power - <double>s.powers[j]) / <double>s.powers[j])
    return True


cdef inline vf scaled_exp(vf x, vf base, vf magic, vf floor, vf powers, vf errors) noexcept nogil:
    """factor * e^(x - base), rounded once. Below the smallest normal number 0, for -inf too; nan gives nan."""
    cdef vf y = vf_max(floor, vf_sub(x, base))
    cdef vf z = vf_fma(y, vf_set(FL_LOG2EF), magic)
    cdef vf t = exp_rest(y, z, magic, errors)
    cdef vf power = vf_look_up(powers, vf_bits(z))
    return vf_mul(vf_fma(power, t, power), vf_of_bits(vi_shift_left(vi_shift_right(vf_bits(z), 3), 23)))


cdef void write_scaled_exp(const float* x, Py_ssize_t n, const ScaledExp* s, float* out, bint stream) noexcept nogil:
    """out[0:n] = factor * e^(x - base); past the caches if `stream`. out may be x."""
    cdef vf base = vf_set(s.base)
    cdef vf magic = vf_set(s.magic)
    cdef vf floor = vf_set(s.floor)
    cdef vf powers = vf_table(s.powers)
    cdef vf errors = vf_table(s.errors)
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t head = 0
    cdef Py_ssize_t stop, m
    cdef vf g
    if stream:
        # Whole lines only go past the caches: up to the first one, and after the last, as usual.
        head = min(n, <Py_ssize_t>(((64 - (<size_t>out & 63)) & 63) // sizeof(float)))
    while i < n:
        m = head - i if i < head else n - i
        if i < head or m < LANES:
            g = scaled_exp(vf_load_part(x + i, m, 0.0), base, magic, floor, powers, errors)
            vf_store_part(out + i, g, m)
            i += min(m, <Py_ssize_t>LANES)
            continue
        stop = n - (n - i) % LANES
        if stream:
            while i < stop:
                g = scaled_exp(vf_load(x + i), base, magic, floor, powers, errors)
                vf_stream(out + i, g)
                i += LANES
        else:
            while i < stop:
                g = scaled_exp(vf_load(x + i), base, magic, floor, powers, errors)
                vf_store(out + i, g)
                i += LANES

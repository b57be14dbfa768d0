# Vectors: exp on whole registers, and the loops over rows that are made of it.
#
# float32: x = (n + j/8) ln 2 + r, so that e^x = 2^n T_j (1 + t) with a table of T_j = 2^(j/8) and t a polynomial of
# degree 4, with what T_j lacks added. One rounding at the end: max error 0.5945 ulp, at 0x1.8c5eb2p+2
# (all float32; tests/test_exp.py).
# A polynomial of degree 6 without the table has 0.9, and costs two operations more of the kind that limits the loop.

# The bits of T_j as a float, less its exponent of 127 and less j in the place where the shifted index adds it.
cdef float exp_offsets[8]
cdef float exp_errors[8]
cdef float exp_powers[8]
cdef float exp_gaps[8]       # for what is added without the last digits of the power: see exp_parts_of


cdef void fill_exp_tables() noexcept:
    cdef double cut
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
        # T_j (1 + E_j) = cut + T_j gap
        cut = <double>fl_float_bits(fl_bits_f32(exp_powers[j]) & <uint32_t>0xfffffff8)
        exp_gaps[j] = <float>((<double>exp_powers[j] - cut) / <double>exp_powers[j] + <double>exp_errors[j])


fill_exp_tables()


cdef inline float eighths_magic(double scale) noexcept nogil:
    """1.5*2^20 + 127 - scale: adding it leaves round(8 x log2 e), with 127 - scale eight times, in the low bits."""
    return <float>(1572864.0 + 127.0 - scale)


cdef inline float eighths_floor(double scale) noexcept nogil:
    """Where the exponent and the index of the result are both 0: T_0 has no other bits, so that the result is 0.
    Numbers below are raised to it, -inf among them."""
    return <float>((scale - 127.0) * FL_LN2_HI)


cdef inline vf exp_slope(vf r, bint cubic) noexcept nogil:
    """p with e^r - 1 = p r, but for the constant of the cubic."""
    cdef vf p
    if cubic:
        p = vf_fma(vf_set(FL_EXPSF_C3), r, vf_set(FL_EXPSF_C2))
        return vf_fma(p, r, vf_set(FL_EXPSF_C1))
    p = vf_fma(vf_set(FL_EXPTF_C4), r, vf_set(FL_EXPTF_C3))
    p = vf_fma(p, r, vf_set(FL_EXPTF_C2))
    return vf_fma(p, r, vf_set(FL_EXPTF_C1))


cdef inline vf exp_rest(vf y, vf z, vf magic, vf errors, bint cubic) noexcept nogil:
    """t with e^y = 2^n T_j (1 + t), from z = y*log2(e) + magic."""
    cdef vf n = vf_sub(z, magic)
    cdef vf r = vf_nfma(n, vf_set(FL_LN2F_LO), vf_nfma(n, vf_set(FL_LN2F_HI), y))
    return vf_fma(exp_slope(r, cubic), r, vf_look_up(errors, vf_bits(z)))


cdef inline vf exp_power(vf z, vf offsets) noexcept nogil:
    """2^n T_j: the low bits of z are n's exponent and j, which is also where T_j's offset is found."""
    return vf_of_bits(vi_add(vi_shift_left(vf_bits(z), 20), vf_bits(vf_look_up(offsets, vf_bits(z)))))


cdef inline vf two_to_the(vf z) noexcept nogil:
    """2^n."""
    return vf_of_bits(vi_shift_left(vi_shift_right(vf_bits(z), 3), 23))


cdef inline vf exp_vector(vf y, vf magic, vf floor, vf offsets, vf errors) noexcept nogil:
    """e^y / 2^scale."""
    cdef vf raised = vf_max(floor, y)
    cdef vf z = vf_fma(raised, vf_set(FL_LOG2EF), magic)
    cdef vf t = exp_rest(raised, z, magic, errors, False)
    cdef vf power = exp_power(z, offsets)
    return vf_fma(power, t, power)


cdef struct Exponents:
    # What exp_vector needs for one scale.
    vf magic
    vf floor
    vf offsets
    vf errors


cdef inline Exponents exponents_of(double scale) noexcept nogil:
    cdef Exponents k
    k.magic = vf_set(eighths_magic(scale))
    k.floor = vf_set(eighths_floor(scale))
    k.offsets = vf_table(exp_offsets)
    k.errors = vf_table(exp_errors)
    return k


cdef inline Exponents cut_exponents_of(double scale, bint cubic) noexcept nogil:
    """For exp_parts_of. The constant of the cubic is in the table of gaps."""
    cdef Exponents k = exponents_of(scale)
    k.errors = vf_table(exp_gaps)
    if cubic:
        k.errors = vf_add(k.errors, vf_set(FL_EXPSF_CONSTANT))
    return k


cdef inline void exp_parts_of(vf raised, const Exponents* k, bint cubic, vf* power, vf* t) noexcept nogil:
    """e^x / 2^scale = cut power + power t of an argument that is not below the floor, good to 2^-28 (`cubic`: 2^-25.6).
    The cut powers, of 21 digits, become doubles by a shift, and are added as such."""
    cdef vf z = vf_fma(raised, vf_set(FL_LOG2EF), k.magic)
    t[0] = exp_rest(raised, z, k.magic, k.errors, cubic)
    power[0] = exp_power(z, k.offsets)


cdef inline vf exp_of_parts(vf power, vf t, vf* low) noexcept nogil:
    """The exponential, and OUT low: what its last rounding has lost."""
    cdef vf cut = vf_cut(power)
    cdef vf e = vf_fma(power, t, cut)
    low[0] = vf_fma(power, t, vf_sub(cut, e))
    return e


cdef inline vf exp_with_low(vf raised, const Exponents* k, vf* low) noexcept nogil:
    cdef vf power, t
    exp_parts_of(raised, k, False, &power, &t)
    return exp_of_parts(power, t, low)


cdef struct Two:
    # Two vectors on their way through exp: z as exp_rest has it, and its r.
    vf z_0
    vf z_1
    vf r_0
    vf r_1


cdef inline Two two_of_nothing() noexcept nogil:
    cdef Two two
    two.z_0 = vf_set(0.0)
    two.z_1 = vf_set(0.0)
    two.r_0 = vf_set(0.0)
    two.r_1 = vf_set(0.0)
    return two


cdef inline void two_exp_parts(vf a, vf b, const Exponents* k, bint cubic, bint scaled, Two* two, vf* power_0,
                               vf* power_1, vf* t_0, vf* t_1) noexcept nogil:
    """exp_parts_of of two vectors, whose place a and b take, which are not below the floor. By exponents_of, powers are
    not cut, as in exp_vector; if `scaled`, offsets are powers, and the power of two is left out. Operations of both
    alternate, so that none has to wait for another: processors do not look far enough ahead to find others by
    themselves."""
    cdef vf one = vf_set(FL_EXPSF_C1) if cubic else vf_set(FL_EXPTF_C1)
    cdef vf p_0, p_1
    if cubic:
        p_0 = vf_fma(vf_set(FL_EXPSF_C3), two.r_0, vf_set(FL_EXPSF_C2))
        p_1 = vf_fma(vf_set(FL_EXPSF_C3), two.r_1, vf_set(FL_EXPSF_C2))
    else:
        p_0 = vf_fma(vf_set(FL_EXPTF_C4), two.r_0, vf_set(FL_EXPTF_C3))
        p_1 = vf_fma(vf_set(FL_EXPTF_C4), two.r_1, vf_set(FL_EXPTF_C3))
        p_0 = vf_fma(p_0, two.r_0, vf_set(FL_EXPTF_C2))
        p_1 = vf_fma(p_1, two.r_1, vf_set(FL_EXPTF_C2))
    cdef vf z_0 = vf_fma(a, vf_set(FL_LOG2EF), k.magic)
    cdef vf z_1 = vf_fma(b, vf_set(FL_LOG2EF), k.magic)
    p_0 = vf_fma(p_0, two.r_0, one)
    p_1 = vf_fma(p_1, two.r_1, one)
    cdef vf n_0 = vf_sub(z_0, k.magic)
    cdef vf n_1 = vf_sub(z_1, k.magic)
    power_0[0] = vf_look_up(k.offsets, vf_bits(two.z_0)) if scaled else exp_power(two.z_0, k.offsets)
    power_1[0] = vf_look_up(k.offsets, vf_bits(two.z_1)) if scaled else exp_power(two.z_1, k.offsets)
    t_0[0] = vf_fma(p_0, two.r_0, vf_look_up(k.errors, vf_bits(two.z_0)))
    t_1[0] = vf_fma(p_1, two.r_1, vf_look_up(k.errors, vf_bits(two.z_1)))
    two.r_0 = vf_nfma(n_0, vf_set(FL_LN2F_HI), a)
    two.r_1 = vf_nfma(n_1, vf_set(FL_LN2F_HI), b)
    two.r_0 = vf_nfma(n_0, vf_set(FL_LN2F_LO), two.r_0)
    two.r_1 = vf_nfma(n_1, vf_set(FL_LN2F_LO), two.r_1)
    two.z_0 = z_0
    two.z_1 = z_1


cdef inline double fold_eight(const double* v) noexcept nogil:
    """Sum of 8 numbers, in the order 8 -> 4 -> 2 -> 1."""
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))


cdef inline double largest_of_eight(const double* v) noexcept nogil:
    return max(max(max(v[0], v[4]), max(v[2], v[6])), max(max(v[1], v[5]), max(v[3], v[7])))


cdef inline double fold_vectors(vd a, vd b) noexcept nogil:
    """Sum of 16 numbers, in the order 16 -> 8 -> 4 -> 2 -> 1."""
    cdef double lanes[8]
    vd_store(lanes, vd_add(a, b))
    return fold_eight(lanes)


cdef inline Py_ssize_t next_stop(Py_ssize_t i, Py_ssize_t a, Py_ssize_t b, Py_ssize_t end) noexcept nogil:
    """The next of three places where a loop must stop, from i on; -1 is none."""
    cdef Py_ssize_t stop = end
    stop = a if i <= a < stop else stop
    return b if i <= b < stop else stop


# float64: the same, with a polynomial of degree 7. Max error 0.62 ulp (0.611 at -0x1.e85961d840c00p+5 is the worst of
# 63 million), and 11 operations of the kind that limits the loop, instead of the 16 of degree 12 without a table, which
# has 0.9.

# The bits of T_j as a double, less its exponent of 1023 and less j in the place where the shifted index adds it.
cdef double expd_offsets[8]
cdef double expd_errors[8]
cdef double expd_powers[8]


cdef void fill_expd_tables() noexcept:
    cdef int j
    expd_powers[0] = FL_EXPT_T0
    expd_errors[0] = FL_EXPT_E0
    expd_powers[1] = FL_EXPT_T1
    expd_errors[1] = FL_EXPT_E1
    expd_powers[2] = FL_EXPT_T2
    expd_errors[2] = FL_EXPT_E2
    expd_powers[3] = FL_EXPT_T3
    expd_errors[3] = FL_EXPT_E3
    expd_powers[4] = FL_EXPT_T4
    expd_errors[4] = FL_EXPT_E4
    expd_powers[5] = FL_EXPT_T5
    expd_errors[5] = FL_EXPT_E5
    expd_powers[6] = FL_EXPT_T6
    expd_errors[6] = FL_EXPT_E6
    expd_powers[7] = FL_EXPT_T7
    expd_errors[7] = FL_EXPT_E7
    for j in range(8):
        expd_offsets[j] = fl_double_bits(fl_bits_f64(expd_powers[j]) - (<uint64_t>1023 << 52) - (<uint64_t>j << 49))
    # Of numbers of 2^-54, 21 digits are more than enough.
    fl_blunt(expd_errors)


fill_expd_tables()


cdef struct DoubleExp:
    # What exp_vectors needs, for one scale.
    vd magic
    vd floor
    vdt offsets
    vdh errors


cdef inline double wide_eighths_magic(double scale) noexcept nogil:
    """1.5*2^49 + 1023 - scale: as eighths_magic."""
    return 844424930131968.0 + 1023.0 - scale


cdef inline double wide_eighths_floor(double scale) noexcept nogil:
    """As eighths_floor."""
    return (scale - 1023.0) * FL_LN2_HI


cdef inline DoubleExp double_exp(double scale) noexcept nogil:
    """For e^x / 2^scale."""
    cdef DoubleExp of
    of.magic = vd_set(wide_eighths_magic(scale))
    of.floor = vd_set(wide_eighths_floor(scale))
    of.offsets = vd_table(expd_offsets)
    of.errors = vd_blunt_table(expd_errors)
    return of


cdef inline void exp_rests(vd a, vd b, vd* z, vd* w, vd* s, vd* t, const DoubleExp* of) noexcept nogil:
    """e^a / 2^scale = A (1 + s) and the same of b with t; powers and places in the tables of A and B are in the low
    bits of z and w, OUT all four. The operations alternate, since one chain of them is longer than what a processor
    looks ahead. What is below `floor`, -inf too, is raised to it; nan stays."""
    cdef vd x = vd_max(of.floor, a)
    cdef vd y = vd_max(of.floor, b)
    z[0] = vd_fma(x, vd_set(FL_LOG2E), of.magic)
    w[0] = vd_fma(y, vd_set(FL_LOG2E), of.magic)
    cdef vd n = vd_sub(z[0], of.magic)
    cdef vd m = vd_sub(w[0], of.magic)
    x = vd_nfma(n, vd_set(FL_LN2_HI), x)
    y = vd_nfma(m, vd_set(FL_LN2_HI), y)
    x = vd_nfma(n, vd_set(FL_LN2_LO), x)
    y = vd_nfma(m, vd_set(FL_LN2_LO), y)
    n = vd_fma(vd_set(FL_EXPT_C7), x, vd_set(FL_EXPT_C6))
    m = vd_fma(vd_set(FL_EXPT_C7), y, vd_set(FL_EXPT_C6))
    n = vd_fma(n, x, vd_set(FL_EXPT_C5))
    m = vd_fma(m, y, vd_set(FL_EXPT_C5))
    n = vd_fma(n, x, vd_set(FL_EXPT_C4))
    m = vd_fma(m, y, vd_set(FL_EXPT_C4))
    n = vd_fma(n, x, vd_set(FL_EXPT_C3))
    m = vd_fma(m, y, vd_set(FL_EXPT_C3))
    n = vd_fma(n, x, vd_set(FL_EXPT_C2))
    m = vd_fma(m, y, vd_set(FL_EXPT_C2))
    n = vd_fma(n, x, vd_set(FL_EXPT_C1))
    m = vd_fma(m, y, vd_set(FL_EXPT_C1))
    s[0] = vd_fma(n, x, vd_look_up_blunt(of.errors, z[0]))
    t[0] = vd_fma(m, y, vd_look_up_blunt(of.errors, w[0]))


cdef inline vd wide_power(vd z, const DoubleExp* of) noexcept nogil:
    """As exp_power."""
    return vd_add_bits(vd_shift_left(z, 49), vd_look_up(of.offsets, z))


cdef inline void exp_parts(vd* a, vd* b, vd* s, vd* t, const DoubleExp* of) noexcept nogil:
    """e^a / 2^scale = a + a s and e^b / 2^scale = b + b t, OUT all four."""
    cdef vd z, w
    exp_rests(a[0], b[0], &z, &w, s, t, of)
    a[0] = wide_power(z, of)
    b[0] = wide_power(w, of)


cdef inline void exp_vectors(vd* a, vd* b, const DoubleExp* of) noexcept nogil:
    """e^x / 2^scale of both, in place. -inf gives 0, nan gives nan."""
    cdef vd s, t
    exp_parts(a, b, &s, &t, of)
    a[0] = vd_fma(a[0], s, a[0])
    b[0] = vd_fma(b[0], t, b[0])


cdef inline void exp_vectors_low(vd* a, vd* b, vd* a_low, vd* b_low, const DoubleExp* of) noexcept nogil:
    """exp_vectors, and OUT what its last rounding has lost: with it the result is good to 0.1 ulp."""
    cdef vd s, t
    exp_parts(a, b, &s, &t, of)
    cdef vd high = vd_fma(a[0], s, a[0])
    cdef vd other = vd_fma(b[0], t, b[0])
    # The difference is exact: both are within a factor of two.
    a_low[0] = vd_fma(a[0], s, vd_sub(a[0], high))
    b_low[0] = vd_fma(b[0], t, vd_sub(b[0], other))
    a[0] = high
    b[0] = other


cdef inline vd plus(vd a, vd b) noexcept nogil:
    """a + b, to the bit, where multiply-adds are made. Zen has as many of these places as for additions, which wait for
    each other where nothing else is wanted."""
    return vd_fma(a, vd_set(1.0), b)


cdef inline vd minus(vd a, vd b) noexcept nogil:
    """a - b likewise."""
    return vd_fms(a, vd_set(1.0), b)


cdef inline void add_vector(vd* high, vd* low, vd value) noexcept nogil:
    """`add` in eight lanes."""
    cdef vd s = vd_add(high[0], value)
    cdef vd back = minus(s, high[0])
    low[0] = vd_add(low[0], plus(minus(high[0], vd_sub(s, back)), vd_sub(value, back)))
    high[0] = s


cdef inline void add_smaller(vd* high, vd* low, vd value) noexcept nogil:
    """add_vector of what is smaller than `high`: four operations find the rounding error instead of seven (Fast2Sum,
    Dekker)."""
    cdef vd s = vd_add(high[0], value)
    low[0] = vd_add(low[0], vd_sub(value, vd_sub(s, high[0])))
    high[0] = s


cdef inline void add_vectors(Sum* total, vd high, vd low) noexcept nogil:
    """Add eight sums, and what their roundings have lost, in the order 8 -> 4 -> 2 -> 1."""
    cdef double highs[8]
    cdef double lows[8]
    vd_store(highs, high)
    vd_store(lows, low)
    fold_sums(highs, lows, 4)
    fold_sums(highs, lows, 2)
    fold_sums(highs, lows, 1)
    add(total, highs[0])
    total.low += lows[0]


cdef struct OneWide:
    # A vector of float64 on its way through exp: z and r as Two has them.
    vd z
    vd r


cdef inline OneWide one_of_nothing() noexcept nogil:
    cdef OneWide one
    one.z = vd_set(0.0)
    one.r = vd_set(0.0)
    return one


cdef inline void exp_of_one(vd following, bint scaled, const DoubleExp* of, OneWide* one, vd* power,
                            vd* t) noexcept nogil:
    """OUT the exponential of a vector as power (1 + t), to the bit what exp_parts has; `following` takes its place. If
    `scaled`, offsets are powers, and the power of two is left out.
    The chain of an exponential is as long as a processor's window: of halves, several are within it."""
    cdef vd p = vd_fma(vd_set(FL_EXPT_C7), one.r, vd_set(FL_EXPT_C6))
    following = vd_max(of.floor, following)
    p = vd_fma(p, one.r, vd_set(FL_EXPT_C5))
    cdef vd z = vd_fma(following, vd_set(FL_LOG2E), of.magic)
    p = vd_fma(p, one.r, vd_set(FL_EXPT_C4))
    power[0] = vd_look_up(of.offsets, one.z) if scaled else wide_power(one.z, of)
    p = vd_fma(p, one.r, vd_set(FL_EXPT_C3))
    cdef vd n = vd_sub(z, of.magic)
    p = vd_fma(p, one.r, vd_set(FL_EXPT_C2))
    following = vd_nfma(n, vd_set(FL_LN2_HI), following)
    p = vd_fma(p, one.r, vd_set(FL_EXPT_C1))
    t[0] = vd_fma(p, one.r, vd_look_up_blunt(of.errors, one.z))
    one.r = vd_nfma(n, vd_set(FL_LN2_LO), following)
    one.z = z


cdef inline DoubleExp double_exp_of_lanes(const double* magic, const double* floor) noexcept nogil:
    """For eight scales, one in each lane."""
    cdef DoubleExp of = double_exp(0.0)
    of.magic = vd_load(magic)
    of.floor = vd_load(floor)
    return of


cdef inline void exp_lanes(const real* x, Py_ssize_t classes, const real* base, const real* magic, const real* floor,
                           real* e, real* low) noexcept nogil:
    """e[class, lane] = e^(x - base) / 2^scale, magic and floor made by eighths_magic and eighths_floor, or
    wide_eighths_magic and ..._floor; OUT low: what their last roundings have lost."""
    cdef Py_ssize_t c
    cdef int half
    cdef vf bases, lost
    cdef Exponents k
    cdef DoubleExp of
    cdef OneWide one
    cdef vd wide_bases, a, power, t
    if real is float:
        bases = vf_load(base)
        k = cut_exponents_of(0.0, False)
        k.magic = vf_load(magic)
        k.floor = vf_load(floor)
        for c in range(classes):
            vf_store(e + c * LANES, exp_with_low(vf_max(k.floor, vf_sub(vf_load(x + c * LANES), bases)), &k, &lost))
            vf_store(low + c * LANES, lost)
    else:
        for half in range(0, 16, 8):
            of = double_exp_of_lanes(magic + half, floor + half)
            wide_bases = vd_load(base + half)
            one = one_of_nothing()
            exp_of_one(vd_sub(vd_load(x + half), wide_bases), False, &of, &one, &power, &t)
            for c in range(classes):
                a = vd_load(x + min(c + 1, classes - 1) * LANES + half)
                exp_of_one(vd_sub(a, wide_bases), False, &of, &one, &power, &t)
                a = vd_fma(power, t, power)
                vd_store(e + c * LANES + half, a)
                vd_store(low + c * LANES + half, vd_fma(power, t, vd_sub(power, a)))


cdef inline void exp_of_two_lanes(const double* x, const double* y, const double* base, const double* scale, double* e,
                                  double* e_low, double* f, double* f_low) noexcept nogil:
    """OUT e + e_low = e^(x - base) / 2^scale and f + f_low, the same of y, in 16 lanes: good to 0.1 ulp."""
    cdef double magic[LANES]
    cdef double floor[LANES]
    cdef DoubleExp of
    cdef vd a, b, a_low, b_low
    cdef int i
    for i in range(LANES):
        magic[i] = wide_eighths_magic(scale[i])
        floor[i] = wide_eighths_floor(scale[i])
    for i in range(0, 16, 8):
        of = double_exp_of_lanes(magic + i, floor + i)
        a = vd_sub(vd_load(x + i), vd_load(base + i))
        b = vd_sub(vd_load(y + i), vd_load(base + i))
        exp_vectors_low(&a, &b, &a_low, &b_low, &of)
        vd_store(e + i, a)
        vd_store(e_low + i, a_low)
        vd_store(f + i, b)
        vd_store(f_low + i, b_low)


cdef enum How:
    # What entries of an output are made of:
    SHIFTED               # e^(x - base)
    UNSHIFTED             # e^x, by the cubic
    KEPT_POWERS           # cut power + power t, which are kept
    LOGARITHMS            # x, of which log S is subtracted

cdef enum:
    KEPT_CLASSES = 4096   # classes of rows that are kept: powers, and as far behind them t, in 32 KiB


cdef struct ScaledExp:
    How how
    # Of exponentials: the factor is in the table, its exponent in magic and floor.
    float base
    float magic
    float floor
    float powers[8]
    float errors[8]
    # Of powers: the factor. Of logarithms: log S.
    float high
    float low


cdef bint set_scaled_exp(ScaledExp* s, double factor, double base, double scale, How how) noexcept nogil:
    """False if the factor is 0, not finite, or so large or small that exponents could leave their range. `factor` is
    in units of 2^-scale, for arguments up to the row's maximum; how: SHIFTED or UNSHIFTED."""
    cdef uint64_t bits = fl_bits_f64(factor)
    cdef int64_t exponent = <int64_t>((bits >> 52) & 0x7ff) - 1023
    cdef double constant = 1.0
    cdef double significand, power
    cdef int j
    # e^(x - base) / 2^scale is at most 2^45 (2^65 in float64); without a shift the sum of such is at least 2^-64.
    if not -500 < exponent < 126 - 50:
        return False
    # The table's numbers are put between 1/4 and 1, so that the power of two beside them is normal wherever the result
    # is.
    significand = 0.25 * fl_double_bits((bits & <uint64_t>0x800fffffffffffff) | (<uint64_t>1023 << 52))
    if how == UNSHIFTED:
        constant += <double>FL_EXPSF_CONSTANT
    memset(s, 0, sizeof(ScaledExp))
    s.how = how
    s.base = <float>base
    s.magic = eighths_magic(scale - <double>(exponent + 2))
    s.floor = eighths_floor(scale - <double>(exponent + 2))
    for j in range(8):
        power = (<double>exp_powers[j] + <double>exp_powers[j] * <double>exp_errors[j]) * significand
        s.powers[j] = <float>power
        s.errors[j] = <float>((power * constant - <double>s.powers[j]) / <double>s.powers[j])
    return True


cdef inline bint scales_powers(double factor) noexcept nogil:
    """Whether the low part of a factor is a float."""
    cdef double size = max(factor, -factor)
    return ((size > 1e-30) & (size < 1e30)) | (factor == 0.0)


cdef bint set_kept(ScaledExp* s, double factor) noexcept nogil:
    """False if the factor is too large or too small."""
    memset(s, 0, sizeof(ScaledExp))
    s.how = KEPT_POWERS
    s.high = <float>factor
    s.low = <float>(factor - <double>s.high)
    return scales_powers(factor)


cdef inline void two_floats(double a, double b, float* high, float* low) noexcept nogil:
    """OUT high + low = a + b, to 48 digits."""
    cdef double whole = a + b
    high[0] = <float>whole
    low[0] = <float>(((a - whole) + b) + (whole - <double>high[0]))


cdef void set_logarithms(ScaledExp* s, double maximum, double log_total) noexcept nogil:
    """log S = maximum + log_total, in two floats."""
    memset(s, 0, sizeof(ScaledExp))
    s.how = LOGARITHMS
    two_floats(maximum, log_total, &s.high, &s.low)


cdef struct Scaled:
    # A ScaledExp in registers; offsets are powers.
    Exponents k
    vf base
    vf high
    vf low
    vf backs


cdef inline Scaled scaled_of(const ScaledExp* s, float back) noexcept nogil:
    cdef Scaled v
    v.k.magic = vf_set(s.magic)
    v.k.floor = vf_set(s.floor)
    v.k.offsets = vf_table(s.powers)
    v.k.errors = vf_table(s.errors)
    v.base = vf_set(s.base)
    v.high = vf_set(s.high)
    v.low = vf_set(s.low)
    v.backs = vf_set(back)
    return v


cdef float LOWEST = -3.4028234e38      # of finite floats


cdef inline vf minus_two(vf x, vf high, vf low) noexcept nogil:
    """x - (high + low), rounded once: TwoSum, whose error takes low with it. -inf and nan stay."""
    cdef vf d = vf_sub(x, high)
    cdef vf back = vf_sub(d, x)
    cdef vf lost = vf_sub(vf_sub(x, vf_sub(d, back)), vf_add(high, back))
    # Of -inf the error is nan, for which the maximum has a number.
    return vf_add(d, vf_max(vf_sub(lost, low), vf_set(LOWEST)))


cdef inline vf scaled_entry(vf x, vf t, const Scaled* s, How how) noexcept nogil:
    """factor * e^(x - base), rounded once if it is normal. Far below that 0, for -inf too; nan gives nan. Or
    (high + low) (cut x + x t), rounded once."""
    cdef vf y, z, power
    if how == KEPT_POWERS:
        return vf_fma(vf_cut(x), s.high, vf_mul(x, vf_fma(t, s.high, s.low)))
    y = vf_max(s.k.floor, x if how == UNSHIFTED else vf_sub(x, s.base))
    z = vf_fma(y, vf_set(FL_LOG2EF), s.k.magic)
    t = exp_rest(y, z, s.k.magic, s.k.errors, how == UNSHIFTED)
    power = vf_look_up(s.k.offsets, vf_bits(z))
    return vf_mul(vf_fma(power, t, power), two_to_the(z))


cdef inline vf hess_of_grad(vf g, vf back) noexcept nogil:
    """g (1 - p) = g - g p with p = g * back: one rounding at the size of the result, where p is not near 1."""
    return vf_nfma(vf_mul(g, back), g, g)


cdef inline vf read_vector(const float* x, Py_ssize_t i, Code code) noexcept nogil:
    """Items i..i+16 of float32; or of 16 bits, whatever the pointer says."""
    if code == F16:
        return vf_from_halves(<const uint16_t*>x + i)
    if code == BF16:
        return vf_from_bfloats(<const uint16_t*>x + i)
    return vf_load(x + i)


cdef inline void put_vector(float* out, Py_ssize_t i, vf g, Code code, bint stream) noexcept nogil:
    """The reverse."""
    cdef vh h
    if code == F32:
        if stream:
            vf_stream(out + i, g)
        else:
            vf_store(out + i, g)
        return
    h = vh_halves(g) if code == F16 else vh_bfloats(g)
    if stream:
        vh_stream(<uint16_t*>out + i, h)
    else:
        vh_store(<uint16_t*>out + i, h)


cdef inline void write_vector_of(vf g, vf backs, float* out, float* hess, Py_ssize_t i, Code code, bint stream,
                                 bint with_hess) noexcept nogil:
    put_vector(out, i, g, code, stream)
    if with_hess:
        put_vector(hess, i, hess_of_grad(g, backs), code, stream)


cdef inline void write_vectors(const float* x, Py_ssize_t n, const Scaled* s, How how, Code code, float* out,
                               float* hess, const float* ahead, bint stream, bint with_hess) noexcept nogil:
    """write_scaled_exp of whole vectors. code: of x, out and hess, F32 if x are powers."""
    cdef Py_ssize_t pairs = n // 32 if FL_WIDE and how == UNSHIFTED else 0      # 2 LANES
    cdef Py_ssize_t i, j, then
    cdef int size = 4 if code == F32 else 2
    cdef Two two = two_of_nothing()
    cdef vf power, power_too, t, t_too, two_to, two_too
    if FL_WIDE and pairs > 0:
        two_exp_parts(vf_max(s.k.floor, read_vector(x, 0, code)), vf_max(s.k.floor, read_vector(x, LANES, code)), &s.k,
                      True, True, &two, &power, &power_too, &t, &t_too)
        for j in range(pairs):
            i = 32 * j
            fl_prefetch(<const char*>ahead + size * i)
            if code == F32:
                fl_prefetch(ahead + i + LANES)
            two_to = two_to_the(two.z_0)
            two_too = two_to_the(two.z_1)
            then = i + 32 if j + 1 < pairs else i
            two_exp_parts(vf_max(s.k.floor, read_vector(x, then, code)),
                          vf_max(s.k.floor, read_vector(x, then + LANES, code)), &s.k, True, True, &two, &power,
                          &power_too, &t, &t_too)
            write_vector_of(vf_mul(vf_fma(power, t, power), two_to), s.backs, out, hess, i, code, stream, with_hess)
            write_vector_of(vf_mul(vf_fma(power_too, t_too, power_too), two_too), s.backs, out, hess, i + LANES, code,
                            stream, with_hess)
    for i in range(32 * pairs, n, 16):      # LANES
        fl_prefetch(<const char*>ahead + size * i)
        t = vf_load(x + KEPT_CLASSES + i) if how == KEPT_POWERS else s.base
        write_vector_of(scaled_entry(read_vector(x, i, code), t, s, how), s.backs, out, hess, i, code, stream,
                        with_hess)


cdef inline void write_lines(const float* x, Py_ssize_t n, const Scaled* s, How how, float* out, float* hess,
                             const float* ahead, bint stream) noexcept nogil:
    """write_vectors, with a loop for each case."""
    if hess == NULL and not stream:
        write_vectors(x, n, s, how, F32, out, NULL, ahead, False, False)
    elif hess == NULL:
        write_vectors(x, n, s, how, F32, out, NULL, ahead, True, False)
    elif stream and (<size_t>hess & 63) == 0:
        write_vectors(x, n, s, how, F32, out, hess, ahead, True, True)
    else:
        write_vectors(x, n, s, how, F32, out, hess, ahead, False, True)


cdef void write_scaled_exp(const float* x, Py_ssize_t n, const ScaledExp* s, float* out, float* hess, float back,
                           const float* ahead, bint stream) noexcept nogil:
    """out[0:n] = g = factor * e^(x - base), and hess[0:n], which may be NULL, g - g^2 back; past the caches if
    `stream`. out or hess may be x. From KEPT_POWERS, x are powers, and their t lie KEPT_CLASSES further on. What lies
    at `ahead` is fetched meanwhile."""
    cdef Scaled v = scaled_of(s, back)
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t head = 0
    cdef Py_ssize_t stop, m
    cdef vf g, t
    if stream:
        # Whole lines only go past the caches: up to the first one, and after the last, as usual.
        head = min(n, <Py_ssize_t>(((64 - (<size_t>out & 63)) & 63) // sizeof(float)))
    while i < n:
        m = head - i if i < head else n - i
        if i < head or m < LANES:
            t = vf_load_part(x + KEPT_CLASSES + i, m, 0.0) if s.how == KEPT_POWERS else v.base
            g = scaled_entry(vf_load_part(x + i, m, 0.0), t, &v, s.how)
            vf_store_part(out + i, g, m)
            if hess != NULL:
                vf_store_part(hess + i, hess_of_grad(g, v.backs), m)
            i += min(m, <Py_ssize_t>LANES)
            continue
        stop = n - (n - i) % LANES
        if s.how == KEPT_POWERS:
            write_lines(x + i, stop - i, &v, KEPT_POWERS, out + i, hess + i if hess != NULL else NULL, ahead + i,
                        stream)
        elif s.how == UNSHIFTED:
            write_lines(x + i, stop - i, &v, UNSHIFTED, out + i, hess + i if hess != NULL else NULL, ahead + i, stream)
        else:
            # Few rows come here.
            write_vectors(x + i, stop - i, &v, SHIFTED, F32, out + i, hess + i if hess != NULL else NULL, ahead + i,
                          stream and (hess == NULL or (<size_t>(hess + i) & 63) == 0), hess != NULL)
        i = stop


cdef void write_scaled_halves(const uint16_t* x, Py_ssize_t n, const ScaledExp* s, Code code, uint16_t* out,
                              uint16_t* hess, float back, const uint16_t* ahead, bint stream) noexcept nogil:
    """write_scaled_exp of numbers of 16 bits of an UNSHIFTED row, none of which is nan, to such: n is a multiple of
    LANES. If `stream`, out and hess are at multiples of 32 bytes."""
    cdef Scaled v = scaled_of(s, back)
    # Beside conversions the branches for other cases cost nothing.
    if code == F16:
        write_vectors(<const float*>x, n, &v, UNSHIFTED, F16, <float*>out, <float*>hess, <const float*>ahead, stream,
                      hess != NULL)
    else:
        write_vectors(<const float*>x, n, &v, UNSHIFTED, BF16, <float*>out, <float*>hess, <const float*>ahead, stream,
                      hess != NULL)


cdef void write_logarithms(const float* x, Py_ssize_t n, const ScaledExp* s, float* out, const float* ahead,
                           bint stream) noexcept nogil:
    """out[0:n] = x - (high + low); the rest as in write_scaled_exp. A function of its own, since more cases there keep
    GCC from making a loop of each: Hessians past the caches took twice as long."""
    cdef vf high = vf_set(s.high)
    cdef vf low = vf_set(s.low)
    cdef Py_ssize_t i = min(n, until_line(out, sizeof(float))) if stream else 0
    if i > 0:
        vf_store_part(out, minus_two(vf_load_part(x, i, 0.0), high, low), i)
    if stream:
        while n - i >= LANES:
            fl_prefetch(ahead + i)
            vf_stream(out + i, minus_two(vf_load(x + i), high, low))
            i += LANES
    while n - i >= LANES:
        fl_prefetch(ahead + i)
        vf_store(out + i, minus_two(vf_load(x + i), high, low))
        i += LANES
    if i < n:
        vf_store_part(out + i, minus_two(vf_load_part(x + i, n - i, 0.0), high, low), n - i)


cdef struct ScaledDoubleExp:
    # The same in float64.
    double base
    double magic
    double floor
    double powers[8]
    double errors[8]


cdef bint set_scaled_double_exp(ScaledDoubleExp* s, double factor, double factor_low, double base,
                                double scale) noexcept nogil:
    """For (factor + factor_low) e^(x - base); False as above."""
    cdef uint64_t bits = fl_bits_f64(factor)
    cdef int64_t exponent = <int64_t>((bits >> 52) & 0x7ff) - 1023
    cdef double significand, power, relative
    cdef int j
    if not -1000 < exponent < 900:
        return False
    significand = 0.25 * fl_double_bits((bits & <uint64_t>0x800fffffffffffff) | (<uint64_t>1023 << 52))
    relative = factor_low / factor
    s.base = base
    s.magic = wide_eighths_magic(scale - <double>(exponent + 2))
    s.floor = wide_eighths_floor(scale - <double>(exponent + 2))
    for j in range(8):
        power = expd_powers[j] * significand
        s.powers[j] = power
        s.errors[j] = fma(expd_powers[j], significand, -power) / power + (expd_errors[j] + relative)
    fl_blunt(s.errors)
    return True


cdef inline vd next_scaled_exp(vd following, const DoubleExp* of, OneWide* one) noexcept nogil:
    """factor * e^x of a vector, whose place `following` takes; offsets of `of` are powers. Rounded once if it is
    normal; far below that 0, for -inf too; nan gives nan."""
    cdef vd t, power
    cdef vd z = one.z
    exp_of_one(following, True, of, one, &power, &t)
    return vd_mul(vd_fma(power, t, power), vd_shift_left(vd_shift_right(z, 3), 52))


cdef void write_scaled_double_exp(const double* x, Py_ssize_t n, const ScaledDoubleExp* s, double* out) noexcept nogil:
    """out[0:n] = factor * e^(x - base); out may be x."""
    cdef DoubleExp of
    cdef vd base = vd_set(s.base)
    cdef vd result
    cdef OneWide one = one_of_nothing()
    cdef Py_ssize_t full = n - n % 8
    cdef Py_ssize_t i
    of.magic = vd_set(s.magic)
    of.floor = vd_set(s.floor)
    of.offsets = vd_table(s.powers)
    of.errors = vd_blunt_table(s.errors)
    next_scaled_exp(vd_sub(vd_load_part(x, n, 0.0), base), &of, &one)
    for i in range(0, full - 8, 8):
        # Of the next vector before this one is stored: out may be x.
        result = next_scaled_exp(vd_sub(vd_load(x + i + 8), base), &of, &one)
        vd_store(out + i, result)
    i = max(full - 8, <Py_ssize_t>0)
    while i < n:
        result = next_scaled_exp(vd_sub(vd_load_part(x + i + 8, n - i - 8, 0.0), base), &of, &one)
        vd_store_part(out + i, result, n - i)
        i += 8

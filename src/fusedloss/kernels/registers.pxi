# Registers: the operations of vectors.h, by name.

cdef extern from "vectors.h":
    ctypedef struct vf:
        pass
    ctypedef struct vi:
        pass
    ctypedef struct vd:
        pass
    ctypedef struct vdt:
        pass
    ctypedef struct vdh:
        pass
    ctypedef struct vh:
        pass
    vf vf_set(float a) noexcept nogil
    vf vf_load(const float* p) noexcept nogil
    vf vf_load_part(const float* p, long n, float rest) noexcept nogil
    void vf_store(float* p, vf a) noexcept nogil
    void vf_store_part(float* p, vf a, long n) noexcept nogil
    vf vf_count() noexcept nogil
    vf vf_if_equal(vf s, vf t, vf a, vf b) noexcept nogil     # s == t ? a : b
    vf vf_neg_abs(vf a) noexcept nogil
    vf vf_neg(vf a) noexcept nogil
    vf vf_div(vf a, vf b) noexcept nogil
    vf vf_if_negative(vf s, vf a, vf b) noexcept nogil        # sign bit of s ? a : b
    vf vf_if_less(vf s, vf t, vf a, vf b) noexcept nogil      # s < t ? a : b
    void vf_stream(float* p, vf a) noexcept nogil
    vf vf_add(vf a, vf b) noexcept nogil
    vf vf_sub(vf a, vf b) noexcept nogil
    vf vf_mul(vf a, vf b) noexcept nogil
    vf vf_fma(vf a, vf b, vf c) noexcept nogil
    vf vf_nfma(vf a, vf b, vf c) noexcept nogil       # c - a*b
    vf vf_fms(vf a, vf b, vf c) noexcept nogil        # a*b - c
    vf vf_max(vf a, vf b) noexcept nogil              # a > b ? a : b
    vf vf_min(vf a, vf b) noexcept nogil              # a < b ? a : b
    vf vf_clamp_unless_zero(vf s, vf floor, vf a) noexcept nogil     # s == 0 ? floor : max(floor, a)
    int vf_any_less(vf a, vf b) noexcept nogil        # in some lane a < b
    int vf_first_equal(vf a, vf b) noexcept nogil     # lane, 16 if none
    float vf_largest(vf a) noexcept nogil             # of 16; no lane may be nan
    vf vf_table(const float* p) noexcept nogil
    vf vf_look_up(vf table, vi index) noexcept nogil
    vi vf_bits(vf a) noexcept nogil
    vf vf_of_bits(vi a) noexcept nogil
    vi vi_add(vi a, vi b) noexcept nogil
    vi vi_or(vi a, vi b) noexcept nogil
    vi vi_shift_left(vi a, int n) noexcept nogil
    vi vi_shift_right(vi a, int n) noexcept nogil
    vd vd_set(double a) noexcept nogil
    void vd_store(double* p, vd a) noexcept nogil
    vd vd_low(vf a) noexcept nogil
    vd vd_high(vf a) noexcept nogil
    vf vf_cut(vf a) noexcept nogil                    # without the last three digits
    vd vd_even_tiny(vf a) noexcept nogil              # numbers 0, 2, ..., 14 times 2^-896, cut
    vd vd_odd_tiny(vf a) noexcept nogil               # ... 1, 3, ..., 15
    const double FL_FROM_TINY                         # 2^896
    vd vd_folded(const double* p) noexcept nogil      # sums of 8 rows of 8, in the order 8 -> 4 -> 2 -> 1
    void vd_zip(vd* a, vd* b) noexcept nogil          # numbers 0, 2, ... and 1, 3, ... of 16: the first 8, the others
    vd vd_from_floats(const float* p) noexcept nogil
    vd vd_add(vd a, vd b) noexcept nogil
    vd vd_sub(vd a, vd b) noexcept nogil
    vd vd_mul(vd a, vd b) noexcept nogil
    vd vd_fma(vd a, vd b, vd c) noexcept nogil
    vd vd_nfma(vd a, vd b, vd c) noexcept nogil       # c - a*b
    vd vd_load(const double* p) noexcept nogil
    int vd_first_equal(vd a, vd b) noexcept nogil     # lane, 8 if none
    vd vd_load_part(const double* p, long n, double rest) noexcept nogil
    vd vd_min(vd a, vd b) noexcept nogil              # a < b ? a : b
    vd vd_max(vd a, vd b) noexcept nogil              # a > b ? a : b
    void vd_store_part(double* p, vd a, long n) noexcept nogil
    void vd_stream(double* p, vd a) noexcept nogil
    vd vd_div(vd a, vd b) noexcept nogil
    vd vd_fms(vd a, vd b, vd c) noexcept nogil        # a*b - c
    vd vd_neg(vd a) noexcept nogil
    vd vd_neg_abs(vd a) noexcept nogil
    vd vd_if_negative(vd s, vd a, vd b) noexcept nogil        # sign bit of s ? a : b
    vd vd_if_less(vd s, vd t, vd a, vd b) noexcept nogil      # s < t ? a : b
    vd vd_if_equal(vd s, vd t, vd a, vd b) noexcept nogil     # s == t ? a : b
    vd vd_shift_left(vd a, int n) noexcept nogil      # the bits as integers, as below
    vd vd_shift_right(vd a, int n) noexcept nogil
    vd vd_add_bits(vd a, vd b) noexcept nogil
    vd vd_sub_bits(vd a, vd b) noexcept nogil
    vdt vd_table(const double* p) noexcept nogil
    vd vd_look_up(vdt table, vd index) noexcept nogil
    void fl_four_columns(const double* p, long stride, double* out) noexcept nogil     # to out[16 column + row]
    void fl_blunt(double* p) noexcept nogil           # 8 numbers; what vd_blunt_table takes
    vdh vd_blunt_table(const double* p) noexcept nogil
    vd vd_look_up_blunt(vdh table, vd index) noexcept nogil
    vf vf_narrow(vd a, vd b) noexcept nogil
    ctypedef struct vw:
        pass
    vw vw_set(double a) noexcept nogil
    vw vw_load(const float* p) noexcept nogil         # 8 floats, as doubles
    void vw_store(float* p, vw a) noexcept nogil      # as floats
    vw vw_sub(vw a, vw b) noexcept nogil
    vw vw_mul(vw a, vw b) noexcept nogil
    vw vw_fma(vw a, vw b, vw c) noexcept nogil
    vd vw_whole(vw a) noexcept nogil
    void fl_prefetch(const void* p) noexcept nogil
    void fl_fetch(const void* p) noexcept nogil
    int FL_CONVERTS
    int FL_WIDE
    vf vf_from_halves(const uint16_t* p) noexcept nogil
    vf vf_from_bfloats(const uint16_t* p) noexcept nogil
    vf vf_from_bytes(const uint8_t* p) noexcept nogil
    vh vh_halves(vf a) noexcept nogil                 # to nearest, ties to even; nan keeps its first bits
    vh vh_bfloats(vf a) noexcept nogil                # likewise; of no nan
    void vh_store(uint16_t* p, vh a) noexcept nogil
    void vh_stream(uint16_t* p, vh a) noexcept nogil  # p is at a multiple of 32 bytes
    void vf_load_columns(const float* p, long stride, long width, vf* v) noexcept nogil
    void vf_store_columns(float* p, long stride, long width, vf* v) noexcept nogil


# The same operation for floats and for doubles, where a formula is the same for both.

ctypedef fused vector:
    vf
    vd


cdef inline vector v_same(double a, vector like) noexcept nogil:
    """`a` in all lanes."""
    if vector is vf:
        return vf_set(<float>a)
    else:
        return vd_set(a)


cdef inline vector v_plus(vector a, vector b) noexcept nogil:
    """a + b"""
    if vector is vf:
        return vf_add(a, b)
    else:
        return vd_add(a, b)


cdef inline vector v_minus(vector a, vector b) noexcept nogil:
    """a - b"""
    if vector is vf:
        return vf_sub(a, b)
    else:
        return vd_sub(a, b)


cdef inline vector v_times(vector a, vector b) noexcept nogil:
    """a b"""
    if vector is vf:
        return vf_mul(a, b)
    else:
        return vd_mul(a, b)


cdef inline vector v_over(vector a, vector b) noexcept nogil:
    """a / b"""
    if vector is vf:
        return vf_div(a, b)
    else:
        return vd_div(a, b)


cdef inline vector v_times_plus(vector a, vector b, vector c) noexcept nogil:
    """a b + c"""
    if vector is vf:
        return vf_fma(a, b, c)
    else:
        return vd_fma(a, b, c)


cdef inline vector v_less_times(vector a, vector b, vector c) noexcept nogil:
    """c - a b"""
    if vector is vf:
        return vf_nfma(a, b, c)
    else:
        return vd_nfma(a, b, c)


cdef inline vector v_times_minus(vector a, vector b, vector c) noexcept nogil:
    """a b - c"""
    if vector is vf:
        return vf_fms(a, b, c)
    else:
        return vd_fms(a, b, c)


cdef inline vector v_maximum(vector a, vector b) noexcept nogil:
    """a > b ? a : b"""
    if vector is vf:
        return vf_max(a, b)
    else:
        return vd_max(a, b)


cdef inline vector v_if_less(vector s, vector t, vector a, vector b) noexcept nogil:
    """s < t ? a : b"""
    if vector is vf:
        return vf_if_less(s, t, a, b)
    else:
        return vd_if_less(s, t, a, b)


cdef inline vector v_opposite(vector a) noexcept nogil:
    """-a"""
    if vector is vf:
        return vf_neg(a)
    else:
        return vd_neg(a)


cdef inline vector v_minus_size(vector a) noexcept nogil:
    """-|a|"""
    if vector is vf:
        return vf_neg_abs(a)
    else:
        return vd_neg_abs(a)


cdef inline vector v_if_negative(vector s, vector a, vector b) noexcept nogil:
    """sign bit of s ? a : b"""
    if vector is vf:
        return vf_if_negative(s, a, b)
    else:
        return vd_if_negative(s, a, b)


cdef inline vector v_if_equal(vector s, vector t, vector a, vector b) noexcept nogil:
    """s == t ? a : b"""
    if vector is vf:
        return vf_if_equal(s, t, a, b)
    else:
        return vd_if_equal(s, t, a, b)


cdef inline vector v_load(const real* p, vector tag) noexcept nogil:
    if vector is vf:
        return vf_load(<const float*>p)
    else:
        return vd_load(<const double*>p)


cdef inline vector v_load_first(const real* p, Py_ssize_t n, vector tag) noexcept nogil:
    """The first n numbers, and 0 in the lanes beyond them."""
    if vector is vf:
        return vf_load(<const float*>p) if n >= 16 else vf_load_part(<const float*>p, n, 0.0)
    else:
        return vd_load(<const double*>p) if n >= 8 else vd_load_part(<const double*>p, n, 0.0)


cdef inline void write_vector(real* p, vector a, Py_ssize_t n, bint stream) noexcept nogil:
    """The first n items of `a`; a whole vector past the caches if `stream`."""
    if real is float and vector is vf:
        if n < 16:
            vf_store_part(p, a, n)
        elif stream:
            vf_stream(p, a)
        else:
            vf_store(p, a)
    elif real is double and vector is vd:
        if n < 8:
            vd_store_part(p, a, n)
        elif stream:
            vd_stream(p, a)
        else:
            vd_store(p, a)

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
    vf vf_max(vf a, vf b) noexcept nogil              # a > b ? a : b
    vf vf_min(vf a, vf b) noexcept nogil              # a < b ? a : b
    vf vf_clamp_unless_zero(vf s, vf floor, vf a) noexcept nogil     # s == 0 ? floor : max(floor, a)
    int vf_first_equal(vf a, vf b) noexcept nogil     # lane, 16 if none
    float vf_largest(vf a) noexcept nogil             # of 16; no lane may be nan
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
    vd vd_sub(vd a, vd b) noexcept nogil
    vd vd_mul(vd a, vd b) noexcept nogil
    vd vd_fma(vd a, vd b, vd c) noexcept nogil
    vd vd_nfma(vd a, vd b, vd c) noexcept nogil       # c - a*b
    vd vd_load(const double* p) noexcept nogil
    vd vd_load_part(const double* p, long n, double rest) noexcept nogil
    vd vd_max(vd a, vd b) noexcept nogil              # a > b ? a : b
    vd vd_neg_abs(vd a) noexcept nogil
    vd vd_shift_left(vd a, int n) noexcept nogil      # the bits
    vd vd_add_bits(vd a, vd b) noexcept nogil
    vdt vd_table(const double* p) noexcept nogil
    vd vd_look_up(vdt table, vd index) noexcept nogil
    vf vf_narrow(vd a, vd b) noexcept nogil
    void fl_prefetch(const void* p) noexcept nogil
    int FL_CONVERTS
    vf vf_from_halves(const uint16_t* p) noexcept nogil
    vf vf_from_bfloats(const uint16_t* p) noexcept nogil
    void vf_load_columns(const float* p, long stride, long width, vf* v) noexcept nogil
    void vf_store_columns(float* p, long stride, long width, vf* v) noexcept nogil

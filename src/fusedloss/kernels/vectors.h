/* Vectors of 16 floats and of 8 doubles, whatever the registers of the machine hold: one register on x86-64-v4, two
 * on x86-64-v3, an array elsewhere. Every operation is one IEEE operation per lane, so that all give the same bits.
 *
 * Why not plain loops over arrays, as elsewhere in the kernels: a table in a register has no plain form (compilers make
 * it a gather), and staging whole loops through memory took about twice as long for the exp-and-sum (benches/NOTES.md).
 */
#ifndef FL_VECTORS_H
#define FL_VECTORS_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>

#if defined(_MSC_VER) && !defined(__clang__)
static inline int fl_trailing_zeros(unsigned a) { unsigned long i; _BitScanForward(&i, a); return (int)i; }
#else
static inline int fl_trailing_zeros(unsigned a) { return __builtin_ctz(a); }
#endif
/* Four numbers of each of four rows, which begin `stride` numbers apart, to out[16 c + row]. */
static inline void fl_four_columns(const double *p, long stride, double *out) {
    const __m256d a = _mm256_loadu_pd(p), b = _mm256_loadu_pd(p + stride);
    const __m256d c = _mm256_loadu_pd(p + 2 * stride), d = _mm256_loadu_pd(p + 3 * stride);
    const __m256d e = _mm256_unpacklo_pd(a, b), f = _mm256_unpackhi_pd(a, b);
    const __m256d g = _mm256_unpacklo_pd(c, d), h = _mm256_unpackhi_pd(c, d);
    _mm256_storeu_pd(out, _mm256_permute2f128_pd(e, g, 0x20));
    _mm256_storeu_pd(out + 16, _mm256_permute2f128_pd(f, h, 0x20));
    _mm256_storeu_pd(out + 32, _mm256_permute2f128_pd(e, g, 0x31));
    _mm256_storeu_pd(out + 48, _mm256_permute2f128_pd(f, h, 0x31));
}
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>

#define FL_CONVERTS 1   /* 16-bit floats, by one instruction */
#define FL_WIDE 1       /* 32 registers: room for two steps of a loop at once */
typedef __m512 vf;
typedef __m512i vi;
typedef __m512d vd;
typedef __m512d vdt;    /* a table of 8 doubles */

static inline vf vf_set(float a) { return _mm512_set1_ps(a); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
/* The first n numbers, 0 <= n; the lanes beyond hold `rest`. Nothing beyond them is read. */
static inline vf vf_load_part(const float *p, long n, float rest) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(rest), n < 16 ? (__mmask16)((1u << n) - 1) : 0xffff, p);
}
static inline void vf_store_part(float *p, vf a, long n) {
    _mm512_mask_storeu_ps(p, n < 16 ? (__mmask16)((1u << n) - 1) : 0xffff, a);
}
static inline void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline void vf_stream(float *p, vf a) { _mm512_stream_ps(p, a); }
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vf_nfma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
static inline vf vf_fms(vf a, vf b, vf c) { return _mm512_fmsub_ps(a, b, c); }
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vf_neg(vf a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
static inline vf vf_neg_abs(vf a) { return _mm512_or_ps(a, _mm512_set1_ps(-0.0f)); }
static inline vf vf_if_negative(vf s, vf a, vf b) {
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(s)), b, a);
}
static inline vf vf_if_less(vf s, vf t, vf a, vf b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(s, t, _CMP_LT_OQ), b, a);
}
static inline vf vf_if_equal(vf s, vf t, vf a, vf b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(s, t, _CMP_EQ_OQ), b, a);
}
static inline int vf_any_less(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ) != 0; }
/* The first lane in which a == b, 16 if there is none. */
static inline int vf_first_equal(vf a, vf b) {
    return fl_trailing_zeros(_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ) | 0x10000u);
}
static inline float vf_largest(vf a) { return _mm512_reduce_max_ps(a); }
/* s == 0 ? floor : max(floor, a): a number is left out where its exponential's argument is clamped. */
static inline vf vf_clamp_unless_zero(vf s, vf floor, vf a) {
    return _mm512_mask_max_ps(floor, _knot_mask16(_mm512_cmp_ps_mask(s, _mm512_setzero_ps(), _CMP_EQ_OQ)), floor, a);
}
static inline vi vf_bits(vf a) { return _mm512_castps_si512(a); }
static inline vf vf_of_bits(vi a) { return _mm512_castsi512_ps(a); }
static inline vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
static inline vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
static inline vi vi_shift_left(vi a, unsigned n) { return _mm512_slli_epi32(a, n); }
static inline vi vi_shift_right(vi a, unsigned n) { return _mm512_srli_epi32(a, n); }
/* A table of 8 numbers, and its entries named by the low 3 bits of each lane. */
static inline vf vf_table(const float *p) { return _mm512_broadcast_f32x8(_mm256_loadu_ps(p)); }
static inline vf vf_look_up(vf table, vi index) { return _mm512_permutexvar_ps(index, table); }
/* Numbers 0, 2, ..., 14, or 1, 3, ..., 15, which are not negative, as doubles, times 2^-896: but for their last three
 * digits, as vf_cut has them. Their other bits, three places lower, are the high half of such a double. */
static inline vd vd_even_tiny(vf a) {
    return _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_srli_epi32(_mm512_castps_si512(a), 3), 32));
}
static inline vd vd_odd_tiny(vf a) {
    return _mm512_castsi512_pd(_mm512_maskz_mov_epi32(0xaaaa, _mm512_srli_epi32(_mm512_castps_si512(a), 3)));
}
static inline vf vf_cut(vf a) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(-8)));
}
/* Evens and odds, which become the first eight of all and the others. */
static inline void vd_zip(vd *a, vd *b) {
    const vd evens = *a, odds = *b;
    *a = _mm512_permutex2var_pd(evens, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), odds);
    *b = _mm512_permutex2var_pd(evens, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), odds);
}
static inline vf vf_from_halves(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
/* 16 numbers of 16 bits. */
typedef __m256i vh;
static inline vh vh_halves(vf a) { return _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vh vh_bfloats(vf a) {
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
static inline void vh_store(uint16_t *p, vh a) { _mm256_storeu_si256((__m256i *)p, a); }
static inline void vh_stream(uint16_t *p, vh a) { _mm256_stream_si256((__m256i *)p, a); }
static inline vf vf_from_bytes(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
static inline vf vf_from_bfloats(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
static inline vd vd_set(double a) { return _mm512_set1_pd(a); }
static inline vd vd_load(const double *p) { return _mm512_loadu_pd(p); }
static inline void vd_store(double *p, vd a) { _mm512_storeu_pd(p, a); }
static inline vd vd_low(vf a) { return _mm512_cvtps_pd(_mm512_castps512_ps256(a)); }
static inline vd vd_high(vf a) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)); }
/* Eight floats in memory. */
static inline vd vd_from_floats(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
static inline vf vf_narrow(vd a, vd b) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(a)), _mm512_cvtpd_ps(b), 1);
}
static inline vd vd_add(vd a, vd b) { return _mm512_add_pd(a, b); }
static inline vd vd_sub(vd a, vd b) { return _mm512_sub_pd(a, b); }
static inline vd vd_mul(vd a, vd b) { return _mm512_mul_pd(a, b); }
static inline vd vd_fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
static inline vd vd_nfma(vd a, vd b, vd c) { return _mm512_fnmadd_pd(a, b, c); }
static inline vd vd_max(vd a, vd b) { return _mm512_max_pd(a, b); }
static inline vd vd_min(vd a, vd b) { return _mm512_min_pd(a, b); }
static inline vd vd_load_part(const double *p, long n, double rest) {
    return _mm512_mask_loadu_pd(_mm512_set1_pd(rest), n < 8 ? (__mmask8)(n < 0 ? 0 : (1u << n) - 1) : 0xff, p);
}
/* Columns of rows: `width` <= 4 numbers of each of 16 rows, which begin `stride` numbers apart, to as many vectors,
 * lane = row. A width below 4 is a whole row (stride = width). */
static inline __m512 fl_four_rows(const float *p, long stride) {
    const __m256 a = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * stride), 1);
    p += 8 * stride;
    const __m256 b = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * stride), 1);
    return _mm512_insertf32x8(_mm512_castps256_ps512(a), b, 1);
}
static inline void fl_transpose(vf *v) {
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(v[0], v[1]));
    const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(v[0], v[1]));
    const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(v[2], v[3]));
    const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(v[2], v[3]));
    v[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    v[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    v[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    v[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
}
/* Of rows of two or three numbers, which are as many vectors. */
static inline void fl_load_two_columns(const float *p, vf *v) {
    const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const vf a = vf_load(p), b = vf_load(p + 16);
    v[0] = _mm512_permutex2var_ps(a, evens, b);
    v[1] = _mm512_permutex2var_ps(a, _mm512_add_epi32(evens, _mm512_set1_epi32(1)), b);
}
static inline void fl_load_three_columns(const float *p, vf *v) {
    /* Number 3 i + column, the last five of them in the third vector. */
    const __m512i places = _mm512_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 45);
    const vf a = vf_load(p), b = vf_load(p + 16), c = vf_load(p + 32);
    for (int i = 0; i < 3; i++) {
        const __m512i at = _mm512_add_epi32(places, _mm512_set1_epi32(i));
        const vf first = _mm512_permutex2var_ps(a, at, b);
        v[i] = _mm512_mask_permutexvar_ps(first, i < 2 ? 0xf800 : 0xfc00, at, c);
    }
}
static inline void vf_load_columns(const float *p, long stride, long width, vf *v) {
    if (width == 1) { v[0] = vf_load(p); return; }
    if (width == 2) { fl_load_two_columns(p, v); return; }
    if (width == 3) { fl_load_three_columns(p, v); return; }
    for (long i = 0; i < 4; i++) v[i] = fl_four_rows(p + i * stride, stride);
    fl_transpose(v);
}
static inline void fl_store_two_columns(float *p, const vf *v) {
    const __m512i places = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    vf_store(p, _mm512_permutex2var_ps(v[0], places, v[1]));
    vf_store(p + 16, _mm512_permutex2var_ps(v[0], _mm512_add_epi32(places, _mm512_set1_epi32(8)), v[1]));
}
static inline void fl_store_three_columns(float *p, const vf *v) {
    /* Numbers of the first two columns, 16 being added for the second, and of the third where a bit is set. */
    const __m512i a = _mm512_setr_epi32(0, 16, 0, 1, 17, 1, 2, 18, 2, 3, 19, 3, 4, 20, 4, 5);
    const __m512i b = _mm512_setr_epi32(21, 5, 6, 22, 6, 7, 23, 7, 8, 24, 8, 9, 25, 9, 10, 26);
    const __m512i c = _mm512_setr_epi32(10, 11, 27, 11, 12, 28, 12, 13, 29, 13, 14, 30, 14, 15, 31, 15);
    vf_store(p, _mm512_mask_permutexvar_ps(_mm512_permutex2var_ps(v[0], a, v[1]), 0x4924, a, v[2]));
    vf_store(p + 16, _mm512_mask_permutexvar_ps(_mm512_permutex2var_ps(v[0], b, v[1]), 0x2492, b, v[2]));
    vf_store(p + 32, _mm512_mask_permutexvar_ps(_mm512_permutex2var_ps(v[0], c, v[1]), 0x9249, c, v[2]));
}
/* The reverse of vf_load_columns; nothing else is written. The vectors are spoilt. */
static inline void vf_store_columns(float *p, long stride, long width, vf *v) {
    if (width == 1) { vf_store(p, v[0]); return; }
    if (width == 2) { fl_store_two_columns(p, v); return; }
    if (width == 3) { fl_store_three_columns(p, v); return; }
    fl_transpose(v);
    for (long i = 0; i < 4; i++, p += stride) {
        _mm_storeu_ps(p, _mm512_castps512_ps128(v[i]));
        _mm_storeu_ps(p + 4 * stride, _mm512_extractf32x4_ps(v[i], 1));
        _mm_storeu_ps(p + 8 * stride, _mm512_extractf32x4_ps(v[i], 2));
        _mm_storeu_ps(p + 12 * stride, _mm512_extractf32x4_ps(v[i], 3));
    }
}
static inline void vd_store_part(double *p, vd a, long n) {
    _mm512_mask_storeu_pd(p, n < 8 ? (__mmask8)(n < 0 ? 0 : (1u << n) - 1) : 0xff, a);
}
static inline void vd_stream(double *p, vd a) { _mm512_stream_pd(p, a); }
static inline vd vd_div(vd a, vd b) { return _mm512_div_pd(a, b); }
static inline vd vd_fms(vd a, vd b, vd c) { return _mm512_fmsub_pd(a, b, c); }
static inline vd vd_neg(vd a) { return _mm512_xor_pd(a, _mm512_set1_pd(-0.0)); }
static inline vd vd_neg_abs(vd a) { return _mm512_or_pd(a, _mm512_set1_pd(-0.0)); }
static inline vd vd_if_negative(vd s, vd a, vd b) {
    return _mm512_mask_blend_pd(_mm512_movepi64_mask(_mm512_castpd_si512(s)), b, a);
}
static inline vd vd_if_less(vd s, vd t, vd a, vd b) {
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(s, t, _CMP_LT_OQ), b, a);
}
static inline vd vd_if_equal(vd s, vd t, vd a, vd b) {
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(s, t, _CMP_EQ_OQ), b, a);
}
static inline int vd_first_equal(vd a, vd b) {
    return fl_trailing_zeros(_mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ) | 0x100u);
}
/* The bits as integers */
static inline vd vd_shift_left(vd a, unsigned n) {
    return _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(a), n));
}
static inline vd vd_shift_right(vd a, unsigned n) {
    return _mm512_castsi512_pd(_mm512_srli_epi64(_mm512_castpd_si512(a), n));
}
static inline vd vd_sub_bits(vd a, vd b) {
    return _mm512_castsi512_pd(_mm512_sub_epi64(_mm512_castpd_si512(a), _mm512_castpd_si512(b)));
}
static inline vd vd_add_bits(vd a, vd b) {
    return _mm512_castsi512_pd(_mm512_add_epi64(_mm512_castpd_si512(a), _mm512_castpd_si512(b)));
}
/* Sums of 8 rows of 8 numbers each, in the order 8 -> 4 -> 2 -> 1. */
static inline vd fl_four_of(const double *p) {
    const vd a = vd_load(p), b = vd_load(p + 8), c = vd_load(p + 16), d = vd_load(p + 24);
    const vd ab = vd_add(_mm512_shuffle_f64x2(a, b, 0x44), _mm512_shuffle_f64x2(a, b, 0xee));
    const vd cd = vd_add(_mm512_shuffle_f64x2(c, d, 0x44), _mm512_shuffle_f64x2(c, d, 0xee));
    return vd_add(_mm512_shuffle_f64x2(ab, cd, 0x88), _mm512_shuffle_f64x2(ab, cd, 0xdd));
}
static inline vd vd_folded(const double *p) {
    const vd a = fl_four_of(p), b = fl_four_of(p + 32);
    const vd sums = vd_add(_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
    return _mm512_permutexvar_pd(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), sums);
}
/* A table of 8 doubles, and its entries named by the low 3 bits of each lane. */
static inline vdt vd_table(const double *p) { return _mm512_loadu_pd(p); }
static inline vd vd_look_up(vdt table, vd index) { return _mm512_permutexvar_pd(_mm512_castpd_si512(index), table); }
typedef vdt vdh;        /* a table of 8 doubles whose low halves are all alike, as fl_blunt leaves them */
static inline vdh vd_blunt_table(const double *p) { return vd_table(p); }
static inline vd vd_look_up_blunt(vdh table, vd index) { return vd_look_up(table, index); }

/* Eight doubles made of floats in memory. Zen 4 converts to 256 bits in half the time, so these are two registers. */
typedef struct { __m256d a, b; } vw;
static inline vw vw_set(double a) { return (vw){_mm256_set1_pd(a), _mm256_set1_pd(a)}; }
static inline vw vw_load(const float *p) {
    return (vw){_mm256_cvtps_pd(_mm_loadu_ps(p)), _mm256_cvtps_pd(_mm_loadu_ps(p + 4))};
}
static inline void vw_store(float *p, vw a) {
    _mm_storeu_ps(p, _mm256_cvtpd_ps(a.a));
    _mm_storeu_ps(p + 4, _mm256_cvtpd_ps(a.b));
}
static inline vw vw_sub(vw a, vw b) { return (vw){_mm256_sub_pd(a.a, b.a), _mm256_sub_pd(a.b, b.b)}; }
static inline vw vw_mul(vw a, vw b) { return (vw){_mm256_mul_pd(a.a, b.a), _mm256_mul_pd(a.b, b.b)}; }
static inline vw vw_fma(vw a, vw b, vw c) {
    return (vw){_mm256_fmadd_pd(a.a, b.a, c.a), _mm256_fmadd_pd(a.b, b.b, c.b)};
}
static inline vd vw_whole(vw a) { return _mm512_insertf64x4(_mm512_castpd256_pd512(a.a), a.b, 1); }

/* MSVC names neither FMA nor F16C; with AVX2 it uses both. */
#elif defined(__AVX2__) && (defined(_MSC_VER) || (defined(__FMA__) && defined(__F16C__)))
#include <immintrin.h>

#define FL_CONVERTS 1
#define FL_WIDE 0
typedef struct { __m256 a, b; } vf;
typedef struct { __m256i a, b; } vi;
typedef struct { __m256d a, b; } vd;
typedef struct { __m256i low, high; } vdt;  /* the low and the high halves of 8 doubles */
#define FL_F(x, y) ((vf){(x), (y)})
#define FL_I(x, y) ((vi){(x), (y)})
#define FL_D(x, y) ((vd){(x), (y)})

static inline vf vf_set(float a) { return FL_F(_mm256_set1_ps(a), _mm256_set1_ps(a)); }
static inline vf vf_load(const float *p) { return FL_F(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
static inline __m256i fl_first(long n) {
    static const int32_t ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    return _mm256_loadu_si256((const __m256i *)(ones + 8 - (n < 0 ? 0 : n < 8 ? n : 8)));
}
static inline vf vf_load_part(const float *p, long n, float rest) {
    const __m256i a = fl_first(n), b = fl_first(n - 8);
    const __m256 fill = _mm256_set1_ps(rest);
    return FL_F(_mm256_blendv_ps(fill, _mm256_maskload_ps(p, a), _mm256_castsi256_ps(a)),
                _mm256_blendv_ps(fill, _mm256_maskload_ps(p + 8, b), _mm256_castsi256_ps(b)));
}
/* A masked store takes 18 cycles on Zen 3, two others 2.4. */
static inline void vf_store_part(float *p, vf v, long n) {
    __m256 eight = v.a;
    if (n >= 8) {
        _mm256_storeu_ps(p, eight);
        if (n >= 16) {
            _mm256_storeu_ps(p + 8, v.b);
            return;
        }
        eight = v.b;
        p += 8;
    }
    if (n <= 0)
        return;
    __m128 four = _mm256_castps256_ps128(eight);
    if (n & 4) {
        _mm_storeu_ps(p, four);
        four = _mm256_extractf128_ps(eight, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)p, four);
        four = _mm_movehl_ps(four, four);
        p += 2;
    }
    if (n & 1)
        _mm_store_ss(p, four);
}
static inline void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a.a); _mm256_storeu_ps(p + 8, a.b); }
static inline void vf_stream(float *p, vf a) { _mm256_stream_ps(p, a.a); _mm256_stream_ps(p + 8, a.b); }
static inline vf vf_add(vf a, vf b) { return FL_F(_mm256_add_ps(a.a, b.a), _mm256_add_ps(a.b, b.b)); }
static inline vf vf_sub(vf a, vf b) { return FL_F(_mm256_sub_ps(a.a, b.a), _mm256_sub_ps(a.b, b.b)); }
static inline vf vf_mul(vf a, vf b) { return FL_F(_mm256_mul_ps(a.a, b.a), _mm256_mul_ps(a.b, b.b)); }
static inline vf vf_div(vf a, vf b) { return FL_F(_mm256_div_ps(a.a, b.a), _mm256_div_ps(a.b, b.b)); }
static inline vf vf_fma(vf a, vf b, vf c) {
    return FL_F(_mm256_fmadd_ps(a.a, b.a, c.a), _mm256_fmadd_ps(a.b, b.b, c.b));
}
static inline vf vf_nfma(vf a, vf b, vf c) {
    return FL_F(_mm256_fnmadd_ps(a.a, b.a, c.a), _mm256_fnmadd_ps(a.b, b.b, c.b));
}
static inline vf vf_fms(vf a, vf b, vf c) {
    return FL_F(_mm256_fmsub_ps(a.a, b.a, c.a), _mm256_fmsub_ps(a.b, b.b, c.b));
}
static inline vf vf_max(vf a, vf b) { return FL_F(_mm256_max_ps(a.a, b.a), _mm256_max_ps(a.b, b.b)); }
static inline vf vf_min(vf a, vf b) { return FL_F(_mm256_min_ps(a.a, b.a), _mm256_min_ps(a.b, b.b)); }
static inline vf vf_neg(vf a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return FL_F(_mm256_xor_ps(a.a, sign), _mm256_xor_ps(a.b, sign));
}
static inline vf vf_neg_abs(vf a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return FL_F(_mm256_or_ps(a.a, sign), _mm256_or_ps(a.b, sign));
}
static inline vf vf_if_negative(vf s, vf a, vf b) {
    return FL_F(_mm256_blendv_ps(b.a, a.a, s.a), _mm256_blendv_ps(b.b, a.b, s.b));
}
static inline vf vf_if_less(vf s, vf t, vf a, vf b) {
    return FL_F(_mm256_blendv_ps(b.a, a.a, _mm256_cmp_ps(s.a, t.a, _CMP_LT_OQ)),
                _mm256_blendv_ps(b.b, a.b, _mm256_cmp_ps(s.b, t.b, _CMP_LT_OQ)));
}
static inline vf vf_if_equal(vf s, vf t, vf a, vf b) {
    return FL_F(_mm256_blendv_ps(b.a, a.a, _mm256_cmp_ps(s.a, t.a, _CMP_EQ_OQ)),
                _mm256_blendv_ps(b.b, a.b, _mm256_cmp_ps(s.b, t.b, _CMP_EQ_OQ)));
}
static inline int vf_any_less(vf a, vf b) {
    return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(a.a, b.a, _CMP_LT_OQ),
                                           _mm256_cmp_ps(a.b, b.b, _CMP_LT_OQ))) != 0;
}
static inline int vf_first_equal(vf a, vf b) {
    const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.a, b.a, _CMP_EQ_OQ));
    const int high = _mm256_movemask_ps(_mm256_cmp_ps(a.b, b.b, _CMP_EQ_OQ));
    return fl_trailing_zeros((unsigned)(low | high << 8 | 0x10000));
}
static inline float vf_largest(vf a) {
    const __m256 m = _mm256_max_ps(a.a, a.b);
    __m128 n = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    n = _mm_max_ps(n, _mm_movehl_ps(n, n));
    return _mm_cvtss_f32(_mm_max_ss(n, _mm_movehdup_ps(n)));
}
static inline vf vf_clamp_unless_zero(vf s, vf floor, vf a) {
    return vf_if_equal(s, vf_set(0), floor, vf_max(floor, a));
}
static inline vi vf_bits(vf a) { return FL_I(_mm256_castps_si256(a.a), _mm256_castps_si256(a.b)); }
static inline vf vf_of_bits(vi a) { return FL_F(_mm256_castsi256_ps(a.a), _mm256_castsi256_ps(a.b)); }
static inline vi vi_add(vi a, vi b) { return FL_I(_mm256_add_epi32(a.a, b.a), _mm256_add_epi32(a.b, b.b)); }
static inline vi vi_or(vi a, vi b) { return FL_I(_mm256_or_si256(a.a, b.a), _mm256_or_si256(a.b, b.b)); }
static inline vi vi_shift_left(vi v, int n) { return FL_I(_mm256_slli_epi32(v.a, n), _mm256_slli_epi32(v.b, n)); }
static inline vi vi_shift_right(vi v, int n) { return FL_I(_mm256_srli_epi32(v.a, n), _mm256_srli_epi32(v.b, n)); }
static inline vf vf_table(const float *p) { return FL_F(_mm256_loadu_ps(p), _mm256_loadu_ps(p)); }
static inline vf vf_look_up(vf table, vi index) {
    return FL_F(_mm256_permutevar8x32_ps(table.a, index.a), _mm256_permutevar8x32_ps(table.a, index.b));
}
static inline vf vf_from_halves(const uint16_t *p) {
    return FL_F(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + 1)));
}
typedef __m256i vh;
static inline vh vh_halves(vf a) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm256_cvtps_ph(a.a, _MM_FROUND_TO_NEAREST_INT)),
                                   _mm256_cvtps_ph(a.b, _MM_FROUND_TO_NEAREST_INT), 1);
}
static inline __m256i fl_rounded_bfloats(__m256 a) {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
}
static inline vh vh_bfloats(vf a) {
    /* The packing is by halves of 128 bits. */
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(fl_rounded_bfloats(a.a), fl_rounded_bfloats(a.b)), 0xd8);
}
static inline void vh_store(uint16_t *p, vh a) { _mm256_storeu_si256((__m256i *)p, a); }
static inline void vh_stream(uint16_t *p, vh a) { _mm256_stream_si256((__m256i *)p, a); }
static inline vf vf_from_bytes(const uint8_t *p) {
    const __m128i bytes = _mm_loadu_si128((const __m128i *)p);
    return FL_F(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))));
}
static inline vf vf_from_bfloats(const uint16_t *p) {
    return FL_F(_mm256_castsi256_ps(_mm256_slli_epi32(
                    _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16)),
                _mm256_castsi256_ps(_mm256_slli_epi32(
                    _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p + 1)), 16)));
}
static inline vd vd_set(double a) { return FL_D(_mm256_set1_pd(a), _mm256_set1_pd(a)); }
static inline vd vd_load(const double *p) { return FL_D(_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)); }
static inline void vd_store(double *p, vd a) { _mm256_storeu_pd(p, a.a); _mm256_storeu_pd(p + 4, a.b); }
static inline vd vd_low(vf a) {
    return FL_D(_mm256_cvtps_pd(_mm256_castps256_ps128(a.a)), _mm256_cvtps_pd(_mm256_extractf128_ps(a.a, 1)));
}
static inline vd vd_high(vf a) {
    return FL_D(_mm256_cvtps_pd(_mm256_castps256_ps128(a.b)), _mm256_cvtps_pd(_mm256_extractf128_ps(a.b, 1)));
}
static inline vd vd_from_floats(const float *p) {
    return FL_D(_mm256_cvtps_pd(_mm_loadu_ps(p)), _mm256_cvtps_pd(_mm_loadu_ps(p + 4)));
}
static inline __m256d fl_even_tiny(__m256 a) {
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_srli_epi32(_mm256_castps_si256(a), 3), 32));
}
static inline __m256d fl_odd_tiny(__m256 a) {
    const __m256i high = _mm256_srli_epi32(_mm256_castps_si256(a), 3);
    return _mm256_castsi256_pd(_mm256_blend_epi32(high, _mm256_setzero_si256(), 0x55));
}
static inline vd vd_even_tiny(vf a) { return FL_D(fl_even_tiny(a.a), fl_even_tiny(a.b)); }
static inline vd vd_odd_tiny(vf a) { return FL_D(fl_odd_tiny(a.a), fl_odd_tiny(a.b)); }
static inline __m256 fl_cut(__m256 a) { return _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(-8))); }
static inline vf vf_cut(vf a) { return FL_F(fl_cut(a.a), fl_cut(a.b)); }
static inline vd fl_zip(__m256d evens, __m256d odds) {
    const __m256d low = _mm256_unpacklo_pd(evens, odds), high = _mm256_unpackhi_pd(evens, odds);
    return FL_D(_mm256_permute2f128_pd(low, high, 0x20), _mm256_permute2f128_pd(low, high, 0x31));
}
static inline void vd_zip(vd *a, vd *b) {
    const vd first = fl_zip(a->a, b->a);
    *b = fl_zip(a->b, b->b);
    *a = first;
}
static inline vf vf_narrow(vd a, vd b) {
    return FL_F(_mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(a.a)), _mm256_cvtpd_ps(a.b), 1),
                _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(b.a)), _mm256_cvtpd_ps(b.b), 1));
}
static inline vd vd_add(vd a, vd b) { return FL_D(_mm256_add_pd(a.a, b.a), _mm256_add_pd(a.b, b.b)); }
static inline vd vd_sub(vd a, vd b) { return FL_D(_mm256_sub_pd(a.a, b.a), _mm256_sub_pd(a.b, b.b)); }
static inline vd vd_mul(vd a, vd b) { return FL_D(_mm256_mul_pd(a.a, b.a), _mm256_mul_pd(a.b, b.b)); }
static inline vd vd_fma(vd a, vd b, vd c) {
    return FL_D(_mm256_fmadd_pd(a.a, b.a, c.a), _mm256_fmadd_pd(a.b, b.b, c.b));
}
static inline vd vd_nfma(vd a, vd b, vd c) {
    return FL_D(_mm256_fnmadd_pd(a.a, b.a, c.a), _mm256_fnmadd_pd(a.b, b.b, c.b));
}
static inline vd vd_max(vd a, vd b) { return FL_D(_mm256_max_pd(a.a, b.a), _mm256_max_pd(a.b, b.b)); }
static inline vd vd_min(vd a, vd b) { return FL_D(_mm256_min_pd(a.a, b.a), _mm256_min_pd(a.b, b.b)); }
static inline vd vd_load_part(const double *p, long n, double rest) {
    double x[8];
    for (int i = 0; i < 8; i++) x[i] = i < n ? p[i] : rest;
    return vd_load(x);
}
static inline __m256 fl_two_rows(__m128 a, __m128 b) { return _mm256_insertf128_ps(_mm256_castps128_ps256(a), b, 1); }
static inline void fl_transpose(__m256 *v) {
    const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(v[0], v[1]));
    const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(v[0], v[1]));
    const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(v[2], v[3]));
    const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(v[2], v[3]));
    v[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
    v[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
    v[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
    v[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
}
/* Of eight rows of two or three numbers, which are as many vectors. */
static inline void fl_load_two_columns(const float *p, __m256 *v) {
    const __m256 a = _mm256_loadu_ps(p), b = _mm256_loadu_ps(p + 8);
    v[0] = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88)), 0xd8));
    v[1] = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd)), 0xd8));
}
static inline void fl_store_two_columns(float *p, const __m256 *v) {
    const __m256 a = _mm256_unpacklo_ps(v[0], v[1]), b = _mm256_unpackhi_ps(v[0], v[1]);
    _mm256_storeu_ps(p, _mm256_permute2f128_ps(a, b, 0x20));
    _mm256_storeu_ps(p + 8, _mm256_permute2f128_ps(a, b, 0x31));
}
/* Numbers 3 i of the 24, 3 i + 1, or 3 i + 2, which no two vectors have in the same lane. */
#define FL_EVERY_THIRD(a, b, c, first, second) _mm256_blend_ps(_mm256_blend_ps(a, b, first), c, second)
static inline void fl_load_three_columns(const float *p, __m256 *v) {
    const __m256 a = _mm256_loadu_ps(p), b = _mm256_loadu_ps(p + 8), c = _mm256_loadu_ps(p + 16);
    const __m256i zero = _mm256_setr_epi32(0, 3, 6, 1, 4, 7, 2, 5), one = _mm256_setr_epi32(1, 4, 7, 2, 5, 0, 3, 6);
    const __m256i two = _mm256_setr_epi32(2, 5, 0, 3, 6, 1, 4, 7);
    v[0] = _mm256_permutevar8x32_ps(FL_EVERY_THIRD(a, b, c, 0x92, 0x24), zero);
    v[1] = _mm256_permutevar8x32_ps(FL_EVERY_THIRD(a, b, c, 0x24, 0x49), one);
    v[2] = _mm256_permutevar8x32_ps(FL_EVERY_THIRD(a, b, c, 0x49, 0x92), two);
}
static inline void fl_store_three_columns(float *p, const __m256 *v) {
    const __m256 a = _mm256_permutevar8x32_ps(v[0], _mm256_setr_epi32(0, 3, 6, 1, 4, 7, 2, 5));
    const __m256 b = _mm256_permutevar8x32_ps(v[1], _mm256_setr_epi32(5, 0, 3, 6, 1, 4, 7, 2));
    const __m256 c = _mm256_permutevar8x32_ps(v[2], _mm256_setr_epi32(2, 5, 0, 3, 6, 1, 4, 7));
    _mm256_storeu_ps(p, FL_EVERY_THIRD(a, b, c, 0x92, 0x24));
    _mm256_storeu_ps(p + 8, FL_EVERY_THIRD(a, b, c, 0x24, 0x49));
    _mm256_storeu_ps(p + 16, FL_EVERY_THIRD(a, b, c, 0x49, 0x92));
}
static inline void fl_load_four_columns(const float *p, long stride, __m256 *v) {
    for (long i = 0; i < 4; i++, p += stride) v[i] = fl_two_rows(_mm_loadu_ps(p), _mm_loadu_ps(p + 4 * stride));
    fl_transpose(v);
}
static inline void fl_store_four_columns(float *p, long stride, __m256 *v) {
    fl_transpose(v);
    for (long i = 0; i < 4; i++, p += stride) {
        _mm_storeu_ps(p, _mm256_castps256_ps128(v[i]));
        _mm_storeu_ps(p + 4 * stride, _mm256_extractf128_ps(v[i], 1));
    }
}
static inline void fl_load_columns(const float *p, long stride, long width, __m256 *v) {
    if (width == 2) fl_load_two_columns(p, v);
    else if (width == 3) fl_load_three_columns(p, v);
    else fl_load_four_columns(p, stride, v);
}
static inline void fl_store_columns(float *p, long stride, long width, __m256 *v) {
    if (width == 2) fl_store_two_columns(p, v);
    else if (width == 3) fl_store_three_columns(p, v);
    else fl_store_four_columns(p, stride, v);
}
static inline void vf_load_columns(const float *p, long stride, long width, vf *v) {
    if (width == 1) { v[0] = vf_load(p); return; }
    __m256 a[4], b[4];
    fl_load_columns(p, stride, width, a);
    fl_load_columns(p + 8 * stride, stride, width, b);
    for (int i = 0; i < width; i++) v[i] = FL_F(a[i], b[i]);
}
static inline void vf_store_columns(float *p, long stride, long width, vf *v) {
    if (width == 1) { vf_store(p, v[0]); return; }
    __m256 a[4], b[4];
    for (int i = 0; i < width; i++) { a[i] = v[i].a; b[i] = v[i].b; }
    fl_store_columns(p, stride, width, a);
    fl_store_columns(p + 8 * stride, stride, width, b);
}
/* Sums of 8 rows of 8 numbers each, in the order 8 -> 4 -> 2 -> 1. */
static inline __m256d fl_two_of(const double *p) {
    return _mm256_add_pd(_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4));
}
static inline __m256d fl_four_folded(const double *p) {
    const __m256d a = fl_two_of(p), b = fl_two_of(p + 8), c = fl_two_of(p + 16), d = fl_two_of(p + 24);
    const __m256d ac = _mm256_add_pd(_mm256_permute2f128_pd(a, c, 0x20), _mm256_permute2f128_pd(a, c, 0x31));
    const __m256d bd = _mm256_add_pd(_mm256_permute2f128_pd(b, d, 0x20), _mm256_permute2f128_pd(b, d, 0x31));
    return _mm256_add_pd(_mm256_unpacklo_pd(ac, bd), _mm256_unpackhi_pd(ac, bd));
}
static inline vd vd_folded(const double *p) { return FL_D(fl_four_folded(p), fl_four_folded(p + 32)); }
static inline __m256i fl_first_wide(long n) {
    static const int64_t ones[8] = {-1, -1, -1, -1, 0, 0, 0, 0};
    return _mm256_loadu_si256((const __m256i *)(ones + 4 - (n < 0 ? 0 : n < 4 ? n : 4)));
}
static inline void vd_store_part(double *p, vd v, long n) {
    _mm256_maskstore_pd(p, fl_first_wide(n), v.a);
    _mm256_maskstore_pd(p + 4, fl_first_wide(n - 4), v.b);
}
static inline void vd_stream(double *p, vd a) { _mm256_stream_pd(p, a.a); _mm256_stream_pd(p + 4, a.b); }
static inline vd vd_div(vd a, vd b) { return FL_D(_mm256_div_pd(a.a, b.a), _mm256_div_pd(a.b, b.b)); }
static inline vd vd_fms(vd a, vd b, vd c) {
    return FL_D(_mm256_fmsub_pd(a.a, b.a, c.a), _mm256_fmsub_pd(a.b, b.b, c.b));
}
static inline vd vd_neg(vd a) {
    const __m256d sign = _mm256_set1_pd(-0.0);
    return FL_D(_mm256_xor_pd(a.a, sign), _mm256_xor_pd(a.b, sign));
}
static inline vd vd_if_negative(vd s, vd a, vd b) {
    return FL_D(_mm256_blendv_pd(b.a, a.a, s.a), _mm256_blendv_pd(b.b, a.b, s.b));
}
static inline vd vd_if_less(vd s, vd t, vd a, vd b) {
    return FL_D(_mm256_blendv_pd(b.a, a.a, _mm256_cmp_pd(s.a, t.a, _CMP_LT_OQ)),
                _mm256_blendv_pd(b.b, a.b, _mm256_cmp_pd(s.b, t.b, _CMP_LT_OQ)));
}
static inline vd vd_if_equal(vd s, vd t, vd a, vd b) {
    return FL_D(_mm256_blendv_pd(b.a, a.a, _mm256_cmp_pd(s.a, t.a, _CMP_EQ_OQ)),
                _mm256_blendv_pd(b.b, a.b, _mm256_cmp_pd(s.b, t.b, _CMP_EQ_OQ)));
}
static inline int vd_first_equal(vd a, vd b) {
    const int low = _mm256_movemask_pd(_mm256_cmp_pd(a.a, b.a, _CMP_EQ_OQ));
    const int high = _mm256_movemask_pd(_mm256_cmp_pd(a.b, b.b, _CMP_EQ_OQ));
    return fl_trailing_zeros((unsigned)(low | high << 4 | 0x100));
}
static inline vd vd_neg_abs(vd a) {
    const __m256d sign = _mm256_set1_pd(-0.0);
    return FL_D(_mm256_or_pd(a.a, sign), _mm256_or_pd(a.b, sign));
}
static inline vd vd_shift_left(vd v, int n) {
    return FL_D(_mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(v.a), n)),
                _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(v.b), n)));
}
static inline vd vd_shift_right(vd v, int n) {
    return FL_D(_mm256_castsi256_pd(_mm256_srli_epi64(_mm256_castpd_si256(v.a), n)),
                _mm256_castsi256_pd(_mm256_srli_epi64(_mm256_castpd_si256(v.b), n)));
}
static inline __m256d fl_sub_bits(__m256d a, __m256d b) {
    return _mm256_castsi256_pd(_mm256_sub_epi64(_mm256_castpd_si256(a), _mm256_castpd_si256(b)));
}
static inline vd vd_sub_bits(vd a, vd b) { return FL_D(fl_sub_bits(a.a, b.a), fl_sub_bits(a.b, b.b)); }
static inline __m256d fl_add_bits(__m256d a, __m256d b) {
    return _mm256_castsi256_pd(_mm256_add_epi64(_mm256_castpd_si256(a), _mm256_castpd_si256(b)));
}
static inline vd vd_add_bits(vd a, vd b) { return FL_D(fl_add_bits(a.a, b.a), fl_add_bits(a.b, b.b)); }
/* Eight doubles are two registers, and only halves of doubles can be picked from a register at will. */
static inline vdt vd_table(const double *p) {
    uint32_t low[8], high[8];
    vdt t;
    for (int i = 0; i < 8; i++) {
        uint64_t bits;
        memcpy(&bits, p + i, 8);
        low[i] = (uint32_t)bits;
        high[i] = (uint32_t)(bits >> 32);
    }
    t.low = _mm256_loadu_si256((const __m256i *)low);
    t.high = _mm256_loadu_si256((const __m256i *)high);
    return t;
}
static inline __m256d fl_look_up(vdt t, __m256i index) {
    const __m256i low = _mm256_permutevar8x32_epi32(t.low, index);
    const __m256i high = _mm256_permutevar8x32_epi32(t.high, _mm256_slli_epi64(index, 32));
    return _mm256_castsi256_pd(_mm256_blend_epi32(low, high, 0xaa));
}
static inline vd vd_look_up(vdt t, vd index) {
    return FL_D(fl_look_up(t, _mm256_castpd_si256(index.a)), fl_look_up(t, _mm256_castpd_si256(index.b)));
}
/* One permutation: the low halves, with an index of 0, become what all of them are, the first high half. */
typedef __m256i vdh;
static inline vdh vd_blunt_table(const double *p) { return vd_table(p).high; }
static inline __m256d fl_look_up_blunt(vdh t, __m256i index) {
    return _mm256_castsi256_pd(_mm256_permutevar8x32_epi32(t, _mm256_slli_epi64(index, 32)));
}
static inline vd vd_look_up_blunt(vdh t, vd index) {
    return FL_D(fl_look_up_blunt(t, _mm256_castpd_si256(index.a)), fl_look_up_blunt(t, _mm256_castpd_si256(index.b)));
}
typedef vd vw;
static inline vw vw_set(double a) { return vd_set(a); }
static inline vw vw_load(const float *p) {
    return FL_D(_mm256_cvtps_pd(_mm_loadu_ps(p)), _mm256_cvtps_pd(_mm_loadu_ps(p + 4)));
}
static inline void vw_store(float *p, vw a) {
    _mm_storeu_ps(p, _mm256_cvtpd_ps(a.a));
    _mm_storeu_ps(p + 4, _mm256_cvtpd_ps(a.b));
}
static inline vw vw_sub(vw a, vw b) { return vd_sub(a, b); }
static inline vw vw_mul(vw a, vw b) { return vd_mul(a, b); }
static inline vw vw_fma(vw a, vw b, vw c) { return vd_fma(a, b, c); }
static inline vd vw_whole(vw a) { return a; }
#undef FL_F
#undef FL_I
#undef FL_D

#else

#define FL_CONVERTS 0
#define FL_WIDE 0
typedef struct { float x[16]; } vf;
typedef struct { uint32_t x[16]; } vi;
typedef struct { double x[8]; } vd;
typedef vd vdt;
typedef struct { uint64_t x[8]; } fl_vl;
/* An operation written for lane i; the loops become vectors where the compiler knows how. */
#define FL_LANEWISE(type, count, expression) \
    type r; for (int i = 0; i < count; i++) { r.x[i] = expression; } return r

static inline vf vf_set(float a) { FL_LANEWISE(vf, 16, a); }
static inline vf vf_load(const float *p) { vf r; memcpy(&r, p, sizeof r); return r; }
static inline vf vf_load_part(const float *p, long n, float rest) { FL_LANEWISE(vf, 16, i < n ? p[i] : rest); }
static inline void vf_store_part(float *p, vf a, long n) { memcpy(p, &a, (size_t)(n < 16 ? n : 16) * sizeof(float)); }
static inline void vf_store(float *p, vf a) { memcpy(p, &a, sizeof a); }
static inline void vf_stream(float *p, vf a) { memcpy(p, &a, sizeof a); }
static inline vf vf_add(vf a, vf b) { FL_LANEWISE(vf, 16, a.x[i] + b.x[i]); }
static inline vf vf_sub(vf a, vf b) { FL_LANEWISE(vf, 16, a.x[i] - b.x[i]); }
static inline vf vf_mul(vf a, vf b) { FL_LANEWISE(vf, 16, a.x[i] * b.x[i]); }
static inline vf vf_div(vf a, vf b) { FL_LANEWISE(vf, 16, a.x[i] / b.x[i]); }
static inline vf vf_fma(vf a, vf b, vf c) { FL_LANEWISE(vf, 16, fmaf(a.x[i], b.x[i], c.x[i])); }
static inline vf vf_nfma(vf a, vf b, vf c) { FL_LANEWISE(vf, 16, fmaf(-a.x[i], b.x[i], c.x[i])); }
static inline vf vf_fms(vf a, vf b, vf c) { FL_LANEWISE(vf, 16, fmaf(a.x[i], b.x[i], -c.x[i])); }
static inline vf vf_max(vf a, vf b) { FL_LANEWISE(vf, 16, a.x[i] > b.x[i] ? a.x[i] : b.x[i]); }
static inline vf vf_min(vf a, vf b) { FL_LANEWISE(vf, 16, a.x[i] < b.x[i] ? a.x[i] : b.x[i]); }
static inline vf vf_neg(vf a) { FL_LANEWISE(vf, 16, -a.x[i]); }
static inline vi vf_bits(vf a) { vi r; memcpy(&r, &a, sizeof r); return r; }
static inline vf vf_of_bits(vi a) { vf r; memcpy(&r, &a, sizeof r); return r; }
static inline vi vi_or_sign(vi a) { FL_LANEWISE(vi, 16, a.x[i] | 0x80000000u); }
static inline vf vf_neg_abs(vf a) { return vf_of_bits(vi_or_sign(vf_bits(a))); }
static inline vf vf_if_negative(vf s, vf a, vf b) {
    vi bits = vf_bits(s);
    FL_LANEWISE(vf, 16, bits.x[i] >> 31 ? a.x[i] : b.x[i]);
}
static inline vf vf_if_less(vf s, vf t, vf a, vf b) { FL_LANEWISE(vf, 16, s.x[i] < t.x[i] ? a.x[i] : b.x[i]); }
static inline vf vf_if_equal(vf s, vf t, vf a, vf b) { FL_LANEWISE(vf, 16, s.x[i] == t.x[i] ? a.x[i] : b.x[i]); }
static inline int vf_any_less(vf a, vf b) {
    int any = 0;
    for (int i = 0; i < 16; i++) any |= a.x[i] < b.x[i];
    return any;
}
static inline int vf_first_equal(vf a, vf b) {
    int i = 0;
    while (i < 16 && !(a.x[i] == b.x[i])) i++;
    return i;
}
static inline float vf_largest(vf a) {
    float best = a.x[0];
    for (int i = 1; i < 16; i++) best = a.x[i] > best ? a.x[i] : best;
    return best;
}
static inline vf vf_clamp_unless_zero(vf s, vf floor, vf a) {
    return vf_if_equal(s, vf_set(0), floor, vf_max(floor, a));
}
static inline vi vi_add(vi a, vi b) { FL_LANEWISE(vi, 16, a.x[i] + b.x[i]); }
static inline vi vi_or(vi a, vi b) { FL_LANEWISE(vi, 16, a.x[i] | b.x[i]); }
static inline vi vi_shift_left(vi a, int n) { FL_LANEWISE(vi, 16, a.x[i] << n); }
static inline vi vi_shift_right(vi a, int n) { FL_LANEWISE(vi, 16, a.x[i] >> n); }
static inline vf vf_table(const float *p) { FL_LANEWISE(vf, 16, p[i & 7]); }
static inline vf vf_look_up(vf table, vi index) { FL_LANEWISE(vf, 16, table.x[index.x[i] & 7]); }
static inline vf vf_from_bytes(const uint8_t *p) { FL_LANEWISE(vf, 16, p[i]); }
/* Never called. */
static inline vf vf_from_halves(const uint16_t *p) { (void)p; return vf_set(0); }
static inline vf vf_from_bfloats(const uint16_t *p) { (void)p; return vf_set(0); }
typedef struct { uint16_t x[16]; } vh;
static inline vh vh_halves(vf a) { (void)a; return (vh){{0}}; }
static inline vh vh_bfloats(vf a) { (void)a; return (vh){{0}}; }
static inline void vh_store(uint16_t *p, vh a) { (void)p; (void)a; }
static inline void vh_stream(uint16_t *p, vh a) { (void)p; (void)a; }
static inline vd vd_set(double a) { FL_LANEWISE(vd, 8, a); }
static inline vd vd_load(const double *p) { vd r; memcpy(&r, p, sizeof r); return r; }
static inline void vd_store(double *p, vd a) { memcpy(p, &a, sizeof a); }
static inline vd vd_low(vf a) { FL_LANEWISE(vd, 8, (double)a.x[i]); }
static inline vd vd_high(vf a) { FL_LANEWISE(vd, 8, (double)a.x[i + 8]); }
static inline vd vd_from_floats(const float *p) { FL_LANEWISE(vd, 8, (double)p[i]); }
static inline vf vf_narrow(vd a, vd b) { FL_LANEWISE(vf, 16, (float)(i < 8 ? a.x[i & 7] : b.x[i & 7])); }
static inline vd vd_add(vd a, vd b) { FL_LANEWISE(vd, 8, a.x[i] + b.x[i]); }
static inline vd vd_sub(vd a, vd b) { FL_LANEWISE(vd, 8, a.x[i] - b.x[i]); }
static inline vd vd_mul(vd a, vd b) { FL_LANEWISE(vd, 8, a.x[i] * b.x[i]); }
static inline vd vd_fma(vd a, vd b, vd c) { FL_LANEWISE(vd, 8, fma(a.x[i], b.x[i], c.x[i])); }
static inline vd vd_nfma(vd a, vd b, vd c) { FL_LANEWISE(vd, 8, fma(-a.x[i], b.x[i], c.x[i])); }
static inline vd vd_max(vd a, vd b) { FL_LANEWISE(vd, 8, a.x[i] > b.x[i] ? a.x[i] : b.x[i]); }
static inline vd vd_min(vd a, vd b) { FL_LANEWISE(vd, 8, a.x[i] < b.x[i] ? a.x[i] : b.x[i]); }
static inline vd vd_load_part(const double *p, long n, double rest) { FL_LANEWISE(vd, 8, i < n ? p[i] : rest); }
static inline void vf_load_columns(const float *p, long stride, long width, vf *v) {
    for (long c = 0; c < width; c++) for (long i = 0; i < 16; i++) v[c].x[i] = p[i * stride + c];
}
static inline void vf_store_columns(float *p, long stride, long width, vf *v) {
    for (long c = 0; c < width; c++) for (long i = 0; i < 16; i++) p[i * stride + c] = v[c].x[i];
}
static inline void vd_store_part(double *p, vd a, long n) {
    for (int i = 0; i < 8 && i < n; i++) p[i] = a.x[i];
}
static inline void fl_four_columns(const double *p, long stride, double *out) {
    for (int c = 0; c < 4; c++) for (int i = 0; i < 4; i++) out[16 * c + i] = p[i * stride + c];
}
static inline void vd_stream(double *p, vd a) { memcpy(p, &a, sizeof a); }
static inline double fl_folded(const double *p) {
    return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
}
static inline vd vd_folded(const double *p) { FL_LANEWISE(vd, 8, fl_folded(p + 8 * i)); }
static inline vd vd_div(vd a, vd b) { FL_LANEWISE(vd, 8, a.x[i] / b.x[i]); }
static inline vd vd_fms(vd a, vd b, vd c) { FL_LANEWISE(vd, 8, fma(a.x[i], b.x[i], -c.x[i])); }
static inline vd vd_neg(vd a) { FL_LANEWISE(vd, 8, -a.x[i]); }
static inline vd vd_if_less(vd s, vd t, vd a, vd b) { FL_LANEWISE(vd, 8, s.x[i] < t.x[i] ? a.x[i] : b.x[i]); }
static inline vd vd_if_equal(vd s, vd t, vd a, vd b) { FL_LANEWISE(vd, 8, s.x[i] == t.x[i] ? a.x[i] : b.x[i]); }
static inline int vd_first_equal(vd a, vd b) {
    int i = 0;
    while (i < 8 && !(a.x[i] == b.x[i])) i++;
    return i;
}
static inline fl_vl fl_bits(vd a) { fl_vl r; memcpy(&r, &a, sizeof r); return r; }
static inline vd fl_of_bits(fl_vl a) { vd r; memcpy(&r, &a, sizeof r); return r; }
static inline fl_vl fl_even_tiny(vi a) { FL_LANEWISE(fl_vl, 8, (uint64_t)(a.x[2 * i] >> 3) << 32); }
static inline fl_vl fl_odd_tiny(vi a) { FL_LANEWISE(fl_vl, 8, (uint64_t)(a.x[2 * i + 1] >> 3) << 32); }
static inline vd vd_even_tiny(vf a) { return fl_of_bits(fl_even_tiny(vf_bits(a))); }
static inline vi fl_cut(vi a) { FL_LANEWISE(vi, 16, a.x[i] & 0xfffffff8u); }
static inline vf vf_cut(vf a) { return vf_of_bits(fl_cut(vf_bits(a))); }
static inline void vd_zip(vd *a, vd *b) {
    const vd evens = *a, odds = *b;
    for (int i = 0; i < 4; i++) {
        a->x[2 * i] = evens.x[i];
        a->x[2 * i + 1] = odds.x[i];
        b->x[2 * i] = evens.x[4 + i];
        b->x[2 * i + 1] = odds.x[4 + i];
    }
}
static inline vd vd_odd_tiny(vf a) { return fl_of_bits(fl_odd_tiny(vf_bits(a))); }
static inline fl_vl fl_shift_left(fl_vl a, int n) { FL_LANEWISE(fl_vl, 8, a.x[i] << n); }
static inline fl_vl fl_shift_right(fl_vl a, int n) { FL_LANEWISE(fl_vl, 8, a.x[i] >> n); }
static inline fl_vl fl_sub_bits(fl_vl a, fl_vl b) { FL_LANEWISE(fl_vl, 8, a.x[i] - b.x[i]); }
static inline fl_vl fl_add_bits(fl_vl a, fl_vl b) { FL_LANEWISE(fl_vl, 8, a.x[i] + b.x[i]); }
static inline fl_vl fl_or_sign(fl_vl a) { FL_LANEWISE(fl_vl, 8, a.x[i] | 0x8000000000000000u); }
static inline vd vd_neg_abs(vd a) { return fl_of_bits(fl_or_sign(fl_bits(a))); }
static inline vd vd_if_negative(vd s, vd a, vd b) {
    fl_vl bits = fl_bits(s);
    FL_LANEWISE(vd, 8, bits.x[i] >> 63 ? a.x[i] : b.x[i]);
}
static inline vd vd_shift_left(vd a, int n) { return fl_of_bits(fl_shift_left(fl_bits(a), n)); }
static inline vd vd_shift_right(vd a, int n) { return fl_of_bits(fl_shift_right(fl_bits(a), n)); }
static inline vd vd_sub_bits(vd a, vd b) { return fl_of_bits(fl_sub_bits(fl_bits(a), fl_bits(b))); }
static inline vd vd_add_bits(vd a, vd b) { return fl_of_bits(fl_add_bits(fl_bits(a), fl_bits(b))); }
static inline vdt vd_table(const double *p) { return vd_load(p); }
static inline vd fl_look_up(vdt table, fl_vl index) { FL_LANEWISE(vd, 8, table.x[index.x[i] & 7]); }
static inline vd vd_look_up(vdt table, vd index) { return fl_look_up(table, fl_bits(index)); }
typedef vdt vdh;
static inline vdh vd_blunt_table(const double *p) { return vd_table(p); }
static inline vd vd_look_up_blunt(vdh table, vd index) { return vd_look_up(table, index); }
typedef vd vw;
static inline vw vw_set(double a) { return vd_set(a); }
static inline vw vw_load(const float *p) { FL_LANEWISE(vw, 8, (double)p[i]); }
static inline void vw_store(float *p, vw a) { for (int i = 0; i < 8; i++) p[i] = (float)a.x[i]; }
static inline vw vw_sub(vw a, vw b) { return vd_sub(a, b); }
static inline vw vw_mul(vw a, vw b) { return vd_mul(a, b); }
static inline vw vw_fma(vw a, vw b, vw c) { return vd_fma(a, b, c); }
static inline vd vw_whole(vw a) { return a; }
#undef FL_LANEWISE

#endif

/* What vd_even_tiny and vd_odd_tiny make too small; exact. */
#define FL_FROM_TINY 0x1p896

/* 0, 1, ..., 15 */
static inline vf vf_count(void) {
    static const float numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return vf_load(numbers);
}

/* Eight doubles to 2^-21: their low halves become all alike, the high half of the first. x86-64-v3 picks halves of
 * doubles from a table, and of such a table only the high ones. */
static inline void fl_blunt(double *p) {
    uint64_t bits, first;
    memcpy(&first, p, 8);
    for (int i = 0; i < 8; i++) {
        memcpy(&bits, p + i, 8);
        bits = (bits & 0xffffffff00000000u) | first >> 32;
        memcpy(p + i, &bits, 8);
    }
}

/* A hint that may name any address: every line of what is read next comes while something else is computed. To the
 * second-level cache only: on its way to the first one a line would hold one of the few places that loads wait in. */
#if defined(__GNUC__)
#define fl_prefetch(p) __builtin_prefetch(p, 0, 2)
/* The same for functions that do nothing else: GCC takes them for constant, and calls of them away, unless something
 * is volatile, which loops of sums have to pay for. */
#define fl_fetch(p) do { fl_prefetch(p); __asm__ volatile(""); } while (0)
#else
#define fl_prefetch(p) ((void)(p))
#define fl_fetch(p) ((void)(p))
#endif

#endif

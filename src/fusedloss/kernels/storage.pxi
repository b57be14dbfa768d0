# Storage: items of any dtype, read into and written from chunks of float or double.
#
# A chunk that already has the right dtype is not copied: `load` answers a pointer into the array itself.
# All conversions round once, to nearest, ties to even.

cimport numpy as cnp

cdef enum Code:
    # How an array stores its items. The floating codes come last: code >= F16 means floating.
    BOOL = 0
    I8
    U8
    I16
    U16
    I32
    U32
    I64
    U64
    F16
    BF16
    F32
    F64

cdef enum:
    MAX_RANK = 64       # NPY_MAXDIMS of NumPy 2

cdef struct Operand:
    # An array, or a number, as the kernels see it. Broadcast weights have strides of 0 and are never materialised.
    const char* data    # NULL: the operand is absent
    Code code
    bint contiguous
    int rank
    Py_ssize_t itemsize
    Py_ssize_t shape[MAX_RANK]
    Py_ssize_t strides[MAX_RANK]
    double number


# --------------------------------------------------------------------------------------- 16-bit formats

cdef inline float float_from_half(uint16_t h) noexcept nogil:
    """float16 to float32, exact. Subnormals go through a subtraction, so that no flag of the CPU matters."""
    cdef uint32_t magnitude = <uint32_t>(h & 0x7fff) << 13
    cdef uint32_t exponent = h & 0x7c00
    cdef float normal = fl_float_bits(magnitude + (<uint32_t>112 << 23))
    cdef float special = fl_float_bits(magnitude + (<uint32_t>224 << 23))
    cdef float tiny = fl_float_bits(magnitude + (<uint32_t>113 << 23)) - <float>6.103515625e-05
    cdef float value = tiny if exponent == 0 else (special if exponent == 0x7c00 else normal)
    return fl_float_bits(fl_bits_f32(value) | (<uint32_t>(h & 0x8000) << 16))


cdef inline uint16_t half_from_float(float x) noexcept nogil:
    """float32 to float16. Overflow gives inf, subnormals are rounded right, nan stays nan."""
    cdef uint32_t bits = fl_bits_f32(x)
    cdef uint32_t sign = (bits >> 16) & 0x8000
    cdef uint32_t magnitude = bits & 0x7fffffff
    # Adding 1/2 puts the last bit of a float16 subnormal, 2^-24, at the last bit of the sum.
    cdef uint32_t tiny = fl_bits_f32(fl_float_bits(magnitude) + <float>0.5) - 0x3f000000
    cdef uint32_t normal = (magnitude + <uint32_t>0xc8000fff + ((magnitude >> 13) & 1)) >> 13
    cdef uint32_t value = tiny if magnitude < 0x38800000 else normal
    value = 0x7c00 if magnitude >= 0x47800000 else value
    value = 0x7e00 if magnitude > 0x7f800000 else value
    return <uint16_t>(value | sign)


cdef inline float float_from_bfloat(uint16_t h) noexcept nogil:
    """bfloat16 to float32: the upper half of its bits."""
    return fl_float_bits(<uint32_t>h << 16)


cdef inline uint16_t bfloat_from_float(float x) noexcept nogil:
    """float32 to bfloat16. nan stays nan."""
    cdef uint32_t bits = fl_bits_f32(x)
    cdef uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16
    return <uint16_t>(((bits >> 16) | 0x40) if (bits & 0x7fffffff) > 0x7f800000 else rounded)


# ------------------------------------------------------------------------------------------------- load

ctypedef fused stored:
    int8_t
    uint8_t
    int16_t
    uint16_t
    int32_t
    uint32_t
    int64_t
    uint64_t
    float
    double


cdef inline void widen(const stored* source, Py_ssize_t n, real* chunk) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        chunk[i] = <real>source[i]


cdef inline Py_ssize_t vectors_from_16_bits(const uint16_t* source, Code code, Py_ssize_t n,
                                            real* chunk) noexcept nogil:
    """How many of n items it has converted: whole vectors of float32, where the machine has an instruction for it."""
    cdef Py_ssize_t i = 0
    if real is float:
        while FL_CONVERTS and i + LANES <= n:
            vf_store(chunk + i, vf_from_halves(source + i) if code == F16 else vf_from_bfloats(source + i))
            i += LANES
    return i


cdef void convert(const char* source, Code code, Py_ssize_t n, real* chunk) noexcept nogil:
    """n items that lie side by side, of any dtype, to OUT chunk[0:n]."""
    cdef Py_ssize_t i
    if code == F32:
        widen(<const float*>source, n, chunk)
    elif code == F64:
        widen(<const double*>source, n, chunk)
    elif code == F16:
        for i in range(vectors_from_16_bits(<const uint16_t*>source, code, n, chunk), n):
            chunk[i] = float_from_half((<const uint16_t*>source)[i])
    elif code == BF16:
        for i in range(vectors_from_16_bits(<const uint16_t*>source, code, n, chunk), n):
            chunk[i] = float_from_bfloat((<const uint16_t*>source)[i])
    elif code == BOOL:
        for i in range(n):
            chunk[i] = <real>1.0 if (<const uint8_t*>source)[i] != 0 else <real>0.0
    elif code == U8:
        widen(<const uint8_t*>source, n, chunk)
    elif code == I8:
        widen(<const int8_t*>source, n, chunk)
    elif code == I16:
        widen(<const int16_t*>source, n, chunk)
    elif code == U16:
        widen(<const uint16_t*>source, n, chunk)
    elif code == I32:
        widen(<const int32_t*>source, n, chunk)
    elif code == U32:
        widen(<const uint32_t*>source, n, chunk)
    elif code == I64:
        widen(<const int64_t*>source, n, chunk)
    else:
        widen(<const uint64_t*>source, n, chunk)


cdef inline int size_of(Code code) noexcept nogil:
    """Bytes of one item."""
    if code <= U8:
        return 1
    if code <= U16 or code == F16 or code == BF16:
        return 2
    if code <= U32 or code == F32:
        return 4
    return 8


cdef inline const real* load(const char* data, Code code, Py_ssize_t first, Py_ssize_t n, real* chunk) noexcept nogil:
    """Items first..first+n of a contiguous array: the array's own memory if it has the right dtype, else `chunk`."""
    if real is float:
        if code == F32:
            return <const float*>data + first
    else:
        if code == F64:
            return <const double*>data + first
    convert(data + first * size_of(code), code, n, chunk)
    return chunk


cdef inline double load_one(const char* data, Code code, Py_ssize_t i) noexcept nogil:
    """Item i of a contiguous array, in double."""
    cdef double value
    if code == F64:
        return (<const double*>data)[i]
    if code == F32:
        return (<const float*>data)[i]
    convert(data + i * size_of(code), code, 1, &value)
    return value


cdef inline void load_run(const char* at, Code code, Py_ssize_t itemsize, Py_ssize_t stride, Py_ssize_t n,
                          real* chunk) noexcept nogil:
    cdef real same
    cdef Py_ssize_t i
    if stride == itemsize:
        convert(at, code, n, chunk)
    elif stride == 0:
        convert(at, code, 1, &same)
        for i in range(n):
            chunk[i] = same
    else:
        for i in range(n):
            convert(at + i * stride, code, 1, chunk + i)


cdef const real* load_operand(const Operand* a, Py_ssize_t first, Py_ssize_t n, real* chunk) noexcept nogil:
    """Items first..first+n, in C order, of an operand of any strides."""
    if a.contiguous:
        return load(a.data, a.code, first, n, chunk)
    cdef Py_ssize_t index[MAX_RANK]
    cdef const char* at = a.data
    cdef Py_ssize_t rest = first
    cdef Py_ssize_t done = 0
    cdef Py_ssize_t run
    cdef Py_ssize_t period = a.shape[a.rank - 1]
    cdef Py_ssize_t stride = a.strides[a.rank - 1]
    cdef int axis
    cdef bint repeated = n > period
    for axis in range(a.rank - 1):
        repeated = repeated and a.strides[axis] == 0
    if repeated:
        # The same numbers for each row: those of one, and then copies of all there are.
        rest = first % period
        load_run(at + rest * stride, a.code, a.itemsize, stride, period - rest, chunk)
        load_run(at, a.code, a.itemsize, stride, rest, chunk + period - rest)
        done = period
        while done < n:
            run = min(done, n - done)
            memcpy(chunk + done, chunk, run * sizeof(real))
            done += run
        return chunk
    for axis in range(a.rank - 1, -1, -1):
        index[axis] = rest % a.shape[axis]
        rest //= a.shape[axis]
        at += index[axis] * a.strides[axis]
    while True:
        # One run along the last axis, then carry into the axes before it.
        run = min(period - index[a.rank - 1], n - done)
        load_run(at, a.code, a.itemsize, stride, run, chunk + done)
        done += run
        if done == n:
            return chunk
        at -= index[a.rank - 1] * stride
        index[a.rank - 1] = 0
        axis = a.rank - 2
        while index[axis] == a.shape[axis] - 1:
            at -= index[axis] * a.strides[axis]
            index[axis] = 0
            axis -= 1
        index[axis] += 1
        at += a.strides[axis]


# ------------------------------------------------------------------------------------------------ store

cdef extern from *:
    """
    /* A cached store first reads the line it writes to. Outputs larger than the caches go past them: whole lines,
       aligned, the ends as usual. fl_fence orders such stores before whatever tells others that they are done. */
    #if defined(__SSE2__) || defined(_M_X64)
      #define FL_STREAMS 1
      #include <immintrin.h>
      static inline void fl_stream(char *to, const char *from, size_t n) {
          size_t head = (64 - ((uintptr_t)to & 63)) & 63;
          if (head > n) head = n;
          memcpy(to, from, head);
          to += head; from += head; n -= head;
          for (; n >= 64; to += 64, from += 64, n -= 64) {
            #ifdef __AVX512F__
              _mm512_stream_si512((__m512i *)to, _mm512_loadu_si512(from));
            #elif defined(__AVX__)
              __m256i a = _mm256_loadu_si256((const __m256i *)from), b = _mm256_loadu_si256((const __m256i *)from + 1);
              _mm256_stream_si256((__m256i *)to, a);
              _mm256_stream_si256((__m256i *)to + 1, b);
            #else
              __m128i a = _mm_loadu_si128((const __m128i *)from), b = _mm_loadu_si128((const __m128i *)from + 1);
              __m128i c = _mm_loadu_si128((const __m128i *)from + 2), d = _mm_loadu_si128((const __m128i *)from + 3);
              _mm_stream_si128((__m128i *)to, a);
              _mm_stream_si128((__m128i *)to + 1, b);
              _mm_stream_si128((__m128i *)to + 2, c);
              _mm_stream_si128((__m128i *)to + 3, d);
            #endif
          }
          memcpy(to, from, n);
      }
      static inline void fl_fence(void) { _mm_sfence(); }
    #else
      #define FL_STREAMS 0
      static inline void fl_stream(char *to, const char *from, size_t n) { memcpy(to, from, n); }
      static inline void fl_fence(void) {}
    #endif
    """
    int FL_STREAMS
    void fl_stream(char* to, const char* source, size_t n) noexcept nogil
    void fl_fence() noexcept nogil

cdef inline void fetch_split_line(const char* output, Py_ssize_t at) noexcept nogil:
    """The line in which a part of an output, which may be NULL, ends at byte `at`; to be called when the part begins.
    Parts of lines go through the caches, also where other lines go past them, and all stores after one that waits for
    its line wait, too: as long as about ten lines take. Arrays begin within a line as a rule, 16 bytes from its
    start."""
    if output != NULL and (<size_t>output + at) & 63:
        fl_fetch(output + at)


cdef inline Py_ssize_t halves_from_vectors(const float* chunk, Py_ssize_t n, uint16_t* half) noexcept nogil:
    """How many of n items it has converted, as half_from_float does: whole vectors, where the machine has an
    instruction for it."""
    cdef Py_ssize_t i = 0
    cdef vf v
    while FL_CONVERTS and i + LANES <= n:
        v = vf_load(chunk + i)
        # The instruction keeps some bits of a nan: all become the same one, but for the sign.
        v = vf_if_equal(v, v, v, vf_if_negative(v, vf_set(-NAN), vf_set(NAN)))
        vh_store(half + i, vh_halves(v))
        i += LANES
    return i


cdef inline void store(char* data, Code code, Py_ssize_t first, Py_ssize_t n, const real* chunk,
                       bint stream) noexcept nogil:
    """chunk[0:n] to items first..first+n of an output array, rounded once; past the caches if `stream`."""
    cdef Py_ssize_t i
    cdef uint16_t* half = <uint16_t*>data + first
    if real is float:
        if code == F16:
            for i in range(halves_from_vectors(chunk, n, half), n):
                half[i] = half_from_float(chunk[i])
            return
        if code == BF16:
            for i in range(n):
                half[i] = bfloat_from_float(chunk[i])
            return
    if stream:
        fl_stream(data + first * sizeof(real), <const char*>chunk, n * sizeof(real))
    else:
        memcpy(data + first * sizeof(real), chunk, n * sizeof(real))

/* Copy n bytes with streaming stores, which do not read the destination first: the traffic that a copy cannot avoid.
 * A C library's memcpy does this only above a size that differs between machines, so it cannot stand for the roof.
 * IN from and OUT to are aligned to 16 bytes, n is a multiple of 64. Elsewhere than on x86-64 these are plain stores,
 * as on most of those machines the hardware itself spares the read of a line that is written whole. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

int has_streaming_stores(void) {
#ifdef __SSE2__
    return 1;
#else
    return 0;
#endif
}

void stream_copy(char *to, const char *from, size_t n) {
#ifdef __SSE2__
    for (size_t i = 0; i < n; i += 64) {
        __m128i a = _mm_load_si128((const __m128i *)(from + i));
        __m128i b = _mm_load_si128((const __m128i *)(from + i + 16));
        __m128i c = _mm_load_si128((const __m128i *)(from + i + 32));
        __m128i d = _mm_load_si128((const __m128i *)(from + i + 48));
        _mm_stream_si128((__m128i *)(to + i), a);
        _mm_stream_si128((__m128i *)(to + i + 16), b);
        _mm_stream_si128((__m128i *)(to + i + 32), c);
        _mm_stream_si128((__m128i *)(to + i + 48), d);
    }
    _mm_sfence();
#else
    memcpy(to, from, n);
#endif
}

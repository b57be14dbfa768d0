/* How fast one core is: its clock, and the rate at which it starts fused multiply-adds. Loops of known length, which
 * core.py times. The instructions are written out, so that no compiler can work out a loop beforehand. */
#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__)

int has_core(void) { return 1; }

/* 8 n multiplications of which each waits for the one before: 3 cycles each, on Intel's cores since 2008 and on AMD's
 * since 2017. */
void multiply_chain(uint64_t n) {
    uint64_t x = 3;
    for (uint64_t i = 0; i < n; i++)
        __asm__ volatile(
            "imul %0, %0\n imul %0, %0\n imul %0, %0\n imul %0, %0\n"
            "imul %0, %0\n imul %0, %0\n imul %0, %0\n imul %0, %0\n"
            : "+r"(x));
}

/* 12 n fused multiply-adds of which none waits for another in the same turn; at a latency of 4 and 2 a cycle, 8 would
 * do. All numbers are zero, so there is nothing to overflow. */
#define TWELVE(r)                                                                                                      \
    FMA(r, 0) FMA(r, 1) FMA(r, 2) FMA(r, 3) FMA(r, 4) FMA(r, 5)                                                        \
    FMA(r, 6) FMA(r, 7) FMA(r, 8) FMA(r, 9) FMA(r, 10) FMA(r, 11)
#define FMA(r, j) "vfmadd213ps %%" #r "15, %%" #r "15, %%" #r #j "\n"
#define LOOP(r)                                                                                                        \
    __asm__ volatile("vzeroall\n 1:\n" TWELVE(r) "dec %0\n jnz 1b\n vzeroall\n"                                         \
                     : "+r"(n)                                                                                         \
                     :                                                                                                 \
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",   \
                       "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

void multiply_add_512(uint64_t n) { LOOP(zmm); }
void multiply_add_256(uint64_t n) { LOOP(ymm); }

#else
int has_core(void) { return 0; }
void multiply_chain(uint64_t n) { (void)n; }
void multiply_add_512(uint64_t n) { (void)n; }
void multiply_add_256(uint64_t n) { (void)n; }
#endif

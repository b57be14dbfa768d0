# cython: language_level=3
"""Which instruction set level this CPU, and the operating system under it, can run.

Compiled with the flags of the baseline and without OpenMP, so that it can be imported anywhere. The
CPU is asked by hand: clang before 17 does not know level names in `__builtin_cpu_supports`, and
MSVC has no such function.
"""

cdef extern from *:
    """
    #define FL_OTHER   0
    #define FL_X86     1
    #define FL_X86_V3  2
    #define FL_X86_V4  3
    #define FL_AARCH64 4

    #if defined(__x86_64__) || defined(_M_X64)

    #ifdef _MSC_VER
    #include <intrin.h>
    static void fl_cpuid(unsigned int leaf, unsigned int r[4]) {
        __cpuidex((int *)r, (int)leaf, 0);
    }
    static unsigned long long fl_xcr0(void) { return _xgetbv(0); }
    #else
    #include <cpuid.h>
    static void fl_cpuid(unsigned int leaf, unsigned int r[4]) {
        __cpuid_count(leaf, 0, r[0], r[1], r[2], r[3]);
    }
    static unsigned long long fl_xcr0(void) {
        unsigned int low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        return ((unsigned long long)high << 32) | low;
    }
    #endif

    #define FL_BIT(n) (1u << (n))
    static int fl_has(unsigned int have, unsigned int want) { return (have & want) == want; }

    /* The level; *vbmi2 says whether a v4 machine has AVX512_VBMI2 too. All bits of a level are
       required, and the system must save its registers (XCR0): virtual machines mask either. */
    static int fl_level(int *vbmi2) {
        const unsigned int ecx1 =       /* leaf 1: SSE3, SSSE3, FMA, CX16, SSE4.1, SSE4.2, */
            FL_BIT(0) | FL_BIT(9) | FL_BIT(12) | FL_BIT(13) | FL_BIT(19) | FL_BIT(20)
            | FL_BIT(22) | FL_BIT(23) | FL_BIT(27) | FL_BIT(28) | FL_BIT(29);
                                        /* MOVBE, POPCNT, OSXSAVE, AVX, F16C */
        const unsigned int ecx_extended = FL_BIT(0) | FL_BIT(5);         /* LAHF, LZCNT */
        const unsigned int ebx7_v3 = FL_BIT(3) | FL_BIT(5) | FL_BIT(8);  /* BMI1, AVX2, BMI2 */
        const unsigned int ebx7_v4 =                                     /* AVX512 F DQ CD BW VL */
            FL_BIT(16) | FL_BIT(17) | FL_BIT(28) | FL_BIT(30) | FL_BIT(31);
        const unsigned int ecx7_vbmi2 = FL_BIT(6);
        const unsigned long long ymm = 0x06, zmm = 0xE6;
        unsigned int r[4], ebx7, ecx7;

        *vbmi2 = 0;
        fl_cpuid(0, r);
        if (r[0] < 7)
            return FL_X86;
        fl_cpuid(0x80000000u, r);
        if (r[0] < 0x80000001u)
            return FL_X86;
        fl_cpuid(1, r);
        if (!fl_has(r[2], ecx1))        /* without OSXSAVE, XGETBV below would be illegal */
            return FL_X86;
        fl_cpuid(0x80000001u, r);
        if (!fl_has(r[2], ecx_extended))
            return FL_X86;
        fl_cpuid(7, r);
        ebx7 = r[1];
        ecx7 = r[2];
        if (!fl_has(ebx7, ebx7_v3) || (fl_xcr0() & ymm) != ymm)
            return FL_X86;
        if (!fl_has(ebx7, ebx7_v4) || (fl_xcr0() & zmm) != zmm)
            return FL_X86_V3;
        *vbmi2 = fl_has(ecx7, ecx7_vbmi2);
        return FL_X86_V4;
    }

    #elif defined(__aarch64__) || defined(_M_ARM64)
    static int fl_level(int *vbmi2) { *vbmi2 = 0; return FL_AARCH64; }
    #else
    static int fl_level(int *vbmi2) { *vbmi2 = 0; return FL_OTHER; }
    #endif
    """
    int FL_X86_V3
    int FL_X86_V4
    int fl_level(int *vbmi2)


cdef int _has_vbmi2 = 0
cdef int _level = fl_level(&_has_vbmi2)

# In the order of the numbers above.
_NAMES = ("other", "x86-64", "x86-64-v3", "x86-64-v4", "aarch64")


def detected_isa():
    """Return the highest level that can run here.

    One of "x86-64-v4", "x86-64-v3", "x86-64", "aarch64" and "other".
    """
    return _NAMES[_level]


def preferred_isa():
    """Return the level to use by default: the detected one, unless 512-bit code is costly here.

    Processors with AVX-512 but without AVX512_VBMI2 (Skylake-X, Cascade Lake) lower their clock for
    512-bit arithmetic; from Ice Lake and Zen 4 on they do not, or hardly.
    """
    if _level == FL_X86_V4 and not _has_vbmi2:
        return _NAMES[FL_X86_V3]
    return _NAMES[_level]

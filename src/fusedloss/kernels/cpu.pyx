# cython: language_level=3
"""Which instruction set level this CPU, and the operating system under it, can run.

Compiled with the flags of the baseline and without OpenMP, so that it can be imported anywhere. The CPU is asked by
hand: not every compiler we build with knows level names in `__builtin_cpu_supports`, and MSVC has no such function.
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
    static void fl_cpuid(unsigned int leaf, unsigned int r[4]) { __cpuidex((int *)r, (int)leaf, 0); }
    static unsigned long long fl_xcr0(void) { return _xgetbv(0); }
    #else
    #include <cpuid.h>
    static void fl_cpuid(unsigned int leaf, unsigned int r[4]) { __cpuid_count(leaf, 0, r[0], r[1], r[2], r[3]); }
    static unsigned long long fl_xcr0(void) {
        unsigned int low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        return ((unsigned long long)high << 32) | low;
    }
    #endif

    #define FL_BIT(n) (1u << (n))
    static int fl_all(unsigned int have, unsigned int want) { return (have & want) == want; }

    /* The level, and in *vbmi2 whether AVX512_VBMI2 is there too. */
    static int fl_level(int *vbmi2) {
        /* Leaf 1, ECX: SSE3, SSSE3, FMA, CX16, SSE4.1, SSE4.2, MOVBE, POPCNT, OSXSAVE, AVX, F16C. */
        const unsigned int leaf1 = FL_BIT(0) | FL_BIT(9) | FL_BIT(12) | FL_BIT(13) | FL_BIT(19) | FL_BIT(20)
                                   | FL_BIT(22) | FL_BIT(23) | FL_BIT(27) | FL_BIT(28) | FL_BIT(29);
        const unsigned int leaf7_v3 = FL_BIT(3) | FL_BIT(5) | FL_BIT(8);  /* EBX: BMI1, AVX2, BMI2 */
        const unsigned int leaf7_v4 = FL_BIT(16) | FL_BIT(17) | FL_BIT(28) | FL_BIT(30) | FL_BIT(31);  /* F DQ CD BW VL */
        const unsigned int extended = FL_BIT(0) | FL_BIT(5);              /* leaf 0x80000001, ECX: LAHF, LZCNT */
        unsigned int r[4];
        unsigned int ebx7, ecx7;
        unsigned long long xcr0;

        *vbmi2 = 0;
        fl_cpuid(0, r);
        if (r[0] < 7)
            return FL_X86;
        fl_cpuid(0x80000000u, r);
        if (r[0] < 0x80000001u)
            return FL_X86;
        fl_cpuid(1, r);
        if (!fl_all(r[2], leaf1))  /* OSXSAVE is among them: without it XGETBV is an illegal instruction */
            return FL_X86;
        fl_cpuid(0x80000001u, r);
        if (!fl_all(r[2], extended))
            return FL_X86;
        fl_cpuid(7, r);
        ebx7 = r[1];
        ecx7 = r[2];
        xcr0 = fl_xcr0();
        if (!fl_all(ebx7, leaf7_v3) || (xcr0 & 0x06) != 0x06)   /* the system saves XMM and YMM registers */
            return FL_X86;
        if (!fl_all(ebx7, leaf7_v4) || (xcr0 & 0xE6) != 0xE6)   /* and ZMM and mask registers */
            return FL_X86_V3;
        *vbmi2 = fl_all(ecx7, FL_BIT(6));
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

_NAMES = ("other", "x86-64", "x86-64-v3", "x86-64-v4", "aarch64")


def detected_isa():
    """Return the highest level that can run here: "x86-64-v4", "x86-64-v3", "x86-64", "aarch64" or "other"."""
    return _NAMES[_level]


def preferred_isa():
    """Return the level to use by default: the detected one, except on CPUs that pay for 512-bit code.

    Processors with AVX-512 but without AVX512_VBMI2 (Skylake-X, Cascade Lake) lower their clock for 512-bit arithmetic;
    Ice Lake, Zen 4 and later do not, or hardly.
    """
    if _level == FL_X86_V4 and not _has_vbmi2:
        return _NAMES[FL_X86_V3]
    return _NAMES[_level]

# Made by ci/fit_polynomials.py; do not edit.
#
# C macros: Cython cannot read hexadecimal floats, and compilers should know the values.
# Measured errors of the recipes: python ci/fit_polynomials.py --measure
cdef extern from *:
    """
    /* log2(e), and ln 2 = HI + LO for r = fma(n, -LO, fma(n, -HI, x)) */
    #define FL_LOG2EF (0x1.715476p+0f)
    #define FL_LN2F_HI (0x1.62e43p-1f)
    #define FL_LN2F_LO (-0x1.05c61p-29f)
    /* the same in float64 */
    #define FL_LOG2E (0x1.71547652b82fep+0)
    #define FL_LN2_HI (0x1.62e42fefa39efp-1)
    #define FL_LN2_LO (0x1.abc9e3b39803fp-56)
    /* C0 of the cubic for sums */
    #define FL_EXPSF_CONSTANT (-0x1.3d3054p-26f)
    /* e^-100: what is less has a logarithm below -100 */
    #define FL_E_MINUS_100 (0x1.a8c1f14e2af5dp-145)
    /* ln 2 = HI + LO; HI ends in 12 zero bits, so that k*HI is exact for |k| <= 4096 */
    #define FL_LN2_SPLIT_HI (0x1.62e42fefa4p-1)
    #define FL_LN2_SPLIT_LO (-0x1.8432a1b0e2634p-43)
    /* 2^(j/8) = T (1 + E) */
    #define FL_EXPTF_T0 (0x1p+0f)
    #define FL_EXPTF_E0 (0x0p+0f)
    #define FL_EXPTF_T1 (0x1.172b84p+0f)
    #define FL_EXPTF_E1 (-0x1.9c0c22p-27f)
    #define FL_EXPTF_T2 (0x1.306fep+0f)
    #define FL_EXPTF_E2 (0x1.125002p-25f)
    #define FL_EXPTF_T3 (0x1.4bfdaep+0f)
    #define FL_EXPTF_E3 (-0x1.0a355p-25f)
    #define FL_EXPTF_T4 (0x1.6a09e6p+0f)
    #define FL_EXPTF_E4 (0x1.26055cp-26f)
    #define FL_EXPTF_T5 (0x1.8ace54p+0f)
    #define FL_EXPTF_E5 (0x1.67a1cap-28f)
    #define FL_EXPTF_T6 (0x1.ae89fap+0f)
    #define FL_EXPTF_E6 (-0x1.f9c304p-27f)
    #define FL_EXPTF_T7 (0x1.d5818ep+0f)
    #define FL_EXPTF_E7 (-0x1.a5217cp-28f)
    /* 2^(j/8) = T (1 + E) */
    #define FL_EXPT_T0 (0x1p+0)
    #define FL_EXPT_E0 (0x0p+0)
    #define FL_EXPT_T1 (0x1.172b83c7d517bp+0)
    #define FL_EXPT_E1 (-0x1.01b15eaa59348p-55)
    #define FL_EXPT_T2 (0x1.306fe0a31b715p+0)
    #define FL_EXPT_E2 (0x1.34d754db0abb6p-55)
    #define FL_EXPT_T3 (0x1.4bfdad5362a27p+0)
    #define FL_EXPT_E3 (0x1.690cebb7aafbp-56)
    #define FL_EXPT_T4 (0x1.6a09e667f3bcdp+0)
    #define FL_EXPT_E4 (-0x1.3b3efbf5e2228p-54)
    #define FL_EXPT_T5 (0x1.8ace5422aa0dbp+0)
    #define FL_EXPT_E5 (0x1.db72fc1f0eab4p-55)
    #define FL_EXPT_T6 (0x1.ae89f995ad3adp+0)
    #define FL_EXPT_E6 (0x1.c1a7792cb3387p-55)
    #define FL_EXPT_T7 (0x1.d5818dcfba487p+0)
    #define FL_EXPT_E7 (0x1.4a385a63d07a7p-56)
    /* log(1 + e) = L_j + log(T_j (1 + e)) with j = rint(STEPS e), or nearly */
    #define FL_LOGTF_STEPS (0x1.d9999ap+2f)
    #define FL_LOGTF_T0 (0x1p+0f)
    #define FL_LOGTF_L0 (0x0p+0f)
    #define FL_LOGTF_T1 (0x1.c3cdfap-1f)
    #define FL_LOGTF_L1 (0x1.00273ep-3f)
    #define FL_LOGTF_T2 (0x1.932238p-1f)
    #define FL_LOGTF_L2 (0x1.e9966cp-3f)
    #define FL_LOGTF_T3 (0x1.6b7b38p-1f)
    #define FL_LOGTF_L3 (0x1.5ed1acp-2f)
    #define FL_LOGTF_T4 (0x1.4a4f8ep-1f)
    #define FL_LOGTF_L4 (0x1.c0cf48p-2f)
    #define FL_LOGTF_T5 (0x1.30cbeap-1f)
    #define FL_LOGTF_L5 (0x1.099072p-1f)
    #define FL_LOGTF_T6 (0x1.1b2feep-1f)
    #define FL_LOGTF_L6 (0x1.2f36fcp-1f)
    #define FL_LOGTF_T7 (0x1.082812p-1f)
    #define FL_LOGTF_L7 (0x1.52d532p-1f)
    /* exp(r) = 1 + r + C2 r^2 + ... + C6 r^6 on |r| <= 0.5014 ln 2
       relative error <= 2^-28.21 (2^-28.25 with unrounded coefficients) */
    #define FL_EXPF_C2 (0x1.fffffcp-2f)
    #define FL_EXPF_C3 (0x1.555492p-3f)
    #define FL_EXPF_C4 (0x1.5558cp-5f)
    #define FL_EXPF_C5 (0x1.1239e4p-7f)
    #define FL_EXPF_C6 (0x1.6a3dacp-10f)
    /* exp(r) = 1 + C1 r + ... + C4 r^4 on |r| <= 0.0640 ln 2, beside a table of 2^(j/8)
       relative error <= 2^-32.27 (2^-33.36 with unrounded coefficients) */
    #define FL_EXPTF_C1 (0x1p+0f)
    #define FL_EXPTF_C2 (0x1p-1f)
    #define FL_EXPTF_C3 (0x1.555cc6p-3f)
    #define FL_EXPTF_C4 (0x1.55567p-5f)
    /* exp(r) = 1 + C0 + C1 r + C2 r^2 + C3 r^3 on |r| <= 0.0626 ln 2, for sums
       relative error <= 2^-25.65 (2^-25.68 with unrounded coefficients) */
    #define FL_EXPSF_C1 (0x1p+0f)
    #define FL_EXPSF_C2 (0x1.000a42p-1f)
    #define FL_EXPSF_C3 (0x1.5558a6p-3f)
    /* log(1 + u) = u + u^2 (C2 + ... + C5 u^3) on -0.0604 <= u <= 0.0656, beside the table
       relative error <= 2^-26.43 (2^-26.45 with unrounded coefficients) */
    #define FL_LOGTF_C2 (-0x1.ffffcep-2f)
    #define FL_LOGTF_C3 (0x1.555662p-2f)
    #define FL_LOGTF_C4 (-0x1.00d148p-2f)
    #define FL_LOGTF_C5 (0x1.9732d6p-3f)
    /* exp(r) = 1 + r + C2 r^2 + ... + C12 r^12 on |r| <= 0.5001 ln 2
       relative error <= 2^-63.80 (2^-64.02 with unrounded coefficients) */
    #define FL_EXP_C2 (0x1p-1)
    #define FL_EXP_C3 (0x1.555555555555ap-3)
    #define FL_EXP_C4 (0x1.5555555555531p-5)
    #define FL_EXP_C5 (0x1.111111110f167p-7)
    #define FL_EXP_C6 (0x1.6c16c16c26f9bp-10)
    #define FL_EXP_C7 (0x1.a01a01b1e423ap-13)
    #define FL_EXP_C8 (0x1.a01a0151dd926p-16)
    #define FL_EXP_C9 (0x1.71ddf388e2f53p-19)
    #define FL_EXP_C10 (0x1.27e58f5337e1p-22)
    #define FL_EXP_C11 (0x1.af66b9f47e961p-26)
    #define FL_EXP_C12 (0x1.1e624d4742cfbp-29)
    /* exp(r) = 1 + C1 r + ... + C7 r^7 on |r| <= 0.0627 ln 2, beside a table of 2^(j/8)
       relative error <= 2^-58.24 (2^-58.26 with unrounded coefficients) */
    #define FL_EXPT_C1 (0x1p+0)
    #define FL_EXPT_C2 (0x1.000000000011p-1)
    #define FL_EXPT_C3 (0x1.5555555555164p-3)
    #define FL_EXPT_C4 (0x1.55555547e37a9p-5)
    #define FL_EXPT_C5 (0x1.11111124dfc72p-7)
    #define FL_EXPT_C6 (0x1.6c1cc7270017fp-10)
    #define FL_EXPT_C7 (0x1.a016895a981ddp-13)
    /* log(y) = 2 s (1 + C1 z + ... + C8 z^8) with s = (y - 1)/(y + 1), z = s^2,
       on sqrt(1/2) <= y <= sqrt(2)
       relative error <= 2^-66.58 (2^-66.73 with unrounded coefficients) */
    #define FL_LOG_C1 (0x1.5555555555555p-2)
    #define FL_LOG_C2 (0x1.9999999999d1p-3)
    #define FL_LOG_C3 (0x1.24924924399bcp-3)
    #define FL_LOG_C4 (0x1.c71c724b4104cp-4)
    #define FL_LOG_C5 (0x1.745ce1d5470f4p-4)
    #define FL_LOG_C6 (0x1.3b202255761fap-4)
    #define FL_LOG_C7 (0x1.0f6774dfe0d54p-4)
    #define FL_LOG_C8 (0x1.0f0c1fa5770bap-4)
    """
    const float FL_LOG2EF
    const float FL_LN2F_HI
    const float FL_LN2F_LO
    const double FL_LOG2E
    const double FL_LN2_HI
    const double FL_LN2_LO
    const float FL_EXPSF_CONSTANT
    const double FL_E_MINUS_100
    const double FL_LN2_SPLIT_HI
    const double FL_LN2_SPLIT_LO
    const float FL_EXPTF_T0
    const float FL_EXPTF_E0
    const float FL_EXPTF_T1
    const float FL_EXPTF_E1
    const float FL_EXPTF_T2
    const float FL_EXPTF_E2
    const float FL_EXPTF_T3
    const float FL_EXPTF_E3
    const float FL_EXPTF_T4
    const float FL_EXPTF_E4
    const float FL_EXPTF_T5
    const float FL_EXPTF_E5
    const float FL_EXPTF_T6
    const float FL_EXPTF_E6
    const float FL_EXPTF_T7
    const float FL_EXPTF_E7
    const double FL_EXPT_T0
    const double FL_EXPT_E0
    const double FL_EXPT_T1
    const double FL_EXPT_E1
    const double FL_EXPT_T2
    const double FL_EXPT_E2
    const double FL_EXPT_T3
    const double FL_EXPT_E3
    const double FL_EXPT_T4
    const double FL_EXPT_E4
    const double FL_EXPT_T5
    const double FL_EXPT_E5
    const double FL_EXPT_T6
    const double FL_EXPT_E6
    const double FL_EXPT_T7
    const double FL_EXPT_E7
    const float FL_LOGTF_STEPS
    const float FL_LOGTF_T0
    const float FL_LOGTF_L0
    const float FL_LOGTF_T1
    const float FL_LOGTF_L1
    const float FL_LOGTF_T2
    const float FL_LOGTF_L2
    const float FL_LOGTF_T3
    const float FL_LOGTF_L3
    const float FL_LOGTF_T4
    const float FL_LOGTF_L4
    const float FL_LOGTF_T5
    const float FL_LOGTF_L5
    const float FL_LOGTF_T6
    const float FL_LOGTF_L6
    const float FL_LOGTF_T7
    const float FL_LOGTF_L7
    const float FL_EXPF_C2
    const float FL_EXPF_C3
    const float FL_EXPF_C4
    const float FL_EXPF_C5
    const float FL_EXPF_C6
    const float FL_EXPTF_C1
    const float FL_EXPTF_C2
    const float FL_EXPTF_C3
    const float FL_EXPTF_C4
    const float FL_EXPSF_C1
    const float FL_EXPSF_C2
    const float FL_EXPSF_C3
    const float FL_LOGTF_C2
    const float FL_LOGTF_C3
    const float FL_LOGTF_C4
    const float FL_LOGTF_C5
    const double FL_EXP_C2
    const double FL_EXP_C3
    const double FL_EXP_C4
    const double FL_EXP_C5
    const double FL_EXP_C6
    const double FL_EXP_C7
    const double FL_EXP_C8
    const double FL_EXP_C9
    const double FL_EXP_C10
    const double FL_EXP_C11
    const double FL_EXP_C12
    const double FL_EXPT_C1
    const double FL_EXPT_C2
    const double FL_EXPT_C3
    const double FL_EXPT_C4
    const double FL_EXPT_C5
    const double FL_EXPT_C6
    const double FL_EXPT_C7
    const double FL_LOG_C1
    const double FL_LOG_C2
    const double FL_LOG_C3
    const double FL_LOG_C4
    const double FL_LOG_C5
    const double FL_LOG_C6
    const double FL_LOG_C7
    const double FL_LOG_C8

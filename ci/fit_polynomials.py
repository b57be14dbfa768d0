"""Fit the polynomials of the kernels and write src/fusedloss/kernels/coefficients.pxi.

    python ci/fit_polynomials.py             write the file (about ten seconds)
    python ci/fit_polynomials.py --check     exit 1 if the file differs from what would be written
    python ci/fit_polynomials.py --measure   run the recipes in emulated float arithmetic and print
                                             the largest errors; --exhaustive: every float32 input

Fitting needs mpmath and nothing else. Measuring needs NumPy too.

Every fit is a linear minimax problem: the leading coefficients are fixed at their exact values, the
others minimise the largest relative error over the interval. The coefficients must also be
floating-point numbers, so they are rounded one after the other, from the lowest power up, and those
that are still free are fitted again after each rounding: the later coefficients take up the error
that the earlier ones were forced to make. For float32, where the rounding of coefficients is
visible in the error, a search over neighbouring numbers follows.

All steps are deterministic, so the file can be compared byte by byte.
"""

import argparse
import itertools
import math
import sys
from pathlib import Path

import mpmath
from mpmath import mpf

# The smallest error below is near 2**-67, and solving for 11 coefficients loses about 60 bits.
mpmath.mp.prec = 240

FILE = Path(__file__).resolve().parent.parent / "src" / "fusedloss" / "kernels" / "coefficients.pxi"
FLOAT32, FLOAT64 = 24, 53  # bits of the significand


def log2(x):
    """Base-2 logarithm of a positive number, as a float."""
    return float(mpmath.log(x, 2))


def rounded(x, bits):
    """`x` rounded to nearest, ties to even, with `bits` significant bits."""
    if x == 0:
        return mpf(0)
    mantissa, exponent = mpmath.frexp(x)
    return mpmath.ldexp(mpmath.nint(mpmath.ldexp(mantissa, bits)), int(exponent) - bits)


def spacing(x, bits):
    """Distance between `x` and the next number of `bits` bits away from zero."""
    return mpmath.ldexp(1, int(mpmath.frexp(x)[1]) - bits)


def literal(x, bits):
    """`x` as a C literal: hexadecimal, so that no compiler rounds it."""
    text = float(x).hex()
    if mpf(float(x)) != x or rounded(x, bits) != x:
        raise ValueError(f"{mpmath.nstr(x, 20)} is not a number of {bits} bits")
    digits, exponent = text.split("p")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return f"{digits}p{exponent}{'f' if bits == FLOAT32 else ''}"


class Fit:
    """A polynomial in `u` with some coefficients given and the others free.

    ``function(u)`` is approximated by ``given(u) + sum of c[k] * u**k`` with `k` over `powers`.

    Parameters
    ----------
    prefix : str
        The macro of c[k] is named ``<prefix><k>``.
    powers : range
        Powers of the free coefficients.
    function, given : callable
        What is approximated, and the part of the polynomial that is not free; one mpf to one mpf.
    interval : pair of mpf
        Range of `u`.
    bits : int
        Bits of the coefficients' significands, FLOAT32 or FLOAT64.
    limit : float
        Base-2 logarithm of the relative error that the rounded polynomial must not exceed.
    about : str
        Formula and interval, for the comment in the file.
    """

    def __init__(self, prefix, powers, function, given, interval, bits, limit, about):
        self.prefix, self.powers, self.bits = prefix, list(powers), bits
        self.limit, self.about = limit, about
        self.function, self.given = function, given
        self.low, self.high = interval

    def grid(self, points):
        """Chebyshev points and both ends of the interval, without u = 0, where no error is left."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        found = [middle - half * mpmath.cos(mpmath.pi * i / (points - 1)) for i in range(points)]
        return [u for u in found if abs(u) > half * mpf(2) ** -40]

    def error(self, coefficients, u):
        """Relative error at `u` of the polynomial with `coefficients` (power -> value)."""
        value = self.given(u) + sum(c * u**k for k, c in coefficients.items())
        truth = self.function(u)
        return (value - truth) / truth

    def largest_error(self, coefficients, points):
        """Largest absolute relative error on a grid, and where it is."""
        return max((abs(self.error(coefficients, u)), u) for u in self.grid(points))

    def minimax(self, fixed):
        """Coefficients of smallest largest relative error, those in `fixed` (power -> value) kept.

        Remez exchange on a grid: solve for an error of equal size and alternating sign on n + 1
        points, take the point of the largest error found into that set, repeat until nothing is
        larger. The free powers are consecutive, so the free part is u**k times a polynomial. Where
        u**k or the function is negative its sign is divided out of both sides: without that the
        theorem of alternating signs does not hold on an interval around 0.
        """
        free = [k for k in self.powers if k not in fixed]
        grid = self.grid(24 * (len(free) + 1))
        scale = [abs(self.function(u)) * (mpmath.sign(u) ** free[0]) for u in grid]
        target = [
            -self.error(fixed, u) * self.function(u) / f for u, f in zip(grid, scale, strict=True)
        ]
        basis = [[u**k / f for k in free] for u, f in zip(grid, scale, strict=True)]
        count = len(free) + 1
        chosen = [
            round(i * (len(grid) - 1) / (count - 1)) if count > 1 else 0 for i in range(count)
        ]
        for _ in range(1000):
            matrix = mpmath.matrix([[*basis[i], mpf((-1) ** j)] for j, i in enumerate(chosen)])
            solution = mpmath.lu_solve(matrix, mpmath.matrix([target[i] for i in chosen]))
            level = abs(solution[count - 1])
            residual = [
                t - sum(solution[j] * b for j, b in enumerate(row))
                for t, row in zip(target, basis, strict=True)
            ]
            new = max(range(len(grid)), key=lambda i: abs(residual[i]))
            if abs(residual[new]) <= level * (1 + mpf(2) ** -30):
                break
            first = 1 if solution[count - 1] >= 0 else -1
            signs = [first * (-1) ** j for j in range(count)]
            chosen = exchanged(chosen, signs, new, 1 if residual[new] > 0 else -1)
        else:
            raise RuntimeError(f"{self.prefix}: no equal error after 1000 exchanges")
        return {**fixed, **{k: solution[j] for j, k in enumerate(free)}}

    def rounded_coefficients(self):
        """Coefficients of `bits` bits: rounding with refits, then neighbours."""
        fixed = {}
        for power in self.powers:
            fixed[power] = rounded(self.minimax(fixed)[power], self.bits)
        if self.bits == FLOAT32:
            fixed = self.best_neighbour(fixed)
        return fixed

    def best_neighbour(self, coefficients):
        """Move pairs of coefficients by one or two ulp while the largest error shrinks.

        Python's floats are exact enough for it: the errors of float32 fits are near 2**-30.
        """
        grid = self.grid(20 * len(self.powers))
        truth = [self.function(u) for u in grid]
        step = {k: spacing(c, self.bits) for k, c in coefficients.items()}
        columns = {
            k: [float(u**k / f * step[k]) for u, f in zip(grid, truth, strict=True)]
            for k in self.powers
        }
        errors = [float(self.error(coefficients, u)) for u in grid]
        units = dict.fromkeys(self.powers, 0)
        best = max(map(abs, errors))
        moves = [
            (j, a, k, b)
            for j, k in itertools.combinations(self.powers, 2)
            for a in range(-2, 3)
            for b in range(-2, 3)
            if (a, b) != (0, 0)
        ]
        while True:
            candidates = []
            for j, a, k, b in moves:
                new = max(
                    abs(e + a * x + b * y)
                    for e, x, y in zip(errors, columns[j], columns[k], strict=True)
                )
                candidates.append((new, j, a, k, b))
            new, j, a, k, b = min(candidates)
            if new >= best * (1 - 1e-9):
                return {i: c + units[i] * step[i] for i, c in coefficients.items()}
            best = new
            units[j] += a
            units[k] += b
            errors = [
                e + a * x + b * y for e, x, y in zip(errors, columns[j], columns[k], strict=True)
            ]


def exchanged(chosen, signs, new, sign):
    """Sorted indices `chosen` with the index `new` in place of one of them.

    The residuals at `chosen` have alternating `signs`. The one that leaves is the neighbour whose
    residual has the sign of the new one, so the signs still alternate.
    """
    after = sum(i < new for i in chosen)
    if after == 0:
        return [new, *(chosen[1:] if signs[0] == sign else chosen[:-1])]
    if after == len(chosen):
        return [*(chosen[:-1] if signs[-1] == sign else chosen[1:]), new]
    at = after - 1 if signs[after - 1] == sign else after
    return [*chosen[:at], new, *chosen[at + 1 :]]


# For sums of float32 exponentials: |r| <= 0.0626 ln 2, a sixteenth and what the rounding of log2(e)
# adds at |x| = 128. A cubic with a constant of its own errs by h^4/192 instead of h^4/24, since its
# error is a Chebyshev polynomial then; added to the table of errors, the constant costs nothing.
SUM_INTERVAL = mpf("0.0626") * mpmath.log(2)
SUM_CONSTANT = -(SUM_INTERVAL**4) / 192


def fits():
    """The fits, in the order of the file."""
    ln2 = mpmath.log(2)
    # |r| = |x - n ln 2| exceeds ln(2)/2 because log2(e) is rounded in n = rint(x * log2(e)): by up
    # to 0.0013 ln 2 in float32 at |x| = 2**16, where the kernels stop using the exponent shift; by
    # far less in float64 (2**40).
    half, wide = mpf("0.5014") * ln2, mpf("0.5001") * ln2
    # z = s**2 with s = (y - 1)/(y + 1) and y in [sqrt(1/2), sqrt(2))
    largest = ((mpmath.sqrt(2) - 1) / (mpmath.sqrt(2) + 1)) ** 2
    return [
        Fit(
            "FL_EXPF_C",
            range(2, 7),
            mpmath.exp,
            lambda r: 1 + r,
            (-half, half),
            FLOAT32,
            -28,
            "exp(r) = 1 + r + C2 r^2 + ... + C6 r^6 on |r| <= 0.5014 ln 2",
        ),
        Fit(
            "FL_EXPTF_C",
            range(1, 5),
            mpmath.exp,
            lambda r: mpf(1),
            # A sixteenth, and what the rounding of log2(e) adds at |x| = 2**16, as above.
            (-mpf("0.0640") * ln2, mpf("0.0640") * ln2),
            FLOAT32,
            -28,
            "exp(r) = 1 + C1 r + ... + C4 r^4 on |r| <= 0.0640 ln 2, beside a table of 2^(j/8)",
        ),
        Fit(
            "FL_EXPSF_C",
            range(1, 4),
            mpmath.exp,
            lambda r: 1 + SUM_CONSTANT,
            (-SUM_INTERVAL, SUM_INTERVAL),
            FLOAT32,
            -25.6,
            "exp(r) = 1 + C0 + C1 r + C2 r^2 + C3 r^3 on |r| <= 0.0626 ln 2, for sums",
        ),
        Fit(
            "FL_LOGTF_C",
            range(2, 6),
            mpmath.log1p,
            lambda u: u,
            log_interval(),
            FLOAT32,
            -26.4,
            "log(1 + u) = u + u^2 (C2 + ... + C5 u^3) on -0.0604 <= u <= 0.0656, beside the table",
        ),
        Fit(
            "FL_EXP_C",
            range(2, 13),
            mpmath.exp,
            lambda r: 1 + r,
            (-wide, wide),
            FLOAT64,
            -63,
            "exp(r) = 1 + r + C2 r^2 + ... + C12 r^12 on |r| <= 0.5001 ln 2",
        ),
        Fit(
            "FL_EXPT_C",
            range(1, 8),
            mpmath.exp,
            lambda r: mpf(1),
            # A sixteenth, and what the rounding of log2(e) adds at |x| = 2**40.
            (-mpf("0.0627") * ln2, mpf("0.0627") * ln2),
            FLOAT64,
            -57.5,
            "exp(r) = 1 + C1 r + ... + C7 r^7 on |r| <= 0.0627 ln 2, beside a table of 2^(j/8)",
        ),
        Fit(
            "FL_LOG_C",
            range(1, 9),  # with seven the error is 2**-59.5
            lambda z: mpmath.atanh(mpmath.sqrt(z)) / mpmath.sqrt(z),
            lambda z: mpf(1),
            (mpf(0), largest),
            FLOAT64,
            -60,
            "log(y) = 2 s (1 + C1 z + ... + C8 z^8) with s = (y - 1)/(y + 1), z = s^2,\n"
            "on sqrt(1/2) <= y <= sqrt(2)",
        ),
    ]


def constants():
    """(about, bits, {name: value}) of the constants that need no fit."""
    ln2 = mpmath.log(2)
    high32, high64 = rounded(ln2, FLOAT32), rounded(ln2, FLOAT64)
    split = rounded(ln2, FLOAT64 - 12)  # 12 bits of room: |k| <= 2100 < 2**12
    return [
        (
            "log2(e), and ln 2 = HI + LO for r = fma(n, -LO, fma(n, -HI, x))",
            FLOAT32,
            {
                "FL_LOG2EF": rounded(1 / ln2, FLOAT32),
                "FL_LN2F_HI": high32,
                "FL_LN2F_LO": rounded(ln2 - high32, FLOAT32),
            },
        ),
        (
            "the same in float64",
            FLOAT64,
            {
                "FL_LOG2E": rounded(1 / ln2, FLOAT64),
                "FL_LN2_HI": high64,
                "FL_LN2_LO": rounded(ln2 - high64, FLOAT64),
            },
        ),
        (
            "C0 of the cubic for sums",
            FLOAT32,
            {"FL_EXPSF_CONSTANT": rounded(SUM_CONSTANT, FLOAT32)},
        ),
        (
            "e^-100: what is less has a logarithm below -100",
            FLOAT64,
            {"FL_E_MINUS_100": rounded(mpmath.exp(-100), FLOAT64)},
        ),
        (
            "ln 2 = HI + LO; HI ends in 12 zero bits, so that k*HI is exact for |k| <= 4096",
            FLOAT64,
            {"FL_LN2_SPLIT_HI": split, "FL_LN2_SPLIT_LO": rounded(ln2 - split, FLOAT64)},
        ),
    ]


def exp_table(prefix, bits):
    """(about, bits, {name: value}) of 2^(j/8): T_j rounded, and its error as a share of it."""
    values = {}
    for j in range(8):
        power = mpf(2) ** (mpf(j) / 8)
        near = rounded(power, bits)
        values[f"{prefix}_T{j}"] = near
        values[f"{prefix}_E{j}"] = rounded(power / near - 1, bits)
    return "2^(j/8) = T (1 + E)", bits, values


# log(1 + e^x) for x <= 0 with a table: e^x is P e^r with a power P = 2^(-m/8); entry j belongs to
# the powers with rint(LOG_STEPS P) = j.
LOG_STEPS = rounded(mpf("7.4"), FLOAT32)


def log_ranges():
    """The smallest and the largest 1 + e^x of each entry; of the first, 1 and the largest."""
    # As for the fit of exp: r is a sixteenth of ln 2 at most, and what roundings add.
    low, high = mpf(2) ** mpf("-0.064"), mpf(2) ** mpf("0.064")
    powers = [mpf(2) ** (mpf(-m) / 8) for m in range(40)]
    entries = [[p for p in powers if mpmath.nint(LOG_STEPS * p) == j] for j in range(8)]
    ranges = [(1 + min(e) * low, min(mpf(2), 1 + max(e) * high)) for e in entries]
    return [(mpf(1), ranges[0][1]), *ranges[1:]]


def log_interval():
    """Range of u with 1 + u = T (1 + e^x)."""
    ranges = log_ranges()
    ends = [2 * y / (low + high) - 1 for low, high in ranges[1:] for y in (low, high)]
    # T is not exactly what makes both ends equal.
    more = mpf(2) ** -12
    return min(ends) - more, max(*ends, ranges[0][1] - 1) + more


def log_table():
    """(about, bits, {name: value}): T_j near 1 over the middle of a range, and L_j = -log(T_j).

    Of the numbers near by, that one is taken whose logarithm is nearest to a float32, so that
    L_j needs no low part (Gal's method). T_0 = 1 leaves small e^x alone.
    """
    values = {"FL_LOGTF_STEPS": LOG_STEPS, "FL_LOGTF_T0": mpf(1), "FL_LOGTF_L0": mpf(0)}
    for j, (low, high) in enumerate(log_ranges()[1:], 1):
        start = rounded(2 / (low + high), FLOAT32)
        near = [start + k * spacing(start, FLOAT32) for k in range(-2000, 2001)]
        best = min(near, key=lambda t: abs(rounded(mpmath.log(t), FLOAT32) / mpmath.log(t) - 1))
        values[f"FL_LOGTF_T{j}"] = best
        values[f"FL_LOGTF_L{j}"] = rounded(-mpmath.log(best), FLOAT32)
    return "log(1 + e) = L_j + log(T_j (1 + e)) with j = rint(STEPS e), or nearly", FLOAT32, values


def upwards(exponent):
    """`exponent` rounded up to two decimals; the grid may miss a peak by less than 0.001."""
    return f"{math.ceil((exponent + 0.001) * 100) / 100:.2f}"


def solved(fit):
    """Coefficients of `fit` (name -> value) and its comment, which states the errors reached."""
    best = log2(fit.largest_error(fit.minimax({}), 600)[0])
    coefficients = fit.rounded_coefficients()
    reached = log2(fit.largest_error(coefficients, 3000)[0])
    if reached > fit.limit:
        raise RuntimeError(f"{fit.prefix}: error 2**{reached:.2f} exceeds 2**{fit.limit}")
    comment = (
        f"{fit.about}\n"
        f"relative error <= 2^{upwards(reached)} (2^{upwards(best)} with unrounded coefficients)"
    )
    return comment, fit.bits, {f"{fit.prefix}{k}": c for k, c in coefficients.items()}


def file_text():
    """The whole file."""
    tables = [exp_table("FL_EXPTF", FLOAT32), exp_table("FL_EXPT", FLOAT64), log_table()]
    groups = [*constants(), *tables, *map(solved, fits())]
    macros, declarations = [], []
    for about, bits, values in groups:
        macros.append("    /* " + about.replace("\n", "\n       ") + " */")
        for name, value in values.items():
            macros.append(f"    #define {name} ({literal(value, bits)})")
            declarations.append(f"    const {'float' if bits == FLOAT32 else 'double'} {name}")
    head = [
        "# Made by ci/fit_polynomials.py; do not edit.",
        "#",
        "# C macros: Cython cannot read hexadecimal floats, and compilers should know the values.",
        "# Measured errors of the recipes: python ci/fit_polynomials.py --measure",
        "cdef extern from *:",
        '    """',
    ]
    return "\n".join([*head, *macros, '    """', *declarations, ""])


# Measuring: the recipes in emulated float arithmetic


def float_parts(numpy):
    """fma for float32 and float64 arrays, exactly rounded, by error-free transformations."""

    def two_sum(a, b):
        total = a + b
        part = total - a
        return total, (a - (total - part)) + (b - part)

    def odd_sum(a, b):
        """a + b rounded to odd, so that rounding it again gives a + b rounded once.

        Boldo and Melquiond, Emulation of FMA and correctly rounded sums, IEEE TC 57(4), 2008.
        """
        total, error = two_sum(a, b)
        bits = total.view(numpy.int64)
        inexact_even = (bits & 1 == 0) & (error != 0)
        away = numpy.where((error > 0) == (total > 0), 1, -1)
        return (bits + inexact_even * away).view(numpy.float64)

    def fma32(a, b, c):
        wide = numpy.multiply(a, b, dtype=numpy.float64)  # exact: 48 bits
        c = numpy.broadcast_to(numpy.asarray(c, numpy.float64), wide.shape)
        return odd_sum(wide, c).astype(numpy.float32)

    def halves(a):
        scaled = a * 134217729.0  # 2**27 + 1 (Veltkamp)
        high = scaled - (scaled - a)
        return high, a - high

    def fma64(a, b, c):
        a, b, c = numpy.broadcast_arrays(*(numpy.asarray(v, numpy.float64) for v in (a, b, c)))
        product = a * b
        (ah, al), (bh, bl) = halves(a), halves(b)
        low = ((ah * bh - product) + ah * bl + al * bh) + al * bl  # Dekker: a*b = product + low
        first, rest = two_sum(c, low)
        top, middle = two_sum(product, first)
        return top + odd_sum(middle, rest)

    return fma32, fma64


class Recipes:
    """The recipes of the kernels in emulated arithmetic.

    `values` holds the constants: name of the macro -> Python float.
    """

    def __init__(self, values):
        import numpy

        self.numpy = numpy
        self.fma32, self.fma64 = float_parts(numpy)
        self.values = {
            k: numpy.float32(v) if is_float32(k) else numpy.float64(v) for k, v in values.items()
        }

    def horner(self, fma, prefix, powers, u):
        """c[first] + c[first + 1] u + ..."""
        result = self.numpy.full_like(u, self.values[f"{prefix}{powers[-1]}"])
        for k in reversed(powers[:-1]):
            result = fma(result, u, self.values[f"{prefix}{k}"])
        return result

    def reduce(self, fma, x, magic, kind):
        """z and r: x = (z - magic) ln 2 + r. `kind` is "F" in the constants' names for float32."""
        v = self.values
        z = fma(x, v[f"FL_LOG2E{kind}"], magic)
        n = z - magic
        r = fma(n, -v[f"FL_LN2{kind}_LO"], fma(n, -v[f"FL_LN2{kind}_HI"], x))
        return z, r

    def expf(self, x):
        """float32 exp: reduction by adding a magic number, degree 6, Horner to the end."""
        np, fma = self.numpy, self.fma32
        z, r = self.reduce(fma, x, np.float32(1.5 * 2**23 + 127), "F")
        scale = (z.view(np.int32) << 23).view(np.float32)
        one = np.float32(1)
        q = self.horner(fma, "FL_EXPF_C", range(2, 7), r)
        return fma(fma(q, r, one), r, one) * scale

    def exptf(self, x):
        """float32 exp with the table, rounded."""
        power, t = self.exptf_parts(x)
        return self.fma32(power, t, power)

    def exptf_parts(self, x):
        """x = (n + j/8) ln 2 + r, 2^n T_j (1 + E_j) e^r = power (1 + t), degree 4."""
        np, fma, v = self.numpy, self.fma32, self.values
        z, r = self.reduce(fma, x, np.float32(1.5 * 2**20 + 127), "F")
        bits = z.view(np.int32)
        j = bits & 7
        powers = np.array([v[f"FL_EXPTF_T{i}"] for i in range(8)])
        errors = np.array([v[f"FL_EXPTF_E{i}"] for i in range(8)])
        # Exponent and j together are shifted up; what j adds to the significand is taken off.
        offsets = powers.view(np.int32) - (127 << 23) - (np.arange(8, dtype=np.int32) << 20)
        power = ((bits << 20) + offsets[j]).view(np.float32)
        return power, fma(self.horner(fma, "FL_EXPTF_C", range(1, 5), r), r, errors[j])

    def log1pexpf(self, x):
        """float32 log(1 + e^x) for x <= 0 with both tables, without rounding e^x."""
        np, fma, v = self.numpy, self.fma32, self.values
        power, t = self.exptf_parts(x)
        j = np.rint(v["FL_LOGTF_STEPS"] * power).astype(np.int32)
        factor = np.array([v[f"FL_LOGTF_T{i}"] for i in range(8)])[j]
        start = fma(power, factor, factor - np.float32(1))
        more = power * t * factor
        u = start + more
        rest = fma(u * u, self.horner(fma, "FL_LOGTF_C", range(2, 6), u), more)
        return np.array([v[f"FL_LOGTF_L{i}"] for i in range(8)])[j] + (start + rest)

    def log1pf(self, e):
        """float32 log1p on [0, 1], as `log1pexpf` of a number that is known as it is."""
        np, v, fma = self.numpy, self.values, self.fma32
        j = np.rint(v["FL_LOGTF_STEPS"] * e).astype(np.int32)
        factor = np.array([v[f"FL_LOGTF_T{i}"] for i in range(8)])[j]
        u = fma(e, factor, factor - np.float32(1))
        rest = fma(u * u, self.horner(fma, "FL_LOGTF_C", range(2, 6), u), u)
        return np.array([v[f"FL_LOGTF_L{i}"] for i in range(8)])[j] + rest

    def exp(self, x):
        """float64 exp, as `expf` with degree 12."""
        np, fma = self.numpy, self.fma64
        z, r = self.reduce(fma, x, np.float64(1.5 * 2**52 + 1023), "")
        scale = (z.view(np.int64) << 52).view(np.float64)
        q = self.horner(fma, "FL_EXP_C", range(2, 13), r)
        return fma(fma(q, r, 1.0), r, 1.0) * scale

    def expt(self, x):
        """float64 exp with the table, as `exptf` with degree 7."""
        np, fma, v = self.numpy, self.fma64, self.values
        z, r = self.reduce(fma, x, np.float64(1.5 * 2**49 + 1023), "")
        bits = z.view(np.int64)
        j = bits & 7
        powers = np.array([v[f"FL_EXPT_T{i}"] for i in range(8)])
        errors = np.array([v[f"FL_EXPT_E{i}"] for i in range(8)])
        scale = ((bits >> 3) << 52).view(np.float64)  # applied last: fma64 splits what it is given
        t = fma(self.horner(fma, "FL_EXPT_C", range(1, 8), r), r, errors[j])
        return fma(powers[j], t, powers[j]) * scale

    def log(self, y, correction=0.0):
        """float64 log(y), plus correction / y.

        With y = 2^k (1 + f) and s = f / (2 + f), log(1 + f) = 2s + s R with R = 2 z P(z). Because
        2s = f - s f and s f = f^2/2 - s f^2/2, this is f - (f^2/2 - s (f^2/2 + R)): the large part
        f is exact, and the rounding errors of the quotient s only enter through a small term.
        Summing 2s + s R instead costs 1.97 ulp.
        """
        np, fma, v = self.numpy, self.fma64, self.values
        k = (y.view(np.int64) - np.float64(math.sqrt(0.5)).view(np.int64)) >> 52
        f = (y.view(np.int64) - (k << 52)).view(np.float64) - 1.0
        k = k.astype(np.float64)
        s = f / (2.0 + f)
        z = s * s
        r = 2.0 * z * self.horner(fma, "FL_LOG_C", range(1, 9), z)
        half = 0.5 * f * f
        low = fma(k, v["FL_LN2_SPLIT_LO"], correction / y)
        return fma(k, v["FL_LN2_SPLIT_HI"], f - (half - fma(s, half + r, low)))

    def log1p(self, u):
        """float64 log1p for u >= 0: log of the rounded sum, corrected by its rounding error."""
        y = 1.0 + u
        return self.log(y, u - (y - 1.0))


def log1pexp(x):
    """log(1 + e^x), with mpmath."""
    return mpmath.log1p(mpmath.exp(x))


def is_float32(name):
    """Whether a macro is float32: its first word after FL_ ends in F."""
    return name.split("_")[1].endswith("F")


def committed_values(text):
    """Name -> Python float of the macros in the text of the file."""
    lines = [line.split() for line in text.splitlines() if line.startswith("    #define ")]
    return {name: float.fromhex(value.strip("()").rstrip("f")) for _, name, value in lines}


def ulps(numpy, got, truth, bits):
    """|got - truth| in units in the last place of a `bits`-bit number of the size of `truth`."""
    exponent = numpy.frexp(numpy.abs(truth))[1]
    return (
        numpy.abs(got.astype(truth.dtype) - truth)
        * numpy.ldexp(truth.dtype.type(1), bits - exponent)
    ).astype(numpy.float64)


def exact_ulps(got, x, function, bits):
    """The same for one pair of numbers, with mpmath."""
    truth = function(mpf(float(x)))
    return float(abs(mpf(float(got)) - truth) / spacing(truth, bits))


def measure(points, exhaustive):
    """Print the largest error of each recipe, checked with mpmath, and its input."""
    import numpy as np

    recipes = Recipes(committed_values(FILE.read_text()))
    extended = np.finfo(np.longdouble).nmant >= 63

    def blocks32(low, high, sign):
        """float32 numbers from low to high: all, or about `points` at equal steps of their bits."""
        first, last = (int(np.float32(v).view(np.int32)) for v in (low, high))
        # An odd step, so that no bit of the input stays 0.
        step = 1 if exhaustive else (last - first) // points | 1
        for start in range(first, last + 1, step << 18):
            stop = min(start + (step << 18), last + 1)
            yield sign * np.arange(start, stop, step, dtype=np.int32).view(np.float32)
        yield sign * np.float32([low, high])

    def blocks64(low, high, logarithmic=False):
        """Random float64 numbers: `points` of them, or 2000 where only mpmath knows the truth."""
        generator = np.random.default_rng(2024)
        left = points if extended else 2000
        while left > 0:
            sample = generator.uniform(low, high, min(left, 1 << 18))
            yield np.exp2(sample) if logarithmic else sample
            left -= 1 << 18

    def true_values(function, x):
        """Values of more precision than `x`; None if NumPy has no such type here."""
        if function is log1pexp:
            return np.log1p(np.exp(x.astype(np.float64)))
        name = next(name for name in ("exp", "log", "log1p") if getattr(mpmath, name) is function)
        if x.dtype == np.float32:
            return getattr(np, name)(x.astype(np.float64))
        if extended:
            return getattr(np, name)(x.astype(np.longdouble))
        return None

    every = "all" if exhaustive else "sampled"
    negative = blocks32(2**-9, 87, -1)
    cases = [
        (f"expf, {every} 2^-6 <= x <= 87", recipes.expf, mpmath.exp, blocks32(2.0**-6, 87, 1)),
        (f"expf, {every} -87 <= x <= -2^-6", recipes.expf, mpmath.exp, blocks32(2.0**-6, 87, -1)),
        (f"exptf, {every} 2^-6 <= x <= 87", recipes.exptf, mpmath.exp, blocks32(2.0**-6, 87, 1)),
        (f"exptf, {every} -87 <= x <= -2^-6", recipes.exptf, mpmath.exp, blocks32(2.0**-6, 87, -1)),
        (f"log1pexpf, {every} -87 <= x <= -2^-9", recipes.log1pexpf, log1pexp, negative),
        (f"log1pf, {every} 2^-13 <= x <= 1", recipes.log1pf, mpmath.log1p, blocks32(2**-13, 1, 1)),
        ("exp, random -700 <= x <= 700", recipes.exp, mpmath.exp, blocks64(-700, 700)),
        ("exp, random -1 <= x <= 1", recipes.exp, mpmath.exp, blocks64(-1, 1)),
        ("expt, random -700 <= x <= 700", recipes.expt, mpmath.exp, blocks64(-700, 700)),
        ("expt, random -1 <= x <= 1", recipes.expt, mpmath.exp, blocks64(-1, 1)),
        ("log, random 1/2 <= x <= 2", recipes.log, mpmath.log, blocks64(0.5, 2)),
        ("log, random 2^-900 <= x <= 2^900", recipes.log, mpmath.log, blocks64(-900, 900, True)),
        ("log1p, random 0 <= x <= 1", recipes.log1p, mpmath.log1p, blocks64(0, 1)),
        ("log1p, random 2^-60 <= x <= 2^60", recipes.log1p, mpmath.log1p, blocks64(-60, 60, True)),
    ]
    print(f"{'recipe and inputs':42}{'count':>11}{'max ulp':>9}{'mean':>7}  worst input")
    for label, recipe, function, blocks in cases:
        count, total, worst = 0, 0.0, (-1.0, 0.0)
        for x in blocks:
            bits = FLOAT32 if x.dtype == np.float32 else FLOAT64
            got, truth = recipe(x), true_values(function, x)
            if truth is None:
                errors = np.array(
                    [exact_ulps(g, v, function, bits) for g, v in zip(got, x, strict=True)]
                )
            else:
                errors = ulps(np, got, truth, bits)
                # That truth is rounded too, so the largest errors are computed again with mpmath.
                for i in np.argsort(errors)[-8:]:
                    errors[i] = exact_ulps(got[i], x[i], function, bits)
            count, total = count + x.size, total + errors.sum()
            worst = max(worst, (float(errors.max()), float(x[errors.argmax()])))
        print(f"{label:42}{count:11}{worst[0]:9.4f}{total / count:7.4f}  {worst[1].hex()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="compare with the file instead of writing it"
    )
    parser.add_argument(
        "--measure", action="store_true", help="print the errors of the recipes (needs NumPy)"
    )
    parser.add_argument(
        "--exhaustive", action="store_true", help="measure with every float32 input"
    )
    parser.add_argument("--points", type=int, default=1_000_000, help="inputs per measurement")
    options = parser.parse_args()
    if options.measure:
        measure(options.points, options.exhaustive)
    elif options.check:
        if not FILE.exists() or FILE.read_text() != file_text():
            sys.exit(
                f"{FILE.name} differs from what this script writes: run it and commit the file"
            )
    else:
        FILE.write_text(file_text(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()

"""The losses in Numba: plain scalar code, one row or one item at a time.

Three things keep this file small and its memory bounded.

**One specialisation per kernel.** Numba compiles a function again for every combination of argument
types. Here a kernel sees each array as bytes, together with a number that says what they mean
(`KINDS`), so a kernel has one signature and is compiled once, whatever the dtypes of logits,
targets and weights.

**Tiles.** A kernel loads `TILE` items at a time into scratch arrays of float64, does its arithmetic
there, and stores the results with one rounding. Loading is where dtypes, strides, broadcast weights
and the place of the class axis end; storing is where they begin again. Nothing else in memory grows
with the data. A row longer than a tile is walked over in pieces: once for its largest logit, once
for its sums, and once more for gradients.

**float64.** All arithmetic is done in it. For 16-bit and float32 input that leaves only the
rounding at the store; for float64 input sums and differences carry their rounding errors along.

The signatures, and what they may rely on, are those of the package docstring,
``fusedloss.backends``.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from . import GRAD_AND_HESS, VALUE

# Items in a scratch array: 32 KiB of float64, so that a kernel's four or five arrays of them stay
# in the second level of cache. Also the most rows in a tile.
TILE = 4096

# The same of the losses and functions of single items, which have up to eight arrays of them and
# little work to do on each: 32 KiB together, the first level of cache.
ITEM_TILE = 512

# Numba compiles a function again for every literal argument. As NumPy scalars, these are not
# literals.
ZERO = np.int64(0)
NO = np.bool_(False)


def _jit(function, **more):
    """Compile `function` when it is first called. The one place where this package decides how
    Numba compiles.

    - cache: the machine code is kept on disk, beside this file or in the user's cache directory.
    - nogil: other Python threads run meanwhile.
    - parallel=False: Numba's thread pools do not survive a fork, and not all of them allow two
      callers at once.
    - fastmath=False: nan, infinities and the order of every sum are part of the results.
    - error_model="numpy": x / 0 is inf or nan, as IEEE says, and not ZeroDivisionError.
    """
    options = {"nogil": True, "parallel": False, "fastmath": False, "error_model": "numpy", **more}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # there is no directory that Numba may write to: compile in every process
        return numba.njit(**options)(function)


def _part(function):
    """The same for what only compiled functions call: no time goes into a way to call it from
    Python."""
    return _jit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@intrinsic
def _stay_apart(typing_context):
    """Called in a function: LLVM must not copy that function into its callers, as it would do with
    nearly all of this file.

    Loading and storing branch over all dtypes and are called from many places. Copied, they made
    the compilation of `_cross_entropy` take minutes; a call per tile costs nothing.
    """

    def generate(context, builder, signature, arguments):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return numba.types.void(), generate


@intrinsic
def _mul_add(typing_context, a, b, c):
    """a b + c. Rounded once where the CPU has an instruction for that, else twice: nothing here may
    rely on either.

    Unlike a fused operation asked for by name, which is a call of the C library on other CPUs, it
    never keeps LLVM from making vector code of a loop.
    """

    def generate(context, builder, signature, arguments):
        double = ir.DoubleType()
        kind = ir.FunctionType(double, [double] * 3)
        function = builder.module.declare_intrinsic("llvm.fmuladd", [double], kind)
        return builder.call(function, arguments)

    number = numba.types.float64
    return number(number, number, number), generate


@intrinsic
def _prefetch(typing_context, data, place):
    """Have the line of cache with this byte fetched from memory, and do not wait for it."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.gep(array.data, [arguments[1]])
        number = ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch",
            [address.type],
            ir.FunctionType(ir.VoidType(), [address.type, number, number, number]),
        )
        # To read, into the second level of cache, data
        builder.call(function, [address, *(ir.Constant(number, code) for code in (0, 2, 1))])
        return context.get_dummy_value()

    return numba.types.void(data, numba.types.int64), generate


# --- What the bytes of an array mean --------------------------------------------------------------

ABSENT = -1
(
    BOOL,
    INT8,
    INT16,
    INT32,
    INT64,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    FLOAT16,
    BFLOAT16,
    FLOAT32,
    FLOAT64,
) = range(13)

KINDS = {
    "bool": BOOL,
    "int8": INT8,
    "int16": INT16,
    "int32": INT32,
    "int64": INT64,
    "uint8": UINT8,
    "uint16": UINT16,
    "uint32": UINT32,
    "uint64": UINT64,
    "float16": FLOAT16,
    "bfloat16": BFLOAT16,
    "float32": FLOAT32,
    "float64": FLOAT64,
}


@_part
def _width(kind):
    """Bytes of an item."""
    if kind in (FLOAT32, INT32, UINT32):
        return 4
    if kind in (FLOAT64, INT64, UINT64):
        return 8
    return 2 if kind in (FLOAT16, BFLOAT16, INT16, UINT16) else 1


# --- 16-bit numbers -------------------------------------------------------------------------------
#
# Numba has no arithmetic for them. They are loaded and stored as uint16, and here they are made
# from and into float64. Both formats are a sign, an exponent and a mantissa, as float64 is: 5 and
# 10 bits in float16, 8 and 7 in bfloat16. So one pair of functions serves both, told the bits of
# the mantissa and the bias of the exponent.


@_part
def _widen(code, mantissa_bits, bias):
    """The number, exactly, that the 16 bits `code` (an int64) stand for. A nan keeps its sign and
    payload."""
    sign = (code & 0x8000) << 48
    magnitude = code & 0x7FFF
    infinity = 0x7FFF >> mantissa_bits << mantissa_bits
    if magnitude >= infinity:  # the exponent is all ones: inf or nan
        bits = 0x7FF0000000000000 | (magnitude - infinity) << (52 - mantissa_bits)
    elif magnitude >> mantissa_bits == 0:
        # Zero or subnormal: a multiple of the smallest subnormal number, whose bits are these
        unit = np.int64(1023 + 1 - bias - mantissa_bits) << 52
        bits = np.float64(magnitude * np.int64(unit).view(np.float64)).view(np.int64)
    else:
        bits = (magnitude << (52 - mantissa_bits)) + (np.int64(1023 - bias) << 52)
    return np.int64(bits | sign).view(np.float64)


@_part
def _narrow(x, mantissa_bits, bias):
    """The 16 bits (as int64) of the number nearest to x, ties to even. A nan keeps its sign and the
    top of its payload.

    Straight from float64, so that there is one rounding and not a second one by way of float32.
    """
    bits = np.float64(x).view(np.int64)
    sign = (bits >> 48) & 0x8000
    magnitude = bits & 0x7FFFFFFFFFFFFFFF
    shift = 52 - mantissa_bits
    infinity = 0x7FFF >> mantissa_bits << mantissa_bits
    if magnitude > 0x7FF0000000000000:
        # The top bit of the mantissa says "quiet", and is set: without it, a nan whose payload is
        # all in the bits that are cut off would turn into inf.
        code = (
            infinity | 1 << (mantissa_bits - 1) | (magnitude >> shift) & ((1 << mantissa_bits) - 1)
        )
    elif magnitude >> 52 < 1024 - bias:
        # Below the smallest normal number: count the smallest subnormal ones. Adding 2^52 rounds to
        # an integer, because above it float64 has no other numbers.
        per_unit = np.int64(1023 - 1 + bias + mantissa_bits) << 52
        scaled = np.int64(magnitude).view(np.float64) * np.int64(per_unit).view(np.float64)
        code = np.int64((scaled + 4503599627370496.0) - 4503599627370496.0)
    else:
        # Add just less than half of the last place kept, or just half if that place is odd, and
        # cut. A carry runs from the mantissa into the exponent, and from the largest number to inf,
        # as it should.
        half = (np.int64(1) << (shift - 1)) - 1 + (magnitude >> shift & 1)
        code = min(
            ((magnitude + half) >> shift) - (np.int64(1023 - bias) << mantissa_bits), infinity
        )
    return code | sign


# --- Loading and storing tiles --------------------------------------------------------------------
#
# An array is walked over in C order, as `shape` and `strides` (in items) say, from its item number
# `start` on; `offset` is the place of its first item. A tile is filled run by run, where a run is a
# stretch of the last axis.


@_part
def _place(shape, strides, position):
    """The index along the last axis, and the offset in items, of item number `position` in C
    order."""
    last = shape.size - 1
    if last == 0:
        return position, position * strides[0]
    index = position % shape[last]
    offset = index * strides[last]
    position //= shape[last]
    for axis in range(last - 1, -1, -1):
        offset += position % shape[axis] * strides[axis]
        position //= shape[axis]
    return index, offset


@_part
def _prefetch_next(data, first, size):
    """Have the bytes fetched that the tile after the next one will need.

    The hardware sees only short runs of each array, and would have every tile wait for memory.
    """
    for place in range(first + 2 * size, min(first + 3 * size, data.size), 64):
        _prefetch(data, place)


@_part
def _copy(of, to):
    # Slices of one length, because LLVM makes no vector code of a loop whose index may count from
    # the end of an array.
    for i in range(to.size):
        to[i] = of[i]


@_part
def _gather(items, offset, shape, strides, start, count, tile):
    """Fill tile[:count] from an array of numbers or of bits."""
    step = strides[-1]
    done = 0
    while done < count:
        index, at = _place(shape, strides, start + done)
        at += offset
        run = min(shape[-1] - index, count - done)
        if step == 1:
            _copy(items[at : at + run], tile[done : done + run])
        else:
            for i in range(run):
                tile[done + i] = items[at + i * step]
        done += run


@_part
def _scatter(tile, count, items, offset, shape, strides, start):
    """Write tile[:count], numbers or bits, to an array of the same; float64 is rounded to its
    dtype."""
    step = strides[-1]
    done = 0
    while done < count:
        index, at = _place(shape, strides, start + done)
        at += offset
        run = min(shape[-1] - index, count - done)
        if step == 1:
            _copy(tile[done : done + run], items[at : at + run])
        else:
            for i in range(run):
                items[at + i * step] = tile[done + i]
        done += run


@_part
def _load_bits(data, kind, offset, shape, strides, start, count, bits):
    """Fill bits[:count], of int64, with the bits of the items as they are: integers are not yet
    extended by their sign. Each byte of a bool but 0 is 1."""
    _stay_apart()
    width = _width(kind)
    if width == 4:
        _gather(data.view(np.uint32), offset, shape, strides, start, count, bits)
    elif width == 8:
        _gather(data.view(np.int64), offset, shape, strides, start, count, bits)
    elif width == 2:
        _gather(data.view(np.uint16), offset, shape, strides, start, count, bits)
    else:
        _gather(data, offset, shape, strides, start, count, bits)
        if kind == BOOL:
            for i in range(count):
                bits[i] = np.int64(bits[i] != 0)


@_part
def _load_integers(data, kind, offset, shape, strides, start, count, integers):
    """Fill integers[:count], of int64. An uint64 of 2^63 or more becomes negative: no class label
    either way."""
    _stay_apart()
    _load_bits(data, kind, offset, shape, strides, start, count, integers)
    if INT8 <= kind < INT64:
        shift = 64 - 8 * _width(kind)
        for i in range(count):
            integers[i] = integers[i] << shift >> shift


@_part
def _load(data, kind, rounded, offset, shape, strides, start, count, tile):
    """Fill tile[:count], of float64, from an array of any dtype; where `rounded`, round each item
    to float32 first."""
    _stay_apart()
    first = offset + start
    if kind == FLOAT32 and shape.size == 1 and strides[0] == 1:  # nearly always
        _prefetch_next(data, 4 * first, 4 * count)
        _copy(data.view(np.float32)[first : first + count], tile[:count])
        return
    if kind == FLOAT64 and shape.size == 1 and strides[0] == 1 and not rounded:
        _prefetch_next(data, 8 * first, 8 * count)
        _copy(data.view(np.float64)[first : first + count], tile[:count])
        return
    if kind == FLOAT32:
        _gather(data.view(np.float32), offset, shape, strides, start, count, tile)
        return
    if kind == FLOAT64:
        _gather(data.view(np.float64), offset, shape, strides, start, count, tile)
        if rounded:
            for i in range(count):
                tile[i] = np.float32(tile[i])
        return
    bits = tile.view(np.int64)
    if kind >= FLOAT16:
        _load_bits(data, kind, offset, shape, strides, start, count, bits)
        if kind == FLOAT16:
            for i in range(count):
                tile[i] = _widen(bits[i], 10, 15)
        else:
            for i in range(count):
                tile[i] = _widen(bits[i], 7, 127)
    else:
        _load_integers(data, kind, offset, shape, strides, start, count, bits)
        # Rounded at once, and not to float64 before
        if kind == UINT64:
            for i in range(count):
                tile[i] = (
                    np.float32(np.uint64(bits[i])) if rounded else np.float64(np.uint64(bits[i]))
                )
        else:
            for i in range(count):
                tile[i] = np.float32(bits[i]) if rounded else np.float64(bits[i])


@_part
def _store(tile, count, data, kind, offset, shape, strides, start):
    """Round tile[:count] to one of the four dtypes of logits and write it. `tile` is scratch
    afterwards."""
    _stay_apart()
    first = offset + start
    if kind == FLOAT32 and shape.size == 1 and strides[0] == 1:
        _prefetch_next(data, 4 * first, 4 * count)
        _copy(tile[:count], data.view(np.float32)[first : first + count])
    elif kind == FLOAT64 and shape.size == 1 and strides[0] == 1:
        _prefetch_next(data, 8 * first, 8 * count)
        _copy(tile[:count], data.view(np.float64)[first : first + count])
    elif kind == FLOAT32:
        _scatter(tile, count, data.view(np.float32), offset, shape, strides, start)
    elif kind == FLOAT64:
        _scatter(tile, count, data.view(np.float64), offset, shape, strides, start)
    else:
        bits = tile.view(np.int64)
        if kind == FLOAT16:
            for i in range(count):
                bits[i] = _narrow(tile[i], 10, 15)
        else:
            for i in range(count):
                bits[i] = _narrow(tile[i], 7, 127)
        _scatter(bits, count, data.view(np.uint16), offset, shape, strides, start)


# Most arrays are contiguous. For these, the two above with fewer arguments: a shape and strides are
# counted references, which take longer than loading a tile of one float32 after the other.


@_part
def _load_flat(data, kind, rounded, start, count, tile):
    """Fill tile[:count] from a contiguous array, from item number `start` on."""
    _stay_apart()
    if kind == FLOAT32:
        _prefetch_next(data, 4 * start, 4 * count)
        _copy(data.view(np.float32)[start : start + count], tile[:count])
    elif kind == FLOAT64 and not rounded:
        _prefetch_next(data, 8 * start, 8 * count)
        _copy(data.view(np.float64)[start : start + count], tile[:count])
    else:
        stop = np.array([start + count])
        _load(data, kind, rounded, ZERO, stop, np.ones(1, np.int64), start, count, tile)


@_part
def _store_flat(tile, count, data, kind, start):
    """Write tile[:count] to a contiguous array, from item number `start` on."""
    _stay_apart()
    if kind == FLOAT32:
        _prefetch_next(data, 4 * start, 4 * count)
        _copy(tile[:count], data.view(np.float32)[start : start + count])
    elif kind == FLOAT64:
        _prefetch_next(data, 8 * start, 8 * count)
        _copy(tile[:count], data.view(np.float64)[start : start + count])
    else:
        stop = np.array([start + count])
        _store(tile, count, data, kind, ZERO, stop, np.ones(1, np.int64), start)


# --- Arithmetic -----------------------------------------------------------------------------------


@_part
def _add(total, error, x):
    """Add x to a running sum: `total` is rounded at each step, and what that drops is gathered in
    `error` (TwoSum)."""
    s = total + x
    x_part = s - total
    return s, error + ((total - (s - x_part)) + (x - x_part))


@_part
def _sum_of(total, error):
    """The sum, rounded once. With inf or nan in it, the plain sum is the answer, and `error` is
    meaningless."""
    return total + error if math.isfinite(error) else total


@_part
def _multiply(a, b):
    """a x b as a pair (product, error): product is rounded, and product + error is exact (Dekker).
    Above 2^996 it is nan.

    Each factor is cut into halves of 26 bits, so that the products of halves are exact.
    """
    product = a * b
    cut = 134217729.0 * a  # 2^27 + 1
    a_high = cut - (cut - a)
    a_low = a - a_high
    cut = 134217729.0 * b
    b_high = cut - (cut - b)
    b_low = b - b_high
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


@_part
def _divide(a, a_error, b, b_error):
    """(a + a_error) / (b + b_error) as such a pair: what the first quotient leaves is divided
    again."""
    quotient = a / b
    product, product_error = _multiply(quotient, b)
    rest = (((a - product) - product_error) + (a_error - quotient * b_error)) / b
    return quotient, rest if math.isfinite(rest) else 0.0


@_part
def _over_one_plus(a, a_error, e):
    """(a + a_error) / (1 + e) as such a pair, for 0 <= e <= 1: `_divide` with one division."""
    b = 1.0 + e
    b_error = e - (b - 1.0)
    inverse = 1.0 / b
    quotient = a * inverse
    product, product_error = _multiply(quotient, b)
    rest = (((a - product) - product_error) + (a_error - quotient * b_error)) * inverse
    return quotient, rest if math.isfinite(rest) else 0.0


@_part
def _scale(a, b, b_error):
    """a (b + b_error), rounded once."""
    product, product_error = _multiply(a, b)
    rest = product_error + a * b_error
    return product + rest if math.isfinite(rest) else product


@_part
def _quotient(total, error, D, D_error):
    """(total + error) / (D + D_error) of two running sums, rounded about once."""
    total, error = _normal(total, error)
    D, D_error = _normal(D, D_error)
    quotient, rest = _divide(total, error, D, D_error)
    return quotient + rest


@_part
def _normal(total, error):
    """The pair whose first number is the rounded sum of both."""
    nearest = _sum_of(total, error)
    rest = (total - nearest) + error
    return nearest, rest if math.isfinite(rest) else 0.0


@_part
def _times(coefficient, log):
    """Coefficient x logarithm, where 0 x inf = 0, but 0 x nan = nan."""
    return 0.0 if coefficient == 0.0 and math.isinf(log) else coefficient * log


@_part
def _exp(d, error):
    """e^(d + error), where error is the rounding error of d, or 0.

    Written out rather than taken from the C library, because a loop over this is turned into vector
    code: four times as fast. Likewise the logarithms below.

    1. d = n ln 2 + r, |r| <= ln 2 / 2. Adding 1.5 x 2^52 rounds to an integer and leaves it in the
       low bits. ln 2 is split in two, the first part so short that n times it is exact; `low` is
       what r = high - low rounds away, less `error`.
    2. e^r = 1 + r + r^2 (1/2! + r/3! + ... + r^11/13!), the Taylor series. The next term is below
       2^-57.
    3. Times 2^n, made by moving n + 1023 to the place of the exponent.

    Range: d <= 709. Below the logarithm of the smallest normal number the result is 0, whatever
    `error` is; nan gives nan. Error: at most 0.64 ulp in 200 000 samples of [-708, 0].
    """
    z = _mul_add(d, 1.4426950408889634, 6755399441055744.0)
    n = z - 6755399441055744.0
    high = _mul_add(n, -6.93147180369123816490e-01, d)
    low = _mul_add(n, 1.90821492927058770002e-10, -error)
    r = high - low
    low = (high - r) - low
    p = 1.0 / 6227020800.0
    p = _mul_add(p, r, 1.0 / 479001600.0)
    p = _mul_add(p, r, 1.0 / 39916800.0)
    p = _mul_add(p, r, 1.0 / 3628800.0)
    p = _mul_add(p, r, 1.0 / 362880.0)
    p = _mul_add(p, r, 1.0 / 40320.0)
    p = _mul_add(p, r, 1.0 / 5040.0)
    p = _mul_add(p, r, 1.0 / 720.0)
    p = _mul_add(p, r, 1.0 / 120.0)
    p = _mul_add(p, r, 1.0 / 24.0)
    p = _mul_add(p, r, 1.0 / 6.0)
    p = _mul_add(p, r, 0.5)
    e = 1.0 + r
    e += (r - (e - 1.0)) + _mul_add(r * r, p, low)
    power = np.int64((np.float64(z).view(np.int64) + 1023) << 52).view(np.float64)
    return 0.0 if d < -708.3964185322641 else e * power


@_part
def _log_of(u, c):
    """log(u + c u) for u > 0 and a tiny c, such as the relative rounding error of u.

    1. u = 2^k (1 + f), with 1 + f from sqrt(1/2) to sqrt(2). As integers, the bits of u less those
       of sqrt(1/2) hold k in the exponent; what is below it, plus the bits of sqrt(1/2), are 1 + f.
    2. With s = f / (2 + f), log(1 + f) = 2 atanh(s) = 2 s + s R, R = 2/3 s^2 + 2/5 s^4 + ... And
       since 2 s = f - s f, that is f - (h - s (h + R)) with h = f^2 / 2: a sum whose first term has
       no error. The term of R after the last is below 2^-57.
    3. Plus k ln 2 in two parts, and c.

    Range: normal u. Zero and subnormal numbers give about -709; that is enough here, where all
    below -100 is cut off. u is never inf or nan alone: c is nan then, and so is the result.
    Error: at most 0.77 ulp in 140 000 samples of log and log1p.
    """
    bits = np.uint64(np.float64(u).view(np.int64) + 0x3FF0000000000000 - 0x3FE6A09E00000000)
    k = np.float64(np.int64(bits >> np.uint64(52)) - 1023)
    one_plus_f = np.int64(bits & np.uint64(0x000FFFFFFFFFFFFF)) + 0x3FE6A09E00000000
    f = np.int64(one_plus_f).view(np.float64) - 1.0
    h = 0.5 * f * f
    s = f / (2.0 + f)
    z = s * s
    R = 2.0 / 21.0
    R = _mul_add(R, z, 2.0 / 19.0)
    R = _mul_add(R, z, 2.0 / 17.0)
    R = _mul_add(R, z, 2.0 / 15.0)
    R = _mul_add(R, z, 2.0 / 13.0)
    R = _mul_add(R, z, 2.0 / 11.0)
    R = _mul_add(R, z, 2.0 / 9.0)
    R = _mul_add(R, z, 2.0 / 7.0)
    R = _mul_add(R, z, 2.0 / 5.0)
    R = _mul_add(R, z, 2.0 / 3.0)
    R *= z
    s_low = _mul_add(s, h + R, _mul_add(k, 1.90821492927058770002e-10, c))
    return _mul_add(k, 6.93147180369123816490e-01, f - (h - s_low))


@_part
def _log1p(x, error):
    """log(1 + x + error) for x >= -1, with the digits of x that 1 + x loses; about -709 at -1. nan
    gives nan."""
    u = 1.0 + x
    return _log_of(u, ((x - (u - 1.0)) + error) / u if u > 0.0 else x - x)


@_part
def _log(x):
    """log(x) for x >= 0; about -709 at 0. nan gives nan."""
    return _log_of(x, x - x)


# The functions of one array need no more digits than they give: for float32 and 16-bit arrays the
# two below do, at a third of the time. Losses always take those above, because their sums carry
# float64.


@_part
def _exp_single(d):
    """e^d to 31 bits: the steps of `_exp` with fewer terms, and without what single roundings of
    float64 lose.

    The first term that is left out, r^9 / 9!, is below 2^-31 of e^r. Range: d <= 709. Below -708 it
    is 0; nan gives nan.
    """
    z = _mul_add(d, 1.4426950408889634, 6755399441055744.0)
    r = _mul_add(z - 6755399441055744.0, -0.6931471805599453, d)
    p = 1.0 / 40320.0
    p = _mul_add(p, r, 1.0 / 5040.0)
    p = _mul_add(p, r, 1.0 / 720.0)
    p = _mul_add(p, r, 1.0 / 120.0)
    p = _mul_add(p, r, 1.0 / 24.0)
    p = _mul_add(p, r, 1.0 / 6.0)
    p = _mul_add(p, r, 0.5)
    p = _mul_add(p, r, 1.0)
    p = _mul_add(p, r, 1.0)
    power = np.int64((np.float64(z).view(np.int64) + 1023) << 52).view(np.float64)
    return 0.0 if d < -708.0 else p * power


@_part
def _log1p_single(e):
    """log(1 + e) to 29 bits, for 0 <= e <= 1; nan gives nan.

    As 2 atanh(s) = 2 s + 2/3 s^3 + 2/5 s^5 + ... with s = e / (2 + e) <= 1/3, which needs no power
    of two taken out, and loses no digit of e. The first term that is left out, 2/17 s^17, and all
    after it are below 2^-29 of the whole.
    """
    s = e / (2.0 + e)
    z = s * s
    R = 2.0 / 15.0
    R = _mul_add(R, z, 2.0 / 13.0)
    R = _mul_add(R, z, 2.0 / 11.0)
    R = _mul_add(R, z, 2.0 / 9.0)
    R = _mul_add(R, z, 2.0 / 7.0)
    R = _mul_add(R, z, 2.0 / 5.0)
    R = _mul_add(R, z, 2.0 / 3.0)
    R = _mul_add(R, z, 2.0)
    return R * s


# --- One row of logits, or a piece of one ---------------------------------------------------------
#
# Let m be the largest logit of a row, k its class, E_c = exp(x_c - m), T the sum of E_c over the
# classes other than k, and S = 1 + T. Then
#
#     log S = log1p(T)      -log p_c = (m - x_c) + log S
#     p_c = E_c / S         p_k = 1 / S         1 - p_k = T / S
#
# and no digits are lost however small T is. If m is inf or -inf, or if any logit is nan, T is nan,
# and all else with it.
#
# The losses of class indices and of class probabilities have one form, with u_c the coefficients
# that are spread over the classes and A that of the label alone (0 with probabilities):
#
#     l = A (-log p_y) + B sum_c u_c (-log p_c)
#     indices:        A = s (1 - eps) w_y      B = s eps / C      u_c = w_c
#     probabilities:  A = 0                    B = s              u_c = w_c ((1 - eps) t_c + eps/C)


@_part
def _piece_max(x):
    """The largest item and its first place; (-inf, 0) if none is above -inf. nan counts as -inf."""
    m0 = m1 = m2 = m3 = -np.inf
    whole = x.size // 4 * 4
    for i in range(0, whole, 4):  # four at a time, because each comparison waits for the one before
        m0 = x[i] if x[i] > m0 else m0
        m1 = x[i + 1] if x[i + 1] > m1 else m1
        m2 = x[i + 2] if x[i + 2] > m2 else m2
        m3 = x[i + 3] if x[i + 3] > m3 else m3
    for i in range(whole, x.size):
        m0 = x[i] if x[i] > m0 else m0
    m = max(max(m0, m1), max(m2, m3))
    for i in range(x.size):
        if x[i] == m:
            return m, i
    return m, 0


@_part
def _piece_exp(x, m):
    """Replace each x_c by exp(x_c - m), the rounding error of the difference included."""
    for i in range(x.size):
        d = x[i] - m
        part = d - x[i]
        x[i] = _exp(d, (x[i] - (d - part)) - (m + part))


@_part
def _piece_exp_single(x, m):
    """The same to the digits of float32."""
    for i in range(x.size):
        x[i] = _exp_single(x[i] - m)


@_part
def _piece_sum(x, total, error):
    """Add the items to a running sum. Four sums side by side, because each addition waits for the
    one before."""
    t1 = t2 = t3 = e1 = e2 = e3 = 0.0
    whole = x.size // 4 * 4
    for i in range(0, whole, 4):
        total, error = _add(total, error, x[i])
        t1, e1 = _add(t1, e1, x[i + 1])
        t2, e2 = _add(t2, e2, x[i + 2])
        t3, e3 = _add(t3, e3, x[i + 3])
    for i in range(whole, x.size):
        total, error = _add(total, error, x[i])
    if whole > 0:
        total, error = _add(total, error + e1, t1)
        total, error = _add(total, error + e2, t2)
        total, error = _add(total, error + e3, t3)
    return total, error


@_part
def _piece_dots(x, u, m, sums):
    """Add sum u_c to (sums[0], sums[1]) and sum u_c (m - x_c) to (sums[2], sums[3]). A zero u_c
    takes no part."""
    q, q_error, dot, dot_error = sums[0], sums[1], sums[2], sums[3]
    for i in range(x.size):
        q, q_error = _add(q, q_error, u[i])
        dot, dot_error = _add(dot, dot_error, u[i] * (m - x[i]) if u[i] != 0.0 else 0.0)
    sums[0], sums[1], sums[2], sums[3] = q, q_error, dot, dot_error


@_part
def _value(A, B, m, x_y, log_S, Q, dot):
    """l, see above. Where B is 0 all its terms are; but a coefficient of nan or inf still shows, in
    Q."""
    gap, gap_error = _add(m, 0.0, -x_y)
    nlp, nlp_error = _add(gap, gap_error, log_S)
    return _times(A, _sum_of(nlp, nlp_error)) + (B * (Q * log_S + dot) if B != 0.0 else B * Q)


@_part
def _piece_hess(E, S, S_error, bend, bend_error, z, carry, hess):
    """(A + B Q + 2 lambda lse) p (1 - p) + 2 lambda p^2 for classes other than k, the factor and z
    given over S^2.

    Where `carry`, only E and the result are rounded, and not the four steps between them.
    """
    for i in range(E.size):
        rest = S - E[i]
        if carry:
            rest_error = ((S - rest) - E[i]) + S_error
            product, product_error = _multiply(E[i], rest)
            h, h_error = _multiply(bend, product)
            h_error += bend * (product_error + E[i] * rest_error) + bend_error * product
            hess[i] = h + h_error if math.isfinite(h_error) else h
        else:
            hess[i] = bend * (E[i] * rest)
    if z != 0.0:
        for i in range(E.size):
            hess[i] += z * (E[i] * E[i])


@_part
def _piece_grad(E, u, slope, B):
    """Replace E_c by (A + B Q + 2 lambda lse) p_c - B u_c, the gradient for classes other than k
    and y. The factor is given over S."""
    for i in range(E.size):
        E[i] = slope * E[i] - B * u[i]


@_part
def _entry_grad(e, u, is_largest, is_label, S, S_error, T, T_error, A, B, Q, z):
    """The gradient at k and at y, without a difference of nearly equal numbers: as -A (1 - p_y) at
    the label."""
    quotient, rest = _divide(e, 0.0, S, S_error)
    p = quotient + rest
    grad = z * p
    if is_label:
        # The sum of the other classes: T itself if the label is (or ties with) the largest, else
        # safe because it is >= 1
        others, others_error = (T, T_error) if e == 1.0 else _add(S, S_error, -e)
        quotient, rest = _divide(others, others_error, S, S_error)
        grad -= A * (quotient + rest)
    else:
        grad += A * p
    if B != 0.0:
        grad += B * ((Q - u) * p - u * (T / S)) if is_largest else B * (Q * p - u)
    return grad


# --- Cross-entropy --------------------------------------------------------------------------------


@_part
def _item(data, kind, position, one):
    """One number out of a contiguous array of any dtype; `one` is scratch for it."""
    _stay_apart()
    _load_flat(data, kind, NO, position, one.size, one)
    return one[0]


@_part
def _sweep_labels(
    target,
    target_kind,
    rows,
    classes,
    ignoring,
    ignore_index,
    weight,
    weight_kind,
    w,
    sample,
    sample_kind,
    labels,
    s,
):
    """Whether all labels are classes or ignored; D, the sum of s w_y, and Dz, that of s, over the
    rows that take part, each with its error.

    `w` has all class weights, unless there are more classes than it has room for. `labels` and `s`
    are scratch.
    """
    _stay_apart()
    flat, ones, one = np.array([rows]), np.ones(1, np.int64), np.empty(1)
    plain = weight_kind == ABSENT and sample_kind == ABSENT
    taking_part = 0
    D = D_error = Dz = Dz_error = 0.0
    for first in range(0, rows, s.size):
        count = min(s.size, rows - first)
        _load_integers(target, target_kind, ZERO, flat, ones, first, count, labels)
        if sample_kind != ABSENT:
            _load_flat(sample, sample_kind, NO, first, count, s)
        for i in range(count):
            y = labels[i]
            if ignoring and y == ignore_index:
                continue
            if y < 0 or y >= classes:
                return False, 0.0, 0.0, 0.0, 0.0
            taking_part += 1
            if not plain:
                weight_y = 1.0
                if weight_kind != ABSENT:
                    weight_y = w[y] if classes <= w.size else _item(weight, weight_kind, y, one)
                D, D_error = _add(D, D_error, s[i] * weight_y)
                Dz, Dz_error = _add(Dz, Dz_error, s[i])
    if plain:
        return True, float(taking_part), 0.0, float(taking_part), 0.0
    return True, D, D_error, Dz, Dz_error


@_part
def _sum_all(data, kind, rounded, size, tile):
    """The sum of a contiguous array of any dtype, and its error."""
    _stay_apart()
    total = error = 0.0
    for first in range(0, size, max(tile.size, 1)):
        count = min(tile.size, size - first)
        _load_flat(data, kind, rounded, first, count, tile)
        total, error = _piece_sum(tile[:count], total, error)
    return total, error


@_part
def _mix(u, w, eps, classes):
    """Make coefficients u_c = w_c ((1 - eps) t_c + eps / C) of probabilities t_c."""
    for i in range(u.size):
        u[i] = w[i] * ((1.0 - eps) * u[i] + eps / classes)


@_part
def _load_coefficients(
    target,
    target_kind,
    has_probabilities,
    rounded,
    offset,
    shape,
    strides,
    weight,
    weight_kind,
    eps,
    classes,
    first,
    u,
    w,
):
    """Fill w with the class weights from `first` on, and u with the coefficients u_c of a long
    row."""
    _stay_apart()
    count = min(TILE, classes - first)
    if weight_kind != ABSENT:
        _load_flat(weight, weight_kind, NO, first, count, w)
    if has_probabilities:
        _load(target, target_kind, rounded, offset, shape, strides, first, count, u)
        _mix(u[:count], w, eps, classes)


@_jit
def _cross_entropy(
    logits,
    kind,
    outer,
    classes,
    inner,
    target,
    target_kind,
    has_probabilities,
    weight,
    weight_kind,
    sample,
    sample_kind,
    ignoring,
    ignore_index,
    eps,
    z_loss,
    mean,
    values,
    value_kind,
    grads,
    hessians,
    with_value,
    with_grad,
    with_hess,
):
    """Rows of `classes` logits, `inner` apart. Return whether the labels are good, and the reduced
    value.

    `values` (per row, of value_kind, unless that is ABSENT), `grads` and `hessians` are written to,
    in the logits' layout.
    """
    rows = outer * inner
    size = min(TILE, max(rows, 1) * classes)
    tile_rows = max(1, min(TILE // classes, rows))
    long_rows = classes > TILE
    rounded = kind != FLOAT64  # the compute type of all others is float32
    spread = has_probabilities or eps > 0.0  # are there coefficients u_c?
    flat, ones, one = np.array([rows]), np.ones(1, np.int64), np.empty(1)
    labels = np.empty(max(1, min(TILE, rows)), np.int64)
    s_rows = np.ones(labels.size)
    v_rows = np.empty(tile_rows)
    x = np.empty(size)
    w = np.ones(min(classes, TILE) if spread or weight_kind != ABSENT else 0)
    u = np.empty(size) if has_probabilities else w
    hess = np.empty(size if with_hess else 0)
    sums = np.empty(4)
    if weight_kind != ABSENT and not long_rows:
        _load_flat(weight, weight_kind, NO, ZERO, classes, w)

    # 1. Labels and denominators
    if has_probabilities:
        D, D_error = float(rows), 0.0
        if sample_kind != ABSENT:
            D, D_error = _sum_all(sample, sample_kind, NO, rows, s_rows)
        Dz, Dz_error = D, D_error
    else:
        good, D, D_error, Dz, Dz_error = _sweep_labels(
            target,
            target_kind,
            rows,
            classes,
            ignoring,
            ignore_index,
            weight,
            weight_kind,
            w,
            sample,
            sample_kind,
            labels,
            s_rows,
        )
        if not good:
            return False, 0.0
    D, D_error = _normal(D, D_error)
    Dz, Dz_error = _normal(Dz, Dz_error)
    total = total_error = total_z = total_z_error = 0.0
    # The last factor of a row that was divided by D, and its quotient: few rows have another one
    divided, quotient, quotient_error = np.nan, 0.0, 0.0

    # 2. Tiles: rows that lie side by side, (count, classes) with the given strides. A long row is a
    #    tile of its own.
    shape = np.array([rows * classes]) if inner == 1 else np.empty(2, np.int64)
    strides = ones if inner == 1 else np.empty(2, np.int64)
    row = ZERO
    while row < rows:
        if inner == 1:
            count = min(tile_rows, rows - row)
            offset = row * classes
        else:
            count = min(tile_rows, inner - row % inner)
            offset = row // inner * classes * inner + row % inner
            shape[0], shape[1], strides[0], strides[1] = count, classes, 1, inner
        if not has_probabilities:
            _load_integers(target, target_kind, ZERO, flat, ones, row, count, labels)
        if sample_kind != ABSENT:
            _load_flat(sample, sample_kind, NO, row, count, s_rows)
        if not long_rows:
            _load(logits, kind, NO, offset, shape, strides, ZERO, count * classes, x)
            if has_probabilities:
                _load(
                    target, target_kind, rounded, offset, shape, strides, ZERO, count * classes, u
                )
                if eps > 0.0 or weight_kind != ABSENT:
                    for r in range(count):
                        _mix(u[r * classes : (r + 1) * classes], w, eps, classes)

        for r in range(count):
            at = 0 if long_rows else r * classes
            u_at = at if has_probabilities else 0
            y = -1
            if not has_probabilities:
                y = labels[r]
                if ignoring and y == ignore_index:
                    v_rows[r] = 0.0
                    if long_rows:
                        x[:] = 0.0
                        for first in range(0, classes, TILE):
                            piece = min(TILE, classes - first)
                            if with_grad:
                                _store(x, piece, grads, kind, offset, shape, strides, first)
                            if with_hess:
                                _store(x, piece, hessians, kind, offset, shape, strides, first)
                    else:
                        x[at : at + classes] = 0.0
                        if with_hess:
                            hess[at : at + classes] = 0.0
                    continue

            # 3. The largest logit m, at k, and the logit x_y of the label
            x_y = 0.0
            if long_rows:
                m, k = -np.inf, 0
                for first in range(0, classes, TILE):
                    piece = min(TILE, classes - first)
                    _load(logits, kind, NO, offset, shape, strides, first, piece, x)
                    piece_m, piece_k = _piece_max(x[:piece])
                    if piece_m > m:
                        m, k = piece_m, first + piece_k
                    if first <= y < first + piece:
                        x_y = x[y - first]
            else:
                m, k = _piece_max(x[at : at + classes])
                if y >= 0:
                    x_y = x[at + y]

            # 4. The sums over the classes. x becomes E; E_k is set to 0 meanwhile, so that T is the
            #    sum of the others.
            if spread:
                sums[:] = 0.0
            T, T_error = 0.0, 0.0
            if long_rows:
                for first in range(0, classes, TILE):
                    piece = min(TILE, classes - first)
                    _load(logits, kind, NO, offset, shape, strides, first, piece, x)
                    if spread:
                        _load_coefficients(
                            target,
                            target_kind,
                            has_probabilities,
                            rounded,
                            offset,
                            shape,
                            strides,
                            weight,
                            weight_kind,
                            eps,
                            classes,
                            first,
                            u,
                            w,
                        )
                        _piece_dots(x[:piece], u, m, sums)
                    if first <= k < first + piece:
                        x[k - first] = -np.inf
                    _piece_exp(x[:piece], m)
                    T, T_error = _piece_sum(x[:piece], T, T_error)
            else:
                if spread:
                    _piece_dots(x[at : at + classes], u[u_at : u_at + classes], m, sums)
                x[at + k] = -np.inf
                _piece_exp(x[at : at + classes], m)
                T, T_error = _piece_sum(x[at : at + classes], T, T_error)
                x[at + k] = 1.0
            T, T_error = _normal(T if math.isfinite(m) else np.nan, T_error)
            S, S_error = _add(1.0, T_error, T)
            log_S = _log1p(T, T_error)
            Q = dot = 0.0
            if spread:
                Q = _sum_of(sums[0], sums[1])
                dot = _sum_of(sums[2], sums[3])

            # 5. The value
            w_y = 1.0
            if y >= 0 and weight_kind != ABSENT:
                w_y = w[y] if not long_rows else _item(weight, weight_kind, y, one)
            s = s_rows[r]
            if with_value:
                A = s * ((1.0 - eps) * w_y) if y >= 0 else 0.0
                B = (s if y < 0 else s * (eps / classes)) if spread else 0.0
                value = _value(A, B, m, x_y, log_S, Q, dot)
                total, total_error = _add(total, total_error, value)
                if z_loss > 0.0:
                    lse = m + log_S
                    value_z = s * z_loss * (lse * lse)
                    total_z, total_z_error = _add(total_z, total_z_error, value_z)
                    value += value_z
                v_rows[r] = value

            # 6. The gradient, written over E, and the Hessian: first all classes, then k and y,
            #    whose forms are others
            if with_grad or with_hess:
                A = s * ((1.0 - eps) * w_y) if y >= 0 else 0.0
                B = (s if y < 0 else s * (eps / classes)) if spread else 0.0
                # Factors of a row are pairs: they add no error of their own to its entries
                linear, linear_error = A + B * Q if spread else A, 0.0
                if mean:
                    if linear != divided:
                        divided = linear
                        quotient, quotient_error = _divide(linear, 0.0, D, D_error)
                    linear, linear_error = quotient, quotient_error
                    if spread:
                        A /= D
                        B /= D
                    else:
                        A = quotient + quotient_error
                z, z_hess = 0.0, 0.0
                if z_loss > 0.0:
                    z_hess = (s / Dz if mean else s) * (2.0 * z_loss)
                    z = z_hess * (m + log_S)
                    linear, linear_error = _add(linear, linear_error, z)
                slope, slope_error = _divide(linear, linear_error, S, S_error)  # grad is slope E
                bend = bend_error = 0.0
                if with_hess:  # it is bend E (S - E)
                    bend, bend_error = _divide(slope, slope_error, S, S_error)
                for first in range(0, classes, TILE):
                    piece = min(TILE, classes - first)
                    if long_rows:
                        _load(logits, kind, NO, offset, shape, strides, first, piece, x)
                        if spread:
                            _load_coefficients(
                                target,
                                target_kind,
                                has_probabilities,
                                rounded,
                                offset,
                                shape,
                                strides,
                                weight,
                                weight_kind,
                                eps,
                                classes,
                                first,
                                u,
                                w,
                            )
                        _piece_exp(x[:piece], m)
                    has_k = first <= k < first + piece
                    has_y = y != k and first <= y < first + piece
                    e_y = x[at + y - first] if has_y else 0.0
                    if has_k:
                        x[at + k - first] = 1.0
                    E = x[at : at + piece]
                    if with_hess:
                        _piece_hess(
                            E,
                            S,
                            S_error,
                            bend,
                            bend_error,
                            z_hess / (S * S),
                            not rounded,
                            hess[at : at + piece],
                        )
                        if has_k:
                            h, h_error = _multiply(bend, T)
                            h_error += bend * T_error + bend_error * T
                            hess[at + k - first] = _sum_of(h, h_error) + z_hess / (S * S)
                    if with_grad:
                        if B != 0.0:
                            _piece_grad(E, u[u_at : u_at + piece], slope + slope_error, B)
                        elif rounded:
                            for i in range(piece):
                                E[i] *= slope
                        else:
                            for i in range(piece):
                                E[i] = _scale(E[i], slope, slope_error)
                        if has_k and (y == k or B != 0.0):
                            u_k = u[u_at + k - first] if spread else 0.0
                            x[at + k - first] = _entry_grad(
                                1.0, u_k, True, y == k, S, S_error, T, T_error, A, B, Q, z
                            )
                        if has_y:
                            u_y = u[u_at + y - first] if spread else 0.0
                            x[at + y - first] = _entry_grad(
                                e_y, u_y, False, True, S, S_error, T, T_error, A, B, Q, z
                            )
                    if long_rows:
                        if with_grad:
                            _store(x, piece, grads, kind, offset, shape, strides, first)
                        if with_hess:
                            _store(hess, piece, hessians, kind, offset, shape, strides, first)

        if not long_rows:
            if with_grad:
                _store(x, count * classes, grads, kind, offset, shape, strides, ZERO)
            if with_hess:
                _store(hess, count * classes, hessians, kind, offset, shape, strides, ZERO)
        if value_kind != ABSENT:
            _store_flat(v_rows, count, values, value_kind, row)
        row += count

    if not mean:
        return True, _sum_of(total, total_error) + _sum_of(total_z, total_z_error)
    value = _quotient(total, total_error, D, D_error)
    if z_loss > 0.0:
        value += _quotient(total_z, total_z_error, Dz, Dz_error)
    return True, value


def cross_entropy(
    verb,
    logits,
    target,
    weight,
    sample_weight,
    ignore_index,
    label_smoothing,
    z_loss,
    reduction,
    axis,
    num_threads,
    out,
):
    shape = logits.shape
    has_probabilities = target.dtype.name in ("float16", "bfloat16", "float32", "float64")
    # Compared as integers of any size: outside of the labels' dtype, ignore_index equals none of
    # them.
    ignoring = False
    if not has_probabilities:
        limits = np.iinfo(target.dtype)
        ignoring = bool(limits.min <= ignore_index <= limits.max)
    # As the labels are read: as int64, where an uint64 from 2^63 on wraps around.
    matched = (ignore_index + 2**63) % 2**64 - 2**63 if ignoring else 0
    values, grad, hess = _outputs(verb, logits, shape[:axis] + shape[axis + 1 :], reduction, out)
    good, value = _cross_entropy(
        *_input(logits),
        math.prod(shape[:axis]),
        shape[axis],
        math.prod(shape[axis + 1 :]),
        *_input(target),
        has_probabilities,
        *_input(weight),
        *_input(sample_weight),
        ignoring,
        matched,
        float(label_smoothing),
        float(z_loss),
        reduction == "mean",
        *_output(values),
        _output(grad)[0],
        _output(hess)[0],
        verb != GRAD_AND_HESS,
        verb != VALUE,
        verb == GRAD_AND_HESS,
    )
    return (
        _results(verb, value if values is None else values, grad, hess) if good else NotImplemented
    )


# --- Losses of single items -----------------------------------------------------------------------


@_jit
def _binary_cross_entropy_with_logits(
    logits,
    kind,
    size,
    target,
    target_kind,
    weight,
    weight_kind,
    weight_offset,
    weight_shape,
    weight_strides,
    pos_weight,
    pos_weight_kind,
    pos_weight_offset,
    pos_weight_shape,
    pos_weight_strides,
    mean,
    values,
    value_kind,
    grads,
    hessians,
    with_value,
    with_grad,
    with_hess,
):
    """With a = 1 - t, b = pos_weight t, e = exp(-|x|), L = log1p(e) and w the weight:

        value  w (a softplus(x) + b softplus(-x)) = w a max(x, 0) + w b max(-x, 0) + w (a + b) L
        grad   w (a - b e) / (1 + e) if x >= 0, else w (a e - b) / (1 + e)
        hess   w (a + b) e / (1 + e)^2

    For t = 0 and t = 1 nothing cancels, however small the loss. Return whether the targets are
    good, and the reduced value.
    """
    tile = min(ITEM_TILE, size)
    if target_kind < FLOAT16 and not _all_binary(target, target_kind, size):
        return False, 0.0
    x, t = np.empty(tile), np.empty(tile)
    w, pos = np.ones(tile), np.ones(tile)
    e = np.empty(tile)
    grad = np.empty(tile if with_grad else 0)
    hess = np.empty(tile if with_hess else 0)
    rounded = kind != FLOAT64
    D = float(size) if mean else 1.0
    total = error = 0.0
    for first in range(0, size, ITEM_TILE):
        count = min(ITEM_TILE, size - first)
        _load_flat(logits, kind, NO, first, count, x)
        _load_flat(target, target_kind, rounded, first, count, t)
        if weight_kind != ABSENT:
            _load(
                weight,
                weight_kind,
                rounded,
                weight_offset,
                weight_shape,
                weight_strides,
                first,
                count,
                w,
            )
        if pos_weight_kind != ABSENT:
            _load(
                pos_weight,
                pos_weight_kind,
                rounded,
                pos_weight_offset,
                pos_weight_shape,
                pos_weight_strides,
                first,
                count,
                pos,
            )
        for i in range(count):
            e[i] = _exp(-abs(x[i]), 0.0)
        if with_grad:
            for i in range(count):
                a, b = 1.0 - t[i], pos[i] * t[i]
                if rounded:
                    slope = a - b * e[i] if x[i] >= 0.0 else a * e[i] - b
                    grad[i] = w[i] * (slope / (1.0 + e[i])) / D
                else:
                    # The numerator of the largest targets overflows, though the gradient does not.
                    unit = 2.0**128 if abs(t[i]) > 2.0**900 else 1.0
                    a, b = a / unit, b / unit
                    slope = a - b * e[i] if x[i] >= 0.0 else a * e[i] - b
                    quotient, rest = _over_one_plus(slope, 0.0, e[i])
                    grad[i] = w[i] * (unit * (quotient + rest)) / D
        if with_hess:
            for i in range(count):
                a, b = 1.0 - t[i], pos[i] * t[i]
                if rounded:
                    both = e[i] / ((1.0 + e[i]) * (1.0 + e[i]))
                else:
                    quotient, rest = _over_one_plus(e[i], 0.0, e[i])
                    quotient, rest = _over_one_plus(quotient, rest, e[i])
                    both = quotient + rest
                hess[i] = w[i] * ((a + b) * both) / D
        if with_value:
            for i in range(count):
                a, b, L = w[i] * (1.0 - t[i]), w[i] * (pos[i] * t[i]), _log1p(e[i], 0.0)
                x[i] = _times(a, max(x[i], 0.0)) + _times(b, max(-x[i], 0.0)) + (a + b) * L
            total, error = _piece_sum(x[:count], total, error)
        if value_kind != ABSENT:
            _store_flat(x, count, values, value_kind, first)
        if with_grad:
            _store_flat(grad, count, grads, kind, first)
        if with_hess:
            _store_flat(hess, count, hessians, kind, first)
    return True, _quotient(total, error, float(size), 0.0) if mean else _sum_of(total, error)


@_part
def _all_binary(target, kind, size):
    """Whether all integers are 0 or 1."""
    _stay_apart()
    flat, ones = np.array([size]), np.ones(1, np.int64)
    labels = np.empty(min(ITEM_TILE, size), np.int64)
    for first in range(0, size, ITEM_TILE):
        count = min(ITEM_TILE, size - first)
        _load_integers(target, kind, ZERO, flat, ones, first, count, labels)
        for i in range(count):
            if labels[i] & ~1 != 0:
                return False
    return True


@_part
def _all_probabilities(data, kind, rounded, size):
    """Whether all items are in [0, 1], or nan."""
    _stay_apart()
    p = np.empty(min(ITEM_TILE, size))
    for first in range(0, size, ITEM_TILE):
        count = min(ITEM_TILE, size - first)
        _load_flat(data, kind, rounded, first, count, p)
        outside = False
        for i in range(count):
            outside |= p[i] < 0.0 or p[i] > 1.0
        if outside:
            return False
    return True


@_jit
def _binary_cross_entropy(
    probs,
    kind,
    size,
    target,
    target_kind,
    weight,
    weight_kind,
    weight_offset,
    weight_shape,
    weight_strides,
    mean,
    values,
    value_kind,
    grads,
    hessians,
    with_value,
    with_grad,
    with_hess,
):
    """With w the weight, P = max(p, 1e-12) and N = max(1 - p, 1e-12):

        value  w (t min(-log p, 100) + (1 - t) min(-log1p(-p), 100))
        grad   w ((1 - t) / N - t / P)
        hess   w ((1 - t) / N^2 + t / P^2)

    The gradient has one denominator, P N. Where neither bound acts, w (p - t) / (P N) does not
    cancel at p near t.

    Return whether probabilities and targets are good, and the reduced value. They are all looked at
    before anything is written, so that the first bad one can still be named after the gradient was
    to go where the probabilities are.
    """
    rounded = kind != FLOAT64
    if target_kind < FLOAT16 and not _all_binary(target, target_kind, size):
        return False, 0.0
    if not _all_probabilities(probs, kind, NO, size):
        return False, 0.0
    if target_kind >= FLOAT16 and not _all_probabilities(target, target_kind, rounded, size):
        return False, 0.0
    tile = min(ITEM_TILE, size)
    x, t, w = np.empty(tile), np.empty(tile), np.ones(tile)
    grad = np.empty(tile if with_grad else 0)
    hess = np.empty(tile if with_hess else 0)
    D = float(size) if mean else 1.0
    total = error = 0.0
    for first in range(0, size, ITEM_TILE):
        count = min(ITEM_TILE, size - first)
        _load_flat(probs, kind, NO, first, count, x)
        _load_flat(target, target_kind, rounded, first, count, t)
        if weight_kind != ABSENT:
            _load(
                weight,
                weight_kind,
                rounded,
                weight_offset,
                weight_shape,
                weight_strides,
                first,
                count,
                w,
            )
        if with_grad:
            for i in range(count):
                p, n = x[i], 1.0 - x[i]
                P = p if not p < 1e-12 else 1e-12  # written so that nan stays nan
                N = n if not n < 1e-12 else 1e-12
                inside = p >= 1e-12 and n >= 1e-12
                rise = p - t[i] if inside else (1.0 - t[i]) * P - t[i] * N
                grad[i] = w[i] * (rise / (P * N)) / D
        if with_hess:
            for i in range(count):
                p = x[i] if not x[i] < 1e-12 else 1e-12
                n = 1.0 - x[i] if not 1.0 - x[i] < 1e-12 else 1e-12
                hess[i] = w[i] * ((1.0 - t[i]) / (n * n) + t[i] / (p * p)) / D
        if with_value:
            for i in range(count):
                yes, no = -_log(x[i]), -_log1p(-x[i], 0.0)
                yes = 100.0 if yes > 100.0 else yes
                no = 100.0 if no > 100.0 else no
                x[i] = w[i] * (t[i] * yes + (1.0 - t[i]) * no)
            total, error = _piece_sum(x[:count], total, error)
        if value_kind != ABSENT:
            _store_flat(x, count, values, value_kind, first)
        if with_grad:
            _store_flat(grad, count, grads, kind, first)
        if with_hess:
            _store_flat(hess, count, hessians, kind, first)
    return True, _quotient(total, error, float(size), 0.0) if mean else _sum_of(total, error)


@_part
def _scaled_differences(x, t, factor, out):
    """out = factor (x - t) for float32, in float64; out may be x or t."""
    for i in range(out.size):
        out[i] = (np.float64(x[i]) - np.float64(t[i])) * factor


@_jit
def _mse_loss(
    input,
    kind,
    size,
    target,
    target_kind,
    weight,
    weight_kind,
    mean,
    values,
    value_kind,
    grads,
    hessians,
    with_value,
    with_grad,
    with_hess,
):
    """With d = x - t: value w d^2, grad 2 w d, hess 2 w. Return the reduced value; its denominator
    is the sum of w.

    All rounding errors of an item are carried: d + d_error is the difference, d^2 + square_error
    the square, and so on. Of their sum only what the item itself cannot hold goes into the reduced
    value by way of `rests`.
    """
    tile = min(ITEM_TILE, size)
    x, t, w = np.empty(tile), np.empty(tile), np.ones(tile)
    rests = np.empty(tile if with_value else 0)
    rounded = kind != FLOAT64
    D, D_error = 1.0, 0.0
    if mean:
        D = float(size)
        if weight_kind != ABSENT:
            D, D_error = _sum_all(weight, weight_kind, rounded, size, w)
    half_D = 0.5 * _sum_of(D, D_error)
    inverse = 1.0 / half_D  # to multiply by where that is exact enough
    total = error = 0.0
    # Without a value, float32 alone needs none of what tiles are for, and takes half the time.
    direct = kind == target_kind == FLOAT32 and weight_kind == ABSENT and not with_value
    if direct:
        _scaled_differences(
            input.view(np.float32), target.view(np.float32), inverse, grads.view(np.float32)
        )
    for first in range(0, 0 if direct else size, ITEM_TILE):
        count = min(ITEM_TILE, size - first)
        _load_flat(input, kind, NO, first, count, x)
        _load_flat(target, target_kind, rounded, first, count, t)
        if weight_kind != ABSENT:
            _load_flat(weight, weight_kind, rounded, first, count, w)
        if with_value:
            for i in range(count):
                d = x[i] - t[i]
                part = d - x[i]
                d_error = (x[i] - (d - part)) - (t[i] + part)
                square, square_error = _multiply(d, d)
                item, item_error = _multiply(w[i], square)
                item_error += w[i] * (square_error + 2.0 * d * d_error)
                value = item + item_error
                rest = (item - value) + item_error
                finite = math.isfinite(rest)
                t[i], rests[i] = value if finite else w[i] * (d * d), rest if finite else 0.0
                x[i] = d
            total, error = _piece_sum(t[:count], total, error)
            for i in range(count):
                error += rests[i]
        elif with_grad:
            for i in range(count):
                x[i] -= t[i]
        if value_kind != ABSENT:
            _store_flat(t, count, values, value_kind, first)
        if with_grad:
            if rounded and weight_kind == ABSENT:
                for i in range(count):
                    x[i] *= inverse
            elif rounded:
                for i in range(count):
                    x[i] = w[i] * x[i] * inverse
            else:
                for i in range(count):
                    x[i] = w[i] * x[i] / half_D
            _store_flat(x, count, grads, kind, first)
        if with_hess and weight_kind != ABSENT:
            for i in range(count):
                t[i] = w[i] / half_D
            _store_flat(t, count, hessians, kind, first)
    if with_hess and weight_kind == ABSENT and size > 0:  # a tile of one number, and copies of it
        x[:] = 1.0 / half_D
        _store_flat(x, tile, hessians, kind, ZERO)
        done = tile * _width(kind)
        for first in range(done, hessians.size, done):
            count = min(done, hessians.size - first)
            _copy(hessians[:count], hessians[first : first + count])
    return _quotient(total, error, D, D_error) if mean else _sum_of(total, error)


def binary_cross_entropy_with_logits(
    verb, logits, target, weight, pos_weight, reduction, num_threads, out
):
    values, grad, hess = _outputs(verb, logits, logits.shape, reduction, out)
    good, value = _binary_cross_entropy_with_logits(
        *_input(logits),
        logits.size,
        *_input(target),
        *_strided_input(weight),
        *_strided_input(pos_weight),
        reduction == "mean",
        *_output(values),
        _output(grad)[0],
        _output(hess)[0],
        verb != GRAD_AND_HESS,
        verb != VALUE,
        verb == GRAD_AND_HESS,
    )
    return (
        _results(verb, value if values is None else values, grad, hess) if good else NotImplemented
    )


def binary_cross_entropy(verb, probs, target, weight, reduction, num_threads, out):
    values, grad, hess = _outputs(verb, probs, probs.shape, reduction, out)
    good, value = _binary_cross_entropy(
        *_input(probs),
        probs.size,
        *_input(target),
        *_strided_input(weight),
        reduction == "mean",
        *_output(values),
        _output(grad)[0],
        _output(hess)[0],
        verb != GRAD_AND_HESS,
        verb != VALUE,
        verb == GRAD_AND_HESS,
    )
    return (
        _results(verb, value if values is None else values, grad, hess) if good else NotImplemented
    )


def mse_loss(verb, input, target, weight, reduction, num_threads, out):
    values, grad, hess = _outputs(verb, input, input.shape, reduction, out)
    value = _mse_loss(
        *_input(input),
        input.size,
        *_input(target),
        *_input(weight),
        reduction == "mean",
        *_output(values),
        _output(grad)[0],
        _output(hess)[0],
        verb != GRAD_AND_HESS,
        verb != VALUE,
        verb == GRAD_AND_HESS,
    )
    return _results(verb, value if values is None else values, grad, hess)


# --- Functions of one array -----------------------------------------------------------------------

SOFTMAX, LOG_SOFTMAX, LOGSUMEXP = range(3)
SIGMOID, LOG_SIGMOID, SOFTPLUS = range(3)


@_jit
def _rowwise(which, array, kind, outer, classes, inner, result):
    """softmax E_c / S, log_softmax (x_c - m) - log S, logsumexp m + log S of rows whose items lie
    `inner` apart."""
    rows = outer * inner
    tile_rows = max(1, TILE // classes)
    x = np.empty(min(TILE, max(rows, 1) * classes))
    y = np.empty(x.size if which == LOG_SOFTMAX else 0)  # the logits, while x holds E
    lse = np.empty(tile_rows)
    ones = np.ones(1, np.int64)
    long_rows = classes > TILE
    single = kind != FLOAT64
    shape = np.array([rows * classes]) if inner == 1 else np.empty(2, np.int64)
    strides = ones if inner == 1 else np.empty(2, np.int64)
    row = ZERO
    while row < rows:
        if inner == 1:
            count = min(tile_rows, rows - row)
            offset = row * classes
        else:
            count = min(tile_rows, inner - row % inner)
            offset = row // inner * classes * inner + row % inner
            shape[0], shape[1], strides[0], strides[1] = count, classes, 1, inner
        if not long_rows:
            _load(array, kind, NO, offset, shape, strides, ZERO, count * classes, x)
            if which == LOG_SOFTMAX:
                y[: count * classes] = x[: count * classes]
        for r in range(count):
            at = 0 if long_rows else r * classes
            m, k = -np.inf, 0
            for first in range(0, classes, TILE):
                piece = min(TILE, classes - first)
                if long_rows:
                    _load(array, kind, NO, offset, shape, strides, first, piece, x)
                piece_m, piece_k = _piece_max(x[at : at + piece])
                if piece_m > m:
                    m, k = piece_m, first + piece_k
            T, T_error = 0.0, 0.0
            has_nan = False
            for first in range(0, classes, TILE):
                piece = min(TILE, classes - first)
                if long_rows:
                    _load(array, kind, NO, offset, shape, strides, first, piece, x)
                if not math.isfinite(m):
                    for i in range(at, at + piece):
                        has_nan |= x[i] != x[i]
                if first <= k < first + piece:
                    x[at + k - first] = -np.inf
                if single:
                    _piece_exp_single(x[at : at + piece], m)
                else:
                    _piece_exp(x[at : at + piece], m)
                T, T_error = _piece_sum(x[at : at + piece], T, T_error)
            T, T_error = _normal(T if math.isfinite(m) else np.nan, T_error)
            log_S = _log1p(T, T_error)
            S, S_error = _add(1.0, T_error, T)
            p, p_error = _divide(1.0, 0.0, S, S_error)  # of the largest class
            if which == LOGSUMEXP:
                # inf and -inf are their own logsumexp
                lse[r] = m + log_S if math.isfinite(m) else (np.nan if has_nan else m)
                continue
            for first in range(0, classes, TILE):
                piece = min(TILE, classes - first)
                if which == SOFTMAX:
                    if long_rows:
                        _load(array, kind, NO, offset, shape, strides, first, piece, x)
                        if single:
                            _piece_exp_single(x[:piece], m)
                        else:
                            _piece_exp(x[:piece], m)
                    if first <= k < first + piece:
                        x[at + k - first] = 1.0
                    E = x[at : at + piece]
                    if single:
                        for i in range(piece):
                            E[i] *= p
                    else:
                        for i in range(piece):
                            E[i] = _scale(E[i], p, p_error)
                else:
                    if long_rows:
                        _load(array, kind, NO, offset, shape, strides, first, piece, y)
                    row_x, row_y = x[at : at + piece], y[at : at + piece]
                    for i in range(piece):
                        d = row_y[i] - m
                        part = d - row_y[i]
                        error = (row_y[i] - (d - part)) - (m + part)
                        row_x[i] = d - (log_S - error if math.isfinite(error) else log_S)
                if long_rows:
                    _store(x, piece, result, kind, offset, shape, strides, first)
        if which == LOGSUMEXP:
            _store_flat(lse, count, result, kind, row)
        elif not long_rows:
            _store(x, count * classes, result, kind, offset, shape, strides, ZERO)
        row += count


@_jit
def _itemwise(which, array, kind, size, result):
    """With e = exp(-|x|): sigmoid 1 / (1 + e) or e / (1 + e), softplus max(x, 0) + log1p(e),
    log_sigmoid min(x, 0) - log1p(e)."""
    x, e = np.empty(min(ITEM_TILE, size)), np.empty(min(ITEM_TILE, size))
    single = kind != FLOAT64
    for first in range(0, size, ITEM_TILE):
        count = min(ITEM_TILE, size - first)
        _load_flat(array, kind, NO, first, count, x)
        if single:
            for i in range(count):
                e[i] = _exp_single(-abs(x[i]))
        else:
            for i in range(count):
                e[i] = _exp(-abs(x[i]), 0.0)
        if which == SIGMOID and single:
            for i in range(count):
                x[i] = (1.0 if x[i] >= 0.0 else e[i]) / (1.0 + e[i])
        elif which == SIGMOID:
            for i in range(count):
                quotient, rest = _over_one_plus(1.0 if x[i] >= 0.0 else e[i], 0.0, e[i])
                x[i] = quotient + rest
        elif which == SOFTPLUS and single:
            for i in range(count):
                x[i] = (x[i] if x[i] > 0.0 else 0.0) + _log1p_single(e[i])
        elif which == SOFTPLUS:
            for i in range(count):
                x[i] = (x[i] if x[i] > 0.0 else 0.0) + _log1p(e[i], 0.0)
        elif single:
            for i in range(count):
                x[i] = (x[i] if x[i] < 0.0 else 0.0) - _log1p_single(e[i])
        else:
            for i in range(count):
                x[i] = (x[i] if x[i] < 0.0 else 0.0) - _log1p(e[i], 0.0)
        _store_flat(x, count, result, kind, first)


def _function_of_rows(which, x, axis, out):
    shape = x.shape
    if out is None:
        out = np.empty(shape[:axis] + shape[axis + 1 :] if which == LOGSUMEXP else shape, x.dtype)
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    _rowwise(which, *_input(x), before, shape[axis], after, _output(out)[0])
    return out


def _function_of_items(which, x, out):
    if out is None:
        out = np.empty_like(x)
    _itemwise(which, *_input(x), x.size, _output(out)[0])
    return out


def softmax(x, axis, num_threads, out):
    return _function_of_rows(SOFTMAX, x, axis, out)


def log_softmax(x, axis, num_threads, out):
    return _function_of_rows(LOG_SOFTMAX, x, axis, out)


def logsumexp(x, axis, num_threads, out):
    return _function_of_rows(LOGSUMEXP, x, axis, out)


def sigmoid(x, num_threads, out):
    return _function_of_items(SIGMOID, x, out)


def log_sigmoid(x, num_threads, out):
    return _function_of_items(LOG_SIGMOID, x, out)


def softplus(x, num_threads, out):
    return _function_of_items(SOFTPLUS, x, out)


# --- Between arrays and bytes ---------------------------------------------------------------------


def _read_only(data):
    # Of the same type for every input: otherwise a read-only array would have all kernels compiled
    # again.
    data.flags.writeable = False
    return data


def _input(array):
    """The bytes of a C-contiguous array or None, and what they mean."""
    if array is None:
        return _NO_INPUT, ABSENT
    return _read_only(array.reshape(-1).view(np.uint8)), KINDS[array.dtype.name]


def _output(array):
    if array is None:
        return _NO_OUTPUT, ABSENT
    return array.reshape(-1).view(np.uint8), KINDS[array.dtype.name]


def _strided_input(array):
    """The bytes, their meaning, and the offset, shape and strides, in items, of an array of any
    strides, or of None."""
    if array is None:
        return _NO_INPUT, ABSENT, 0, _NO_AXES, _NO_AXES
    kind = KINDS[array.dtype.name]
    itemsize = array.itemsize
    if array.flags.c_contiguous:
        return (
            _read_only(array.reshape(-1).view(np.uint8)),
            kind,
            0,
            np.array([array.size]),
            _NO_AXES,
        )
    # Axes that can be walked over as one become one
    shape, strides = [], []
    for length, stride in zip(array.shape, array.strides, strict=True):
        if length == 1:
            continue
        if shape and strides[-1] == stride * length:
            shape[-1], strides[-1] = shape[-1] * length, stride
        else:
            shape.append(length)
            strides.append(stride)
    # The bytes start at the lowest address: that of the last item along an axis of negative stride
    spans = [stride * (length - 1) for length, stride in zip(shape, strides, strict=True)]
    lowest = array[
        tuple(slice(-1, None) if stride < 0 else slice(0, 1) for stride in array.strides)
    ]
    extent = sum(abs(span) for span in spans) + itemsize
    data = np.lib.stride_tricks.as_strided(
        lowest.reshape(-1).view(np.uint8), (extent,), (1,), writeable=False
    )
    offset = -sum(span for span in spans if span < 0) // itemsize
    return _read_only(data), kind, offset, np.array(shape), np.array(strides) // itemsize


def _outputs(verb, array, value_shape, reduction, out):
    """The arrays to write to: values per row or item, gradient and Hessian; None where there are
    none."""
    values = grad = hess = None
    if verb != GRAD_AND_HESS and reduction == "none":
        values = np.empty(value_shape, np.float64 if array.dtype == np.float64 else np.float32)
    if verb == GRAD_AND_HESS:
        grad, hess = (None, None) if out is None else out
        hess = np.empty(array.shape, array.dtype) if hess is None else hess
    elif verb != VALUE:
        grad = out
    if verb != VALUE and grad is None:
        grad = np.empty(array.shape, array.dtype)
    return values, grad, hess


def _results(verb, value, grad, hess):
    if verb == VALUE:
        return value
    return (grad, hess) if verb == GRAD_AND_HESS else (value, grad)


_NO_INPUT = _read_only(np.empty(0, np.uint8))
_NO_OUTPUT = np.empty(0, np.uint8)
_NO_AXES = np.ones(1, np.int64)

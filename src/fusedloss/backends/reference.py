"""The losses in NumPy and float64: the textbook form, and the oracle of the other backends.

Each formula stands here once, as a short function of float64 arrays. Around them are three plain
steps that have nothing to do with mathematics: widen the input to float64, call the formulae block
by block, round the results once to their dtype. The blocks only bound the memory.

"Textbook" does not mean naive. Three habits keep every result within a few ulp of the truth:

1. **Never subtract what is nearly equal.** The loss of a confident row is log(1 + rest), where rest
   is the sum of the *other* classes. As log(total) - logit it would be the difference of two large
   numbers, and often zero.
2. **Never take the smaller of p and 1 - p as one minus the larger.**
3. **Carry what rounding takes away**: in a difference, a product, a quotient, a sum (`add_up`).

Infinities follow IEEE arithmetic, with one exception: the zero-coefficient rule of `times`.

The signatures and the meaning of the arguments are those of `fusedloss.backends`.
"""

# Everything here is an array of float64, unless it says otherwise; annotations would say no more.
# mypy: ignore-errors

from functools import cached_property

import numpy as np

from . import GRAD_AND_HESS, VALUE, VALUE_AND_GRAD

BLOCK = 2**16  # items handled at once: their temporaries, half a megabyte each, stay in cache


# --------------------------------------------------------------------------------------------------
# Arithmetic
# --------------------------------------------------------------------------------------------------


def times(coefficient, log):
    """coefficient x log, where 0 x inf = 0: what does not take part cannot count.

    But 0 x nan = nan: a zero weight is a number, not a mask.
    """
    return np.where((coefficient == 0) & np.isinf(log), 0.0, coefficient * log)


def add(a, b):
    """a + b as a pair (sum, error): sum is rounded, and sum + error is exact (Knuth's TwoSum)."""
    total = a + b
    b_part = total - a
    error = (a - (total - b_part)) + (b - b_part)
    return total, error


def subtract(a, b):
    """a - b as a pair (difference, error) like `add`; if that is not finite, the error is 0."""
    difference, error = add(a, -b)
    return difference, np.where(np.isfinite(error), error, 0.0)


def halves(a):
    """a as a sum (high, low) of 26 bits each, so that products of them are exact."""
    scaled = (2.0**27 + 1.0) * a
    high = scaled - (scaled - a)
    return high, a - high


def multiply(a, b):
    """a b as a pair (product, error), by Dekker; if that is not finite, the error is 0."""
    rounded = a * b
    a_high, a_low = halves(a)
    b_high, b_low = halves(b)
    error = ((a_high * b_high - rounded) + a_high * b_low + a_low * b_high) + a_low * b_low
    return rounded, np.where(np.isfinite(error), error, 0.0)


def divide(a, a_error, b, b_error):
    """(a + a_error) / (b + b_error) as such a pair: what the quotient of a and b leaves is divided
    again. If that is not finite, the error is 0.
    """
    quotient = a / b
    product, product_error = multiply(quotient, b)
    error = (((a - product) - product_error) + (a_error - quotient * b_error)) / b
    return quotient, np.where(np.isfinite(error), error, 0.0)


def add_up_exactly(terms):
    """The sum over the last axis as a pair (sum, error) like `add`, if not with its every last bit.

    The two halves of the axis are added item by item, then the halves of the result, and so on;
    what rounding takes away on the way is summed apart.
    """
    errors = np.zeros(terms.shape[:-1])
    while (count := terms.shape[-1]) > 1:
        half = count // 2
        pairs, error = add(terms[..., :half], terms[..., half : 2 * half])
        errors = errors + error.sum(axis=-1)
        terms = np.concatenate([pairs, terms[..., 2 * half :]], axis=-1)
    # With inf or nan among the terms the errors are nan, and the plain sum is the answer.
    return add(terms.sum(axis=-1), np.where(np.isfinite(errors), errors, 0.0))


def add_up(terms):
    """The sum over the last axis, rounded about once."""
    return add_up_exactly(terms)[0]


def weighted_mean(terms, D):
    """The sum of an array (items,) over D, an IEEE quotient: 0/0 is nan, 1/0 is inf."""
    total, error = add_up_exactly(terms)
    correction = error / D
    return total / D + np.where(np.isfinite(correction), correction, 0.0)


# --------------------------------------------------------------------------------------------------
# Softmax of rows (rows, classes), the ground of cross-entropy
# --------------------------------------------------------------------------------------------------


class Softmax:
    """All that cross-entropy wants to know about a block of rows x.

    Let m be the largest logit of a row, k its class (the first, if several tie), and
    E_c = exp(x_c - m). Then E_k = 1, and with T the sum of all others the total is S = 1 + T, so
    log S = log1p(T) keeps all its digits, however small T is. From these:

        p_c = E_c / S      1 - p_k = T / S      log p_c = (x_c - m) - log S      lse = m + log S

    log p_c is a sum of two terms of the same sign, so nothing cancels. A class other than k has
    p_c <= 1/2, so there 1 - p_c is safe. The rounding error of x_c - m is carried: where x_c is
    small and m is large, it would be the largest error of all. So are those of T, S and p.

    A row whose largest logit is not finite (+inf, nan, or -inf everywhere) has no softmax: all of
    the above is nan.
    """

    def __init__(self, x):
        k = x.argmax(axis=-1)[:, None]
        m = x.max(axis=-1, keepdims=True)
        m = np.where(np.isfinite(m), m, np.nan)
        self.shift, self.shift_error = subtract(x, m)
        E = np.exp(self.shift)
        E_error = E * self.shift_error
        self.is_largest = np.arange(x.shape[-1]) == k
        T, T_error = add_up_exactly(np.where(self.is_largest, 0.0, E))
        T_error = T_error + np.where(self.is_largest, 0.0, E_error).sum(axis=-1)
        T, T_error = T[:, None], T_error[:, None]
        T = np.where(np.isnan(m), np.nan, T)  # also of a single class, where T has no terms
        S, S_error = add(1.0, T)
        self.E, self.T, self.S = (E, E_error), (T, T_error), (S, S_error + T_error)
        self.log_S, self.log_S_error = np.log1p(T), T_error / S
        self.lse = m + (self.log_S + self.log_S_error)

    @cached_property
    def log_p(self):
        difference, error = subtract(self.shift, self.log_S)
        return difference + (error + (self.shift_error - self.log_S_error))

    @cached_property
    def p_pair(self):
        return divide(*self.E, *self.S)

    @cached_property
    def one_minus_p_pair(self):
        p, p_error = self.p_pair
        q, q_error = subtract(1.0, p)
        rest, rest_error = divide(*self.T, *self.S)
        return (
            np.where(self.is_largest, rest, q),
            np.where(self.is_largest, rest_error, q_error - p_error),
        )

    @cached_property
    def p(self):
        return sum(self.p_pair)

    @cached_property
    def one_minus_p(self):
        return sum(self.one_minus_p_pair)

    @cached_property
    def variance(self):
        """p (1 - p), rounded about once."""
        (p, p_error), (q, q_error) = self.p_pair, self.one_minus_p_pair
        product, error = multiply(p, q)
        return product + (error + (p * q_error + p_error * q))


# --------------------------------------------------------------------------------------------------
# Cross-entropy of rows
# --------------------------------------------------------------------------------------------------
#
# Both kinds of target become the same thing, a row of coefficients q_c, and the loss of a row is
#
#     l = s sum_c q_c (-log p_c)
#
#
#     class index y          q_c = (1 - eps) w_y [c = y]  +  eps / C w_c
#     class probabilities t  q_c = w_c ( (1 - eps) t_c + eps / C )
#
# s is the sample weight, w_c the class weight, eps the label smoothing, C the number of classes.


def coefficients(target, classes, weight, label_smoothing):
    """The rows q of a block of targets: indices (rows,) or probabilities (rows, classes)."""
    if target.ndim == 2:
        return weight * ((1.0 - label_smoothing) * target + label_smoothing / classes)
    rows = np.arange(len(target))
    q = np.zeros((len(target), classes))
    q[rows, target] = (1.0 - label_smoothing) * weight[target]
    if label_smoothing > 0:  # without it, other classes' weights are not used, not even a nan
        q += label_smoothing / classes * weight
    return q


def cross_entropy_value(softmax, q, s):
    """sum_c s q_c (-log p_c)."""
    return add_up(times(times(q, s), -softmax.log_p))


def cross_entropy_grad(softmax, q, scale):
    """scale (Q p_c - q_c), with Q = sum_c q_c.

    At the largest class, where p may be close to 1 and q to Q, it is (Q - q) p - q (1 - p), with
    Q - q summed from the other classes. For a hard label that is -q (1 - p), which keeps all its
    digits however confident the row is.
    """
    q_of_others = add_up(np.where(softmax.is_largest, 0.0, q))[:, None]
    Q = add_up(q)[:, None]
    at_largest = q_of_others * softmax.p - q * softmax.one_minus_p
    return scale * np.where(softmax.is_largest, at_largest, Q * softmax.p - q)


def cross_entropy_hess(softmax, q, scale):
    """scale Q p_c (1 - p_c)."""
    return scale * add_up(q)[:, None] * softmax.variance


def z_loss_value(softmax, z_loss, s):
    """s lambda lse^2."""
    return times(s * z_loss, softmax.lse**2)[:, 0]


def z_loss_grad(softmax, z_loss, scale):
    """scale 2 lambda lse p_c."""
    return scale * (2.0 * z_loss) * softmax.lse * softmax.p


def z_loss_hess(softmax, z_loss, scale):
    """scale 2 lambda ( p_c^2 + lse p_c (1 - p_c) )."""
    p = softmax.p
    return scale * (2.0 * z_loss) * p * (p + softmax.lse * softmax.one_minus_p)


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
    classes = logits.shape[axis]
    row_shape = logits.shape[:axis] + logits.shape[axis + 1 :]
    x = as_rows(logits, axis)
    count = x.shape[0]

    # Which rows take part, and are their labels classes? Labels and ignore_index compare as
    # integers of any size.
    takes_part = np.ones(count, dtype=bool)
    holds_indices = target.dtype.kind in "iu"
    if holds_indices:
        t = target.reshape(-1)
        limits = np.iinfo(t.dtype)
        if limits.min <= ignore_index <= limits.max:
            takes_part = t != t.dtype.type(ignore_index)
        if np.any(takes_part & ((t < 0) | (t >= classes))):
            return NotImplemented
        t = np.where(takes_part, t, 0).astype(np.int64)
    else:
        t = as_rows(target, axis)

    # Weights and denominators. Ignored rows are in neither denominator. Labels bring their class
    # weights into D, probabilities do not; class weights are never in that of the z-loss.
    w = np.ones(classes) if weight is None else weight.astype(np.float64)
    s = np.ones(count) if sample_weight is None else sample_weight.astype(np.float64).reshape(-1)
    with np.errstate(all="ignore"):
        s_part = s[takes_part]
        D_z = add_up(s_part)
        D = add_up(s_part * w[t[takes_part]]) if holds_indices else D_z
        mean = reduction == "mean"
        scale, scale_z = (s / D, s / D_z) if mean else (s, s)

        # Some rows at a time. Ignored rows stay zero, whatever their logits hold.
        value = np.zeros(count)
        value_z = np.zeros(count)
        grad = np.zeros(x.shape, logits.dtype) if verb != VALUE else None
        hess = np.zeros(x.shape, logits.dtype) if verb == GRAD_AND_HESS else None
        for rows in blocks(count, classes):
            rows = rows[takes_part[rows]]
            softmax = Softmax(x[rows].astype(np.float64))
            t_row = t[rows] if holds_indices else widen(t[rows], logits)
            q = coefficients(t_row, classes, w, label_smoothing)
            s_row, scale_row, scale_z_row = s[rows, None], scale[rows, None], scale_z[rows, None]
            if verb != GRAD_AND_HESS:
                value[rows] = cross_entropy_value(softmax, q, s_row)
                if z_loss > 0:
                    value_z[rows] = z_loss_value(softmax, z_loss, s_row)
            if grad is not None:
                g = cross_entropy_grad(softmax, q, scale_row)
                grad[rows] = g + z_loss_grad(softmax, z_loss, scale_z_row) if z_loss > 0 else g
            if hess is not None:
                h = cross_entropy_hess(softmax, q, scale_row)
                hess[rows] = h + z_loss_hess(softmax, z_loss, scale_z_row) if z_loss > 0 else h

        if reduction == "none":
            value = (value + value_z).reshape(row_shape).astype(value_dtype(logits))
        elif mean:
            value = float(weighted_mean(value, D))
            value += float(weighted_mean(value_z, D_z)) if z_loss > 0 else 0.0
        else:
            value = float(add_up(value)) + float(add_up(value_z))

        if verb == VALUE:
            return value
        grad = from_rows(grad, logits.shape, axis)
        if verb == VALUE_AND_GRAD:
            return value, store(grad, logits.shape, logits.dtype, out)
        out_grad, out_hess = out or (None, None)
        hess = from_rows(hess, logits.shape, axis)
        return (
            store(grad, logits.shape, logits.dtype, out_grad),
            store(hess, logits.shape, logits.dtype, out_hess),
        )


# --------------------------------------------------------------------------------------------------
# Losses of single items: value, grad, hess of each; x and target t are arrays of one block
# --------------------------------------------------------------------------------------------------


def over_one_plus(a, e, twice=False):
    """a / (1 + e), or twice so, for 0 <= e <= 1: rounded about once."""
    S, S_error = add(1.0, e)
    quotient, error = divide(a, 0.0, S, S_error)
    if twice:
        quotient, error = divide(quotient, error, S, S_error)
    return quotient + error


def binary_cross_entropy_with_logits_value(x, t, weight, pos_weight=1.0):
    """weight ( a softplus(x) + b softplus(-x) ), with a = 1 - t and b = pos_weight t.

    softplus(x) = max(x, 0) + log1p(exp(-|x|)), so that a small loss keeps all its digits.
    """
    a, b = 1.0 - t, pos_weight * t
    L = np.log1p(np.exp(-np.abs(x)))
    return times(weight * a, np.maximum(x, 0.0) + L) + times(weight * b, np.maximum(-x, 0.0) + L)


def binary_cross_entropy_with_logits_grad(x, t, weight, pos_weight=1.0):
    """weight ( a sigma(x) - b sigma(-x) ), over the common denominator 1 + exp(-|x|).

    For t = 0 and t = 1 one of the two terms is zero: nothing cancels.
    """
    # The numerator of the largest targets overflows, though the gradient does not.
    unit = np.where(np.abs(t) > 2.0**900, 2.0**128, 1.0)
    a, b = (1.0 - t) / unit, pos_weight * t / unit
    e = np.exp(-np.abs(x))
    return weight * (unit * over_one_plus(np.where(x >= 0, a - b * e, a * e - b), e))


def binary_cross_entropy_with_logits_hess(x, t, weight, pos_weight=1.0):
    """weight (a + b) sigma(x) sigma(-x) = weight (a + b) e / (1 + e)^2, with e = exp(-|x|)."""
    a, b = 1.0 - t, pos_weight * t
    e = np.exp(-np.abs(x))
    return weight * ((a + b) * over_one_plus(e, e, twice=True))


def binary_cross_entropy_value(p, t, weight):
    """weight ( t min(-log p, 100) + (1 - t) min(-log(1 - p), 100) ).

    So a wrong certainty costs 100 and not infinity.
    """
    if_one = np.minimum(-np.log(p), 100.0)
    if_zero = np.minimum(-np.log1p(-p), 100.0)
    return weight * (t * if_one + (1.0 - t) * if_zero)


def binary_cross_entropy_grad(p, t, weight):
    """weight ( (1 - t) / max(1 - p, 1e-12) - t / max(p, 1e-12) ).

    Where no bound applies, that is (p - t) / (p (1 - p)), which keeps its digits when p is close
    to t.
    """
    bounded = (1.0 - t) / np.maximum(1.0 - p, 1e-12) - t / np.maximum(p, 1e-12)
    inside = (p >= 1e-12) & (1.0 - p >= 1e-12)
    return weight * np.where(inside, (p - t) / (p * (1.0 - p)), bounded)


def binary_cross_entropy_hess(p, t, weight):
    """weight ( (1 - t) / max(1 - p, 1e-12)^2 + t / max(p, 1e-12)^2 )."""
    return weight * ((1.0 - t) / np.maximum(1.0 - p, 1e-12) ** 2 + t / np.maximum(p, 1e-12) ** 2)


def mse_loss_value(x, t, weight):
    """weight d^2, with d = x - t. With d_error, which x - t rounds away, d^2 gains 2 d d_error."""
    d, d_error = subtract(x, t)
    d2, d2_error = multiply(d, d)
    correction = np.where(d_error == 0, 0.0, 2.0 * d * d_error)  # d may be infinite
    return weight * (d2 + (d2_error + correction))


def mse_loss_grad(x, t, weight):
    """2 weight d."""
    return weight * (2.0 * (x - t))


def mse_loss_hess(x, t, weight):
    """2 weight."""
    return np.broadcast_to(2.0 * weight, x.shape)


def binary_cross_entropy_with_logits(
    verb, logits, target, weight, pos_weight, reduction, num_threads, out
):
    if target.dtype.kind in "iu" and np.any((target != 0) & (target != 1)):
        return NotImplemented
    formulas = (
        binary_cross_entropy_with_logits_value,
        binary_cross_entropy_with_logits_grad,
        binary_cross_entropy_with_logits_hess,
    )
    more = () if pos_weight is None else (pos_weight,)
    D = logits.size
    return pointwise_loss(verb, formulas, logits, target, weight, D, reduction, out, *more)


def binary_cross_entropy(verb, probs, target, weight, reduction, num_threads, out):
    with np.errstate(all="ignore"):
        t = widen(target, probs)
        # nan is neither below nor above: it is no error, and gives nan
        if np.any((probs < 0) | (probs > 1)) or np.any((t < 0) | (t > 1)):
            return NotImplemented
    formulas = (binary_cross_entropy_value, binary_cross_entropy_grad, binary_cross_entropy_hess)
    return pointwise_loss(verb, formulas, probs, target, weight, probs.size, reduction, out)


def mse_loss(verb, input, target, weight, reduction, num_threads, out):
    formulas = (mse_loss_value, mse_loss_grad, mse_loss_hess)
    with np.errstate(all="ignore"):
        D = input.size if weight is None else add_up(widen(weight, input).reshape(-1))
    return pointwise_loss(verb, formulas, input, target, weight, D, reduction, out)


def pointwise_loss(verb, formulas, x, target, weight, D, reduction, out, *more):
    """A verb of a loss of single items, given its formulas (value, grad, hess).

    D is the denominator of the mean; `more` are further arrays that the formulas take.
    """
    formula_value, formula_grad, formula_hess = formulas
    with np.errstate(all="ignore"):
        D = np.float64(D)
        out_grad, out_hess = out if verb == GRAD_AND_HESS and out is not None else (out, None)
        value = np.empty(x.size)
        grad = new_or_given(x.shape, x.dtype, out_grad) if verb != VALUE else None
        hess = new_or_given(x.shape, x.dtype, out_hess) if verb == GRAD_AND_HESS else None
        flat_x, flat_target = x.reshape(-1), target.reshape(-1)
        flat_weight = None if weight is None else weight.reshape(-1)
        flat_more = [array.reshape(-1) for array in more]
        flat_grad = None if grad is None else grad.reshape(-1)
        flat_hess = None if hess is None else hess.reshape(-1)
        for start in range(0, x.size, BLOCK):
            items = slice(start, start + BLOCK)
            xi = flat_x[items].astype(np.float64)  # a copy: grad may be written over x
            ti = widen(flat_target[items], x)
            wi = np.float64(1.0) if weight is None else widen(flat_weight[items], x)
            more_i = [widen(array[items], x) for array in flat_more]
            scale = wi / D if reduction == "mean" else wi
            if verb != GRAD_AND_HESS:
                value[items] = formula_value(xi, ti, wi, *more_i)
            if grad is not None:
                flat_grad[items] = formula_grad(xi, ti, scale, *more_i)
            if hess is not None:
                flat_hess[items] = formula_hess(xi, ti, scale, *more_i)

        if verb == GRAD_AND_HESS:
            return grad, hess
        if reduction == "none":
            value = value.reshape(x.shape).astype(value_dtype(x))
        else:
            value = float(weighted_mean(value, D) if reduction == "mean" else add_up(value))
        return value if verb == VALUE else (value, grad)


# --------------------------------------------------------------------------------------------------
# Functions of one array
# --------------------------------------------------------------------------------------------------


def softmax(x, axis, num_threads, out):
    """p_c of `Softmax`."""
    return function_of_rows(lambda rows: Softmax(rows).p, x, axis, out)


def log_softmax(x, axis, num_threads, out):
    """log p_c of `Softmax`."""
    return function_of_rows(lambda rows: Softmax(rows).log_p, x, axis, out)


def logsumexp(x, axis, num_threads, out):
    """m + log1p(T) of `Softmax`; an infinite largest entry is itself the answer."""

    def formula(rows):
        m = rows.max(axis=-1, keepdims=True)
        return np.where(np.isinf(m), m, Softmax(rows).lse)

    rows = as_rows(x, axis)
    result = np.empty(len(rows), x.dtype)
    with np.errstate(all="ignore"):
        for block in blocks(*rows.shape):
            result[block] = formula(rows[block].astype(np.float64))[:, 0]
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    return store(result.reshape(shape), shape, x.dtype, out)


def sigmoid(x, num_threads, out):
    """1 / (1 + exp(-x)); for negative x, where exp(-x) might overflow, exp(x) / (1 + exp(x))."""

    def formula(x):
        e = np.exp(-np.abs(x))
        return over_one_plus(np.where(x >= 0, 1.0, e), e)

    return function_of_items(formula, x, out)


def log_sigmoid(x, num_threads, out):
    """log sigmoid(x) = -softplus(-x) = min(x, 0) - log1p(exp(-|x|)): two terms of the same sign."""
    return function_of_items(lambda x: np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x))), x, out)


def softplus(x, num_threads, out):
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))."""
    return function_of_items(lambda x: np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))), x, out)


def function_of_rows(formula, x, axis, out):
    """Apply a formula of float64 rows along an axis; result and x have one shape and dtype."""
    rows = as_rows(x, axis)
    result = np.empty(rows.shape, x.dtype)
    with np.errstate(all="ignore"):
        for block in blocks(*rows.shape):
            result[block] = formula(rows[block].astype(np.float64))
    return store(from_rows(result, x.shape, axis), x.shape, x.dtype, out)


def function_of_items(formula, x, out):
    """Apply a formula of float64 items; result and x have one shape and dtype."""
    result = new_or_given(x.shape, x.dtype, out)
    flat_x, flat_result = x.reshape(-1), result.reshape(-1)
    with np.errstate(all="ignore"):
        for start in range(0, x.size, BLOCK):
            items = slice(start, start + BLOCK)
            flat_result[items] = formula(flat_x[items].astype(np.float64))
    return result


# --------------------------------------------------------------------------------------------------
# Arrays, dtypes, blocks
# --------------------------------------------------------------------------------------------------


def widen(array, x):
    """The array in float64, rounded first to the compute type of x.

    That is float64 for float64, and float32 for all others.
    """
    if x.dtype != np.float64:
        array = array.astype(np.float32)
    return array.astype(np.float64)


def value_dtype(x):
    """The dtype of single values: that of x, or float32 where x is a 16-bit type."""
    return np.dtype(np.float32) if x.dtype.itemsize == 2 else x.dtype


def as_rows(array, axis):
    """The array as a table (rows, classes): classes along the axis, the rest in C order."""
    moved = np.moveaxis(array, axis, -1)
    count = moved.size // max(moved.shape[-1], 1)
    return moved.reshape(count, moved.shape[-1])


def from_rows(table, shape, axis):
    """The table (rows, classes) as an array of the given shape: what `as_rows` does, undone."""
    moved_shape = shape[:axis] + shape[axis + 1 :] + (shape[axis],)
    return np.moveaxis(table.reshape(moved_shape), -1, axis)


def blocks(count, classes):
    """Index arrays that cut `count` rows into blocks of about BLOCK items."""
    step = max(1, BLOCK // classes)
    for start in range(0, count, step):
        yield np.arange(start, min(start + step, count))


def new_or_given(shape, dtype, out):
    return np.empty(shape, dtype) if out is None else out


def store(values, shape, dtype, out):
    """The values in `out`, if given, else in a new array; rounded, if they were not before."""
    result = new_or_given(shape, dtype, out)
    result[...] = values
    return result

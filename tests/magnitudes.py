"""How large the terms are that each output is a sum of.

A result that is the difference of two numbers cannot be more accurate than they are: the gradient
p - q of a soft target, or a log-sum-exp near zero. The tests measure an error in ulp of
max(|result|, magnitude), and these functions give the magnitude: the formula of the output with an
absolute value around every term. Where nothing can cancel it is 0, so that the result itself is
the measure. All in float64, textbook form; a few per cent of error would not matter here.
"""

import numpy as np


def _reduced(rows, reduction, denominator):
    if reduction == "none":
        return rows
    return rows.sum() / (abs(denominator) if reduction == "mean" else 1.0)


def cross_entropy(
    x,
    target,
    *,
    reduction,
    weight=None,
    sample_weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    z_loss=0.0,
    axis=-1,
):
    classes = x.shape[axis]
    moved = np.moveaxis(x, axis, -1)
    rows_shape = moved.shape[:-1]
    z = moved.reshape(-1, classes)
    w = np.abs(np.ones(classes) if weight is None else weight)
    s = np.abs(np.ones(len(z)) if sample_weight is None else np.asarray(sample_weight).reshape(-1))
    m = z.max(axis=1, initial=-np.inf)[:, None]
    e = np.exp(z - m)
    total = e.sum(axis=1, keepdims=True)
    p = e / total
    nlp = (m - z) + np.log(total)  # -log p
    lse = (np.abs(m) + np.log(total))[:, 0]

    if np.asarray(target).dtype.kind == "f":
        t = np.abs(np.moveaxis(np.asarray(target), axis, -1).reshape(-1, classes))
        q = w * ((1 - label_smoothing) * t + label_smoothing / classes)
        valid = np.ones(len(z), dtype=bool)
        d = s.sum()
        cancels = True
    else:
        y = np.asarray(target).reshape(-1)
        valid = y != ignore_index
        y = np.where(valid, y, 0).astype(int)
        q = np.tile(label_smoothing / classes * w, (len(z), 1))
        q[np.arange(len(z)), y] += (1 - label_smoothing) * w[y]
        d = (s * w[y])[valid].sum()
        cancels = label_smoothing > 0 or z_loss > 0
    dz = s[valid].sum()
    mass = q.sum(axis=1, keepdims=True)

    value = s * (q * nlp).sum(axis=1, where=q > 0)
    grad = s[:, None] * (mass * p + q)
    hess = s[:, None] * mass * p * (1 - p)
    zvalue = s * z_loss * lse**2
    zgrad = s[:, None] * 2 * z_loss * lse[:, None] * p
    zhess = s[:, None] * 2 * z_loss * (p**2 + lse[:, None] * p * (1 - p))
    if reduction == "mean":
        # d and dz differ, so the two parts are divided one by one.
        result = value[valid].sum() / d + (zvalue[valid].sum() / dz if z_loss else 0.0)
        grad, hess = grad / d, hess / d
        if z_loss:
            grad, hess = grad + zgrad / dz, hess + zhess / dz
    else:
        result = np.where(valid, value + zvalue, 0.0)
        result = result.reshape(rows_shape) if reduction == "none" else result.sum()
        grad, hess = grad + zgrad, hess + zhess

    def unmoved(array):
        array = np.where(valid[:, None], array, 0.0)
        return np.moveaxis(array.reshape(moved.shape), -1, axis)

    return {
        "value": result,
        "grad": unmoved(grad) if cancels else 0.0,
        "hess": unmoved(hess) if z_loss else 0.0,
    }


def _elementwise(value, grad, hess, reduction, denominator):
    scale = abs(denominator) if reduction == "mean" else 1.0
    return {
        "value": _reduced(value, reduction, denominator),
        "grad": grad / scale,
        "hess": hess / scale,
    }


def binary_cross_entropy_with_logits(x, target, *, reduction, weight=None, pos_weight=None):
    t = np.asarray(target, dtype="float64")
    w = 1.0 if weight is None else np.abs(weight)
    a = np.abs(1 - t)
    b = np.abs(t * (1.0 if pos_weight is None else pos_weight))
    softplus = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    sigma = np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))
    value = w * (a * softplus + b * (softplus - x))
    grad = (
        w * (a * sigma + b * (1 - sigma)) * (target.dtype.kind == "f")
    )  # hard labels: one of the two terms is absent
    return _elementwise(value, grad, np.zeros_like(x), reduction, x.size)


def binary_cross_entropy(p, target, *, reduction, weight=None):
    t = np.asarray(target, dtype="float64")
    w = 1.0 if weight is None else np.abs(weight)
    value = w * -(t * np.maximum(np.log(p), -100) + (1 - t) * np.maximum(np.log1p(-p), -100))
    grad = w * ((1 - t) / np.maximum(1 - p, 1e-12) + t / np.maximum(p, 1e-12))
    return _elementwise(value, grad, np.zeros_like(p), reduction, p.size)


def mse_loss(x, target, *, reduction, weight=None):
    w = np.ones_like(x) if weight is None else np.abs(weight)
    d = np.abs(x - np.asarray(target, dtype="float64"))
    denominator = x.size if weight is None else w.sum()
    return _elementwise(w * d**2, w * d, np.zeros_like(x), reduction, denominator)

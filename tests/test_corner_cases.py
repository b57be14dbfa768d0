"""Every decided corner case, for every backend: weights of zero, infinities, nan, nothing at all.

The tables follow the order of the decisions: empty, ignored and weighted rows; non-finite logits
of cross-entropy; binary cross-entropy at infinity; probabilities at 0 and 1; squared differences;
and results so small or so large that a careless form loses them.
"""

import math
import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest
from cases import (
    DTYPES,
    OPTIONS_FACTOR,
    REDUCTIONS,
    VERBS,
    call,
    compare,
    compute_dtype,
    named_outputs,
    numpy_dtype,
    stated_bound,
)

import fusedloss as fl

NAN, INF = math.nan, math.inf
ANY = object()  # not promised
NOT_FINITE = object()  # nan or an infinity: x / 0 in one order of operations or another

CE = "cross_entropy"
LOGITS = "binary_cross_entropy_with_logits"
PROBS = "binary_cross_entropy"
MSE = "mse_loss"
FULL = ("float32", "float64")


@dataclass
class Corner:
    """A call and what it must give.

    `expected` has the values under the name of the reduction, and "grad", "hess" (of the sum, and
    so of each row) and "mean_grad", "mean_hess". A zero must be exactly zero.
    """

    claim: str
    loss: str
    input: object
    target: object
    options: dict = field(default_factory=dict)
    expected: dict = field(default_factory=dict)
    dtypes: tuple = tuple(DTYPES)


def nll(x, y):
    """-log softmax(x)_y of finite logits, as a sum: no cancellation."""
    return math.log1p(sum(math.exp(v - x[y]) for i, v in enumerate(x) if i != y))


def p(x, c):
    return math.exp(x[c] - max(x)) / sum(math.exp(v - max(x)) for v in x)


def softplus(v):
    return max(v, 0.0) + math.log1p(math.exp(-abs(v)))


def sigma(v):
    return 1 / (1 + math.exp(-v))


def rows(*shape):
    return np.zeros(shape)


L12 = nll([1, 2], 0)  # the loss of logits [1, 2] at label 0: log(1 + e)
L21 = nll([1, 2], 1)
G12 = [-sigma(1.0), sigma(1.0)]
G21 = [sigma(-1.0), -sigma(-1.0)]
P1, P2 = sigma(-1.0), sigma(1.0)  # the softmax of [1, 2]
Z3 = [0.0, 0.0, 0.0]

EMPTY_IGNORED_WEIGHTED = [
    Corner(
        "zero rows with indices",
        CE, rows(0, 3), rows(0).astype(int), {},
        {"mean": NAN, "sum": 0.0, "none": rows(0), "grad": rows(0, 3), "hess": rows(0, 3)},
    ),
    Corner(
        "zero rows with probabilities",
        CE, rows(0, 3), rows(0, 3), {},
        {"mean": NAN, "sum": 0.0, "none": rows(0), "mean_grad": rows(0, 3), "hess": rows(0, 3)},
    ),
    Corner(
        "zero rows of an inner axis",
        CE, rows(2, 3, 0), rows(2, 0).astype(int), {"axis": 1, "z_loss": 0.5},
        {"mean": NAN, "sum": 0.0, "none": rows(2, 0), "mean_grad": rows(2, 3, 0)},
    ),
    *(
        Corner(
            f"zero items of {loss}",
            loss, rows(0, 3), rows(0, 3), {},
            {"mean": NAN, "sum": 0.0, "none": rows(0, 3), "grad": rows(0, 3), "hess": rows(0, 3)},
        )
        for loss in (LOGITS, PROBS, MSE)
    ),
    Corner(
        "all rows ignored, whatever they hold",
        CE, [[1, 2, 3], [NAN, INF, 0], [-INF, -INF, -INF]], [-100] * 3, {},
        {"mean": NAN, "sum": 0.0, "none": Z3, "grad": [Z3] * 3, "mean_grad": [Z3] * 3,
         "hess": [Z3] * 3, "mean_hess": [Z3] * 3},
    ),
    Corner(
        "all rows ignored with all options",
        CE, [[1, 2, 3], [NAN, INF, 0]], [2, 2],
        {"ignore_index": 2, "weight": [1.0, 2.0, 3.0], "sample_weight": [1.0, 2.0],
         "label_smoothing": 0.25, "z_loss": 0.5},
        {"mean": NAN, "sum": 0.0, "none": [0, 0], "grad": [Z3] * 2, "mean_grad": [Z3] * 2,
         "hess": [Z3] * 2},
    ),
    Corner(
        "ignored rows leave no trace, even where they hold nan or inf",
        CE, [[1, 2], [NAN, INF], [1, 2], [-INF, NAN]], [0, -100, 1, -100], {},
        {"none": [L12, 0, L21, 0], "sum": L12 + L21, "mean": (L12 + L21) / 2,
         "grad": [G12, [0, 0], G21, [0, 0]],
         "mean_grad": [[g / 2 for g in G12], [0, 0], [g / 2 for g in G21], [0, 0]],
         "hess": [[P1 * P2] * 2, [0, 0], [P1 * P2] * 2, [0, 0]]},
    ),
    Corner(
        "ignored rows leave both denominators",
        CE, [[1, 2], [NAN, INF]], [1, 0],
        {"ignore_index": 0, "z_loss": 0.5, "sample_weight": [2.0, 7.0], "weight": [5.0, 3.0]},
        {"mean": L21 + 0.5 * (2 + L21) ** 2, "none": [2 * 3 * L21 + (2 + L21) ** 2, 0]},
    ),
    Corner(
        "an ignored class stays in the softmax",
        CE, [[1, 2]], [1], {"ignore_index": 0}, {"mean": L21, "grad": [G21]},
    ),
    Corner(
        "nan sample weight of an ignored row is not used",
        CE, [[1, 2], [1, 2]], [0, -100], {"sample_weight": [1.0, NAN]},
        {"mean": L12, "none": [L12, 0], "mean_grad": [G12, [0, 0]]},
    ),
    Corner(
        "class weights that are all zero: 0/0",
        CE, [[1, 2], [1, 2]], [0, -100], {"weight": [0.0, 0.0]},
        {"mean": NAN, "sum": 0.0, "none": [0, 0], "grad": [[0, 0]] * 2,
         "mean_grad": [[NAN, NAN], [0, 0]]},
    ),
    Corner(
        "sample weights that cancel: a number over 0",
        CE, [[1, 0], [0, 1], [0, 0]], [0, 0, -100], {"sample_weight": [1.0, -1.0, 1.0]},
        {"mean": -INF, "sum": -1.0, "mean_grad": [[NOT_FINITE] * 2] * 2 + [[0, 0]]},
    ),
    Corner(
        "sample weights of probabilities that are all zero: 0/0",
        CE, [[1, 2]], [[0.5, 0.5]], {"sample_weight": [0.0]},
        {"mean": NAN, "sum": 0.0, "mean_grad": [[NAN, NAN]]},
    ),
    Corner(
        "squared error with weights that are all zero: 0/0",
        MSE, [1, 2], [2, 2], {"weight": [0.0, 0.0]},
        {"mean": NAN, "sum": 0.0, "none": [0, 0], "grad": [0, 0], "mean_grad": [NAN, NAN]},
    ),
    Corner(
        "squared error with weights that cancel: a number over 0",
        MSE, [2, 4], [1, 2], {"weight": [1.0, -1.0]},
        {"mean": -INF, "sum": -3.0, "mean_grad": [NOT_FINITE] * 2},
    ),
    Corner(
        "negative sample weight: the formula as it is",
        CE, [[1, 2], [1, 2]], [0, 1], {"sample_weight": [-1.0, 3.0]},
        {"none": [-L12, 3 * L21], "mean": (3 * L21 - L12) / 2, "sum": 3 * L21 - L12,
         "grad": [[-g for g in G12], [3 * g for g in G21]]},
    ),
    Corner(
        "negative class weight: the formula as it is",
        CE, [[1, 2], [1, 2]], [0, 1], {"weight": [-1.0, 3.0]},
        {"none": [-L12, 3 * L21], "mean": (3 * L21 - L12) / 2, "grad": [[-g for g in G12], ANY]},
    ),
    Corner(
        "negative weight of binary cross-entropy: the formula as it is",
        LOGITS, [1, -2], [0, 1], {"weight": [-1.0, 2.0]},
        {"none": [-softplus(1), 2 * softplus(2)], "mean": (2 * softplus(2) - softplus(1)) / 2,
         "grad": [-sigma(1), -2 * sigma(2)]},
    ),
    Corner(
        "negative pos_weight: the formula as it is",
        LOGITS, [1, -2], [0, 1], {"pos_weight": -2.0},
        {"none": [softplus(1), -2 * softplus(2)], "grad": [sigma(1), 2 * sigma(2)]},
    ),
    Corner(
        "negative weight of binary cross-entropy from probabilities: the formula as it is",
        PROBS, [0.25, 0.5], [0, 1], {"weight": [-1.0, 2.0]},
        {"none": [math.log(0.75), -2 * math.log(0.5)], "grad": [-1 / 0.75, -4]},
    ),
    Corner(
        "negative weight of the squared error: the formula as it is",
        MSE, [2, 4], [1, 2], {"weight": [-1.0, 3.0]},
        {"none": [-1, 12], "mean": 5.5, "sum": 11.0, "grad": [-2, 12], "mean_grad": [-1, 6],
         "hess": [-2, 6]},
    ),
    Corner(
        "sample weight 0 hides an infinite loss",
        CE, [[-INF, 0], [1, 2]], [0, 0], {"sample_weight": [0.0, 1.0]},
        {"none": [0, L12], "mean": L12, "sum": L12, "grad": [[0, 0], G12],
         "mean_grad": [[0, 0], G12], "hess": [[0, 0], [P1 * P2] * 2]},
    ),
    Corner(
        "class weight 0 hides an infinite loss",
        CE, [[-INF, 0], [1, 2]], [0, 1], {"weight": [0.0, 1.0]},
        {"none": [0, L21], "mean": L21, "sum": L21, "grad": [[0, 0], G21]},
    ),
    Corner(
        "weight 0 hides an infinite loss of binary cross-entropy",
        LOGITS, [INF, -INF, -INF], [0, 1, 0.5], {"weight": [0.0, 0.0, 0.0]},
        {"none": [0, 0, 0], "mean": 0.0, "sum": 0.0, "grad": [0, 0, 0], "hess": [0, 0, 0]},
    ),
    Corner(
        "sample weight 0 does not hide nan",
        CE, [[NAN, 0], [1, 2]], [0, 0], {"sample_weight": [0.0, 1.0]},
        {"none": [NAN, L12], "mean": NAN, "sum": NAN, "grad": [[NAN, NAN], G12],
         "mean_grad": [[NAN, NAN], G12]},
    ),
    Corner(
        "class weight 0 does not hide nan",
        CE, [[0, NAN], [1, 2]], [0, 1], {"weight": [0.0, 1.0]},
        {"none": [NAN, L21], "mean": NAN, "sum": NAN, "grad": [[NAN, NAN], G21]},
    ),
    *(
        Corner(
            f"weight 0 does not hide nan in {loss}",
            loss, [NAN, 0.5], [1, 1], {"weight": [0.0, 1.0]},
            {"none": [NAN, ANY], "mean": NAN, "sum": NAN, "grad": [NAN, ANY]},
        )
        for loss in (LOGITS, PROBS, MSE)
    ),
    Corner(
        "nan class weight of a label counts",
        CE, [[1, 2], [1, 2]], [0, 1], {"weight": [NAN, 1.0]},
        {"none": [NAN, L21], "mean": NAN, "sum": NAN, "grad": [[NAN, NAN], G21],
         "mean_grad": [[NAN, NAN]] * 2},
    ),
    Corner(
        "nan class weight of no label, without smoothing, is not used",
        CE, [[1, 2], [1, 2]], [1, 1], {"weight": [NAN, 1.0]},
        {"none": [L21, L21], "mean": L21, "grad": [G21, G21]},
    ),
    Corner(
        "nan class weight with smoothing counts in every row",
        CE, [[1, 2]], [1], {"weight": [NAN, 1.0], "label_smoothing": 0.5},
        {"none": [NAN], "mean": NAN, "grad": [[NAN, NAN]]},
    ),
    Corner(
        "nan sample weight counts",
        CE, [[1, 2], [1, 2]], [0, 1], {"sample_weight": [NAN, 1.0]},
        {"none": [NAN, L21], "mean": NAN, "sum": NAN, "grad": [[NAN, NAN], G21]},
    ),
    *(
        Corner(
            f"nan weight of {loss} counts",
            loss, [0.5, 0.5], [1, 1], {"weight": [NAN, 1.0]},
            {"none": [NAN, ANY], "mean": NAN, "sum": NAN, "grad": [NAN, ANY], "hess": [NAN, ANY]},
        )
        for loss in (LOGITS, PROBS, MSE)
    ),
    Corner(
        "nan pos_weight counts, also where the target is 0: 0 x nan = nan",
        LOGITS, [1, 2], [1, 0], {"pos_weight": NAN},
        {"none": [NAN, NAN], "mean": NAN, "sum": NAN, "grad": [NAN, NAN]},
    ),
    Corner(
        "one class costs nothing",
        CE, [[5], [-5], [1e4], [-0.0]], [0] * 4, {},
        {"mean": 0.0, "sum": 0.0, "none": [0] * 4, "grad": [[0]] * 4, "hess": [[0]] * 4},
    ),
    Corner(
        "one class costs nothing with weights, smoothing and probabilities",
        CE, [[5], [-5]], [[1.0], [0.25]],
        {"weight": [2.0], "sample_weight": [3.0, 1.0], "label_smoothing": 0.5},
        {"mean": 0.0, "sum": 0.0, "none": [0, 0], "grad": [[0], [0]], "hess": [[0], [0]]},
    ),
    Corner(
        "one class that is not finite is nan",
        CE, [[-INF], [INF], [NAN], [1]], [0] * 4, {},
        {"mean": NAN, "none": [NAN, NAN, NAN, 0], "grad": [[NAN], [NAN], [NAN], [0]]},
    ),
]  # fmt: skip

NON_FINITE_LOGITS = [
    Corner(
        "-inf at another class: that class has no part",
        CE, [[1, -INF, 2]], [0], {},
        {"none": [L12], "mean": L12, "grad": [[G12[0], 0, G12[1]]], "hess": [[ANY, 0, ANY]]},
    ),
    Corner(
        "-inf at the target: an infinite loss with a finite gradient",
        CE, [[-INF, 1, 2]], [0], {},
        {"none": [INF], "mean": INF, "sum": INF, "grad": [[-1, P1, P2]],
         "hess": [[0, P1 * P2, P1 * P2]]},
    ),
    Corner(
        "-inf at the target, weighted: the gradient is times the coefficient",
        CE, [[-INF, 1, 2], [1, 2, -INF]], [0, 0],
        {"weight": [2.0, 1.0, 1.0], "sample_weight": [3.0, 1.0]},
        {"none": [INF, 2 * L12], "mean": INF, "grad": [[-6, 6 * P1, 6 * P2], ANY],
         "mean_grad": [[-6 / 8, 6 * P1 / 8, 6 * P2 / 8], [2 * G12[0] / 8, 2 * G12[1] / 8, 0]]},
    ),
    Corner(
        "-inf with smoothing: infinite loss, finite gradient",
        CE, [[1, -INF]], [0], {"label_smoothing": 0.5},
        {"none": [INF], "mean": INF, "grad": [[0.25, -0.25]], "hess": [[0, 0]]},
    ),
    Corner(
        "-inf with smoothing and class weight 0 there: that term is 0",
        CE, [[1, 2, -INF]], [0], {"label_smoothing": 0.5, "weight": [1.0, 1.0, 0.0]},
        {"none": [0.5 * L12 + (L12 + L21) / 6], "grad": [[ANY, ANY, 0]]},
    ),
    Corner(
        "-inf where the soft target is 0: that term is 0",
        CE, [[1, -INF, 2]], [[0.25, 0, 0.75]], {},
        {"none": [L12 / 4 + L21 * 3 / 4], "grad": [[P1 - 0.25, 0, P2 - 0.75]]},
    ),
    Corner(
        "-inf where the soft target is positive: infinite loss, finite gradient",
        CE, [[1, -INF, 2]], [[0.25, 0.25, 0.5]], {},
        {"none": [INF], "mean": INF, "grad": [[P1 - 0.25, -0.25, P2 - 0.5]]},
    ),
    Corner(
        "a soft target of zeros costs nothing",
        CE, [[1, 3, 2]], [[0.0, 0.0, 0.0]], {},
        {"none": [0], "mean": 0.0, "grad": [Z3], "hess": [Z3]},
    ),
    Corner(
        "a soft target of nan is nan in its row only",
        CE, [[1, 2], [1, 2]], [[NAN, 0.5], [1, 0]], {},
        {"none": [NAN, L12], "mean": NAN, "sum": NAN, "grad": [[NAN, NAN], G12]},
    ),
    Corner(
        "a row of -inf is nan, and only that row",
        CE, [[-INF, -INF], [1, 2]], [0, 0], {},
        {"none": [NAN, L12], "mean": NAN, "sum": NAN, "grad": [[NAN, NAN], G12],
         "mean_grad": [[NAN, NAN], [g / 2 for g in G12]], "hess": [[NAN, NAN], [P1 * P2] * 2]},
    ),
    Corner(
        "a row of -inf is nan with z-loss, and only that row",
        CE, [[-INF, -INF], [1, 2]], [0, 0], {"z_loss": 0.5},
        {"none": [NAN, L12 + 0.5 * (2 + L21) ** 2], "mean": NAN, "grad": [[NAN, NAN], ANY],
         "hess": [[NAN, NAN], ANY]},
    ),
    *(
        Corner(
            f"{bad} at {place} is nan, and only in that row",
            CE, [row, [1, 2]], [0, 0], {},
            {"none": [NAN, L12], "mean": NAN, "sum": NAN, "grad": [[NAN, NAN], G12],
             "mean_grad": [[NAN, NAN], [g / 2 for g in G12]], "hess": [[NAN, NAN], ANY]},
        )
        for bad in (INF, NAN)
        for place, row in (
            ("the target", [bad, 1]), ("another class", [1, bad]), ("every class", [bad, bad]),
            ("another class beside -inf", [-INF, bad]), ("the target beside -inf", [bad, -INF]),
        )
    ),
    Corner(
        "a common offset of 1e8 changes nothing",
        CE, [[1e8, 1e8], [-1e8, -1e8]], [0, 1], {},
        {"none": [math.log(2)] * 2, "mean": math.log(2), "grad": [[-0.5, 0.5], [0.5, -0.5]],
         "hess": [[0.25] * 2] * 2},
        FULL,
    ),
    Corner(
        "near overflow a common offset changes nothing",
        CE, [[3e38, 3e38]], [0], {}, {"none": [math.log(2)], "grad": [[-0.5, 0.5]]}, FULL,
    ),
    Corner(
        "a row value above the float32 range: infinite, with a finite gradient",
        CE, [[3e38, -3e38]], [1], {},
        {"none": [INF], "mean": (6e38, INF), "sum": (6e38, INF), "grad": [[1, -1]],
         "hess": [[0, 0]]},
        ("float32",),
    ),
    Corner(
        "a float64 row value above the float32 range is finite",
        CE, [[3e38, -3e38]], [1], {}, {"none": [6e38], "mean": 6e38, "grad": [[1, -1]]},
        ("float64",),
    ),
]  # fmt: skip

# The decided table, times weight and pos_weight: x, t, value, gradient.
AT_INFINITY = [
    (INF, 0, INF, 1.0),
    (INF, 1, 0.0, 0.0),
    (INF, 0.25, INF, 0.75),
    (-INF, 0, 0.0, 0.0),
    (-INF, 1, INF, -1.0),
    (-INF, 0.25, INF, -0.25),
    (INF, -1.0, INF, 2.0),
    (INF, 2.0, -INF, -1.0),
    (-INF, 2.0, INF, -2.0),
    (-INF, -1.0, -INF, 1.0),
    (NAN, 0, NAN, NAN),
    (NAN, 1, NAN, NAN),
    (NAN, 0.25, NAN, NAN),
    (1.0, NAN, NAN, NAN),
    (INF, NAN, NAN, NAN),
    (-INF, NAN, NAN, NAN),
]

BINARY_WITH_LOGITS = [
    *(
        Corner(
            f"logit {x}, target {t}",
            LOGITS, [x], [t], {},
            {"none": [value], "mean": value, "sum": value, "grad": [g], "mean_grad": [g],
             "hess": [0 if math.isinf(x) and not math.isnan(t) else NAN]},
        )
        for x, t, value, g in AT_INFINITY
    ),
    *(
        Corner(
            f"logit {x}, target {t}, weight 2",
            LOGITS, [x], [t], {"weight": 2.0}, {"none": [value], "sum": value, "grad": [2 * g]},
        )
        for x, t, value, g in AT_INFINITY
    ),
    *(
        Corner(
            f"logit {x}, target {t}, pos_weight 3",
            LOGITS, [x], [t], {"pos_weight": 3.0},
            {"none": [value], "sum": value, "grad": [3 * g if x < 0 else g]},
        )
        for x, t, value, g in AT_INFINITY
        if not (math.isnan(x) or math.isnan(t))
    ),
    Corner(
        "pos_weight 0 hides the infinite loss of a positive",
        LOGITS, [-INF, INF, -INF], [1, 1, 0], {"pos_weight": 0.0},
        {"none": [0, 0, 0], "mean": 0.0, "grad": [0, 0, 0], "hess": [0, 0, 0]},
    ),
]  # fmt: skip

PROBABILITIES_AND_SQUARES = [
    Corner(
        "certain and wrong costs 100, with a gradient of 1e12",
        PROBS, [0, 1], [1, 0], {},
        {"none": [100, 100], "mean": 100.0, "sum": 200.0, "grad": [-1e12, 1e12],
         "hess": [1e24, 1e24]},
        ("bfloat16", *FULL) if "bfloat16" in DTYPES else FULL,
    ),
    Corner(
        "certain and wrong costs 100 in float16 too, where the gradient overflows",
        PROBS, [0, 1], [1, 0], {}, {"none": [100, 100], "mean": 100.0, "grad": [-INF, INF]},
        ("float16",),
    ),
    Corner(
        "certain and right costs 0, with the one-sided derivative",
        PROBS, [0, 1], [0, 1], {},
        {"none": [0, 0], "mean": 0.0, "sum": 0.0, "grad": [1, -1], "hess": [1, 1]},
    ),
    Corner(
        "certain, with labels as floats",
        PROBS, [0, 1], [0.0, 1.0], {}, {"none": [0, 0], "mean": 0.0, "grad": [1, -1]},
    ),
    Corner(
        "a tiny probability keeps its loss and its gradient",
        PROBS, [float(np.float32(1e-30))], [0], {},
        {"none": [float(np.float32(1e-30))], "mean": float(np.float32(1e-30)), "grad": [1],
         "hess": [1]},
        FULL,
    ),
    Corner(
        "the clamp at 100 is exact on both sides",
        PROBS, [1e-43, 1e-40], [1, 1], {},
        {"none": [-math.log(float(np.float32(1e-43))), -math.log(float(np.float32(1e-40)))]},
        ("float32",),
    ),
    Corner(
        "below exp(-100) the loss stays 100",
        PROBS, [1e-44, 1e-45], [1, 1], {}, {"none": [100, 100], "sum": 200.0}, FULL,
    ),
    Corner(
        "nan is nan in its item and in the reductions",
        PROBS, [NAN, 0.5, 0.5], [1.0, NAN, 1.0], {},
        {"none": [NAN, NAN, math.log(2)], "mean": NAN, "sum": NAN, "grad": [NAN, NAN, -2]},
    ),
    Corner(
        "nan that happened",
        PROBS, [NAN, 0.5, NAN], [1, 0, 0], {},
        {"none": [NAN, math.log(2), NAN], "mean": NAN, "grad": [NAN, 2, NAN],
         "hess": [NAN, 4, NAN]},
    ),
    Corner(
        "nan beside integer targets",
        PROBS, [NAN, 0.5], [0, 1], {},
        {"none": [NAN, math.log(2)], "mean": NAN, "grad": [NAN, -2], "hess": [NAN, 4]},
    ),
    Corner(
        "inf - inf and nan are nan",
        MSE, [INF, -INF, NAN, 1, 1], [INF, -INF, 0, NAN, 0], {},
        {"none": [NAN, NAN, NAN, NAN, 1], "mean": NAN, "sum": NAN, "grad": [NAN] * 4 + [2]},
    ),
    Corner(
        "infinity against a finite number is infinity",
        MSE, [INF, -INF, 1, 1], [0, 0, INF, -INF], {},
        {"none": [INF] * 4, "mean": INF, "sum": INF, "grad": [INF, -INF, -INF, INF],
         "hess": [2] * 4},
    ),
    Corner(
        "infinity with weight 0 is nan: a plain product",
        MSE, [INF, 1], [0, 0], {"weight": [0.0, 1.0]},
        {"none": [NAN, 1], "mean": NAN, "sum": NAN, "grad": [NAN, 2]},
    ),
    Corner(
        "16-bit differences are squared in float32",
        MSE, [300, -300], [0, 0], {},
        {"none": [90_000] * 2, "mean": 90_000.0, "sum": 180_000.0, "grad": [600, -600],
         "hess": [2, 2]},
    ),
    Corner(
        "a square above the float32 range",
        MSE, [float(np.float32(1e30))], [0], {},
        {"none": [INF], "mean": float(np.float32(1e30)) ** 2, "sum": float(np.float32(1e30)) ** 2,
         "grad": [2 * float(np.float32(1e30))]},
        ("float32",),
    ),
]  # fmt: skip

S20 = math.log1p(math.exp(-20))
S40 = math.exp(-40)

SMALL_AND_SHIFTED = [
    Corner(
        "a confident row of float32 keeps its loss",
        CE, [[20, 0]], [0], {},
        {"none": [2.061153620314381e-09], "mean": 2.061153620314381e-09,
         "grad": [[-2.0611536181902037e-09, 2.0611536181902037e-09]]},
    ),
    Corner(
        "a row of margin 15 is right, not nearly right",
        CE, [[15, 0]], [0], {},
        {"none": [math.log1p(math.exp(-15))], "grad": [[-sigma(-15), sigma(-15)]]},
    ),
    Corner(
        "a confident row of float64 keeps its loss",
        CE, [[40, 0, 0]], [0], {},
        {"none": [2 * S40], "mean": 2 * S40, "grad": [[-2 * S40, S40, S40]],
         "hess": [[2 * S40, S40, S40]]},
        ("bfloat16", *FULL) if "bfloat16" in DTYPES else FULL,
    ),
    Corner(
        "a confident negative keeps its loss",
        LOGITS, [-20], [0], {},
        {"none": [S20], "mean": S20, "grad": [sigma(-20)], "hess": [sigma(-20) * sigma(20)]},
    ),
    Corner(
        "confident and right on both sides, float64",
        LOGITS, [-40, 40], [0, 1], {},
        {"none": [4.248354255291589e-18] * 2, "mean": 4.248354255291589e-18,
         "grad": [4.248354255291589e-18, -4.248354255291589e-18],
         "hess": [4.248354255291589e-18] * 2},
        ("bfloat16", *FULL) if "bfloat16" in DTYPES else FULL,
    ),
    Corner(
        "confident and wrong on both sides",
        LOGITS, [-40, 40], [1, 0], {}, {"none": [40, 40], "mean": 40.0, "grad": [-1, 1]},
    ),
    Corner(
        "far beyond the range of exp",
        LOGITS, [-30000, 30000, 30000, -30000], [0, 1, 0, 1], {},
        {"none": [0, 0, 30000, 30000], "grad": [0, 0, 1, -1], "hess": [0, 0, 0, 0]},
        ("float16", *FULL),
    ),
]  # fmt: skip

TABLES = {
    "empty, ignored, weighted": EMPTY_IGNORED_WEIGHTED,
    "non-finite logits": NON_FINITE_LOGITS,
    "binary with logits at infinity": BINARY_WITH_LOGITS,
    "probabilities and squares": PROBABILITIES_AND_SQUARES,
    "small and shifted": SMALL_AND_SHIFTED,
}
CORNERS = [
    pytest.param(corner, dtype, id=f"{table}: {corner.claim}, {dtype}")
    for table, corners in TABLES.items()
    for corner in corners
    for dtype in corner.dtypes
]


@pytest.mark.parametrize(("corner", "dtype"), CORNERS)
def test_corner_case(corner, dtype, backend):
    hold_all(corner, dtype)


def hold_all(corner, dtype, first_axis=False):
    """Every verb and reduction of a corner, of rows, or of the same as columns."""
    with np.errstate(all="ignore"):
        x = np.array(corner.input, numpy_dtype(dtype))
    target = np.array(corner.target)
    options = {
        name: np.array(value) if isinstance(value, list) else value
        for name, value in corner.options.items()
    }
    if first_axis:
        x, target = np.ascontiguousarray(x.T), np.ascontiguousarray(target.T)
        options["axis"] = 0
    for verb in VERBS:
        for reduction in REDUCTIONS:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                result = call(corner.loss, verb, x, target, reduction=reduction, **options)
            for output, got in named_outputs(verb, result).items():
                # The gradient of "none" is that of the sum.
                name = reduction if output == "value" else f"mean_{output}"
                name = name if output == "value" or reduction == "mean" else output
                if name in corner.expected:
                    got = got.T if first_axis and output != "value" else got
                    expected = corner.expected[name]
                    got = without_padding(got, expected)
                    hold(corner, dtype, verb, reduction, output, got, expected)


def without_padding(got, expected):
    """The entries that a corner speaks of; those of classes added to it are checked here."""
    if np.ndim(got) < 2 or not isinstance(expected, list):
        return got
    for row, values in zip(expected, got, strict=True):
        if row is ANY or NOT_FINITE in row:
            continue
        added = values[len(row) :].astype("float64")
        # nan logits make the whole row nan; otherwise -inf has no part.
        good = np.isnan(added) if NAN in row else added == 0
        assert good.all(), f"added classes must be {'nan' if NAN in row else 0}, not {added}"
    classes = next((len(row) for row in expected if row is not ANY), got.shape[1])
    return got[:, :classes]


def hold(corner, dtype, verb, reduction, output, got, expected):
    where = (
        f"{corner.claim}: {corner.loss}, {verb}, {reduction}, output {output}, {dtype}, "
        f"backend {fl.runtime_info()['backend']}\n"
        f"  input {corner.input}, target {corner.target}, options {corner.options}\n"
        f"  result {got!r}\n  expected {expected!r}"
    )
    if isinstance(expected, tuple):  # any of these is right
        assert any(np.isclose(got, one, rtol=1e-6, atol=0) for one in expected), where
        return
    expected, promised = flatten(expected, got, where)
    got = np.asarray(got)
    reduced = output == "value" and reduction != "none"
    out_dtype = compute_dtype(dtype) if output == "value" else numpy_dtype(dtype)
    assert reduced or got.dtype == out_dtype, where
    values = got.astype("float64").reshape(-1)
    for position in np.flatnonzero(promised & (expected == 0)):
        assert values[position] == 0, f"at {position} zero must be exactly zero\n{where}"
        if output == "value":
            assert not np.signbit(values[position]), f"at {position} -0.0 must be 0.0\n{where}"
    bound = stated_bound(corner.loss, output, reduction, compute_dtype(dtype).name)
    # The terms of gradients with soft targets are at most the coefficients, of the order of 1.
    soft = corner.loss == CE and np.asarray(corner.target).dtype.kind == "f"
    soft = soft or "label_smoothing" in corner.options
    compare(
        got.reshape(-1)[promised],
        expected[promised],
        dtype=dtype,
        out_dtype=out_dtype,
        ulp=bound * OPTIONS_FACTOR,
        size=0.5 if soft and output == "grad" else 0.0,
        describe=lambda: where,
    )


def flatten(expected, got, where):
    """The expected numbers as a flat array, and where they are promised; checks the shape."""
    shape = np.shape(got)
    numbers, promised = np.zeros(shape), np.ones(shape, dtype=bool)
    got = np.asarray(got).astype("float64")

    def fill(value, index):
        if value is ANY:
            promised[index] = False
        elif value is NOT_FINITE:
            promised[index] = False
            assert not np.isfinite(got[index]), f"at {index} must not be finite\n{where}"
        elif isinstance(value, list | np.ndarray):
            assert len(value) == shape[len(index)], f"shape {shape}\n{where}"
            for number, item in enumerate(value):
                fill(item, (*index, number))
        else:
            assert len(index) == len(shape), f"shape {shape}\n{where}"
            numbers[index] = value

    if isinstance(expected, np.ndarray):
        assert expected.shape == shape, f"shape {shape}\n{where}"
    fill(expected, ())
    return numbers.reshape(-1), promised.reshape(-1)


# ------------------------------------------------- the same in longer rows, and along another axis


def padded(corner, classes):
    """The corner with more classes, whose logits are -inf: they have no part in anything."""
    x = np.array(corner.input, float)
    more = classes - x.shape[-1]
    long = np.pad(x, ((0, 0), (0, more)), constant_values=-INF)
    target = np.array(corner.target)
    if target.dtype.kind == "f":
        target = np.pad(target, ((0, 0), (0, more)))
    options = dict(corner.options)
    if "weight" in options:
        options["weight"] = [*options["weight"], *[1.0] * more]
    return Corner(corner.claim, corner.loss, long, target, options, corner.expected, corner.dtypes)


LONG = [
    pytest.param(corner, dtype, id=f"{corner.claim}, {dtype}")
    for corner in (*EMPTY_IGNORED_WEIGHTED, *NON_FINITE_LOGITS, *SMALL_AND_SHIFTED)
    for dtype in corner.dtypes
    if corner.loss == CE
    and np.ndim(corner.input) == 2
    and np.size(corner.input)
    and "label_smoothing" not in corner.options  # which would reach the added classes
    and dtype in FULL
]


@pytest.mark.parametrize(("corner", "dtype"), LONG)
def test_corner_case_in_longer_rows(corner, dtype, backend):
    """Few classes, many, and several blocks of them take different ways through a kernel."""
    for classes in (np.shape(corner.input)[1], 50, 1100, 4500):
        longer = padded(corner, classes)
        hold_all(longer, dtype)
        hold_all(longer, dtype, first_axis=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 3, 16, 17, 40, 41, 700, 4099])
def test_minus_infinity_under_soft_targets_anywhere(classes, dtype, backend):
    """Where the coefficient is 0 the term is 0; elsewhere the loss is infinite."""
    rng = np.random.default_rng(classes)
    places = sorted({0, classes // 2, classes - 1})
    x = rng.normal(size=(2 * len(places), classes)).astype(numpy_dtype(dtype))
    soft = rng.random(x.shape)
    weight = rng.uniform(0.5, 2, size=classes)
    for number, place in enumerate(places):
        x[2 * number : 2 * number + 2, place] = -INF
        soft[2 * number, place] = 0.0
    weight[places[1]] = 0.0
    labels = (np.repeat(places, 2) + 1) % classes
    for target in (soft, labels):
        for options in ({}, {"label_smoothing": 0.25}, {"weight": weight, "label_smoothing": 0.25}):
            for axis in (0, 1):
                logits = np.ascontiguousarray(x.T) if axis == 0 else x
                given = np.ascontiguousarray(target.T) if axis == 0 else target
                more = {**options, "axis": axis, "reduction": "none"}
                value, grad = fl.cross_entropy.value_and_grad(logits, given, **more)
                with fl.use_backend("numpy"):
                    expected = fl.cross_entropy.value_and_grad(logits, given, **more)
                finite = np.isfinite(expected[0])
                assert finite.any() or options
                eps = 2.0**-7 if grad.dtype.itemsize == 2 else 1e-5
                for one, other in ((value, expected[0]), (grad, expected[1])):
                    np.testing.assert_allclose(
                        one.astype(float),
                        other.astype(float),
                        rtol=eps,
                        atol=eps,
                        err_msg=f"{options}, axis {axis}",
                    )


# ------------------------------------------------------- wherever in a row of whatever length it is


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 5, 16, 17, 40, 700, 4099])
@pytest.mark.parametrize("bad", [NAN, INF, -INF], ids=str)
def test_one_odd_logit_anywhere_in_a_row(bad, classes, dtype, backend):
    """nan and inf make their row nan, -inf drops its class; no other row is touched."""
    rng = np.random.default_rng(classes)
    places = sorted({0, 1, classes // 2, classes - 2, classes - 1})
    clean = rng.normal(size=(2 * len(places) + 1, classes)).astype(numpy_dtype(dtype))
    x = clean.copy()
    target = rng.integers(classes, size=len(x))
    for number, place in enumerate(places):
        x[2 * number + 1, place] = bad
        target[2 * number + 1] = (place + 1) % classes
    for options in ({}, {"z_loss": 0.5}, {"sample_weight": rng.random(len(x)) + 0.5}):
        value = fl.cross_entropy(x, target, reduction="none", **options)
        outputs = {}
        for verb in ("value_and_grad", "grad_and_hess"):
            outputs |= named_outputs(verb, call(CE, verb, x, target, reduction="mean", **options))
        plain = {}
        for verb in ("value_and_grad", "grad_and_hess"):
            plain |= named_outputs(verb, call(CE, verb, clean, target, reduction="mean", **options))
        plain_value = fl.cross_entropy(clean, target, reduction="none", **options)
        odd = np.arange(len(x)) % 2 == 1
        np.testing.assert_array_equal(value[~odd], plain_value[~odd], err_msg=f"{options}")
        for name in ("grad", "hess"):
            np.testing.assert_array_equal(outputs[name][~odd], plain[name][~odd], err_msg=name)
        if bad == -INF:
            assert np.isfinite(value).all(), (options, value)
            for number, place in enumerate(places):
                row = outputs["grad"][2 * number + 1]
                assert row[place] == 0, (options, place, row)
                assert outputs["hess"][2 * number + 1][place] == 0, (options, place)
                assert np.isfinite(row.astype("float64")).all(), (options, place, row)
        else:
            assert np.isnan(value[odd]).all(), (options, value)
            assert np.isnan(outputs["value"]), options
            for name in ("grad", "hess"):
                assert np.isnan(outputs[name][odd].astype("float64")).all(), (options, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 16, 33, 5000])
def test_minus_infinity_at_the_target_anywhere(classes, dtype, backend):
    x = np.zeros((5, classes), numpy_dtype(dtype))
    target = np.array([0, 1, classes // 2, classes - 2, classes - 1]) % classes
    x[np.arange(5), target] = -INF
    value = fl.cross_entropy(x, target, reduction="none")
    assert (value == INF).all(), value
    loss, grad = fl.cross_entropy.value_and_grad(x, target, reduction="sum")
    assert loss == INF
    at_target = grad[np.arange(5), target].astype("float64")
    assert (at_target == -1).all(), at_target
    assert np.isfinite(grad.astype("float64")).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 16, 33, 5000])
def test_gradients_of_ignored_rows_are_positive_zeros(classes, dtype, backend):
    """Exactly +0.0 in memory that held something else, wherever the ignored rows are."""
    x = np.full((40, classes), NAN).astype(numpy_dtype(dtype))
    target = np.full(40, -100)
    used = [0, 17, 39]
    x[used], target[used] = 1, 0
    for reduction in REDUCTIONS:
        for options in ({}, {"label_smoothing": 0.1, "z_loss": 0.1}):
            alone, grad, hess = (np.full_like(x, -7) for _ in range(3))
            fl.cross_entropy.value_and_grad(x, target, reduction=reduction, out=alone, **options)
            fl.cross_entropy.grad_and_hess(
                x, target, reduction=reduction, out=(grad, hess), **options
            )
            for array in (alone, grad, hess):
                ignored = np.delete(array, used, axis=0).astype("float64")
                assert (ignored == 0).all(), (reduction, options)
                assert not np.signbit(ignored).any(), (reduction, options)
                assert np.isfinite(array[used].astype("float64")).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tiny", [1e-22, 1e-24, 1e-30, 1e-44])
def test_a_tiny_target_is_not_a_label(tiny, dtype, backend):
    """Whose square is 0, perhaps, but which is neither 0 nor 1."""
    p, t = np.array([0.1, 0.9], dtype), np.full(2, tiny, dtype)
    losses = fl.binary_cross_entropy(p, t, reduction="none")
    np.testing.assert_allclose(losses, -np.log1p(-p.astype("float64")), rtol=1e-6)
    with pytest.raises(ValueError, match=r"target\[0\] must be between 0 and 1"):
        fl.binary_cross_entropy(p, -t)


# ---------------------------------------------------------------------- functions of one array

FUNCTION_ROWS = [
    ("softmax", [-INF, -INF], [NAN, NAN]),
    ("softmax", [INF, 0], [NAN, NAN]),
    ("softmax", [NAN, 0], [NAN, NAN]),
    ("softmax", [-INF, 0], [0, 1]),
    ("softmax", [3], [1]),
    ("log_softmax", [-INF, -INF], [NAN, NAN]),
    ("log_softmax", [INF, 0], [NAN, NAN]),
    ("log_softmax", [NAN, 0], [NAN, NAN]),
    ("log_softmax", [-INF, 0], [-INF, 0]),
    ("log_softmax", [3], [0]),
    ("logsumexp", [-INF, -INF], -INF),
    ("logsumexp", [INF, 0], INF),
    ("logsumexp", [INF, -INF], INF),
    ("logsumexp", [INF, INF], INF),
    ("logsumexp", [NAN, 0], NAN),
    ("logsumexp", [NAN, INF], NAN),
    ("logsumexp", [-INF, 3], 3),
    ("logsumexp", [3], 3),
    ("logsumexp", [-INF], -INF),
    ("sigmoid", [INF, -INF, NAN, 0], [1, 0, NAN, 0.5]),
    ("log_sigmoid", [INF, -INF, NAN], [0, -INF, NAN]),
    ("softplus", [INF, -INF, NAN], [INF, 0, NAN]),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "x", "expected"), FUNCTION_ROWS, ids=str)
def test_functions_at_infinity_and_nan(name, x, expected, dtype, backend):
    with np.errstate(all="raise"):
        got = getattr(fl, name)(np.array(x, numpy_dtype(dtype)))
    np.testing.assert_array_equal(got.astype("float64"), np.array(expected, "float64"))
    for padding in (7, 40):  # the same at the end of a longer row
        if name in ("softmax", "log_softmax", "logsumexp"):
            long = np.array([-INF] * padding + x, numpy_dtype(dtype))
            got = getattr(fl, name)(long).astype("float64")
            tail = got if name == "logsumexp" else got[padding:]
            np.testing.assert_array_equal(tail, np.array(expected, "float64"))


@pytest.mark.parametrize("size", [17, 100, 2000])
def test_losses_near_the_largest_float32_add_up(size, backend):
    """Two of them are beyond float32; one is infinite, and right."""
    x = np.full(size, 3e38, "float32")
    x[5] = np.inf
    target = np.zeros(size, "float32")
    target[5] = 1
    total = (size - 1) * float(x[0])
    assert fl.binary_cross_entropy_with_logits(x, target, reduction="sum") == pytest.approx(total)
    assert fl.binary_cross_entropy_with_logits(-x, 1 - target) == pytest.approx(total / size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("share", [1, 0.6, 0.3])
def test_gradients_of_targets_near_the_largest_number(share, dtype, backend):
    """The gradient is sigmoid(x) - target: nothing before it may overflow."""
    x = np.array([0, -0.0, 0.1, -0.1, 5, -5, 90, -90, 800, -800], dtype)
    largest = share * np.finfo(dtype).max
    for target in (np.full_like(x, largest), np.full_like(x, -largest)):
        for reduction, count in (("none", 1), ("mean", x.size)):
            loss = fl.binary_cross_entropy_with_logits
            grad, hess = loss.grad_and_hess(x, target, reduction=reduction)
            np.testing.assert_allclose(grad, -target / count, rtol=4 * np.finfo(dtype).eps)
            _, again = loss.value_and_grad(x, target, reduction=reduction)
            np.testing.assert_array_equal(grad, again)
            assert np.isfinite(hess).all()


def test_many_logits_of_0_with_an_infinite_one_among_each_thousand(backend):
    """The largest factors there are, in blocks that have to mask."""
    x = np.zeros(40_000, "float32")
    x[::1000] = np.inf
    target = np.ones(40_000, "float32")
    expected = (x.size - 40) * math.log(2)
    for dtype in ("float32", "float64"):
        got = fl.binary_cross_entropy_with_logits(
            x.astype(dtype), target.astype(dtype), reduction="sum"
        )
        assert got == pytest.approx(expected, rel=1e-7)

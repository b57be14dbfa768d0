"""Make the tables of truth: inputs, and what each loss and function is there, by mpmath.

    python tests/tables/make_tables.py

writes one JSON file per loss, and one for the functions, beside this script. Each line is a case:
its name, dtype, arguments and truth. Inputs are numbers of the dtype, printed so that they read
back to the same bits; the truth has 20 digits (12 if the dtype is narrower than float64).
truth_tables.py reads the files; a test compares a sample of them with this script.

The formulae are written directly from the definitions, with none of the care that floating point
needs: with 750 digits, log(sum) - x and p - 1 are as good as any other form. Nothing is shared with
the library, so that agreement means something.

`size` stands beside a truth that is a difference: the sum of the absolute values of its terms,
where that is more than half as large again as the truth. No floating-point result can be expected
to be more accurate than its terms.
"""

import json
import operator
import random
import struct
from functools import reduce
from itertools import chain
from pathlib import Path

from mpmath import exp, inf, isinf, log, mp, mpf, nstr

mp.dps = 750  # 308 for offsets up to the largest float64, 324 for results down to the smallest

FOLDER = Path(__file__).parent


# --------------------------------------------------------------------------------------------------
# Inputs
# --------------------------------------------------------------------------------------------------


def rounded(x, dtype):
    """x as the nearest number of the dtype (bfloat16: the next towards zero), as a float."""
    if dtype == "float64" or x in (float("inf"), -float("inf")):
        return float(x)
    if dtype == "bfloat16":
        (bits,) = struct.unpack("<I", struct.pack("<f", x))
        return struct.unpack("<f", struct.pack("<I", bits & 0xFFFF0000))[0]
    code = {"float16": "<e", "float32": "<f"}[dtype]
    return struct.unpack(code, struct.pack(code, x))[0]


def compute_type(dtype):
    return "float64" if dtype == "float64" else "float32"


def plain_sum(terms):
    """Sum of floats as Python before 3.12 had it; later versions compensate for rounding errors."""
    return reduce(operator.add, terms, 0)


class Draw:
    """Random numbers that are the same in every version of Python."""

    def __init__(self, seed, dtype):
        self.random = random.Random(seed).random
        self.dtype = dtype

    def uniform(self, low, high):
        return rounded(low + (high - low) * self.random(), self.dtype)

    def normal(self, scale=1.0, offset=0.0):
        bell = plain_sum(self.random() for _ in range(12)) - 6  # near enough
        return rounded(offset + scale * bell, self.dtype)

    def rows(self, count, classes, scale=3.0, offset=0.0):
        return [[self.normal(scale, offset) for _ in range(classes)] for _ in range(count)]

    def labels(self, count, classes):
        return [int(classes * self.random()) for _ in range(count)]

    def weights(self, count):
        return [self.uniform(0.25, 4) for _ in range(count)]


def cross_entropy_inputs(dtype):
    """(name, logits, target, options) of all regimes."""
    draw = Draw(1, dtype)
    far = -float("inf")

    def r(*row):
        return [rounded(x, dtype) for x in row]

    if dtype in ("float16", "bfloat16"):
        normal = draw.rows(4, 6)
        confident = [r(20, 0, -1), r(8, 0, 0), r(0, 12, 1)]
        yield "normal", normal, draw.labels(4, 6), {}
        yield "confident", confident, [0, 0, 0], {}
        soft = [[rounded(t, "float32") for t in (0.5, 0.25, 0.1, 0.05, 0.05, 0.05)]] * 4
        yield "soft", normal, soft, {"label_smoothing": 0.1, "z_loss": 0.01}
        return

    # Regimes of the logits, hard labels
    for classes in (2, 3, 5, 33):
        yield f"normal, {classes} classes", draw.rows(3, classes), draw.labels(3, classes), {}
    yield "normal, 64 classes", draw.rows(1, 64), [57], {}
    yield "one class", [r(3), r(-100)], [0, 0], {}
    yield "confident", [r(15, 0, -1), r(20, 1, 0), r(40, 0, 0), r(100, 3, 0)], [0] * 4, {}
    yield (
        "confidently wrong",
        [r(15, 0, -1), r(20, 1, 0), r(40, 0, 0), r(100, 3, 0)],
        [1, 2, 1, 2],
        {},
    )
    ties = [r(0, 0, 0), r(5, 5, -5), r(1e8, 1e8, 1e8), r(-3, -3, -3), r(1, 7, 7)]
    yield "ties", ties, [0, 1, 2, 0, 1], {}
    for offset in (1e3, 1e8, -1e8):
        yield f"offset {offset:g}", draw.rows(3, 4, 3.0, offset), draw.labels(3, 4), {}
    huge = 3e38 if dtype == "float32" else 1.5e308
    overflow = [r(huge, huge, -huge), r(huge, huge / 2, 0), r(-huge, -huge, -huge / 2)]
    yield "near overflow", overflow, [0, 0, 2], {}
    for spread in (80.0, 1e4):
        yield f"spread {spread:g}", draw.rows(4, 5, spread), draw.labels(4, 5), {}
    tail = [r(0, -87, -88, -103, -104), r(0, -600, -700, -708, -745), r(3, 0, 1, 2, -500)]
    yield "tail", tail, [1, 1, 1], {}
    tiny = [r(1e-10, -1e-10, 2e-10), r(1e-30, 3e-30, -1e-30), r(1e-40, 0, -1e-42)]
    yield "tiny", tiny, [0, 1, 2], {}
    mixed = [r(0.1, 30.3, 29.7), r(1e-3, 100.1, 99.3), r(0.7, 0.1, 1000.9), r(33.3, -0.3, 1 / 3)]
    yield "small beside large", mixed, [0, 2, 2, 2], {}
    half = [[x - 60 * (c % 2) for c, x in enumerate(row)] for row in draw.rows(3, 8)]
    yield "half far below", [r(*row) for row in half], [0, 1, 5], {}
    masked = [r(far, 1, 2, far), r(0, far, far, far), r(far, 30, 0, -1), r(1, far, 2, 0)]
    yield "masked", masked, [1, 0, 1, 1], {}

    # Options, on rows that are normal, confident, wrong and shifted
    classes = 4
    logits = [*draw.rows(3, classes), r(25, 1, 0, 2), r(1, 0, 25, 2), r(1e4, 10002.5, 9999, 1e4)]
    labels = [1, 3, 0, 0, 1, 2]
    weight, sample_weight = draw.weights(classes), draw.weights(len(logits))
    weighted = {"weight": weight, "sample_weight": sample_weight}
    ignoring = [1, 3, -100, 0, -100, 2]
    yield "weight", logits, labels, {"weight": weight}
    yield "sample_weight", logits, labels, {"sample_weight": sample_weight}
    yield "both weights, rows ignored", logits, ignoring, weighted
    yield "zero weights", logits, labels, {"weight": [0.0, 1.0, 0.0, 2.0]}
    yield "negative weight", logits, labels, {"weight": [1.0, 2.0, -0.5, 3.0]}
    yield "a class ignored", logits, labels, {"ignore_index": 1}
    yield "smoothing", logits, labels, {"label_smoothing": 0.1}
    yield "smoothing 1", logits, labels, {"label_smoothing": 1.0}
    yield "smoothing, weights", logits, ignoring, {"label_smoothing": 0.3, **weighted}
    zero = {"label_smoothing": 0.1, "weight": [0.0, 1.0, 1.0, 2.0]}
    yield "smoothing, masked class of weight 0", [r(far, 1, 2, 0), r(far, 40, 0, 1)], [1, 1], zero
    yield "z_loss", logits, labels, {"z_loss": 1e-4}
    yield "z_loss, lse below 0", [r(-5, -7, -6), r(-30, -2, -3)], [0, 1], {"z_loss": 0.5}
    everything = {"label_smoothing": 0.1, "z_loss": 1e-3, **weighted}
    yield "all options", logits, ignoring, everything

    # Class probabilities
    compute = Draw(2, compute_type(dtype))
    soft = []
    for _ in logits:
        q = [compute.random() ** 2 for _ in range(classes)]
        soft.append([rounded(t / plain_sum(q), compute_type(dtype)) for t in q])
    one_hot = [[float(c == y) for c in range(classes)] for y in labels]
    any_sum = [compute.weights(classes) for _ in logits]
    yield "one-hot", logits, one_hot, {}
    yield "one-hot, weight", logits, one_hot, weighted
    yield "soft", logits, soft, {}
    yield "soft, not summing to 1", logits, any_sum, {}
    yield "soft, all zero", logits[:2], [[0.0] * classes, soft[1]], {}
    yield "soft, negative", logits[:3], [[1.5, -0.5, 0.0, 0.0], *soft[1:3]], {}
    yield "soft, all options", logits, soft, everything
    no_mass = [[0.0, 0.5, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]]
    yield "soft, masked", [r(far, 1, 2, far), r(far, 30, far, 1)], no_mass, {}


def binary_logits(dtype):
    sizes = [0, 1e-40, 1e-30, 1e-10, 1e-5, 0.03, 0.3, 0.7, 1, 2, 3.3, 5, 8.1, 10, 15, 17.3, 20, 30]
    sizes += [36.5, 37, 40, 50, 80.1, 87, 88, 89, 100, 103, 104, 200, 700, 709, 740, 746, 1e3, 1e4]
    return [rounded(sign * x, dtype) for x in sizes for sign in (1, -1)]


def binary_cross_entropy_with_logits_inputs(dtype):
    if dtype in ("float16", "bfloat16"):
        x = [rounded(x, dtype) for x in (0, 0.3, -0.3, 1, 5, -5, 9, -9, 20, -20, 80, -80)]
        yield "labels 0", x, [0] * len(x), {}
        yield "soft", x, [rounded(0.3, "float32")] * len(x), {}
        return
    x = binary_logits(dtype)
    draw = Draw(3, compute_type(dtype))
    soft = [draw.uniform(0, 1) for _ in x]
    labels = [int(draw.random() < 0.5) for _ in x]
    weight, pos_weight = draw.weights(len(x)), draw.weights(len(x))
    yield "labels 0", x, [0] * len(x), {}
    yield "labels 1", x, [1] * len(x), {}
    yield "soft", x, soft, {}
    yield "weight", x[::3], labels[::3], {"weight": weight[::3]}
    yield "pos_weight", x[1::3], labels[1::3], {"pos_weight": pos_weight[1::3]}
    both = {"weight": weight[2::3], "pos_weight": pos_weight[2::3]}
    yield "soft, both weights", x[2::3], soft[2::3], both
    outside = [-0.5, 1.5, 2.0, -1.0]
    yield "targets outside [0, 1]", [rounded(v, dtype) for v in (3, -4, 0.5, 20)], outside, {}


def binary_cross_entropy_inputs(dtype):
    smallest = {
        "float16": 2.0**-24,
        "bfloat16": 2.0**-133,
        "float32": 2.0**-149,
        "float64": 2.0**-1074,
    }
    below_one = 1 - 2.0 ** -{"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}[dtype]
    p = [0, 1, smallest[dtype], below_one, 0.1, 0.3, 0.5, 0.75, 0.9, 1e-3, 0.999]
    if dtype in ("float32", "float64"):
        p += [1e-30, 1e-20, 1e-13, 1.1e-12, 1e-11, 1e-7, 1e-5, 1 - 1e-3, 1 - 1e-5, 1 - 1e-6]
        p += [1 - 1e-7, 0.49, 0.51]
    if dtype == "float64":
        p += [1e-300, 1 - 1e-13, 1 - 1.1e-12, 1 - 1e-11, 1 - 1e-15]
    p = [rounded(x, dtype) for x in p]
    draw = Draw(4, compute_type(dtype))
    yield "labels 0", p, [0] * len(p), {}
    yield "labels 1", p, [1] * len(p), {}
    yield "soft", p, [draw.uniform(0, 1) for _ in p], {}
    if dtype in ("float32", "float64"):
        yield "soft, weight", p, [draw.uniform(0, 1) for _ in p], {"weight": draw.weights(len(p))}
        close = [rounded(min(1.0, x * (1 + 1e-6)), compute_type(dtype)) for x in p]
        yield "targets close to probs", p, close, {}


def mse_loss_inputs(dtype):
    if dtype in ("float16", "bfloat16"):
        yield (
            "normal",
            *[[rounded(v, dtype) for v in x] for x in ((300, 1.3, -7, 0.1), (0, 2, 9, 0))],
            {},
        )
        return
    draw = Draw(5, dtype)
    digits = 23 if dtype == "float32" else 52
    near = [draw.uniform(999, 1001) for _ in range(12)]
    # Neighbours: a few ulp apart, where the difference is exact and its square is small
    close = [rounded(x + k * 2.0 ** (9 - digits), dtype) for k, x in enumerate(near, start=-5)]
    yield "close numbers at 1e3", near, close, {}
    yield "normal", [draw.normal() for _ in range(20)], [draw.normal() for _ in range(20)], {}
    powers = [rounded(draw.uniform(1, 10) * 10.0**k, dtype) for k in range(-15, 16, 2)]
    others = [rounded(draw.uniform(1, 10) * 10.0**k, dtype) for k in range(-15, 16, 2)]
    yield "1e-15 to 1e15", powers, others, {}
    yield "mixed magnitudes", powers, others[::-1], {}
    yield "weight", near + powers, close + others, {"weight": draw.weights(len(near + powers))}
    yield "negative weight", near[:3], powers[:3], {"weight": [2.0, -1.0, 0.5]}


# --------------------------------------------------------------------------------------------------
# Truth: each output as a list of terms, so that their sum is the truth, and sum |terms| its size
# --------------------------------------------------------------------------------------------------


def product(coefficient, number):
    """coefficient x number, where 0 x inf = 0."""
    return mpf(0) if coefficient == 0 else coefficient * number


def exponentials(row):
    return [mpf(0) if x == -inf else exp(x) for x in row]


def cross_entropy(logits, target, options):
    rows, classes = len(logits), len(logits[0])
    w = [mpf(x) for x in options.get("weight", [1] * classes)]
    s = [mpf(x) for x in options.get("sample_weight", [1] * rows)]
    eps, lam = mpf(options.get("label_smoothing", 0)), mpf(options.get("z_loss", 0))
    holds_indices = not isinstance(target[0], list)
    ignored = [holds_indices and y == options.get("ignore_index", -100) for y in target]
    valid = [i for i in range(rows) if not ignored[i]]
    d = sum(s[i] * (w[target[i]] if holds_indices else 1) for i in valid)
    dz = sum(s[i] for i in valid)

    value, z_value, grad, z_grad, hess, z_hess = ([] for _ in range(6))
    for i, row in enumerate(logits):
        if ignored[i]:
            value.append([])
            z_value.append([])
            for output in (grad, z_grad, hess, z_hess):
                output.extend([] for _ in row)
            continue
        x = [mpf(v) for v in row]
        e = exponentials(x)
        total = sum(e)
        lse = log(total)
        p = [v / total for v in e]
        minus_log_p = [lse - v for v in x]
        # What a log-sum-exp is a sum of: the largest logit, and the logarithm of the rest
        lse_size = abs(max(x)) + (lse - max(x))
        if holds_indices:
            q = [eps / classes * v for v in w]
            q[target[i]] += (1 - eps) * w[target[i]]
        else:
            q = [
                v * ((1 - eps) * mpf(t) + eps / classes) for v, t in zip(w, target[i], strict=True)
            ]
        value.append([product(s[i] * a, b) for a, b in zip(q, minus_log_p, strict=True)])
        z = s[i] * 2 * lam
        z_value.append([(s[i] * lam * lse**2, abs(s[i] * lam * lse * lse_size))] if lam else [])
        for c in range(classes):
            # Q p - q, split into parts that do not cancel among themselves
            others = [s[i] * a * p[c] for k, a in enumerate(q) if k != c]
            grad.append([*others, -s[i] * q[c] * (1 - p[c])])
            hess.append([s[i] * a * p[c] * (1 - p[c]) for a in q])
            z_grad.append([(z * lse * p[c], abs(z * lse_size * p[c]))] if lam else [])
            curved = (z * lse * p[c] * (1 - p[c]), abs(z * lse_size * p[c] * (1 - p[c])))
            z_hess.append([z * p[c] ** 2, curved] if lam else [])

    joined = [a + b for a, b in zip(value, z_value, strict=True)]
    flat, z_flat = chained(value), chained(z_value)
    mean = divided(flat, d) + (divided(z_flat, dz) if lam else [])
    truth = {"value": {"none": joined, "sum": [flat + z_flat], "mean": [mean]}}
    for name, plain, z_part in (("grad", grad, z_grad), ("hess", hess, z_hess)):
        pairs = list(zip(plain, z_part, strict=True))
        truth[name] = {
            "sum": [a + b for a, b in pairs],
            "mean": [divided(a, d) + divided(b, dz) for a, b in pairs],
        }
    return truth


def pointwise(value, grad, hess, d):
    flat = chained(value)
    truth = {"value": {"none": value, "sum": [flat], "mean": [divided(flat, d)]}}
    for name, items in (("grad", grad), ("hess", hess)):
        truth[name] = {"sum": items, "mean": [divided(terms, d) for terms in items]}
    return truth


def binary_cross_entropy_with_logits(x, t, options):
    value, grad, hess = [], [], []
    count = len(x)
    weight, pos_weight = (options.get(k, [1] * count) for k in ("weight", "pos_weight"))
    for x_i, t_i, w_i, pos_i in zip(x, t, weight, pos_weight, strict=True):
        v, w = mpf(x_i), mpf(w_i)
        a, b = 1 - mpf(t_i), mpf(pos_i) * mpf(t_i)
        sigma, sigma_minus = 1 / (1 + exp(-v)), 1 / (1 + exp(v))
        value.append([w * a * log(1 + exp(v)), w * b * log(1 + exp(-v))])
        grad.append([w * a * sigma, -w * b * sigma_minus])
        hess.append([w * a * sigma * sigma_minus, w * b * sigma * sigma_minus])
    return pointwise(value, grad, hess, count)


def binary_cross_entropy(p, t, options):
    value, grad, hess = [], [], []
    bound = mpf(10) ** -12
    for p_i, t_i, w_i in zip(p, t, options.get("weight", [1] * len(p)), strict=True):
        v, u, w = mpf(p_i), mpf(t_i), mpf(w_i)
        log_p = max(log(v), -100) if v > 0 else -100
        log_rest = max(log(1 - v), -100) if v < 1 else -100
        value.append([-w * u * log_p, -w * (1 - u) * log_rest])
        grad.append([w * (1 - u) / max(1 - v, bound), -w * u / max(v, bound)])
        hess.append([w * (1 - u) / max(1 - v, bound) ** 2, w * u / max(v, bound) ** 2])
    return pointwise(value, grad, hess, len(p))


def mse_loss(x, t, options):
    weight = [mpf(w) for w in options.get("weight", [1] * len(x))]
    d = [mpf(a) - mpf(b) for a, b in zip(x, t, strict=True)]
    value = [[w * v**2] for w, v in zip(weight, d, strict=True)]
    grad = [[2 * w * v] for w, v in zip(weight, d, strict=True)]
    return pointwise(value, grad, [[2 * w] for w in weight], sum(weight))


def chained(lists):
    return list(chain.from_iterable(lists))


def divided(terms, d):
    return [(a[0] / d, a[1] / abs(d)) if isinstance(a, tuple) else a / d for a in terms]


LOSSES = {
    "cross_entropy": (cross_entropy_inputs, cross_entropy),
    "binary_cross_entropy_with_logits": (
        binary_cross_entropy_with_logits_inputs,
        binary_cross_entropy_with_logits,
    ),
    "binary_cross_entropy": (binary_cross_entropy_inputs, binary_cross_entropy),
    "mse_loss": (mse_loss_inputs, mse_loss),
}
DTYPES = ("float64", "float32", "float16", "bfloat16")


def function_inputs(dtype):
    """(functions, x): rows for the functions along an axis, single numbers for the others."""
    for name, logits, _, options in cross_entropy_inputs(dtype):
        skipped = ("soft", "one-hot", "confidently", "normal, 3", "normal, 64", "offset -")
        if not options and not name.startswith(skipped):
            yield name, ("softmax", "log_softmax", "logsumexp"), logits
    if dtype in ("float32", "float64"):
        yield "pointwise", ("sigmoid", "log_sigmoid", "softplus"), binary_logits(dtype)


def softmax(row):
    e = exponentials(row)
    return [[v / sum(e)] for v in e]


def log_softmax(row):
    lse = log(sum(exponentials(row)))
    return [[x - lse] for x in row]


def logsumexp(row):
    lse = log(sum(exponentials(row)))
    return [[(lse, abs(max(row)) + (lse - max(row)))]]


def sigmoid(x):
    return [[1 / (1 + exp(-x))]]


def log_sigmoid(x):
    return [[-log(1 + exp(-x))]]


def softplus(x):
    return [[log(1 + exp(x))]]


def function(name, x):
    formula = globals()[name]
    items = [[mpf(v) for v in row] if isinstance(row, list) else mpf(row) for row in x]
    return chained(formula(item) for item in items)


# --------------------------------------------------------------------------------------------------
# Writing
# --------------------------------------------------------------------------------------------------


def number(x, digits):
    """x in decimal; what is far below or above the range of a float64 is 0 or inf."""
    if isinf(x):
        return "inf" if x > 0 else "-inf"
    if abs(x) < mpf(10) ** -340:
        return "0"
    text = nstr(x, digits, min_fixed=0, max_fixed=0)
    return text.replace(".0e", "e").replace("e+", "e").removesuffix("e0")


def written(outputs, digits):
    """Lists of terms as {"truth": "number number ..."}, and "size", if any is a difference."""
    truth, sizes, differs = [], [], False
    for terms in outputs:
        total = sum((a[0] if isinstance(a, tuple) else a for a in terms), mpf(0))
        size = sum((a[1] if isinstance(a, tuple) else abs(a) for a in terms), mpf(0))
        truth.append(number(total, digits))
        sizes.append(number(size, 2))
        differs = differs or (not isinf(total) and size > 1.5 * abs(total))
    numbers = {"truth": " ".join(truth)}
    return {**numbers, "size": " ".join(sizes)} if differs else numbers


def cases(table):
    """All cases of a table, without the truth."""
    for dtype in DTYPES:
        if table == "functions":
            for name, functions, x in function_inputs(dtype):
                yield {"name": f"{name}, {dtype}", "dtype": dtype, "functions": functions, "x": x}
        else:
            for name, x, target, options in LOSSES[table][0](dtype):
                case = {"name": f"{name}, {dtype}", "dtype": dtype, "input": x, "target": target}
                yield {**case, "options": options}


def truth(table, case):
    """The case with its truth."""
    digits = 20 if case["dtype"] == "float64" else 12
    if table == "functions":
        results = {name: written(function(name, case["x"]), digits) for name in case["functions"]}
        return {**case, "results": results}
    outputs = LOSSES[table][1](case["input"], case["target"], case["options"])
    # To keep the files small, leave out what follows from the rest
    if not case["options"] or table.startswith("binary"):
        del outputs["grad"]["mean"], outputs["hess"]["mean"]  # the sum's / number of items
    else:
        del outputs["hess"]["sum"]
    results = {
        output: {reduction: written(terms, digits) for reduction, terms in reductions.items()}
        for output, reductions in outputs.items()
    }
    return {**case, "results": results}


def main():
    for table in (*LOSSES, "functions"):
        lines = [json.dumps(truth(table, case), separators=(",", ":")) for case in cases(table)]
        path = FOLDER / f"{table}.json"
        path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="ascii")
        print(f"{path.name}: {len(lines)} cases, {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()

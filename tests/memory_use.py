"""Prints, as JSON, by how many bytes the process grew in each of many calls on large arrays.

    python tests/memory_use.py cython

Inputs and outputs are made, and their pages touched, before the call, so what the process grows by
is memory of the call itself. A call on small arrays goes before, for threads, scratch and caches.
"""

import json
import sys

import numpy as np

import fusedloss as fl

ITEMS = 2_000_000  # 8 megabytes of float32


def status(name):
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status must have {name}")


def growth(call):
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak starts again from what is in use now
    before, files = status("VmRSS"), status("RssFile")
    call()
    # Code that runs for the first time is mapped by 64 KiB, and is no memory of the call.
    return status("VmHWM") - before - (status("RssFile") - files)


def filled(shape, dtype, period):
    """Ordinary numbers, made without a temporary array: the peak must not be reached in here."""
    array = np.empty(shape, dtype)
    flat = array.reshape(-1)
    pattern = np.arange(period) % 2 if array.dtype.kind in "iub" else np.linspace(0.1, 0.9, period)
    for start in range(0, flat.size, period):
        part = flat[start : start + period]
        part[...] = pattern[: part.size]
    return array


def cross_entropy(shape, axis=-1, dtype="float32", soft=False, **options):
    def make(shape):
        classes = shape[axis]
        rows = shape[: axis % len(shape)] + shape[axis % len(shape) + 1 :]
        x = filled(shape, dtype, 997)
        target = filled(shape, dtype, 991) if soft else filled(rows, "int64", 991)
        given = {name: value for name, value in options.items() if not isinstance(value, str)}
        if "weight" in options:
            given["weight"] = filled((classes,), "float64", 983)
        if "sample_weight" in options:
            given["sample_weight"] = filled(rows, "float32", 983)
        return fl.cross_entropy, x, target, {"axis": axis, **given}

    small = tuple(min(side, 40) for side in shape)
    return make, small, shape


def items(loss, target, weight=None, dtype="float32"):
    def make(shape):
        x, t = filled(shape, dtype, 997), filled(shape, target, 991)
        options = {}
        if weight == "broadcast":
            options["weight"] = filled(shape[-1:], "float32", 983)
        elif weight:
            options["weight"] = filled(shape, weight, 983)
        return loss, x, t, options

    return make, (40, 40), (ITEMS // 1000, 1000)


W = "a weight"
CALLS = {
    "rows of 2000 classes": cross_entropy((ITEMS // 2000, 2000)),
    "rows of 8 classes": cross_entropy((ITEMS // 8, 8)),
    "rows of 100 classes": cross_entropy((ITEMS // 100, 100)),
    "one row": cross_entropy((1, ITEMS)),
    "an inner axis": cross_entropy((10, 400, ITEMS // 4000), axis=1),
    "the first axis": cross_entropy((1000, ITEMS // 1000), axis=0),
    "float16": cross_entropy((ITEMS // 2000, 2000), dtype="float16"),
    "float64": cross_entropy((ITEMS // 4000, 2000), dtype="float64"),
    "every option": cross_entropy(
        (ITEMS // 500, 500), weight=W, sample_weight=W, label_smoothing=0.1, z_loss=0.1
    ),
    "probabilities": cross_entropy((ITEMS // 500, 500), soft=True, weight=W, label_smoothing=0.1),
    "mse": items(fl.mse_loss, "float32"),
    "mse with weights": items(fl.mse_loss, "float64", "float32"),
    "binary with labels": items(fl.binary_cross_entropy_with_logits, "int8"),
    "binary with broadcast weights": items(
        fl.binary_cross_entropy_with_logits, "float32", "broadcast"
    ),
    "binary of float16": items(fl.binary_cross_entropy_with_logits, "bool", dtype="float16"),
    "probabilities of items": items(fl.binary_cross_entropy, "int8", "broadcast"),
}


def measure(make, shape):
    loss, x, target, options = make(shape)
    grad, hess = filled(x.shape, x.dtype, 997), filled(x.shape, x.dtype, 997)
    results = {}
    for reduction in ("mean", "sum"):
        options["reduction"] = reduction
        results |= {
            f"value, {reduction}": growth(lambda: loss(x, target, **options)),
            f"value_and_grad, {reduction}": growth(
                lambda: loss.value_and_grad(x, target, out=grad, **options)
            ),
            f"grad_and_hess, {reduction}": growth(
                lambda: loss.grad_and_hess(x, target, out=(grad, hess), **options)
            ),
        }
    if loss is not fl.binary_cross_entropy:  # which is never computed in place: see its docstring
        results["in place"] = growth(lambda: loss.value_and_grad(x, target, out=x, **options))
    return results


if __name__ == "__main__":
    with fl.use_backend(sys.argv[1]):
        report = {}
        for name, (make, small, large) in CALLS.items():
            measure(make, small)
            report[name] = measure(make, large)
        x = filled((ITEMS,), "float32", 997)
        report["a temporary array"] = {"x > 0": growth(lambda: (x > 0).sum())}
        print(json.dumps(report))

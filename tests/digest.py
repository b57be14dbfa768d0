"""Prints one hash of the bits of many results; for processes that must agree on them.

FUSEDLOSS_ISA=x86-64-v3 python tests/digest.py
"""

import hashlib
import os
import sys

import numpy as np
from cases import DTYPES, HAS_AXIS, KINDS, LOSSES, REDUCTIONS, VERBS, Key, evaluate, option_subsets

import fusedloss as fl

# Around lane arrays and blocks, and large enough for several threads.
ROW_SHAPES = ((5, 1), (70, 3), (33, 16), (20, 17), (9, 130), (3, 1025), (2, 40_000), (60_000, 5))
ITEM_SHAPES = ((1,), (17,), (1025,), (16_385,), (300_001,))


def keys():
    for loss in LOSSES:
        for kind in KINDS[loss]:
            subsets = option_subsets(loss, kind)
            for number, shape in enumerate(ROW_SHAPES if loss in HAS_AXIS else ITEM_SHAPES):
                for dtype in DTYPES:
                    yield Key(loss, kind, shape, dtype, ())
                    yield Key(loss, kind, shape, dtype, subsets[-1 - number % len(subsets)])


def digest():
    total = hashlib.sha256()
    for number, key in enumerate(keys()):
        for verb in VERBS:
            result = evaluate(key, verb, REDUCTIONS[number % 3])
            for output in result if isinstance(result, tuple) else (result,):
                total.update(np.asarray(output).tobytes())
    rng = np.random.default_rng(1)
    for name in ("softmax", "log_softmax", "logsumexp", "sigmoid", "log_sigmoid", "softplus"):
        for shape in ROW_SHAPES[:-2]:
            for dtype in ("float32", "float64"):
                x = (rng.normal(size=shape) * 5).astype(dtype)
                total.update(getattr(fl, name)(x).tobytes())
    return total.hexdigest()


if __name__ == "__main__":
    info = fl.runtime_info()
    wanted = os.environ.get("FUSEDLOSS_ISA")
    if wanted and info["isa"] != wanted:
        sys.exit(f"isa must be {wanted}, not {info['isa']}")
    print(digest())

"""One hash of the bits of results for each loss or function and dtype; for processes, machines and
versions that must agree on them.

    python tests/digest.py            prints one hash of all
    python tests/digest.py --check    compares with `bits.json`, the committed hashes
    python tests/digest.py --write    renews these: after a change of bits that is meant

FUSEDLOSS_ISA=x86-64-v3 and its like choose the kernels, FUSEDLOSS_NUM_THREADS the threads.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
from cases import (
    DTYPES,
    HAS_AXIS,
    KINDS,
    LOSSES,
    REDUCTIONS,
    VERBS,
    Key,
    evaluate,
    normal_logits,
    option_subsets,
)

import fusedloss as fl
from fusedloss.functions import ERROR_BOUNDS

COMMITTED = Path(__file__).with_name("bits.json")
HOW_TO_RENEW = (
    "If this change is meant: `python tests/digest.py --write`, and a note in CHANGELOG.md"
)

# Around lane arrays and blocks, and large enough for several threads; (shape, axis).
ROW_SHAPES = (
    ((40, 1), -1),
    ((50, 2), -1),
    ((70, 3), -1),
    ((35, 10), -1),
    ((33, 15), -1),
    ((33, 16), -1),
    ((20, 17), -1),
    ((21, 33), -1),
    ((34, 40), -1),
    ((18, 41), -1),
    ((34, 63), -1),
    ((33, 64), -1),
    ((9, 130), -1),
    ((17, 256), -1),
    ((17, 257), -1),
    ((5, 1000), -1),
    ((3, 1025), -1),
    ((3, 4096), -1),
    ((3, 4097), -1),
    ((3, 5003), -1),
    ((2, 40_000), -1),
    ((60_000, 5), -1),
    ((3, 40, 7), 1),
    ((65, 20), 0),
)
ITEM_SHAPES = ((1,), (17,), (1025,), (16_385,), (300_001,))


def keys(loss, dtype):
    """Every kind of target and shape, with the options in turn: none, all, a subset."""
    for kind in KINDS[loss]:
        subsets = option_subsets(loss, kind)
        shapes = ROW_SHAPES if loss in HAS_AXIS else [(shape, -1) for shape in ITEM_SHAPES]
        for number, (shape, axis) in enumerate(shapes):
            for options in ((), subsets[-1], subsets[-1 - number % len(subsets)]):
                yield Key(loss, kind, shape, dtype, options, axis)


def loss_results(loss, dtype, num_threads):
    for number, key in enumerate(keys(loss, dtype)):
        # Options and shapes come in threes too: another reduction with each.
        reduction = REDUCTIONS[(number + number // 3) % 3]
        for verb in VERBS:
            result = evaluate(key, verb, reduction, num_threads=num_threads)
            yield from result if isinstance(result, tuple) else (result,)


def function_results(name, dtype, num_threads):
    rng = np.random.default_rng(1)
    for shape, axis in ROW_SHAPES:
        along = {"axis": axis} if name in ("softmax", "log_softmax", "logsumexp") else {}
        x = normal_logits(rng, shape, dtype)
        yield getattr(fl, name)(x, num_threads=num_threads, **along)


def hash_of(results):
    total = hashlib.sha256()
    for result in results:
        array = np.asarray(result)
        if np.isnan(array).any():
            raise ValueError("these results are to have no nan: nobody promises the bits of one")
        total.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return total.hexdigest()[:32]


def hashes(num_threads=None):
    """{"loss dtype": hash}, for the dtypes that can be had here."""
    found = {}
    for names, results in ((LOSSES, loss_results), (ERROR_BOUNDS, function_results)):
        for name in names:
            for dtype in DTYPES:
                found[f"{name} {dtype}"] = hash_of(results(name, dtype, num_threads))
    return found


def committed():
    return json.loads(COMMITTED.read_text(encoding="utf-8"))


def changed(found):
    """The names among `found` whose hash is not the committed one."""
    expected = committed()
    return [name for name, digest in found.items() if expected.get(name) != digest]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition(";")[0] + ".")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="compare with the committed hashes")
    what.add_argument("--write", action="store_true", help="renew the committed hashes")
    options = parser.parse_args()
    info = fl.runtime_info()
    wanted = os.environ.get("FUSEDLOSS_ISA")
    if wanted and info["isa"] != wanted:
        sys.exit(f"isa must be {wanted}, not {info['isa']}")
    found = hashes()
    if options.check or options.write:
        if info["backend"] != "cython":
            sys.exit(f"the committed hashes are those of the kernels, not of {info['backend']}")
        for name in changed(found):
            print(f"changed: {name}")
        if options.check and changed(found):
            sys.exit(HOW_TO_RENEW)
    if options.write:
        if "bfloat16" not in DTYPES:
            sys.exit("ml_dtypes must be installed: the committed hashes are of all dtypes")
        COMMITTED.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(hashlib.sha256("".join(found.values()).encode()).hexdigest())


if __name__ == "__main__":
    main()

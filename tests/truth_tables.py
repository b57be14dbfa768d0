"""Reads the tables of truth in tests/tables, and says how far a result is from them.

    for case in truth_tables.load("cross_entropy"):
        value, grad = fl.cross_entropy.value_and_grad(case.input, case.target, **case.options)
        error = case.error(grad, "grad", "mean")  # in ulp, see ulp.py

The files are made by tests/tables/make_tables.py, which tells what they contain.
"""

import json
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import ulp

FOLDER = Path(__file__).parent / "tables"
LOSSES = (
    "cross_entropy",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy",
    "mse_loss",
)


@dataclass
class Case:
    """One line of a table. Of a function the results are named by it, and `target` is None."""

    name: str
    dtype: np.dtype
    input: np.ndarray
    target: np.ndarray | None
    options: dict
    results: dict

    def __str__(self):
        return self.name

    def reductions(self, output):
        """The reductions for which the table has this output."""
        return tuple(self.results[output])

    def error(self, actual, output, reduction=None, flush=None):
        """The error of a result in ulp of its dtype; of reduced values, after rounding to it.

        Truths below `flush` may be flushed to zero; without it, those below the smallest normal.
        """
        entry = self.results[output] if reduction is None else self.results[output][reduction]
        actual = np.asarray(actual)
        high, low = parse(entry["truth"])
        size = parse(entry["size"])[0] if "size" in entry else np.zeros(high.shape)
        dtype = actual.dtype
        if output == "value" and reduction != "none":
            dtype = np.dtype(np.float64 if self.dtype == np.float64 else np.float32)
        shaped = [array.reshape(actual.shape) for array in (high, low, size)]
        high, low, size = shaped
        return ulp.ulp_error(actual, high, low=low, size=size, dtype=dtype, flush=flush)


@cache
def parse(text):
    """Decimal numbers as a pair of float64 arrays whose sum has about 32 digits."""
    high = [float(word) for word in text.split()]
    low = [
        float(Fraction(word) - Fraction(near)) if np.isfinite(near) else 0.0
        for word, near in zip(text.split(), high, strict=True)
    ]
    return np.array(high), np.array(low)


def raw(table):
    """The table as it stands in the file."""
    return json.loads((FOLDER / f"{table}.json").read_text(encoding="ascii"))


@cache
def load(table):
    """All cases of a table whose dtype exists here."""
    return [as_case(line) for line in raw(table) if as_dtype(line["dtype"]) is not None]


def as_dtype(name):
    if name == "bfloat16":
        return None if ulp.ml_dtypes is None else np.dtype(ulp.ml_dtypes.bfloat16)
    return np.dtype(name)


def as_case(line):
    dtype = as_dtype(line["dtype"])
    compute = np.float64 if dtype == np.float64 else np.float32
    if "functions" in line:
        x = np.array(line["x"]).astype(dtype)
        return Case(line["name"], dtype, x, None, {}, line["results"])
    target = np.array(line["target"])
    if target.dtype.kind == "f":
        target = target.astype(compute)  # exact: the script has rounded them
    options = {
        name: np.array(option) if isinstance(option, list) else option
        for name, option in line["options"].items()
    }
    x = np.array(line["input"]).astype(dtype)
    return Case(line["name"], dtype, x, target, options, line["results"])

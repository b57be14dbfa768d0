"""The axes of the benches: what is computed, which of its results, on what dtype, shape and target.

A case is one point of the product of these axes; every contender runs every case that it can. Three
sets of cases are drawn from the product: `smoke` proves that the benches run, `quick` compares in
seconds, `full` is the published table.
"""

import math
import re
from dataclasses import dataclass, replace
from itertools import product

VALUE, VALUE_AND_GRAD, GRAD_AND_HESS = VERBS = ("value", "value_and_grad", "grad_and_hess")
EVALUATE = "evaluate"  # the only verb of the functions of one array

AXIS_FUNCTIONS = ("softmax", "log_softmax", "logsumexp")
POINTWISE_FUNCTIONS = ("sigmoid", "log_sigmoid", "softplus")
FUNCTIONS = AXIS_FUNCTIONS + POINTWISE_FUNCTIONS

# How memory is met. small: a call's overhead; cached: the same buffers again and again; streamed:
# several sets of buffers in turn, so that together they are many times the last-level cache and
# every round reads from memory.
SMALL, CACHED, STREAMED = "small", "cached", "streamed"

ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "int64": 8, "uint8": 1}


@dataclass(frozen=True)
class Case:
    """One thing to measure. `target` is the target's dtype, or "" where there is none."""

    work: str
    verb: str
    dtype: str
    shape: tuple[int, ...]
    target: str
    memory: str

    @property
    def title(self):
        verb = "" if self.verb == EVALUATE else f" {self.verb}"
        shape = "x".join(map(str, self.shape)) + (" items" if len(self.shape) == 1 else "")
        usual = "int64" if self.work == "cross_entropy" else self.dtype
        target = ""
        if self.target.startswith("float") and self.work == "cross_entropy":
            target = ", class probabilities"
        elif self.target and self.target != usual:
            target = f", {self.target} targets"
        return f"{self.work}{verb} {self.dtype} {shape}{target}"

    @property
    def data_key(self):
        """Cases with the same key are run on the same buffers."""
        return self.work, self.dtype, self.shape, self.target, self.memory

    @property
    def rows(self):
        return math.prod(self.shape[:-1])

    @property
    def items(self):
        return math.prod(self.shape)

    @property
    def bytes_read(self):
        """What any implementation must read from memory: the first array and the target, once."""
        has_class_labels = self.work == "cross_entropy" and not self.target.startswith("float")
        targets = self.rows if has_class_labels else self.items
        return self.items * ITEM_BYTES[self.dtype] + (
            targets * ITEM_BYTES[self.target] if self.target else 0
        )

    @property
    def bytes_written(self):
        """What any implementation must write: each array of the result, once."""
        arrays = {VALUE: 0, VALUE_AND_GRAD: 1, GRAD_AND_HESS: 2, EVALUATE: 1}[self.verb]
        items = self.rows if self.work == "logsumexp" else self.items
        return arrays * items * ITEM_BYTES[self.dtype]

    @property
    def hardly_writes(self):
        """Whether it is bound by what it reads: a value, or a number per row of many."""
        return self.bytes_written < 0.01 * self.bytes_read

    @property
    def bytes_moved(self):
        return self.bytes_read + self.bytes_written


def _product(works, verbs, dtypes, shapes, targets=("",), memory=STREAMED):
    """All combinations; the verbs vary fastest, so that neighbours share their buffers."""
    return [
        Case(work, verb, dtype, shape, target or _usual_target(work, dtype), memory)
        for work, dtype, shape, target, verb in product(works, dtypes, shapes, targets, verbs)
    ]


def _usual_target(work, dtype):
    if work in FUNCTIONS:
        return ""
    return "int64" if work == "cross_entropy" else dtype


def named(title, cached_bytes=2**20):
    """The case of a title, of any shape; cached if the data is no larger than `cached_bytes`."""
    found = re.fullmatch(
        r"(\w+)(?: (\w+))? (\w+) ([\dx]+)(?: items)?(?:, (class probabilities|\w+ targets))?", title
    )
    if not found or found[1] not in LOSSES + FUNCTIONS or found[3] not in ITEM_BYTES:
        raise ValueError(f"title must be like that of a row, not {title}")
    work, verb, dtype, shape, target = found.groups()
    target = {None: _usual_target(work, dtype), "class probabilities": dtype}.get(
        target, (target or "").partition(" ")[0]
    )
    shape = tuple(map(int, shape.split("x")))
    case = Case(work, verb or EVALUATE, dtype, shape, target, CACHED)
    return case if case.bytes_moved <= cached_bytes else replace(case, memory=STREAMED)


CE, BCE, PROBS, MSE = LOSSES = (
    "cross_entropy",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy",
    "mse_loss",
)
REDUCED = (VALUE, VALUE_AND_GRAD)
F32, F64, HALF = ("float32",), ("float64",), ("float16", "bfloat16")


def smoke():
    """Every loss, verb and function on two dtypes, as small as can be."""
    tiny, items = [(7, 10)], [(100,)]
    return [
        *_product([CE], VERBS, F32 + F64, tiny, memory=SMALL),
        *_product([BCE, PROBS, MSE], VERBS, F32 + F64, items, memory=SMALL),
        *_product(AXIS_FUNCTIONS, [EVALUATE], F32, tiny, memory=SMALL),
        *_product(POINTWISE_FUNCTIONS, [EVALUATE], F32, items, memory=SMALL),
    ]


def quick():
    """One small and one large size of the common calls."""
    return [
        *_product([CE], REDUCED, F32, [(32, 10)], memory=SMALL),
        *_product([CE], REDUCED, F32, [(4096, 1000)]),
        *_product([BCE, MSE], REDUCED, F32, [(100,)], memory=SMALL),
        *_product([BCE, MSE], REDUCED, F32, [(4_000_000,)]),
    ]


def full():
    """The published table: small, cached and streamed sizes of everything."""
    item_sizes = [(10_000,), (1_000_000,)]
    large = [(20_000_000,)]
    return [
        # Cross-entropy: from one row of a small batch to the vocabulary of a language model.
        *_product([CE], VERBS, F32, [(32, 10)], memory=SMALL),
        *_product([CE], VERBS, F32, [(1000, 100), (4096, 100)], memory=CACHED),
        *_product([CE], VERBS, F32 + F64, [(4096, 1000)]),
        *_product([CE], REDUCED, F32, [(4096, 1000)], targets=F32),
        *_product([CE], REDUCED, F32, [(300_000, 3), (1_000_000, 10)], targets=["int64", "uint8"]),
        *_product([CE], VERBS, F32, [(1024, 32_000)]),
        *_product([CE], REDUCED, HALF, [(1024, 32_000)]),
        *_product([CE], REDUCED, F32, [(512, 128_256), (1, 4_000_000)]),
        # The pointwise losses.
        *_product([BCE, PROBS, MSE], VERBS, F32, [(100,)], memory=SMALL),
        *_product([BCE, PROBS, MSE], VERBS, F32, item_sizes, memory=CACHED),
        *_product([BCE, PROBS, MSE], VERBS, F32, large),
        *_product([BCE], REDUCED, F32, large, targets=["uint8"]),
        *_product([BCE, MSE], REDUCED, F64, large),
        # The functions of one array.
        *_product(AXIS_FUNCTIONS, [EVALUATE], F32, [(32, 10)], memory=SMALL),
        *_product(AXIS_FUNCTIONS, [EVALUATE], F32, [(1000, 100)], memory=CACHED),
        *_product(AXIS_FUNCTIONS, [EVALUATE], F32, [(1024, 32_000)]),
        *_product(POINTWISE_FUNCTIONS, [EVALUATE], F32, [(100,)], memory=SMALL),
        *_product(POINTWISE_FUNCTIONS, [EVALUATE], F32, item_sizes, memory=CACHED),
        *_product(POINTWISE_FUNCTIONS, [EVALUATE], F32, large),
    ]


@dataclass(frozen=True)
class Plan:
    """A set of cases and how long to look at each."""

    cases: tuple[Case, ...]
    turns: int  # how often every contender of a group has its turn
    seconds: float  # of timing per contender and turn
    min_rounds: int


PLANS = {
    "smoke": Plan(tuple(smoke()), turns=1, seconds=0.002, min_rounds=3),
    "quick": Plan(tuple(quick()), turns=3, seconds=0.03, min_rounds=3),
    "full": Plan(tuple(full()), turns=5, seconds=0.1, min_rounds=3),
}


def add_plans(parser, **texts):
    """Options that choose a plan, each with its text; the chosen one is `plan`, or None."""
    plans = parser.add_mutually_exclusive_group()
    for name, text in texts.items():
        plans.add_argument(f"--{name}", dest="plan", action="store_const", const=name, help=text)

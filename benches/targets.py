"""The targets for speed, and what a run reached of them. The table is generated, never typed.

A target names the groups it is about, the quantity, and the bound; the reached figure is that of
the worst group. Some are about the run as a whole. Why a target is missed is written down in
`REASONS`.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from . import axes
from .axes import BCE, CE, GRAD_AND_HESS, MSE, PROBS, VALUE, VALUE_AND_GRAD
from .results import REFERENCE

LARGE_CE = ((1024, 32_000), (512, 128_256))
CACHED_SIZES = ((1000, 100), (4096, 100), (10_000,), (1_000_000,))
FEW_CLASSES = ((1_000_000, 10), (300_000, 3))
OURS = "cython"
ONE_THREAD = "cython, 1 thread"

# Why a target is missed, and what was tried: work -> text. Shown for a target that is missed.
REASONS: dict[str, str] = {
    "`cross_entropy` value, float32, 1024x32000 and 512x128256": (
        "x86-64-v4: 12 cycles a line of 64 bytes in the cache, 10 of them the operations; two "
        "threads read one in 13 cycles, or in 7.5 where no others use the memory, and then it is "
        "exp that takes the time. "
        "x86-64-v3: 17.5 cycles a line of 64 bytes in the cache, where its instructions fill 14 "
        "and memory takes 18 to 22 (6.3 to 6.9 ms in quiet runs). Tried: fetching 2 to 32 KiB "
        "ahead, smaller blocks, a smaller table, no table, two halves on their way; no maximum "
        "(kept, 25 %), sums by the bits of powers (kept). Reading beside multiply-adds that take "
        "16.4 cycles by themselves takes 19.4."
    ),
    "... value_and_grad, reused `out=`": (
        "x86-64-v4: 20 cycles a line in the cache, 12.5 for the sum and 7.5 for the gradient. "
        "x86-64-v3: 30 cycles a line, where the copy takes 24, and reading pauses while a row is "
        "written. Tried: fetching the next rows meanwhile (kept, 6 %), blocks of 2048 columns, "
        "outputs through the caches; no maximum, a cubic (kept, 23 %), powers kept for the "
        "gradient of up to 4096 classes (kept, 35 %), lines that rows share fetched or written "
        "once (kept, 7 to 27 % up to 1024 classes), gradients staged by 256 to 1024."
    ),
    "... value_and_grad, in place": ("As with `out=`."),
    "... value, 1000000x10 and 300000x3, int64 and uint8 labels": (
        "x86-64-v4: 29 cycles a line for ten classes, 52 for three, where reading takes 13. "
        "x86-64-v3: a column of 16 rows takes 30 cycles and a group of rows 140 more, where 390 "
        "for ten columns would be 65 %. Tried: exp where it lies, scalar sums, gathers, "
        "transposing in three ways, one logarithm for 128 rows; two loops (kept, 13 %), sums of "
        "exponentials that are not rounded (kept, 9 %), labels in lanes (kept, 8 %), the steps of "
        "some groups of rows together (kept, 14 to 20 %)."
    ),
    "... value_and_grad, 4096x1000, float64": (
        "x86-64-v4: 32 cycles for eight numbers, 19 for the sum. "
        "x86-64-v3: 43 cycles for eight numbers, of which the sum takes 28; low parts, for "
        "gradients within 1.1 ulp, are 5. Tried: recomputed and kept exponentials, two vectors on "
        "their way, low parts in float32; half and half (kept, 10 %), one permutation less (kept, "
        "12 %), Fast2Sum (kept, 6 %)."
    ),
    "... value, 4096x1000, float64": (
        "x86-64-v4: 19 cycles for eight numbers, 13.5 for exp and its sum, 2.7 for the maximum. "
        "x86-64-v3: 28 cycles for eight numbers, of which 21 are the operations of exp and a sum "
        "with its rounding errors. Tried: half and half (kept, 5 %), one permutation less (kept, "
        "12 %), Fast2Sum (kept, 11 %), a shorter chain, blocks with copies of their ends (kept)."
    ),
    "... 1024x32000 in 16 bits, time over that of float32": (
        "x86-64-v4: 13.8 cycles for 16 logits in the cache, 12 in float32; x86-64-v3: 18 and "
        "16.5: a conversion is two operations more. To read float32 takes 13 cycles, or 7.5 where "
        "no others use the memory: half of the bytes are not half of the time. Tried: by way of a "
        "buffer, converted where the maximum is looked for (kept for rows with a shift), where "
        "they lie (kept, 5 %), a loop for each case."
    ),
    "... value, one row of 4000000, float32": (
        "0.74 ms in a quiet run on x86-64-v3, where exp and its sum take as long as reading."
    ),
    "`binary_cross_entropy_with_logits`, `mse_loss`, value, 20000000 float32": (
        "18 cycles for 16 items in the cache, 9 of mse_loss, where their two lines take 26 to "
        "read, or 15 where no others use the memory, which changes within a run. Tried: fetching "
        "two chunks ahead (kept, 6 % with one thread), three, targets one chunk and logits two; "
        "pairs multiplied and fours added in float32 (kept, 25 %), conversions of half a register "
        "(kept for mse_loss, 20 %), sums without masks (kept, 7 %)."
    ),
    "... with uint8 targets, time over that with float32 targets": (
        "19.5 cycles for 16 items in the cache, where float32 targets take 18.5: to read less pays "
        "only where memory is slower than that. Tried: by way of floats, as bytes (kept, 10 %), "
        "fetched as many bytes ahead as floats (kept, 15 %)."
    ),
    "`binary_cross_entropy_with_logits`, value, 20000000 float64": (
        "x86-64-v4: 49 cycles for 16 items in the cache, whose four lines take 30 to 52 to read; "
        "x86-64-v3: 71 to 93, and 72."
    ),
    "`mse_loss`, value, 20000000 float64": (
        "x86-64-v4: 24.5 cycles for 16 items in the cache, whose four lines take 30 to 52 to read."
    ),
    "... value_and_grad, 20000000 float32": (
        "x86-64-v4: 30 cycles for 16 items in the cache, where copying three lines takes 28. "
        "x86-64-v3: 41 cycles for 16 items in the cache, where copying three lines takes 40. "
        "Tried: a shorter chain after the division, one loop, blends; fetching further, elsewhere "
        "and not at all; a copy; loops with their constants in registers (kept, 15 %), lines that "
        "chunks share fetched (kept, 7 %), their ends in registers (kept, 2 to 5 %), targets "
        "fetched once or half in each loop (1.07 times as long)."
    ),
    "grad_and_hess of each loss, large float32": (
        "x86-64-v4: 23 to 26 cycles a line, for items 24 to 33. "
        "x86-64-v3: 38 cycles a line, with two lines to write. Tried: fetching the lines that two "
        "rows share, lines with label and peak past the caches (kept, 20 %), outputs through the "
        "caches, powers kept for both outputs (kept, 20 %), ends of lines in registers (kept, 4 to "
        "8 %), half of what comes next in each loop (kept, 5 to 9 %)."
    ),
    "`softmax`, `log_softmax`, large float32": (
        "As value_and_grad. log_softmax, with log S in two floats, takes 28.5 cycles a line on "
        "x86-64-v3, where softmax takes 31. Tried: no search for a large p where partial sums "
        "rule it out (kept, 16 %), float32 instead of float64 (kept), outputs past the caches."
    ),
    "`sigmoid`, `log_sigmoid`, `softplus`, large float32": (
        "softplus: 22.5 cycles a line, where the copy takes 18.5, or 12 where no others use the "
        "memory. Tried: one loop instead of two, "
        "two and four vectors operation by operation, degrees 3 and 4 beside the table; by way of "
        "a copy; lines that chunks share fetched (kept, 6 to 10 %), half of what comes next in "
        "each loop (kept, 9 %)."
    ),
    "`logsumexp`, large float32": ("As the value of `cross_entropy`."),
    "cached sizes, `cross_entropy`, BCE and MSE, value and value_and_grad, on one thread": (
        "The limit counts fewer operations than correct rounding of small results takes: on "
        "x86-64-v3 11 cycles a line, where an exponential with its sum takes 17; a row of 100 "
        "classes is 7 vectors, one of 4 classes, and 40 cycles of its own. Tried: as with few "
        "classes, side by side (29 cycles a line), row by row (27, kept; 64 to 256 classes), with "
        "what rows share in lanes (kept, 100 cycles a row), the next two rows begun before these "
        "end (kept, 6 %), sums folded for eight rows at once (kept, 4 %). x86-64-v4: 18 cycles a "
        "line of 100 classes, where the limit is 11; value_and_grad 31, and 21; mse_loss "
        "value_and_grad of 10000 items 10, and 7, and 0.26 µs for the call."
    ),
    "cached sizes: all threads against one, from 100 µs of work on": (
        "Where the machine's other cores are busy, the second thread has less of its core: with "
        "calls on one and two threads in turn, in a quiet minute after a run that had 1.21, these "
        "rows are 1.78 to 2.01 times as fast. Tried: runs of neighbouring blocks for each thread "
        "(kept), blocks of half the size (kept, 25 %), short rows in whole groups of 128 (kept)."
    ),
    "every row, against the best peer": (
        "mse_loss grad_and_hess, 1000000 items: 8 MB of outputs, through the last-level cache, "
        "which is shared: 200 µs where they are in it, 700 where they are not, past the caches 360 "
        "and 430. Outputs go past them from 12 MiB on. sigmoid of 20000000 items waits for memory "
        "in every library: 1.7 and 0.95 times PyTorch in two runs of a day."
    ),
    "... of `cross_entropy` and `binary_cross_entropy_with_logits`, against the best peer": (
        "Class probabilities, 4096x1000: 34 cycles for 16 classes in the cache; 1.3 to 1.6 times "
        "JAX as the machine is busy. Tried: fetching by the search, by the sums, half and half; "
        "without sums that the loss does not need (kept, 10 %), fetching by fours (kept, 15 %)."
    ),
    "geometric mean over all rows, against PyTorch": (
        "The sum of what is said above: what it would be at the roofs is below the table."
    ),
}

# What one core needs at least, in cycles, for 16 items of float32 whose data are in its caches: the
# instructions that the algorithm cannot do without, over the ports that run them. The figures were
# derived for cores that start two fused multiply-adds on 512 bits per cycle, and these are what
# fills the ports. A core that starts fewer needs more cycles in proportion, on whatever vectors;
# its rate, per second, is measured (`core.py`), so the limit is
#
#     items / 16 x cycles x 2 / (multiply-adds of 512 bits per second)
PORT_CYCLES = {
    (CE, VALUE): 5.5,
    (CE, VALUE_AND_GRAD): 10.5,
    (BCE, VALUE): 8.0,
    (BCE, VALUE_AND_GRAD): 13.0,
    (MSE, VALUE): 2.5,
    (MSE, VALUE_AND_GRAD): 3.5,  # the value and one more store
}
PORT_ITEMS, PORT_RATE = 16, 2  # items per so many cycles, at so many multiply-adds per cycle


@dataclass(frozen=True)
class Target:
    work: str
    bound: float
    at_least: bool
    unit: str
    groups: Callable  # of a case: is it about this one?
    quantity: Callable  # of a group: the figure, or None if it lacks a rival
    together: bool = False  # the quantity is of all chosen groups at once


@dataclass(frozen=True)
class RunTarget:
    """A target for the run as a whole."""

    work: str
    bound: float
    unit: str
    quantity: Callable  # of the results: the figure, or None
    at_least: bool = False


def _about(works, verbs, dtypes=("float32",), shapes=None, memory=None, targets=None):
    def about(case):
        return (
            case.work in works
            and case.verb in verbs
            and case.dtype in dtypes
            and (shapes is None or case.shape in shapes)
            and (memory is None or case.memory in memory)
            and (targets is None or case.target in targets)
        )

    return about


def _class_labels(about):
    return lambda case: about(case) and not case.target.startswith("float")


def _share(contender=OURS):
    def quantity(group):
        one = group.measurements.get(contender)
        return group.share_of_roof(one) if one else None

    return quantity


def _times_faster_than(rival, contender=OURS):
    def quantity(group):
        one = group.measurements.get(contender)
        return group.ratio_to(rival, one) if one else None

    return quantity


def _times_faster_than_best_peer(group):
    one = group.measurements.get(OURS)
    return group.ratio_to_best_peer(one) if one else None


def _geometric_mean_over_torch(groups):
    ratios = [_times_faster_than("PyTorch")(group) for group in groups]
    ratios = [ratio for ratio in ratios if ratio]
    return statistics.geometric_mean(ratios) if ratios else None


def geometric_mean_at_roofs(groups):
    """The mean if every streamed row were at its roof, and all others as they are."""
    ratios = []
    for group in groups:
        ratio = _times_faster_than("PyTorch")(group)
        share = _share()(group)
        if ratio:
            ratios.append(ratio / min(share, 1.0) if share else ratio)
    return statistics.geometric_mean(ratios) if ratios else None


def _half_against_single(groups):
    """The slowest 16-bit time over that of float32, on the same shape and verb."""
    medians = {
        (group.case.dtype, group.case.verb): group.measurements[OURS].median
        for group in groups
        if OURS in group.measurements
    }
    ratios = [
        median / medians["float32", verb]
        for (dtype, verb), median in medians.items()
        if dtype != "float32" and ("float32", verb) in medians
    ]
    return max(ratios, default=None)


def _byte_targets_against_float(groups):
    """The time with uint8 targets over that with float32 targets."""
    medians = {
        group.case.target: group.measurements[OURS].median
        for group in groups
        if OURS in group.measurements
    }
    if {"uint8", "float32"} <= medians.keys():
        return medians["uint8"] / medians["float32"]
    return None


def _scaling(group):
    """One thread's time over that of all, where there are at least 100 µs of work."""
    one, all_threads = group.measurements.get(ONE_THREAD), group.measurements.get(OURS)
    if one is None or all_threads is None or one.median < 100e-6:
        return None
    return one.median / all_threads.median


def _times_port_limit(group):
    """The time of one thread over what one core needs at least."""
    one = group.measurements.get(ONE_THREAD) or group.measurements.get(OURS)
    if one is None or one.threads != 1 or group.core is None:
        return None
    case = group.case
    cycles = case.items / PORT_ITEMS * PORT_CYCLES[case.work, case.verb]
    return one.median / (cycles * PORT_RATE / group.core["fma_per_second"])


def _import_milliseconds(results):
    seconds = results.extras.get("import_seconds")
    return None if seconds is None else 1e3 * seconds


def _memory_per_thread(results):
    growth = results.extras.get("memory_growth")
    return None if growth is None else growth / 1024 / results.machine["threads"]


def _everything(case):
    return True


def _shares(work, percent, about, contender=OURS):
    return Target(work, percent / 100, True, "of the roof", about, _share(contender))


def _factor(work, bound, about, quantity, together=False):
    return Target(work, bound, True, "times faster", about, quantity, together)


BOTH = (VALUE, VALUE_AND_GRAD)
STREAMED = (axes.STREAMED,)
SMALL = (axes.SMALL,)
CACHED = (axes.CACHED,)
LARGE_ITEMS = ((20_000_000,),)

TARGETS = (
    _shares(
        "`cross_entropy` value, float32, 1024x32000 and 512x128256",
        95,
        _about([CE], [VALUE], shapes=LARGE_CE),
    ),
    _shares(
        "... value_and_grad, reused `out=`", 75, _about([CE], [VALUE_AND_GRAD], shapes=LARGE_CE)
    ),
    _shares(
        "... value_and_grad, in place",
        75,
        _about([CE], [VALUE_AND_GRAD], shapes=LARGE_CE),
        "cython, in place",
    ),
    _shares(
        "... value, 1000000x10 and 300000x3, int64 and uint8 labels",
        65,
        _about([CE], [VALUE], shapes=FEW_CLASSES),
    ),
    Target(
        "... 1024x32000 in 16 bits, time over that of float32",
        1.0,
        False,
        "times the time",
        _about([CE], [VALUE], ("float16", "bfloat16", "float32"), [(1024, 32_000)]),
        _half_against_single,
        together=True,
    ),
    _shares(
        "... value, 4096x1000, float64",
        60,
        _class_labels(_about([CE], [VALUE], ["float64"], [(4096, 1000)])),
    ),
    _shares(
        "... value_and_grad, 4096x1000, float64",
        55,
        _class_labels(_about([CE], [VALUE_AND_GRAD], ["float64"], [(4096, 1000)])),
    ),
    _shares(
        "... value, one row of 4000000, float32", 85, _about([CE], [VALUE], shapes=[(1, 4_000_000)])
    ),
    _shares(
        "`binary_cross_entropy_with_logits`, `mse_loss`, value, 20000000 float32",
        95,
        _about([BCE, MSE], [VALUE], shapes=LARGE_ITEMS, targets=["float32"]),
    ),
    Target(
        "... with uint8 targets, time over that with float32 targets",
        1.0,
        False,
        "times the time",
        _about([BCE], [VALUE], shapes=LARGE_ITEMS),
        _byte_targets_against_float,
        together=True,
    ),
    _shares(
        "... value_and_grad, 20000000 float32",
        80,
        _about([BCE, MSE], [VALUE_AND_GRAD], shapes=LARGE_ITEMS, targets=["float32"]),
    ),
    _shares(
        "`binary_cross_entropy_with_logits`, value, 20000000 float64",
        75,
        _about([BCE], [VALUE], ["float64"], LARGE_ITEMS),
    ),
    _shares(
        "`mse_loss`, value, 20000000 float64", 95, _about([MSE], [VALUE], ["float64"], LARGE_ITEMS)
    ),
    _shares(
        "grad_and_hess of each loss, large float32",
        70,
        _about([CE, BCE, PROBS, MSE], [GRAD_AND_HESS], memory=STREAMED),
    ),
    _shares(
        "`softmax`, `log_softmax`, large float32",
        75,
        _about(["softmax", "log_softmax"], [axes.EVALUATE], memory=STREAMED),
    ),
    _shares(
        "`sigmoid`, `log_sigmoid`, `softplus`, large float32",
        80,
        _about(axes.POINTWISE_FUNCTIONS, [axes.EVALUATE], memory=STREAMED),
    ),
    _shares(
        "`logsumexp`, large float32", 95, _about(["logsumexp"], [axes.EVALUATE], memory=STREAMED)
    ),
    Target(
        "cached sizes, `cross_entropy`, BCE and MSE, value and value_and_grad, on one thread",
        1.6,
        False,
        "times the limit of the ports",
        _about([CE, BCE, MSE], BOTH, shapes=CACHED_SIZES, memory=CACHED),
        _times_port_limit,
    ),
    _factor(
        "cached sizes: all threads against one, from 100 µs of work on",
        1.7,
        _about([CE, BCE, MSE], BOTH, memory=CACHED),
        _scaling,
    ),
    _factor(
        "32x10 float32, `cross_entropy(x, y)`, against PyTorch",
        8,
        _about([CE], [VALUE], memory=SMALL),
        _times_faster_than("PyTorch"),
    ),
    _factor(
        "... `value_and_grad(x, y, out=g)`, against PyTorch",
        25,
        _about([CE], [VALUE_AND_GRAD], memory=SMALL),
        _times_faster_than("PyTorch"),
    ),
    _factor(
        "... both, against the best peer",
        4,
        _about([CE], BOTH, memory=SMALL),
        _times_faster_than_best_peer,
    ),
    _factor(
        "100 items, BCE and MSE, value and value_and_grad, against the best peer",
        2,
        _about([BCE, MSE], BOTH, memory=SMALL),
        _times_faster_than_best_peer,
    ),
    _factor("every row, against the best peer", 1.0, _everything, _times_faster_than_best_peer),
    _factor(
        "... of `cross_entropy` and `binary_cross_entropy_with_logits`, against the best peer",
        1.5,
        lambda case: case.work in (CE, BCE),
        _times_faster_than_best_peer,
    ),
    _factor(
        "geometric mean over all rows, against PyTorch",
        12,
        _everything,
        _geometric_mean_over_torch,
        together=True,
    ),
    _factor(
        "Numba backend on large rows, against the NumPy backend",
        2,
        lambda case: case.memory == axes.STREAMED,
        _times_faster_than(REFERENCE, "numba"),
    ),
    # 16 bytes per block of 8192 items or more are allowed besides; here that is less than 4 KiB.
    RunTarget(
        "memory of any call on 2000000 items beyond its results",
        64,
        "KiB per thread",
        _memory_per_thread,
    ),
    RunTarget("`import fusedloss`, over that of NumPy", 30, "ms", _import_milliseconds),
)


@dataclass(frozen=True)
class Reached:
    target: Target | RunTarget
    figure: float | None  # None: not measured in this run
    where: str  # the group that decides

    @property
    def holds(self):
        if self.figure is None:
            return None
        at_least = self.target.at_least
        return self.figure >= self.target.bound if at_least else self.figure <= self.target.bound

    @property
    def reason(self):
        return REASONS.get(self.target.work, "") if self.holds is False else ""


def evaluate(results):
    """Every target with the worst figure of this run."""
    works = {target.work for target in TARGETS}
    if len(works) < len(TARGETS) or not REASONS.keys() <= works:
        raise ValueError("every reason must be that of one target: REASONS, targets.py")
    return [_evaluate(target, results) for target in TARGETS]


def _evaluate(target, results):
    if isinstance(target, RunTarget):
        return Reached(target, target.quantity(results), "")
    chosen = [group for group in results.groups if target.groups(group.case)]
    if target.together:
        return Reached(target, target.quantity(chosen), "")
    figures = [(target.quantity(group), group.case.title) for group in chosen]
    figures = [pair for pair in figures if pair[0] is not None and math.isfinite(pair[0])]
    if not figures:
        return Reached(target, None, "")
    figure, where = (min if target.at_least else max)(figures)
    return Reached(target, figure, where)

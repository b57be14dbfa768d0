"""What happens to one point before, and beside, the timed call: buffers, the check, warm-up, the
roofs.
"""

import itertools
import math
import time
from dataclasses import dataclass
from functools import cached_property

from . import axes
from .axes import Case
from .buffers import make_sets
from .check import reference, verify
from .roofs import bounding_roof

ROUND_SECONDS = 50e-6  # a round is at least this long, a thousand times the clock's resolution
MAX_ROUNDS = 500
WARM_UP_ROUNDS = 2
SLOW_SECONDS = 0.1  # such a call takes one round a turn, and needs no warm-up

# Idle threads of an OpenMP pool spin for some milliseconds before they sleep, and every library
# here brings its own.
SPIN_SECONDS = 0.01


@dataclass(frozen=True)
class Point:
    """One test: a case, the contender, and the turn. Turns interleave the contenders' rounds."""

    case: Case
    contender: object
    turn: int

    def __str__(self):
        return f"{self.case.title}, {self.contender.name}, turn {self.turn + 1}"


def points(plan, contenders):
    """Group by group, turn by turn; every second turn runs backwards, so that nobody always follows
    the same rival.
    """
    made = []
    for case in plan.cases:
        able = [contender for contender in contenders if contender.runs(case)]
        for turn in range(plan.turns):
            made += [
                Point(case, contender, turn)
                for contender in (able if turn % 2 == 0 else able[::-1])
            ]
    return made


@dataclass
class Job:
    """A contender ready to be timed on a case."""

    call: object
    sets: int
    rounds: int
    iterations: int
    warm_up: int


class Workbench:
    """Holds the buffers of one case at a time, and the jobs that were checked on them."""

    def __init__(self, plan, make_roofs, last_level_cache):
        self.plan = plan
        self.make_roofs = make_roofs
        self.last_level_cache = last_level_cache
        self.case = self.sets = self.expected = None
        self.jobs = {}
        self.roof_samples = {}

    @cached_property
    def roofs(self):
        """Made when the first streamed case asks: their arrays take a while to touch."""
        return self.make_roofs()

    def _enter(self, case):
        if self.case == case:
            return
        self.jobs, self.roof_samples, self.expected = {}, {}, None
        if self.case is None or self.case.data_key != case.data_key:
            self.sets = None  # before the next ones are made
            self.sets = make_sets(case, self.last_level_cache)
        self.case = case
        self.expected = reference(case, self.sets[0])

    def prepare(self, point):
        """The job of a point. Raises AssertionError, and so fails the bench, if its result is
        wrong.
        """
        self._enter(point.case)
        contender = point.contender
        if contender not in self.jobs:
            calls = contender.calls(point.case, self.sets)
            verify(point.case, contender, contender.outcome(point.case, calls[0]()), self.expected)
            self.jobs[contender] = self._calibrate(calls)
        return self.jobs[contender]

    def _calibrate(self, calls):
        for call in calls[1:]:  # the first one ran when it was checked
            call()
        call = calls[0] if len(calls) == 1 else _in_turn(calls)
        seconds = _seconds_per_call(call)
        iterations = max(1, round(ROUND_SECONDS / seconds))
        round_seconds = iterations * seconds
        rounds = math.ceil(self.plan.seconds / round_seconds)
        if round_seconds < SLOW_SECONDS:
            rounds = min(max(rounds, self.plan.min_rounds), MAX_ROUNDS)
        warm_up = 0 if round_seconds > SLOW_SECONDS else WARM_UP_ROUNDS
        return Job(call, len(calls), rounds, iterations, warm_up)

    def let_pools_sleep(self):
        """Wait until the threads of whoever ran before leave the CPUs; warm-up then wakes the ones
        that matter.
        """
        time.sleep(SPIN_SECONDS)

    def roof(self, point):
        """The roof that bounds a point, measured once a turn: its name, its rate and how. None for
        cached sizes.
        """
        if point.case.memory != axes.STREAMED:
            return None
        key = point.case, point.turn
        if key not in self.roof_samples:
            self.roof_samples[key] = self.roofs.sample(point.case)
        name = bounding_roof(point.case, point.contender)
        rate = self.roof_samples[key][name]
        return {"name": name, "bytes_per_second": rate, "how": self.roofs.descriptions[name]}


def _in_turn(calls):
    following = itertools.cycle(calls).__next__
    return lambda: following()()


def _seconds_per_call(call):
    """An estimate for the number of rounds: the fastest of a few short loops."""
    best = math.inf
    for loops in (1, 1, 10, 100):
        start = time.perf_counter()
        for _ in range(loops):
            call()
        best = min(best, (time.perf_counter() - start) / loops)
        if best * loops > 1e-3:
            break
    return max(best, 1e-9)

"""The measurements of one run, read from the JSON that pytest-benchmark wrote: rounds of all turns
together.
"""

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from .axes import Case

BACKENDS = ("cython", "numba", "numpy")  # the order in which a user gets them
REFERENCE = "numpy"  # the backend that ratios "to NumPy" are taken to


@dataclass
class Measurement:
    """One contender on one case."""

    contender: str
    ours: bool
    threads: int
    sets: int
    times: list[float] = field(default_factory=list)
    roofs: list[dict] = field(default_factory=list)

    @property
    def median(self):
        return statistics.median(self.times)

    @property
    def minimum(self):
        return min(self.times)

    @property
    def roof_rate(self):
        return statistics.median(roof["bytes_per_second"] for roof in self.roofs)


@dataclass
class Group:
    """All contenders on one case."""

    case: Case
    measurements: dict[str, Measurement] = field(default_factory=dict)
    core: dict | None = None  # clock and rate of one core, see `core.py`

    @property
    def best_peer(self):
        others = [one for one in self.measurements.values() if not one.ours]
        return min(others, key=lambda one: one.median, default=None)

    @property
    def main(self):
        """The backend that a user gets: the first of ours, in the order of preference."""
        return next(
            (self.measurements[name] for name in BACKENDS if name in self.measurements), None
        )

    def ratio_to(self, name, one):
        """How many times as long the contender `name` takes as `one`; None where it did not run."""
        other = self.measurements.get(name)
        return other.median / one.median if other else None

    def ratio_to_best_peer(self, one):
        return self.best_peer.median / one.median if self.best_peer else None

    def rate(self, one):
        """Bytes per second of those that must move."""
        return self.case.bytes_moved / one.median

    def share_of_roof(self, one):
        return self.rate(one) / one.roof_rate if one.roofs else None


@dataclass
class Results:
    machine: dict
    plan: str
    only: str  # the pattern that chose among its rows
    date: str
    groups: list[Group]
    extras: dict  # what `extras.py` measured, by name; a figure may be None or absent
    lower_level: list[Group]  # the rows that were run on the level of instructions below

    def roofs(self):
        """All samples of each roof over the run: name -> (how it was measured, rates)."""
        found = {}
        for group in self.groups:
            for one in group.measurements.values():
                for roof in one.roofs:
                    found.setdefault(roof["name"], (roof["how"], []))[1].append(
                        roof["bytes_per_second"]
                    )
        return found

    def contenders(self):
        """The names of all contenders: our backends from best to simplest, then the peers."""
        found = {}
        for group in self.groups:
            found.update(group.measurements)
        return sorted(found, key=lambda name: (not found[name].ours, *_preference(name)))


def _preference(name):
    backend = name.partition(",")[0]
    return (BACKENDS.index(backend) if backend in BACKENDS else 0), (backend != name)


def load(path):
    content = json.loads(Path(path).read_text())
    extras = content.get("extras", {})
    return Results(
        content["machine_info"],
        content["plan"],
        content["only"],
        content["datetime"][:10],
        _groups(content["benchmarks"], extras.get("core")),
        extras,
        _groups((extras.get("lower_level") or {}).get("benchmarks", []), None),
    )


def _groups(benchmarks, core):
    groups = {}
    for bench in benchmarks:
        info = bench["extra_info"]
        case = Case(**info["case"] | {"shape": tuple(info["case"]["shape"])})
        group = groups.setdefault(case, Group(case, core=core))
        one = group.measurements.setdefault(
            info["contender"],
            Measurement(info["contender"], info["ours"], info["threads"], info["sets"]),
        )
        one.times += bench["stats"]["data"]
        if info["roof"]:
            one.roofs.append(info["roof"])
    return list(groups.values())

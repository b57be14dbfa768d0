"""The compiled backend: imports the one kernel module that this CPU runs best.

A module built for instructions that the CPU lacks may crash while it is imported, so the choice is
made before any import, by CPUID.
"""

from __future__ import annotations

from importlib import import_module

from ..kernels.cpu import detected_isa, preferred_isa
from . import Unavailable

# Level -> kernel module, and the levels each CPU can run, the better first.
MODULES = {"x86-64-v3": "x86_64_v3", "x86-64-v4": "x86_64_v4", "aarch64": "generic"}
RUNS = {
    "x86-64-v4": ("x86-64-v4", "x86-64-v3"),
    "x86-64-v3": ("x86-64-v3",),
    "aarch64": ("aarch64",),
}
NAMES = (
    "FastMethod",
    "cross_entropy",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy",
    "mse_loss",
    "softmax",
    "log_softmax",
    "logsumexp",
    "sigmoid",
    "log_sigmoid",
    "softplus",
    "configure_threads",
    "max_threads",
    "openmp",
    "compiler",
    "quiesce",
    "mark_child",
)

isa: str | None = None  # the level in use, once loaded


def load(level: str | None = None) -> None:
    """Import the kernels of a level, or of the best one here, and export their functions.

    Raises `Unavailable` if the CPU cannot run the level, or if no level that it can run was built.
    A module that is there and cannot be imported raises what it raises.
    """
    global isa
    detected = detected_isa()
    levels = RUNS.get(detected, ())
    if level is not None:
        if level not in levels:
            raise Unavailable(f"this CPU is of level {detected}")
        levels = (level,)
    elif not levels:
        raise Unavailable(f"there are no kernels for this CPU, of level {detected}")
    elif preferred_isa() in levels:
        levels = levels[levels.index(preferred_isa()) :]
    package = __package__.rpartition(".")[0] + ".kernels."
    for candidate in levels:
        name = package + MODULES[candidate]
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            continue
        globals().update({function: getattr(module, function) for function in NAMES})
        isa = candidate
        return
    raise Unavailable(f"the kernels for {' or '.join(levels)} were not built")

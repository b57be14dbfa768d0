"""How fast one core is, measured by `core.c`: what a cached size could reach at most."""

import ctypes
import time

from .library import compiled

SAMPLES = 40
TURNS = 100_000

CHAIN_CYCLES = 8 * 3  # of a turn: eight multiplications, each of which waits for the one before
INSTRUCTIONS = 12  # of a turn

# The widest loop of a level, and how many of 512 bits one of its instructions stands for
LOOPS = {"x86-64-v4": ("multiply_add_512", 1.0), "x86-64-v3": ("multiply_add_256", 0.5)}


def measure(isa, folder):
    """The clock in Hz, and the fused multiply-adds of 512 bits that the core starts per second, on
    the widest vectors of a level; None where `core.c` does not know.
    """
    library = compiled("core", folder)
    if library is None or not library.has_core() or isa not in LOOPS:
        return None
    loop, vectors = LOOPS[isa]
    # In turn, so that both figures are of the same time
    rates = [(_rate(library.multiply_chain), _rate(getattr(library, loop))) for _ in range(SAMPLES)]
    return {
        "clock": max(rate for rate, _ in rates) * CHAIN_CYCLES,
        "fma_per_second": max(rate for _, rate in rates) * INSTRUCTIONS * vectors,
    }


def _rate(loop):
    """Turns per second."""
    start = time.perf_counter()
    loop(ctypes.c_uint64(TURNS))
    return TURNS / (time.perf_counter() - start)

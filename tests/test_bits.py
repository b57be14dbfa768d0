"""The committed bits: `bits.json` has a hash for the results of each loss or function and dtype.

Bits are part of what a release promises, so that a change of them is decided, not found out. The
hashes are no truth, only former output: they say that something changed, not that it is wrong.
"""

import os
import subprocess
import sys
from pathlib import Path

import digest
import pytest
from cases import DTYPES, LOSSES

import fusedloss as fl
from fusedloss.backends.compiled import RUNS
from fusedloss.functions import ERROR_BOUNDS

THREADS = (1, 2, 3, 7, 16)


@pytest.mark.parametrize("num_threads", THREADS)
def test_results_have_the_committed_bits(num_threads, compiled):
    changed = digest.changed(digest.hashes(num_threads))
    assert not changed, f"{digest.HOW_TO_RENEW}. The bits of these are others: {changed}"


def test_every_hash_is_of_something():
    """None is left of a loss, function or dtype that there is no more."""
    dtypes = {*DTYPES, "bfloat16"}  # committed, even if it cannot be had here
    names = {f"{name} {dtype}" for name in (*LOSSES, *ERROR_BOUNDS) for dtype in dtypes}
    assert digest.committed().keys() == names


def test_every_instruction_set_gives_the_committed_bits(compiled):
    """Those that this CPU can run and that were built; each in a process of its own."""
    info = fl.runtime_info()
    others = [isa for isa in RUNS[info["detected_isa"]] if isa != info["isa"]]
    if not others:
        pytest.skip("this CPU runs one instruction set of ours, which the test above has held")
    for isa in others:
        run = subprocess.run(
            [sys.executable, str(Path(digest.__file__)), "--check"],
            env={**os.environ, "FUSEDLOSS_BACKEND": "cython", "FUSEDLOSS_ISA": isa},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert run.returncode == 0, f"{isa}: {run.stdout}{run.stderr}"

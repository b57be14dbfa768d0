"""No call needs memory that grows with the data: not for weights, dtypes, axes or reductions."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from available import require
from memory_use import CALLS

# Against 2 million items. Scratch of two threads and partial sums fit in it; an array with a byte
# per item does not.
ALLOWED = 1_500_000


@cache
def growth_of_all(backend):
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("memory_use.py")), backend],
        # Every large array is mapped and unmapped, so that freed memory cannot serve unseen again.
        env={**os.environ, "OMP_NUM_THREADS": "2", "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="resets the peak in /proc/self"
)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("backend", ["numba", "cython"])
def test_memory_does_not_grow_with_the_data(backend, name):
    require(backend)
    growth = growth_of_all(backend)[name]
    control = growth_of_all(backend)["a temporary array"]["x > 0"]
    assert control > ALLOWED, "the measurement must see a byte per item"
    too_much = {call: size for call, size in growth.items() if size > ALLOWED}
    assert not too_much, f"{backend}, {name}: bytes {too_much}, allowed {ALLOWED}"

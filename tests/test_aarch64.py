"""The kernels of aarch64 give the committed bits, under emulation.

Where `./ci/aarch64` has downloaded a cross compiler, an emulator and a Python for aarch64, or where
FUSEDLOSS_AARCH64 names the folder with them; nothing is downloaded here.
"""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "ci" / "emulate_aarch64.py"


def script(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.mark.slow
def test_aarch64_gives_the_committed_bits():
    if not SCRIPT.exists():
        pytest.skip(
            "the emulation builds the kernels from source, which an installed package lacks"
        )
    missing = script("--missing").stdout.splitlines()
    if missing:
        pytest.skip(
            "no cross compiler, emulator or Python for aarch64 here, and tests download nothing; "
            f"./ci/aarch64 does. Missing: {', '.join(missing)}"
        )
    run = script("--hashes")
    assert run.returncode == 0, run.stdout + run.stderr

"""Which backends this machine has, and whether one may be missing."""

import importlib.util
import os

import pytest

import fusedloss as fl
from fusedloss.backends import Unavailable

BACKENDS = ("numpy", "numba", "cython")


def absence(name):
    """Why a backend cannot be used here, or None. One that is present but broken raises."""
    if name == "numba":
        return None if importlib.util.find_spec("numba") else "numba is not installed"
    if name == "cython":
        try:
            with fl.use_backend("cython"):
                return None
        except Unavailable as error:
            return f"no compiled kernels: {error}"
    return None


def require(name):
    """Skip without the backend; fail if it is the compiled one and must be there."""
    reason = absence(name)
    if reason is None:
        return
    if name == "cython" and os.environ.get("FUSEDLOSS_REQUIRE_NATIVE") == "1":
        pytest.fail(f"FUSEDLOSS_REQUIRE_NATIVE=1, but {reason}")
    pytest.skip(reason)

"""The backend fixture, the slow marker and the hypothesis profiles: what every test file shares."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The helper modules (cases, magnitudes, ulp) are found by name under every import mode of pytest.
sys.path.insert(0, str(Path(__file__).parent))

from available import BACKENDS, require

import fusedloss as fl

# Derandomised: the suite is a gate, so it must give the same answer twice. "explore" draws new
# examples every time.
_BACKEND_IS_CONSTANT = [
    HealthCheck.function_scoped_fixture,
    HealthCheck.too_slow,
    HealthCheck.differing_executors,
]
settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=50,
    suppress_health_check=_BACKEND_IS_CONSTANT,
)
settings.register_profile(
    "explore",
    database=None,
    deadline=None,
    max_examples=2000,
    suppress_health_check=_BACKEND_IS_CONSTANT,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser):
    parser.addoption(
        "--slow", action="store_true", help="run the tests marked slow too (minutes, gigabytes)"
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: needs minutes or gigabytes; runs with --slow")
    config.addinivalue_line("filterwarnings", "error")
    config.option.strict_markers = True


def pytest_collection_modifyitems(config, items):
    # One case in all backends, then the next case: the truth is then worked out once, see cases.py.
    first = {}
    for position, item in enumerate(items):
        first.setdefault(_case(item), position)
    items.sort(key=lambda item: first[_case(item)])
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="slow: runs with --slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


def _case(item):
    """The test with its parameters, but without its backend."""
    backend = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
    return item.nodeid.replace(f"[{backend}-", "[", 1)


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Run the test once inside each backend; its name is the fixture's value."""
    require(request.param)
    with fl.use_backend(request.param):
        yield request.param


@pytest.fixture
def compiled():
    """Run the test inside the compiled backend: threads and memory are its promises alone."""
    require("cython")
    with fl.use_backend("cython"):
        yield "cython"

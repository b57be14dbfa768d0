"""The options of the bench suite and the objects that live as long as a run."""

import re
from dataclasses import replace

import pytest

from . import machine
from .axes import PLANS

CONTENDERS = pytest.StashKey()
PLAN = pytest.StashKey()


def pytest_addoption(parser):
    group = parser.getgroup("fusedloss benches")
    group.addoption("--plan", choices=sorted(PLANS), default="quick", help="the set of cases")
    group.addoption("--threads", type=int, default=None, help="threads of every library")
    group.addoption("--turns", type=int, default=None, help="turns instead of the plan's")
    group.addoption("--without-peers", action="store_true", help="only the backends of fusedloss")
    group.addoption("--contenders", default="", help="run those whose name this pattern finds")
    group.addoption("--work-folder", default=None, help="where the compiled roof may lie")
    group.addoption("--only", default="", help="run the cases whose title this pattern finds")


def threads_of(config):
    return config.getoption("--threads") or machine.usable_cpus()


def pytest_configure(config):
    machine.limit_threads(threads_of(config))
    # Only now: these import the libraries that read their thread counts when they load.
    from .contenders import backends
    from .peers import peers

    ours, absent = backends(threads_of(config))
    others, missing = ([], {}) if config.getoption("--without-peers") else peers(threads_of(config))
    wanted = re.compile(config.getoption("--contenders"))
    chosen = [contender for contender in ours + others if wanted.search(contender.name)]
    config.stash[CONTENDERS] = chosen, absent | missing
    plan = PLANS[config.getoption("--plan")]
    config.stash[PLAN] = replace(plan, turns=config.getoption("--turns") or plan.turns)


def pytest_generate_tests(metafunc):
    from .workbench import points

    contenders, _ = metafunc.config.stash[CONTENDERS]
    wanted = re.compile(metafunc.config.getoption("--only"))
    found = [
        point
        for point in points(metafunc.config.stash[PLAN], contenders)
        if wanted.search(point.case.title)
    ]
    metafunc.parametrize("point", found, ids=str)


@pytest.fixture(scope="session")
def workbench(pytestconfig, tmp_path_factory):
    from .roofs import Roofs
    from .workbench import Workbench

    cache = machine.last_level_cache()
    folder = pytestconfig.getoption("--work-folder") or tmp_path_factory.mktemp("roofs")
    plan = pytestconfig.stash[PLAN]
    return Workbench(plan, lambda: Roofs(threads_of(pytestconfig), cache, folder), cache)


def pytest_benchmark_generate_machine_info(config):
    _, absent = config.stash[CONTENDERS]
    return machine.describe(threads_of(config)) | {"absent": absent}


def pytest_benchmark_update_json(config, benchmarks, output_json):
    output_json["machine_info"]["peak_memory"] = machine.peak_memory()
    output_json["plan"] = config.getoption("--plan")
    output_json["only"] = config.getoption("--only")

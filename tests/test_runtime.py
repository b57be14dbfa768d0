"""Which backend, level and number of threads are used, and what is said about it.

What is read at import is tested in processes of its own.
"""

import io
import json
import os
import subprocess
import sys
import textwrap
import threading

import pytest

import fusedloss as fl
from fusedloss import runtime

READ_AT_IMPORT = ("FUSEDLOSS_BACKEND", "FUSEDLOSS_ISA", "FUSEDLOSS_NUM_THREADS", "OMP_NUM_THREADS")

# Stands for a kernel module that was not built: the import system's own answer to a missing file.
NO_KERNELS = "import sys; sys.modules['fusedloss.kernels.cpu'] = None"
NO_NUMBA = "import sys; sys.modules['numba'] = None"

# Stands for a kernel module that is there, but cannot be loaded.
BROKEN_KERNELS = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "fusedloss.kernels.cpu":
            raise ImportError("undefined symbol: broken", name=name)
sys.meta_path.insert(0, Broken())
"""


def run(code, **variables):
    """Run Python code in a new process; return its output, or the last line of its error."""
    environment = {name: text for name, text in os.environ.items() if name not in READ_AT_IMPORT}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    return done.stdout.strip()


def info(prelude="", **variables):
    """Return runtime_info() of a new process."""
    output = run(
        f"{prelude}\nimport fusedloss, json; print(json.dumps(fusedloss.runtime_info()))",
        **variables,
    )
    assert output.startswith("{"), output
    return json.loads(output)


@pytest.fixture
def kernels():
    """Skip where no kernels were built."""
    try:
        with fl.use_backend("cython"):
            pass
    except ImportError as error:
        pytest.skip(str(error))


# ------------------------------------------------------------------------------------ the backend


def test_best_backend_is_the_default(kernels):
    assert info()["backend"] == "cython"
    assert info()["not_taken"] == {}


def test_without_kernels_numba_is_next():
    pytest.importorskip("numba")
    chosen = info(NO_KERNELS)
    assert chosen["backend"] == "numba"
    assert chosen["not_taken"] == {"cython": "fusedloss.kernels.cpu was not built"}
    assert chosen["isa"] is chosen["openmp"] is chosen["compiler"] is None


def test_without_kernels_and_numba_numpy_is_left():
    chosen = info(f"{NO_KERNELS}\n{NO_NUMBA}")
    assert chosen["backend"] == "numpy"
    assert chosen["not_taken"] == {
        "cython": "fusedloss.kernels.cpu was not built",
        "numba": "numba is not installed",
    }


def test_broken_kernels_raise():
    assert run(f"{BROKEN_KERNELS}\nimport fusedloss") == "ImportError: undefined symbol: broken"


def test_broken_kernels_can_be_avoided():
    assert info(BROKEN_KERNELS, FUSEDLOSS_BACKEND="numpy")["backend"] == "numpy"


@pytest.mark.parametrize("name", ["numba", "numpy"])
def test_backend_variable_chooses(name):
    if name == "numba":
        pytest.importorskip("numba")
    chosen = info(FUSEDLOSS_BACKEND=name)
    assert chosen["backend"] == name
    assert set(chosen["not_taken"].values()) == {f"FUSEDLOSS_BACKEND is {name}"}
    assert chosen["environment"] == {"FUSEDLOSS_BACKEND": name}


def test_empty_variables_are_unset():
    empty = dict.fromkeys(READ_AT_IMPORT[:3], "")
    assert info(**empty)["backend"] == info()["backend"]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FUSEDLOSS_BACKEND", "fortran", "must be cython, numba or numpy, not fortran"),
        ("FUSEDLOSS_ISA", "avx2", "must be x86-64-v3, x86-64-v4 or aarch64, not avx2"),
        ("FUSEDLOSS_NUM_THREADS", "0", "must be a positive integer, not 0"),
        ("FUSEDLOSS_NUM_THREADS", "-2", "must be a positive integer, not -2"),
        ("FUSEDLOSS_NUM_THREADS", "1.5", "must be a positive integer, not 1.5"),
        ("FUSEDLOSS_NUM_THREADS", "all", "must be a positive integer, not all"),
    ],
)
def test_bad_variables_are_named(variable, value, message):
    assert run("import fusedloss", **{variable: value}) == f"ValueError: {variable} {message}"


def test_backend_that_cannot_run_is_refused_with_the_reason():
    assert run(f"{NO_NUMBA}\nimport fusedloss", FUSEDLOSS_BACKEND="numba") == (
        "ImportError: FUSEDLOSS_BACKEND must be a backend that can run here, not numba: "
        "numba is not installed"
    )
    assert run(f"{NO_KERNELS}\nimport fusedloss", FUSEDLOSS_BACKEND="cython") == (
        "ImportError: FUSEDLOSS_BACKEND must be a backend that can run here, not cython: "
        "fusedloss.kernels.cpu was not built"
    )


def test_level_that_cannot_run_is_refused_with_the_reason(kernels):
    detected = fl.runtime_info()["detected_isa"]
    foreign = "x86-64-v3" if detected == "aarch64" else "aarch64"
    for more in ({}, {"FUSEDLOSS_BACKEND": "cython"}):
        assert run("import fusedloss", FUSEDLOSS_ISA=foreign, **more) == (
            f"ImportError: FUSEDLOSS_ISA must be a level that can run here, not {foreign}: "
            f"this CPU is of level {detected}"
        )


def test_level_is_forced(kernels):
    if fl.runtime_info()["detected_isa"] != "x86-64-v4":
        pytest.skip("this CPU has no second level")
    output = run(
        "import fusedloss, sys; print(fusedloss.runtime_info()['isa'],"
        "'fusedloss.kernels.x86_64_v4' in sys.modules)",
        FUSEDLOSS_ISA="x86-64-v3",
    )
    assert output == "x86-64-v3 False"


def test_forced_level_needs_kernels():
    assert run(f"{NO_KERNELS}\nimport fusedloss", FUSEDLOSS_ISA="x86-64-v3") == (
        "ImportError: FUSEDLOSS_ISA must be a level that can run here, not x86-64-v3: "
        "fusedloss.kernels.cpu was not built"
    )


def test_numba_is_imported_by_its_first_call():
    pytest.importorskip("numba")
    code = """
        import sys, fusedloss as fl
        before = "numba" in sys.modules
        fl.runtime_info()
        still = "numba" in sys.modules
        fl.mse_loss([1.0], [0.0])
        print(before, still, "numba" in sys.modules)
    """
    assert run(code, FUSEDLOSS_BACKEND="numba") == "False False True"


def test_import_is_light():
    code = """
        import numpy, sys, time
        before = set(sys.modules)
        start = time.process_time()
        import fusedloss
        seconds = time.process_time() - start
        ours = [name for name in set(sys.modules) - before if not name.startswith("fusedloss")]
        print(seconds, len(ours), *sorted(ours))
    """
    best = None
    for _ in range(3):
        seconds, count, *names = run(code).split()
        best = min(float(seconds), best or 1e9)
    heavy = {"argparse", "asyncio", "json", "logging", "multiprocessing", "numba", "numpy.ma"}
    heavy |= {"numpy.testing", "numpy.typing", "subprocess", "threading", "unittest"}
    assert not heavy & set(names)
    assert int(count) <= 10, names
    assert best < 0.1  # about 10 ms on an idle machine


# ------------------------------------------------------------------------------------ use_backend


def test_use_backend_is_undone_also_after_an_error():
    outside = fl.runtime_info()["backend"]

    def fail():
        with fl.use_backend("numpy"):
            raise KeyError(fl.runtime_info()["backend"])

    with pytest.raises(KeyError, match="numpy"):
        fail()
    assert fl.runtime_info()["backend"] == outside


def test_use_backend_nests(backend):
    with fl.use_backend("numpy"):
        assert fl.runtime_info()["backend"] == "numpy"
        with fl.use_backend(backend):
            assert fl.runtime_info()["backend"] == backend
        assert fl.runtime_info()["backend"] == "numpy"
    assert fl.runtime_info()["backend"] == backend


def test_use_backend_holds_for_one_thread():
    default, seen = runtime._default.name, []
    with fl.use_backend("numpy"):
        thread = threading.Thread(target=lambda: seen.append(fl.runtime_info()["backend"]))
        thread.start()
        thread.join()
    assert seen == [default]


@pytest.mark.parametrize("name", ["Cython", "", "torch", None, 1])
def test_use_backend_knows_three_names(name):
    shown = f'"{name}"' if isinstance(name, str) else str(name)
    with pytest.raises(ValueError) as caught, fl.use_backend(name):
        pass
    assert str(caught.value) == f'backend must be "cython", "numba" or "numpy", not {shown}'


def test_use_backend_says_why_it_cannot():
    code = f"""
        {NO_NUMBA}
        import fusedloss as fl
        with fl.use_backend("numba"):
            pass
    """
    assert run(code, FUSEDLOSS_BACKEND="numpy").endswith("Unavailable: numba is not installed")


# ---------------------------------------------------------------------------------------- threads


@pytest.fixture
def restore_threads():
    yield
    fl.set_num_threads(None)


def test_threads_are_set_and_reset(backend, restore_threads):
    before = fl.get_num_threads()
    fl.set_num_threads(3)
    assert fl.get_num_threads() == 3
    assert fl.runtime_info()["num_threads"] == 3
    fl.set_num_threads(None)
    assert fl.get_num_threads() == before


def test_threads_are_bounded(backend, restore_threads):
    fl.set_num_threads(10**30)
    assert fl.get_num_threads() == 1024


@pytest.mark.parametrize(
    ("given", "error", "shown"),
    [
        (0, ValueError, "0"),
        (-1, ValueError, "-1"),
        (2.0, TypeError, "2.0"),
        ("2", TypeError, '"2"'),
    ],
)
def test_bad_number_of_threads_changes_nothing(given, error, shown, restore_threads):
    fl.set_num_threads(2)
    with pytest.raises(error) as caught:
        fl.set_num_threads(given)
    assert str(caught.value) == f"num_threads must be a positive integer or None, not {shown}"
    assert fl.get_num_threads() == 2


@pytest.mark.parametrize("name", ["cython", "numpy"])
def test_threads_variable(name, request):
    if name == "cython":
        request.getfixturevalue("kernels")
    code = """
        import fusedloss as fl
        counts = [fl.get_num_threads()]
        for n in (2, None):
            fl.set_num_threads(n)
            counts.append(fl.get_num_threads())
        print(*counts)
    """
    assert run(code, FUSEDLOSS_BACKEND=name, FUSEDLOSS_NUM_THREADS="5") == "5 2 5"


def test_threads_default_to_the_usable_cpus(kernels):
    chosen = info()
    if not chosen["openmp"]:
        pytest.skip("compiled without OpenMP")
    assert chosen["num_threads"] == chosen["usable_cpus"]


def test_openmp_variable_overrides_the_usable_cpus(kernels):
    if not fl.runtime_info()["openmp"]:
        pytest.skip("compiled without OpenMP")
    assert info(OMP_NUM_THREADS="7")["num_threads"] == 7
    assert info(OMP_NUM_THREADS="7", FUSEDLOSS_NUM_THREADS="3")["num_threads"] == 3


def test_backends_without_threads_use_one():
    assert info(FUSEDLOSS_BACKEND="numpy")["num_threads"] == 1


# ------------------------------------------------------------------------------ the CPUs for us


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


V1 = "4:memory:/box\n3:cpu,cpuacct:/box\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 64, id="no control groups"),
        pytest.param({"proc/self/cgroup": "0::/\n"}, 64, id="v2 root, which has no file"),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
            64,
            id="v2 without a limit",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"},
            2,
            id="v2 in a container",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"},
            2,
            id="one and a half",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1, id="half"
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "9900000 100000\n"},
            64,
            id="more than there are",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a.slice/b.scope\n",
                "sys/fs/cgroup/a.slice/b.scope/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a.slice/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/cpu.max": "max 100000\n",
            },
            3,
            id="v2 limit on a group above",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a.slice/b.scope\n",
                "sys/fs/cgroup/a.slice/b.scope/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/a.slice/cpu.max": "800000 100000\n",
            },
            4,
            id="v2 limit on both",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../host/path\n", "sys/fs/cgroup/cpu.max": "500000 100000\n"},
            5,
            id="path of the host",
        ),
        pytest.param(
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "50000\n",
            },
            5,
            id="v1",
        ),
        pytest.param(
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "600000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            6,
            id="v1 limit on a group above",
        ),
        pytest.param(
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
            },
            64,
            id="v1 without a limit",
        ),
        pytest.param(
            {
                "proc/self/cgroup": V1 + "0::/box\n",
                "sys/fs/cgroup/unified/box/cpu.max": "700000 100000\n",
            },
            7,
            id="both versions",
        ),
        pytest.param(
            {"proc/self/cgroup": "\n::\nnonsense\n0::/\n", "sys/fs/cgroup/cpu.max": "lots\n"},
            64,
            id="nonsense",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 0\n"},
            64,
            id="zero period",
        ),
    ],
)
def test_container_quota(files, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert runtime.usable_cpus(tree(tmp_path, files)) == expected


def test_affinity_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    limit = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}
    assert runtime.usable_cpus(tree(tmp_path, limit)) == 1


def test_cpus_are_counted_where_affinity_is_unknown(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert runtime.usable_cpus(str(tmp_path)) == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert runtime.usable_cpus(str(tmp_path)) == 1


# -------------------------------------------------------------------------------------- the report


def test_runtime_info(backend):
    chosen = fl.runtime_info()
    assert chosen["version"] == fl.__version__
    assert chosen["backend"] == backend
    better = runtime.BACKENDS[: runtime.BACKENDS.index(backend)]
    assert tuple(chosen["not_taken"]) == better
    assert (chosen["isa"] is not None) == (backend == "cython")
    assert isinstance(chosen["num_threads"], int)
    json.dumps(chosen)  # plain data, fit for a bug report


def test_show_config_prints_every_key(backend, capsys):
    stream = io.StringIO()
    fl.show_config(stream)
    fl.show_config()
    assert capsys.readouterr().out == stream.getvalue()
    printed = stream.getvalue()
    for key, value in fl.runtime_info().items():
        assert key.replace("_", " ") in printed
        for text in value.values() if isinstance(value, dict) else [value]:
            assert text is None or str(text) in printed


def test_reason_for_the_choice_inside_a_block():
    with fl.use_backend("numpy"):
        reasons = fl.runtime_info()["not_taken"]
    assert set(reasons) == {"cython", "numba"}
    assert all(reasons.values())

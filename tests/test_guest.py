"""A good guest in its process: forks, other OpenMP runtimes, thread limits, floating-point state.

Each test runs a script of its own in a new process with a hard time limit, because what can go
wrong here is a hang or a crash.
"""

import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

import fusedloss as fl

TIME_LIMIT = (
    120  # seconds; a script takes one or two, PyTorch's import up to twenty on a busy machine
)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")

# Every script begins with this: a call that is large enough for four threads, and its result.
PRELUDE = """
import os, sys, threading
import numpy as np
import fusedloss as fl

rng = np.random.default_rng(0)
x = rng.normal(size=(20_000, 50)).astype(np.float32)
labels = rng.integers(0, 50, 20_000)

def compute(num_threads=4):
    value, grad = fl.cross_entropy.value_and_grad(x, labels, num_threads=num_threads)
    return value, grad.tobytes()

def threads():
    return len(os.listdir("/proc/self/task"))
"""


def run(script, prelude=PRELUDE, **environment):
    """Run a script in a new interpreter; return what it printed. Fails on an error or a hang."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    inherited.pop("FUSEDLOSS_NUM_THREADS", None)
    inherited["PYTHONPATH"] = str(Path(fl.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", prelude + textwrap.dedent(script)],
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, errors = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        # With the children: a hung one would hold the pipes open.
        if hasattr(os, "killpg"):
            os.killpg(process.pid, 9)
        process.kill()
        process.communicate()
        pytest.fail(f"still running after {TIME_LIMIT} s")
    assert process.returncode == 0, errors
    return printed.strip()


# -------------------------------------------------------------------------------------------- fork


@needs_linux
@pytest.mark.usefixtures("compiled")
def test_a_large_call_uses_the_threads_that_were_asked_for():
    """Without this, the tests of forks below would show nothing."""
    if not fl.runtime_info()["openmp"]:
        pytest.skip("the kernels are serial")
    printed = run("before = threads(); compute(); print(threads() - before)")
    assert int(printed) == 3


@needs_fork
def test_a_fork_from_another_thread_does_not_spoil_the_next_one():
    """Each thread has an OpenMP pool of its own; a fork from one must not make us forget others."""
    printed = run("""
        import multiprocessing
        fork = multiprocessing.get_context("fork")
        first = compute()

        def fork_here():
            child = fork.Process(target=int)
            child.start()
            child.join()

        thread = threading.Thread(target=fork_here)
        thread.start()
        thread.join()
        child = fork.Process(target=compute)
        child.start()
        child.join(30)
        print(child.exitcode)
        child.kill()
    """)
    assert printed.split() == ["0"]


@needs_fork
@pytest.mark.usefixtures("compiled")
def test_a_forked_child_computes_after_a_parallel_region_and_so_does_its_child():
    printed = run(
        """
        expected = compute()

        def child(generations):
            pid = os.fork()
            if pid == 0:
                right = compute() == expected
                if generations > 1:
                    right = right and child(generations - 1)
                os._exit(0 if right else 1)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

        # More than once: the pool must come back in the parent, and be ended before the next fork.
        print([child(2) and compute() == expected for _ in range(5)])
        """
    )
    assert printed == str([True] * 5)


@needs_fork
@needs_linux
@pytest.mark.usefixtures("compiled")
def test_a_forked_child_has_threads_of_its_own():
    """Where the pool can be ended before the fork, the child need not stay serial."""
    if not fl.runtime_info()["openmp"]:
        pytest.skip("the kernels are serial")
    printed = run(
        """
        compute()
        pid = os.fork()
        if pid == 0:
            before = threads()
            compute()
            os._exit(threads() - before)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    )
    assert int(printed) == 3


@needs_fork
@pytest.mark.usefixtures("compiled")
def test_a_pool_of_forked_workers_computes():
    printed = run(
        """
        import multiprocessing

        def work(number):
            return compute()

        expected = compute()
        with multiprocessing.get_context("fork").Pool(3) as pool:
            print(all(result == expected for result in pool.map(work, range(12))))
        print(compute() == expected)
        """
    )
    assert printed.split() == ["True", "True"]


@needs_fork
@pytest.mark.usefixtures("compiled")
def test_a_child_forked_from_another_thread_computes():
    printed = run(
        """
        expected = compute()
        answers = []

        def fork():
            assert compute() == expected
            pid = os.fork()
            if pid == 0:
                os._exit(0 if compute() == expected else 1)
            answers.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

        for _ in range(3):
            thread = threading.Thread(target=fork)
            thread.start()
            thread.join()
        print(answers, compute() == expected)
        """
    )
    assert printed == "[0, 0, 0] True"


@needs_fork
@pytest.mark.usefixtures("compiled")
def test_a_fork_while_other_threads_compute_leaves_all_of_them_right():
    printed = run(
        """
        import time

        expected = compute()
        wrong = []
        stop = threading.Event()

        def work():
            while not stop.is_set():
                if compute() != expected:
                    wrong.append(1)

        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        codes = []
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                # The pool of this thread was ended; those of the others do not exist here.
                os._exit(0 if compute() == expected else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        stop.set()
        for worker in workers:
            worker.join()
        print(codes == [0] * 10, wrong)
        """
    )
    assert printed == "True []"


@needs_fork
def test_every_backend_computes_in_a_forked_child(backend):
    printed = run(
        f"""
        with fl.use_backend({backend!r}):
            expected = fl.mse_loss(x, np.zeros_like(x))
            pid = os.fork()
            if pid == 0:
                os._exit(0 if fl.mse_loss(x, np.zeros_like(x)) == expected else 1)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    )
    assert printed == "0"


# --------------------------------------------------------------------------- other OpenMP runtimes


@needs_torch
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("order", ["torch first", "torch last"])
def test_torch_may_be_imported_on_either_side(order):
    ours = PRELUDE + "assert compute() == compute(1)\n"
    theirs = "import torch\ntorch.set_num_threads(2); torch.ones(500, 500) @ torch.ones(500, 500)\n"
    script = """
        value, grad = fl.cross_entropy.value_and_grad(x, labels, num_threads=4)
        logits = torch.from_numpy(x).requires_grad_()
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        loss.backward()
        assert abs(value - loss.item()) < 1e-5
        assert np.abs(grad - logits.grad.numpy()).max() < 1e-8
        if hasattr(os, "fork"):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if compute() == compute(1) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print("right")
    """
    prelude = theirs + ours if order == "torch first" else ours + theirs
    assert run(script, prelude=prelude) == "right"


@needs_linux
@pytest.mark.usefixtures("compiled")
def test_threadpoolctl_finds_our_runtime_and_limits_the_calling_thread():
    pytest.importorskip("threadpoolctl")
    if not fl.runtime_info()["openmp"]:
        pytest.skip("the kernels are serial")
    printed = run(
        """
        import threadpoolctl

        def large_call():
            return fl.mse_loss(big, zeros)

        big = np.ones(20_000_000, np.float32)
        zeros = np.zeros_like(big)
        free = fl.get_num_threads()
        with threadpoolctl.threadpool_limits(1, user_api="openmp"):
            limited = fl.get_num_threads()
            before = threads()
            large_call()
            assert threads() == before, "the limited call has started threads"
        assert fl.get_num_threads() == free
        large_call()
        assert threads() == before + free - 1
        print(free, limited)
        """,
        OMP_NUM_THREADS="3",
    )
    assert printed == "3 1"


@pytest.mark.usefixtures("compiled")
def test_our_own_setting_overrides_that_of_openmp():
    script = "print(fl.get_num_threads())"
    assert run(script, OMP_NUM_THREADS="3", FUSEDLOSS_NUM_THREADS="2") == "2"
    assert run("fl.set_num_threads(5); " + script, FUSEDLOSS_NUM_THREADS="2") == "5"


# ------------------------------------------------------------------------- state of the process


def test_subnormals_survive_the_import_and_a_parallel_call():
    """A library linked with fast-math flags turns them off for the thread that loads it."""
    printed = run(
        """
        def subnormals():
            return [
                float(np.finfo(dtype).smallest_subnormal * dtype(1)) != 0.0
                and float(np.finfo(dtype).tiny / dtype(2)) != 0.0
                for dtype in (np.float32, np.float64)
            ]

        results = [subnormals()]
        thread = threading.Thread(target=lambda: results.append(subnormals()))
        thread.start()
        thread.join()
        compute()
        results.append(subnormals())
        print(np.all(results))
        """
    )
    assert printed == "True"


def test_numpy_reports_nothing_after_our_calls(backend):
    """Exception flags that a call leaves behind are not taken for those of the next operation."""
    printed = run(
        f"""
        import warnings
        warnings.simplefilter("error")
        big = np.finfo(np.float32).max
        extreme = np.array([[big, -big], [np.inf, 0], [np.nan, 1], [1e-40, 1e-45]], np.float32)
        with np.errstate(all="raise"), fl.use_backend({backend!r}):
            for _ in range(2):
                fl.cross_entropy.value_and_grad(extreme, np.zeros(4, int))
                assert (np.arange(100.0) * 2).sum() == 9900
                fl.binary_cross_entropy_with_logits.grad_and_hess(extreme, np.ones((4, 2)))
                assert (np.arange(100.0) / 2).sum() == 2475
                fl.softmax(extreme)
                assert (np.arange(100.0, dtype=np.float32) - 1).sum() == 4850
        print("right")
        """
    )
    assert printed == "right"


def test_importing_us_imports_nothing_else_of_weight():
    printed = run(
        """
        import sys, warnings
        warnings.simplefilter("error")
        import numpy
        before = set(sys.modules)
        import fusedloss
        heavy = {"numba", "llvmlite", "scipy", "torch", "jax", "matplotlib", "ml_dtypes", "Cython"}
        print(sorted(heavy & {name.partition(".")[0] for name in set(sys.modules) - before}))
        """,
        prelude="",
    )
    assert printed == "[]"


def test_importing_us_prints_nothing_and_changes_no_environment():
    printed = run(
        """
        import os
        before = dict(os.environ)
        import fusedloss
        print(before == dict(os.environ))
        """,
        prelude="",
    )
    assert printed == "True"


@pytest.mark.usefixtures("compiled")
def test_other_python_threads_run_during_a_large_call():
    """The kernels let go of the interpreter lock."""
    printed = run(
        """
        import time
        steps = 0
        stop = False

        def tick():
            global steps
            while not stop:
                steps += 1
                time.sleep(0.001)

        big = rng.normal(size=(200_000, 100))
        targets = rng.integers(0, 100, 200_000)
        thread = threading.Thread(target=tick)
        thread.start()
        best = 0
        for _ in range(5):
            before = steps
            fl.cross_entropy(big, targets, num_threads=1)
            best = max(best, steps - before)
        stop = True
        thread.join()
        print(best)
        """
    )
    # A call takes tens of milliseconds, in each of which the other thread could take a step.
    assert int(printed) >= 5

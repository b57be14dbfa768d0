"""What is special to the Numba backend: when it is imported, how it is compiled, its 16-bit
conversions, and that its memory does not grow with the data."""

import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from numba.core.dispatcher import Dispatcher  # noqa: E402

import fusedloss as fl  # noqa: E402
from fusedloss.backends import VALUE_AND_GRAD, jit  # noqa: E402

DISPATCHERS = {name: f for name, f in vars(jit).items() if isinstance(f, Dispatcher)}

TILE_BYTES = 8 * jit.TILE

# dtype name: bits of the mantissa, bias of the exponent
FORMATS = {"float16": (10, 15), "bfloat16": (7, 127)}


def dtype_of(name):
    return np.dtype(name if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16)


@numba.njit
def widen_all(codes, mantissa_bits, bias, result):
    for i in range(codes.size):
        result[i] = jit._widen(np.int64(codes[i]), mantissa_bits, bias)


@numba.njit
def narrow_all(x, mantissa_bits, bias, codes):
    for i in range(x.size):
        codes[i] = jit._narrow(x[i], mantissa_bits, bias)


def widened(codes, name):
    result = np.empty(codes.size)
    widen_all(codes, *FORMATS[name], result)
    return result


def narrowed(x, name):
    codes = np.empty(x.size, np.uint16)
    narrow_all(x, *FORMATS[name], codes)
    return codes


def test_importing_and_using_the_package_without_this_backend_does_not_import_numba():
    code = (
        "import sys, fusedloss as fl\nfl.mse_loss([1.0], [2.0])\nsys.exit('numba' in sys.modules)\n"
    )
    environment = {**os.environ, "FUSEDLOSS_BACKEND": "numpy"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", DISPATCHERS)
def test_every_function_is_compiled_by_the_one_policy(name):
    function = DISPATCHERS[name]
    options = function.targetoptions
    assert function._cache.__class__.__name__ == "FunctionCache", "cache=True is not in force"
    assert options["nogil"] is True
    assert options["parallel"] is False
    assert options["fastmath"] is False
    assert options["error_model"] == "numpy"


def test_a_second_process_loads_the_machine_code_and_compiles_nothing(tmp_path):
    code = (
        "import json, fusedloss as fl\n"
        "from fusedloss.backends import jit\n"
        "fl.sigmoid([0.5])\n"
        "stats = jit._itemwise.stats\n"
        "print(json.dumps([sum(stats.cache_hits.values()), sum(stats.cache_misses.values())]))\n"
    )
    environment = {
        **os.environ,
        "FUSEDLOSS_BACKEND": "numba",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", code]
    runs = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        for _ in range(2)
    ]
    assert [run.returncode for run in runs] == [0, 0], runs[-1].stderr
    hits_and_misses = [json.loads(run.stdout) for run in runs]
    assert hits_and_misses == [[0, 1], [1, 0]]


def test_one_specialisation_serves_all_dtypes():
    """Otherwise a process that uses several dtypes waits for the compiler again and again."""
    rng = np.random.default_rng(0)
    weight = rng.random(5)
    with fl.use_backend("numba"):
        for dtype in ("float16", "float32", "float64"):
            x = rng.random((4, 5)).astype(dtype)
            for label_dtype in (np.int8, np.uint64):
                labels = np.zeros(4, label_dtype)
                fl.cross_entropy(x, labels)
                fl.cross_entropy(x, labels, weight=weight.astype(dtype), sample_weight=[1, 2, 3, 4])
                fl.binary_cross_entropy_with_logits(x, (x > 0.5).astype(label_dtype))
            fl.cross_entropy.grad_and_hess(x, x)
            fl.binary_cross_entropy_with_logits(x, x, weight=weight[::-1], pos_weight=weight)
            fl.binary_cross_entropy(x, x, weight=2.0)
            fl.mse_loss.value_and_grad(x, x, weight=x)
            fl.softmax(x)
            fl.logsumexp(x, axis=0)
            fl.softplus(x)
    entries = [
        name for name, f in DISPATCHERS.items() if not f.targetoptions.get("no_cpython_wrapper")
    ]
    assert {name: len(DISPATCHERS[name].signatures) for name in entries} == dict.fromkeys(
        entries, 1
    )
    for helper in (jit._load, jit._store):  # none, where the kernels came out of the cache
        assert len(helper.signatures) <= 1


@pytest.mark.parametrize("name", FORMATS)
def test_every_16_bit_number_widens_to_itself(name):
    codes = np.arange(2**16, dtype=np.uint16)
    numbers = codes.view(dtype_of(name))
    with np.errstate(all="ignore"):
        expected = numbers.astype(np.float64)
    got = widened(codes, name)
    assert np.array_equal(got, expected, equal_nan=True)
    assert np.array_equal(np.signbit(got), codes >= 2**15)


@pytest.mark.parametrize("name", FORMATS)
def test_every_16_bit_number_comes_back(name):
    codes = np.arange(2**16, dtype=np.uint16)
    got = narrowed(widened(codes, name), name)
    is_nan = np.isnan(widened(codes, name))
    assert np.array_equal(got[~is_nan], codes[~is_nan])
    # A signalling nan becomes a quiet one; sign and the rest of the payload are kept.
    quiet = 1 << (FORMATS[name][0] - 1)
    assert np.array_equal(got[is_nan], codes[is_nan] | quiet)


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_goes_to_the_nearest_and_ties_to_even(name):
    """Between each number and the next: a little less than half way, half way, a little more."""
    largest = 0x7FFF >> FORMATS[name][0] << FORMATS[name][0]  # the code of inf
    codes = np.arange(largest - 1, dtype=np.uint16)
    low, high = widened(codes, name), widened(codes + np.uint16(1), name)
    middle = 0.5 * low + 0.5 * high  # exact: these numbers have 11 bits at most
    even = codes + (codes & np.uint16(1))
    for sign, bit in ((1.0, 0), (-1.0, 0x8000)):
        for x, expected in (
            (low, codes),
            (np.nextafter(middle, 0.0), codes),
            (middle, even),
            (np.nextafter(middle, np.inf), codes + np.uint16(1)),
        ):
            assert np.array_equal(narrowed(sign * x, name), expected | np.uint16(bit))


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_beyond_the_largest_number_gives_infinity(name):
    mantissa_bits, _ = FORMATS[name]
    infinity = 0x7FFF >> mantissa_bits << mantissa_bits
    largest = widened(np.array([infinity - 1], np.uint16), name)[0]
    half_step = (largest - widened(np.array([infinity - 2], np.uint16), name)[0]) / 2
    x = np.array([np.nextafter(largest + half_step, 0.0), largest + half_step, 1e300, np.inf])
    assert narrowed(x, name).tolist() == [infinity - 1, infinity, infinity, infinity]


def test_a_nan_whose_payload_is_cut_off_stays_a_nan():
    x = np.array([0x7FF0000000000001], np.uint64).view(np.float64)
    for name in FORMATS:
        assert np.isnan(widened(narrowed(x, name), name))[0]


@pytest.mark.parametrize(("rows", "classes"), [(1_000_000, 2), (500, 4000), (1, 2_000_000)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_memory_does_not_grow_with_the_data(dtype, rows, classes):
    """All that a call allocates is a handful of tiles. The data are 20 to 100 times as large.

    tracemalloc sees what the compiled code allocates, too: it uses Python's allocator.
    """
    x = np.ones((rows, classes), dtype)
    labels = np.zeros(rows, np.int16)
    grad = np.empty_like(x)
    soft = np.full((rows, classes), 0.5, np.float32)
    weight = np.broadcast_to(np.float32(2.0), x.shape)
    calls = (
        lambda: jit.cross_entropy(
            VALUE_AND_GRAD, x, labels, None, None, -100, 0.1, 0.1, "mean", 1, None, grad
        ),
        lambda: jit.cross_entropy(
            VALUE_AND_GRAD, x, soft, None, None, -100, 0.1, 0.1, "mean", 1, None, grad
        ),
        lambda: jit.binary_cross_entropy_with_logits(
            VALUE_AND_GRAD, x, soft, weight, weight, "mean", None, grad
        ),
        lambda: jit.binary_cross_entropy(VALUE_AND_GRAD, soft, soft, weight, "mean", None, None),
        lambda: jit.mse_loss(VALUE_AND_GRAD, x, soft, None, "mean", None, grad),
        lambda: jit.softmax(x, 1, None, grad),
    )
    for call in calls:  # compiled, or loaded from the cache, first
        call()
    for number, call in enumerate(calls):
        tracemalloc.start()
        call()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        outputs = soft.nbytes if number == 3 else 0  # the one that makes its own gradient
        assert peak - outputs < 8 * TILE_BYTES, (number, peak)

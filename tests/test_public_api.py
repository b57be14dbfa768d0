"""What users see before they call anything: names, signatures, docstrings, pickles, types."""

import copy
import doctest
import functools
import importlib
import inspect
import os
import pickle
import re
import subprocess
import sys
import textwrap
from importlib import resources

import numpy as np
import pytest

import fusedloss as fl
from fusedloss import functions
from fusedloss.losses import REGISTRY

LOSSES = [pytest.param(loss, id=name) for name, loss in REGISTRY.items()]
FUNCTIONS = [pytest.param(getattr(fl, name), id=name) for name in functions.ERROR_BOUNDS]
VERBS = ("__call__", "value_and_grad", "grad_and_hess")

# The signatures, as they are promised.
CLASS_OPTIONS = (
    "weight=None, sample_weight=None, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, "
    "reduction='mean', axis=-1, num_threads=None"
)
SIGNATURES = {
    "cross_entropy": f"logits, target, *, {CLASS_OPTIONS}",
    "binary_cross_entropy_with_logits": (
        "logits, target, *, weight=None, pos_weight=None, reduction='mean', num_threads=None"
    ),
    "binary_cross_entropy": "probs, target, *, weight=None, reduction='mean', num_threads=None",
    "mse_loss": "input, target, *, weight=None, reduction='mean', num_threads=None",
    "softmax": "x, axis=-1, *, out=None, num_threads=None",
    "log_softmax": "x, axis=-1, *, out=None, num_threads=None",
    "logsumexp": "x, axis=-1, *, out=None, num_threads=None",
    "sigmoid": "x, *, out=None, num_threads=None",
    "log_sigmoid": "x, *, out=None, num_threads=None",
    "softplus": "x, *, out=None, num_threads=None",
}


def signature(function):
    """Return the parameters of a function as they would be written without types."""
    given = inspect.signature(function)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in given.parameters.values()]
    return str(inspect.Signature(plain)).strip("()")


def documented(function):
    """Return the parameters that a docstring describes, in order."""
    section = re.search(r"\nParameters\n-+\n(.*?)\n\n", function.__doc__, re.DOTALL).group(1)
    return re.findall(r"^(\w+) : ", section, re.MULTILINE)


def test_every_public_name_is_there_and_documented():
    assert fl.__all__ == sorted(fl.__all__)
    for name in set(fl.__all__) - {"__version__"}:
        assert getattr(fl, name).__doc__.strip(), name


def test_registry_has_the_public_losses():
    for name, loss in REGISTRY.items():
        assert loss.name == name
        assert getattr(fl, name) is loss


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    assert signature(getattr(fl, name)) == SIGNATURES[name]


@pytest.mark.parametrize("loss", LOSSES)
def test_methods_take_what_the_loss_takes_and_out(loss):
    assert signature(loss.value_and_grad) == f"{signature(loss)}, out=None"
    assert signature(loss.grad_and_hess) == f"{signature(loss)}, out=None"


@pytest.mark.parametrize("loss", LOSSES)
def test_docstrings_of_losses_are_complete(loss):
    for function in (loss, *(getattr(loss, verb) for verb in VERBS)):
        assert documented(function) == list(inspect.signature(function).parameters)
        assert "\nReturns\n" in function.__doc__
        assert not re.search(r"\{[a-z_]+\}", function.__doc__)  # a part that was not filled in
    for section in ("Raises", "Notes", "References", "Examples"):
        assert f"\n{section}\n{'-' * len(section)}\n" in loss.__doc__


@pytest.mark.parametrize("function", FUNCTIONS)
def test_docstrings_of_functions_are_complete(function):
    assert sorted(documented(function)) == sorted(inspect.signature(function).parameters)
    assert not re.search(r"\{[a-z_]+\}", function.__doc__)
    for section in ("Returns", "Raises", "Notes", "Examples"):
        assert f"\n{section}\n{'-' * len(section)}\n" in function.__doc__


@pytest.mark.parametrize("loss", LOSSES)
def test_docstrings_of_losses_state_the_error_bounds(loss):
    words = {"value": "value", "mean": "mean and sum", "grad": "gradient", "hess": "Hessian"}
    assert set(loss.error_bounds) == set(words)
    for output, word in words.items():
        bound = loss.error_bounds[output]
        line = f"- {word}: {bound['float32']:g} ulp in float32, {bound['float64']:g} in float64"
        assert line in loss.__doc__.splitlines()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_docstrings_of_functions_state_the_error_bound(function):
    bound = functions.ERROR_BOUNDS[function.__name__]
    text = f"Error bound: {bound['float32']:g} ulp in float32, {bound['float64']:g} in float64."
    assert text in function.__doc__


@pytest.mark.parametrize(
    "name",
    [
        "fusedloss",
        "fusedloss.functions",
        "fusedloss.runtime",
        "fusedloss.losses.cross_entropy",
        "fusedloss.losses.binary_cross_entropy",
        "fusedloss.losses.mse_loss",
    ],
)
def test_examples_run(name, backend):
    module = importlib.import_module(name)
    ran, failed = 0, []
    for test in doctest.DocTestFinder().find(module):
        runner = doctest.DocTestRunner(verbose=False)
        report = []
        runner.run(test, out=report.append)
        ran += runner.tries
        if runner.failures:
            failed.append("".join(report))
    assert ran > 0
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_method_of_a_loss_has_an_example(loss):
    for function in (loss, loss.value_and_grad, loss.grad_and_hess):
        assert re.search(rf">>> .*\bfl\.{loss.name}[.(]", function.__doc__)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_pickled_and_copied_by_name(loss):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(loss, protocol)) is loss
    assert copy.copy(loss) is loss
    assert copy.deepcopy({"loss": loss})["loss"] is loss


@pytest.mark.parametrize("loss", LOSSES)
def test_methods_are_pickled(loss):
    method = pickle.loads(pickle.dumps(loss.value_and_grad))
    assert method == loss.value_and_grad


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("loss", LOSSES)
def test_methods_are_those_of_the_class_whatever_way_they_are_called(loss, verb):
    """The instance's may be compiled; the class has what is written in Python."""
    first, *_ = inspect.signature(loss).parameters
    x = np.linspace(0.1, 0.9, 12).reshape(4, 3).astype(np.float32)
    target = np.array([0, 2, 1, 0]) if loss.name == "cross_entropy" else x > 0.5
    method = getattr(type(loss), verb)
    assert inspect.isfunction(method)
    new_text = "".join(["reduc", "tion"])  # is not the object that is in the source code
    ways = [
        lambda f: f(x, target),
        lambda f: f(x, target, reduction="sum"),
        lambda f: f(x, target, num_threads=2, weight=None, reduction="sum"),
        lambda f: f(x, target, **{new_text: "sum"}),
        lambda f: f(target=target, **{first: x}),
        lambda f: f(x, target=target, reduction="none"),
        lambda f: f(x.tolist(), target.tolist()),
    ]
    if verb == "value_and_grad":
        ways.append(lambda f: f(x, target, out=np.empty_like(x)))
    for way in ways:
        ours, written = way(getattr(loss, verb)), way(functools.partial(method, loss))
        assert type(ours) is type(written)
        outputs = ([ours], [written]) if verb == "__call__" else (ours, written)
        for one, other in zip(*outputs, strict=True):
            np.testing.assert_array_equal(one, other)
    mistakes = [
        ((x,), {}),
        ((x, target, "sum"), {}),
        ((x, target), {"size_average": True}),
        ((x, target), {"reduction": "average"}),
        ((x, target[:2]), {}),
    ]
    for given, options in mistakes:
        messages = []
        for f in (getattr(loss, verb), functools.partial(method, loss)):
            with pytest.raises((TypeError, ValueError)) as caught:
                f(*given, **options)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
    with fl.use_backend("numpy"):
        theirs = getattr(loss, verb)(x, target)
    assert type(theirs) is type(getattr(loss, verb)(x, target))


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_look_like_functions(loss):
    assert callable(loss)
    assert repr(loss) == f"<loss '{loss.name}'>"
    with pytest.raises(AttributeError):
        loss.reduction = "sum"  # options belong to calls; nothing is kept


@pytest.mark.parametrize("loss", LOSSES)
def test_options_are_given_by_name(loss):
    with pytest.raises(TypeError):
        loss([0.5], [1.0], None)


def test_import_costs_little_over_that_of_numpy():
    """At most 30 ms, in the fastest of several fresh processes: a busy machine only adds."""
    code = (
        "import time\n"
        "import numpy\n"
        "start = time.perf_counter()\n"
        "import fusedloss\n"
        "print(time.perf_counter() - start)\n"
    )
    # As installed: pip has compiled what would be compiled at each import with this variable.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    seconds = []
    while len(seconds) < 3 or (min(seconds) > 0.03 and len(seconds) < 15):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        seconds.append(float(done.stdout))
    assert min(seconds) <= 0.03, seconds


def test_package_is_typed():
    assert resources.files(fl).joinpath("py.typed").is_file()


def test_types_follow_the_reduction(tmp_path):
    pytest.importorskip("mypy")
    source = tmp_path / "user.py"
    source.write_text(
        textwrap.dedent(
            """
            from typing import Any, Literal, assert_type

            import numpy as np
            from numpy.typing import NDArray

            import fusedloss as fl

            x = np.zeros((2, 3), np.float32)
            assert_type(fl.cross_entropy(x, [0, 1]), float)
            assert_type(fl.cross_entropy(x, [0, 1], reduction="sum"), float)
            assert_type(fl.cross_entropy(x, [0, 1], reduction="none"), NDArray[Any])
            assert_type(fl.mse_loss.value_and_grad(x, x), tuple[float, NDArray[Any]])
            assert_type(
                fl.mse_loss.value_and_grad(x, x, reduction="none", out=x),
                tuple[NDArray[Any], NDArray[Any]],
            )
            assert_type(
                fl.binary_cross_entropy.grad_and_hess(x, x, out=(None, x)),
                tuple[NDArray[Any], NDArray[Any]],
            )
            assert_type(fl.logsumexp(x, axis=0), NDArray[Any])
            fl.cross_entropy(x, [0, 1], reduction="avg")  # type: ignore[call-overload]


            def any_reduction(reduction: Literal["mean", "sum", "none"]) -> None:
                assert_type(fl.mse_loss(x, x, reduction=reduction), float | NDArray[Any])
            """
        )
    )
    options = ["--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(source)], capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stdout + done.stderr

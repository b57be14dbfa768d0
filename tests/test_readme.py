"""The README tells the truth: its Python blocks run, and its table of differences holds."""

import doctest
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import fusedloss as fl

README = Path(__file__).parents[1] / "README.md"
pytestmark = pytest.mark.skipif(not README.exists(), reason="the README is not here")


def python_blocks():
    """Return (line number, text) of each fenced block of Python."""
    text = README.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, match.start(1)), match[1])
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def test_the_readme_has_both_kinds_of_blocks():
    kinds = {text.startswith(">>>") for _, text in python_blocks()}
    assert kinds == {True, False}


def test_sessions_print_what_the_readme_says():
    names = {}  # shared: a reader types one block after the other
    failures = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for line, text in python_blocks():
        if text.startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(text, names, "README", "README.md", line)
            runner = doctest.DocTestRunner(verbose=False, optionflags=flags)
            runner.run(test, out=failures.append, clear_globs=False)
            names.update(test.globs)
    assert not failures, "".join(failures)


@pytest.mark.parametrize(
    ("line", "text"),
    [block for block in python_blocks() if not block[1].startswith(">>>")]
    if README.exists()
    else [],
    ids=lambda value: f"line {value}" if isinstance(value, int) else "block",
)
def test_programs_run(line, text):
    if "scipy" in text:
        pytest.importorskip("scipy")
    names = {}
    # The newlines make line numbers in a traceback those of the README.
    exec(compile("\n" * line + text, str(README), "exec"), names)
    if "accuracy" in names:
        assert names["accuracy"] >= 0.95


# The table "Differences from PyTorch": what each side gives for value and gradient, or the error it
# raises. None in place of a number: not compared.


class Row(NamedTuple):
    here: tuple | type
    there: tuple | type
    loss: str
    input: object
    target: object
    options: dict


def row(here, there, loss, input, target, **options):
    return Row(here, there, loss, input, target, options)


INF, NAN, LOG2, TINY = float("inf"), float("nan"), 0.6931472, 2.0611536e-09
CE, BCEL = "cross_entropy", "binary_cross_entropy_with_logits"
BCE, MSE = "binary_cross_entropy", "mse_loss"
HALF = [[-0.5, 0.5]]
F16 = np.zeros((70000, 2), np.float16), np.zeros(70000, int)

DIFFERENCES = {
    "small binary loss": row((TINY, [TINY]), (0, [TINY]), BCEL, [-20.0], [0.0]),
    "confident row": row((TINY, [[-TINY, TINY]]), (0, [[0, TINY]]), CE, [[20.0, 0.0]], [0]),
    "ignored row with nan": row(
        (LOG2, [[-0.5, 0.5], [0, 0]]),
        (LOG2, [[-0.5, 0.5], [NAN, NAN]]),
        *(CE, [[0.0, 0.0], [NAN, INF]], [0, -100]),
    ),
    "class weight 0": row(
        (0, [[0, 0]]), (NAN, None), CE, [[-INF, 0.0]], [0], weight=[0.0, 1.0], reduction="sum"
    ),
    "class weight 0 under smoothing": row(
        (0, None), (NAN, None), CE, [[-INF, 0.0]], [1], weight=[0.0, 1.0], label_smoothing=0.1
    ),
    "soft target 0": row((0, [[0, 0]]), (NAN, None), CE, [[-INF, 0.0]], [[0.0, 1.0]]),
    "logit +inf": row((0, [0]), (NAN, None), BCEL, [INF], [1.0]),
    "logit -inf": row((0, [0]), (NAN, None), BCEL, [-INF], [0.0]),
    "p = t = 0": row((0, [1]), (0, [0]), BCE, [0.0], [0.0]),
    "p = t = 1": row((0, [-1]), (0, [0]), BCE, [1.0], [1.0]),
    "p tiny": row((1e-30, [1]), (1e-30, [1e-18]), BCE, [1e-30], [0.0]),
    "p nan": row((NAN, [NAN]), RuntimeError, BCE, [NAN], [0.0]),
    "float16 square": row((90000, [600]), (INF, [600]), MSE, np.float16([300]), np.float16([0])),
    "float16 mean": row((LOG2, None), (0, None), CE, *F16),
    "float32 square": row((1e60, [2e30]), (INF, [2e30]), MSE, [1e30], [0.0]),
    "shapes": row(ValueError, (1, None), MSE, np.ones((8, 1)), np.zeros(8)),
    "smoothing below 0": row(ValueError, (LOG2, HALF), CE, [[0.0, 0.0]], [0], label_smoothing=-0.1),
    "smoothing nan": row(ValueError, (LOG2, HALF), CE, [[0.0, 0.0]], [0], label_smoothing=NAN),
    "labels of int32": row((LOG2, HALF), RuntimeError, CE, [[0.0, 0.0]], np.int32([0])),
    "binary target of bool": row((LOG2, [-0.5]), RuntimeError, BCEL, [0.0], np.array([True])),
}


def ours(name, x, target, options):
    return getattr(fl, name).value_and_grad(x, target, **options)


def theirs(name, x, target, options):
    torch = pytest.importorskip("torch")
    if not torch.__version__.startswith("2.13."):
        pytest.skip(f"the table is about PyTorch 2.13, not {torch.__version__}")
    x = torch.tensor(x, requires_grad=True)
    options = {k: torch.tensor(v) if k == "weight" else v for k, v in options.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the shapes
        value = getattr(torch.nn.functional, name)(x, torch.tensor(target), **options)
    value.backward()
    return value.item(), x.grad.numpy()


@pytest.mark.parametrize("case", DIFFERENCES)
@pytest.mark.parametrize("side", [ours, theirs], ids=["fusedloss", "torch"])
def test_differences_from_pytorch(side, case):
    here, there, loss, x, target, options = DIFFERENCES[case]
    expected = here if side is ours else there
    x = np.asarray(x, np.float32) if isinstance(x, list) else x
    target = np.asarray(target)
    target = target.astype(x.dtype) if target.dtype.kind == "f" else target
    if isinstance(expected, type):
        with pytest.raises(expected):
            side(loss, x, target, options)
        return
    for got, number in zip(side(loss, x, target, options), expected, strict=True):
        if number is not None:
            np.testing.assert_allclose(got, number, rtol=2e-7, atol=0)

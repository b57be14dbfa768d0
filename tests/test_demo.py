"""The demo lands where exact solutions land, and its command line tells the truth."""

import argparse
import contextlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fusedloss as fl
from fusedloss import demo

HAVE_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


def with_intercept(X):
    return np.column_stack([X, np.ones(len(X))])


def fit(problem):
    return demo.fit(
        problem.loss, problem.X, problem.y, problem.outputs, problem.steps, problem.rate
    )


def newton(X, y, steps=12):
    """Fit a logistic regression by Newton's method on the Hessian X'HX; return weights and loss."""
    A = with_intercept(X)
    w = np.zeros((A.shape[1], 1))
    for _ in range(steps):
        grad, hess = fl.binary_cross_entropy_with_logits.grad_and_hess(A @ w, y)
        w -= np.linalg.solve(A.T @ (hess * A), A.T @ grad)
    return w, fl.binary_cross_entropy_with_logits(A @ w, y), np.abs(A.T @ grad).max()


# The data


def test_iris_is_the_table_of_the_paper():
    flowers, species, names = demo.load_iris()
    assert names == ["setosa", "versicolor", "virginica"]
    assert flowers.shape == (150, 4)
    assert species.tolist() == [0] * 50 + [1] * 50 + [2] * 50
    # The two rows in which the UCI copy departs from Fisher.
    assert flowers[34].tolist() == [4.9, 3.1, 1.5, 0.2]
    assert flowers[37].tolist() == [4.9, 3.6, 1.4, 0.1]
    # Means by species as printed in the paper (Table II).
    means = [flowers[species == k].mean(axis=0) for k in range(3)]
    expected = [
        [5.006, 3.428, 1.462, 0.246],
        [5.936, 2.770, 4.260, 1.326],
        [6.588, 2.974, 5.552, 2.026],
    ]
    np.testing.assert_allclose(means, expected, rtol=1e-12)


def test_iris_is_that_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_iris()
    flowers, species, names = demo.load_iris()
    np.testing.assert_array_equal(flowers, data.data)
    np.testing.assert_array_equal(species, data.target)
    assert names == data.target_names.tolist()


# The fits


def test_linear_regression_lands_on_least_squares(backend):
    problem = demo.make_problems()[0]
    W, b, history = fit(problem)
    exact, residue, _, _ = np.linalg.lstsq(with_intercept(problem.X), problem.y, rcond=None)
    np.testing.assert_allclose(np.append(W, b)[:, None], exact, atol=1e-12)
    assert history[-1] == pytest.approx(residue[0] / 150, rel=1e-12)
    assert np.all(np.diff(history) <= 1e-15)


def test_logistic_regression_lands_on_the_maximum_likelihood():
    problem = demo.make_problems()[1]
    W, b, history = fit(problem)
    exact, minimum, slope = newton(problem.X, problem.y)
    assert slope < 1e-12  # Newton has converged: this is the maximum of the likelihood
    assert minimum <= history[-1] < minimum + 1e-8
    np.testing.assert_allclose(np.append(W, b)[:, None], exact, atol=1e-2)
    assert np.count_nonzero((problem.X @ W + b > 0) == problem.y) == 98


def test_softmax_regression_nears_the_infimum():
    _, logistic, softmax = demo.make_problems()
    W, b, history = fit(softmax)
    # Setosa is linearly separable, so its 50 losses can be made as small as one likes, and what is
    # left in the limit is the logistic problem of the other 100 flowers.
    infimum = newton(logistic.X, logistic.y)[1] * 100 / 150
    assert infimum < history[-1] < infimum + 1e-3
    assert np.count_nonzero((softmax.X @ W + b).argmax(axis=1) == softmax.y) == 148


def test_softmax_regression_agrees_with_lbfgs():
    optimize = pytest.importorskip("scipy.optimize")
    problem = demo.make_problems()[2]
    A = with_intercept(problem.X)

    def objective(w):
        value, grad = fl.cross_entropy.value_and_grad(A @ w.reshape(5, 3), problem.y)
        return value, (A.T @ grad).ravel()

    solved = optimize.minimize(
        objective, np.zeros(15), jac=True, method="L-BFGS-B", options={"maxiter": 2000}
    )
    W, b, history = fit(problem)
    assert solved.fun < history[-1] < solved.fun + 1e-3
    predicted = (A @ solved.x.reshape(5, 3)).argmax(axis=1)
    np.testing.assert_array_equal((problem.X @ W + b).argmax(axis=1), predicted)


# What it says about the backends


class TwoFaced:
    """A loss whose gradient differs between the backends by a number of ulp."""

    name = "two_faced"

    def __init__(self, ulps):
        self.error_bounds = {"value": {"float64": 1.0}, "grad": {"float64": 2.0}}
        self.error = {"numpy": 0.0, "other": ulps * np.spacing(1.0)}

    def use_backend(self, name):
        self.active = name
        return contextlib.nullcontext()

    def value_and_grad(self, logits, y):
        return 1.0, np.array([1, 1 + self.error[self.active]])


def test_compare_reports_ulp_and_holds_the_bound(monkeypatch):
    for ulps in (0, 3, 4):
        loss = TwoFaced(ulps)
        monkeypatch.setattr(demo.fl, "use_backend", loss.use_backend)
        assert demo.compare(loss, None, None, "other") == [0, ulps]
    for ulps in (5, np.nan):
        loss = TwoFaced(ulps)
        monkeypatch.setattr(demo.fl, "use_backend", loss.use_backend)
        with pytest.raises(ArithmeticError, match=r"grad of two_faced .* within 4\.0 ulp"):
            demo.compare(loss, None, None, "other")


def test_disagreement_is_reported_and_is_a_failure(monkeypatch, capsys):
    def disagree(*arguments):
        raise ArithmeticError("value of mse_loss must be within 1 ulp, not 9")

    short = [problem._replace(steps=3) for problem in demo.make_problems()]
    monkeypatch.setattr(demo, "make_problems", lambda: short)
    monkeypatch.setattr(demo, "BACKENDS", ("numpy",))
    monkeypatch.setattr(demo, "compare", disagree)
    assert demo.report(None, can_plot=False) == 1
    assert "DISAGREE: value of mse_loss must be within 1 ulp, not 9" in capsys.readouterr().out


def test_ulp_difference():
    x = np.array([1, -3, 0, 5e-324, 1e300])
    assert demo.ulp_difference(x, x) == 0
    assert demo.ulp_difference(np.nextafter(x, np.inf), x) == 1
    assert demo.ulp_difference(1 + 2**-51, 1.0) == 2
    assert np.isnan(demo.ulp_difference([np.nan], [1.0]))


# The command line


def run(*arguments, cwd, **variables):
    environment = {**os.environ, **variables}
    # So that the subprocess finds this very package from another directory.
    environment["PYTHONPATH"] = str(Path(fl.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "fusedloss", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,  # the first run compiles with Numba, perhaps on a busy machine
    )


def test_command_without_arguments_prints_the_configuration(tmp_path):
    done = run(cwd=tmp_path, FUSEDLOSS_BACKEND="numpy")
    assert (done.returncode, done.stderr) == (0, "")
    assert fl.__version__ in done.stdout
    assert "numpy" in done.stdout


def test_demo_command(tmp_path):
    done = run("demo", "--no-plot", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    out = done.stdout
    assert f"with the backend {fl.runtime_info()['backend']}" in out
    assert "R^2 0.9379, root mean square error 0.189 cm" in out
    assert "accuracy 98.0% (98 of 100 flowers)" in out
    assert "accuracy 98.7% (148 of 150 flowers)" in out
    assert max(map(len, out.splitlines())) <= 80
    assert out.isascii()
    assert list(tmp_path.iterdir()) == []
    words = " ".join(out.split())
    for name in demo.BACKENDS:
        reason = absence(name)
        if reason is None:
            assert f"{name} not available" not in words
        else:
            assert f"{name} not available: {' '.join(reason.split())}" in words


def absence(name):
    """Return why the backend cannot be used here, or None."""
    try:
        with fl.use_backend(name):
            return None
    except ImportError as error:
        return str(error)


def test_demo_command_with_numpy_alone_gives_the_same_fit(tmp_path):
    done = run("demo", "--no-plot", "--backend", "numpy", cwd=tmp_path)
    assert done.returncode == 0
    assert "with the backend numpy" in done.stdout
    assert "accuracy 98.7% (148 of 150 flowers)" in done.stdout


@pytest.mark.skipif(not HAVE_MATPLOTLIB, reason="matplotlib is not installed")
def test_demo_command_saves_a_plot(tmp_path):
    done = run("demo", "--plot", "iris.png", cwd=tmp_path)
    assert done.returncode == 0
    assert "Plot saved as iris.png" in done.stdout
    assert (tmp_path / "iris.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [path.name for path in tmp_path.iterdir()] == ["iris.png"]


def parse(*arguments):
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(arguments)


def test_plot_without_matplotlib_is_refused_before_any_work(monkeypatch, capsys):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    monkeypatch.setattr(demo, "report", lambda *arguments: pytest.fail("the work has begun"))
    with pytest.raises(SystemExit, match="2"):
        demo.run(parse("--plot", "iris.png"))
    assert "--plot needs matplotlib, which is not installed" in capsys.readouterr().err


def test_without_matplotlib_the_default_is_no_plot(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    monkeypatch.setattr(demo, "report", lambda path, can_plot: (path, can_plot))
    assert demo.run(parse()) == (None, False)
    monkeypatch.setattr(demo, "find_spec", lambda name: object())
    assert demo.run(parse()) == (demo.PLOT, True)
    assert demo.run(parse("--no-plot")) == (None, True)
    assert demo.run(parse("--plot", "iris.png")) == ("iris.png", True)


def test_missing_backend_is_named_with_its_reason(monkeypatch, capsys):
    def refuse(name):
        raise ImportError(f"{name} is not installed")

    monkeypatch.setattr(demo.fl, "use_backend", refuse)
    with pytest.raises(SystemExit, match="2"):
        demo.run(parse("--backend", "numba"))
    assert "argument --backend: numba is not installed" in capsys.readouterr().err

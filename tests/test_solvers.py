"""Models of real data, fitted by SciPy through `value_and_grad` and by Newton's method.

What a fit must reach is known without us: the minimum that another solver finds with a textbook
objective of its own, and the conditions that hold at a minimum.
"""

from importlib.resources import files

import numpy as np
import pytest

import fusedloss as fl

optimize = pytest.importorskip("scipy.optimize")
special = pytest.importorskip("scipy.special")

RIDGE = 1e-3  # the classes of iris can almost be separated: without it the weights would grow


def iris():
    table = np.genfromtxt(
        files("fusedloss") / "data" / "iris.csv", delimiter=",", skip_header=1, dtype=str
    )
    features = table[:, :4].astype(float)
    _, species = np.unique(table[:, 4], return_inverse=True)
    return standardised(features), species


def datasets():
    """(name, features with a constant, labels): iris as shipped, more where scikit-learn is."""
    found = [("iris", *iris())]
    try:
        from sklearn import datasets as sklearn_datasets
    except ImportError:
        return found
    for name in ("wine", "breast_cancer", "digits"):
        features, labels = getattr(sklearn_datasets, f"load_{name}")(return_X_y=True)
        part = slice(None, None, 4 if name == "digits" else 1)  # 450 of 1797 digits are enough
        found.append((name, standardised(features[part]), labels[part]))
    return found


def standardised(features):
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return np.column_stack([np.ones(len(scaled)), scaled])


DATASETS = [pytest.param(*data[1:], id=data[0]) for data in datasets()]


def softmax_objective(X, y, loss=fl.cross_entropy, **options):
    """Ridge-penalised softmax regression: the value and the gradient of the weights."""
    classes = int(y.max()) + 1

    def objective(flat):
        W = flat.reshape(X.shape[1], classes)
        value, grad = loss.value_and_grad(X @ W, y, **options)
        return value + RIDGE / 2 * flat @ flat, (X.T @ grad + RIDGE * W).ravel()

    return objective, np.zeros(X.shape[1] * classes)


def textbook_softmax_value(flat, X, y):
    """The same objective from log_softmax of SciPy, for another solver."""
    W = flat.reshape(X.shape[1], -1)
    log_p = special.log_softmax(X @ W, axis=1)
    return -log_p[np.arange(len(y)), y].mean() + RIDGE / 2 * flat @ flat


@pytest.mark.parametrize(("X", "y"), DATASETS)
def test_softmax_regression_by_l_bfgs(X, y, backend):
    objective, start = softmax_objective(X, y)
    fit = optimize.minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "gtol": 1e-7, "ftol": 0},
    )
    assert np.abs(fit.jac).max() < 1e-6, fit.message
    # Convex, so where the gradient vanishes there is the minimum; SciPy's own value is the same.
    np.testing.assert_allclose(fit.fun, textbook_softmax_value(fit.x, X, y), rtol=1e-12)
    # The first row of weights multiplies a constant: observed frequencies equal predicted ones,
    # but for the pull of the ridge.
    W = fit.x.reshape(X.shape[1], -1)
    predicted = fl.softmax(X @ W).mean(axis=0)
    observed = np.bincount(y) / len(y)
    np.testing.assert_allclose(predicted + RIDGE * W[0], observed, atol=1e-5)
    assert (np.argmax(X @ W, axis=1) == y).mean() > 0.95


def test_softmax_regression_with_differences_lands_in_the_same_place(backend):
    """SciPy with its own numerical gradient of its own value: no derivative of ours at all."""
    X, y = iris()
    objective, start = softmax_objective(X, y)
    ours = optimize.minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-8})
    theirs = optimize.minimize(
        textbook_softmax_value, start, args=(X, y), method="BFGS", options={"gtol": 1e-6}
    )
    np.testing.assert_allclose(ours.fun, theirs.fun, rtol=1e-8)
    np.testing.assert_allclose(ours.x, theirs.x, atol=1e-2)


@pytest.mark.parametrize(("X", "y"), DATASETS)
def test_softmax_regression_in_float32(X, y, backend):
    """Logits and gradient in half the memory: the same fit to four digits of the loss."""
    objective, start = softmax_objective(X, y)
    classes = int(y.max()) + 1

    def narrow(flat):
        W = flat.reshape(X.shape[1], classes)
        logits = (X @ W).astype("float32")
        value, grad = fl.cross_entropy.value_and_grad(logits, y.astype("uint8"), out=logits)
        return value + RIDGE / 2 * flat @ flat, (X.T @ grad + RIDGE * W).ravel()

    wide = optimize.minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}
    )
    fit = optimize.minimize(narrow, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    np.testing.assert_allclose(fit.fun, wide.fun, rtol=1e-3)


def newton_step(X, grad, hess, w):
    """One Newton step of a model with one output: X' H X d = X' g, with the ridge."""
    H = X.T @ (X * hess[:, None]) + RIDGE * np.eye(X.shape[1])
    return np.linalg.solve(H, X.T @ grad + RIDGE * w)


@pytest.mark.parametrize("weighted", [False, True])
def test_logistic_regression_by_newton(weighted, backend):
    """Versicolor or virginica, by grad_and_hess: quadratic convergence to SciPy's minimum."""
    X, species = iris()
    X, y = X[species > 0], (species[species > 0] - 1).astype("int8")
    options = {"weight": np.linspace(0.5, 2, len(y)), "pos_weight": 3.0} if weighted else {}
    loss = fl.binary_cross_entropy_with_logits
    w = np.zeros(X.shape[1])
    slopes = []
    for _ in range(12):
        grad, hess = loss.grad_and_hess(X @ w, y, **options)
        slopes.append(np.abs(X.T @ grad + RIDGE * w).max())
        w = w - newton_step(X, grad, hess, w)
    assert slopes[-1] < 1e-13, slopes
    # Quadratic: once close, the next slope is of the order of the square.
    near = next(i for i, slope in enumerate(slopes) if slope < 1e-4)
    assert slopes[near + 1] < 300 * slopes[near] ** 2, slopes

    def textbook(w):
        z = X @ w
        positive = options.get("pos_weight", 1.0) * y * -special.log_expit(z)
        rows = positive + (1 - y) * -special.log_expit(-z)
        return (options.get("weight", 1.0) * rows).mean() + RIDGE / 2 * w @ w

    theirs = optimize.minimize(textbook, np.zeros(len(w)), method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(textbook(w), theirs.fun, rtol=1e-10)
    np.testing.assert_allclose(w, theirs.x, atol=1e-2)


@pytest.mark.parametrize(("X", "y"), DATASETS)
def test_softmax_regression_by_diagonal_newton(X, y, backend):
    """The diagonal alone, doubled so that it bounds the full Hessian: every step goes down."""
    classes = int(y.max()) + 1
    W = np.zeros((X.shape[1], classes))
    values = []
    for _ in range(15):
        values.append(fl.cross_entropy(X @ W, y) + RIDGE / 2 * (W**2).sum())
        grad, hess = fl.cross_entropy.grad_and_hess(X @ W, y)
        for c in range(classes):
            W[:, c] -= newton_step(X, grad[:, c], 2 * hess[:, c], W[:, c])
    assert np.all(np.diff(values) < 1e-12), values
    objective, start = softmax_objective(X, y)
    best = optimize.minimize(objective, start, jac=True, method="L-BFGS-B").fun
    assert values[0] - values[-1] > 0.9 * (values[0] - best), (values, best)


def test_linear_regression_by_one_newton_step(backend):
    """Petal width from the other measurements: the squared error is quadratic, so one step ends."""
    X, _ = iris()
    X, y = X[:, :4], X[:, 4].copy()
    grad, hess = fl.mse_loss.grad_and_hess(np.zeros(len(y)), y)
    w = -np.linalg.solve(X.T @ (X * hess[:, None]), X.T @ grad)
    expected, residual, _, _ = np.linalg.lstsq(X, y)
    np.testing.assert_allclose(w, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(fl.mse_loss(X @ w, y, reduction="sum"), residual[0], rtol=1e-10)


def test_probabilities_by_a_bounded_solver(backend):
    """binary_cross_entropy of free probabilities: the minimum is at the observed frequencies."""
    _, species = iris()
    y = (species == 2).astype(float)
    group = np.arange(len(y)) % 7

    def objective(p):
        value, grad = fl.binary_cross_entropy.value_and_grad(p[group], y)
        return value, np.bincount(group, weights=grad)

    fit = optimize.minimize(
        objective, np.full(7, 0.5), jac=True, method="L-BFGS-B", bounds=[(1e-6, 1 - 1e-6)] * 7
    )
    frequencies = np.bincount(group, weights=y) / np.bincount(group)
    np.testing.assert_allclose(fit.x, frequencies, atol=1e-4)

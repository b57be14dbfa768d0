"""LightGBM and XGBoost with `grad_and_hess(..., reduction="sum")` as their objective.

Each must land where its own loss lands: same trees, so the same raw scores. Our Hessian is the
exact diagonal; what the built-in objectives use instead is written here as named rules, because it
has changed between releases.
"""

import warnings
from importlib.resources import files

import numpy as np
import pytest

import fusedloss as fl

pytestmark = pytest.mark.filterwarnings("ignore")

ROUNDS = 20
# Scores after 20 rounds; the libraries keep gradients in float32, so roundings differ a little.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def imported(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def iris():
    table = np.genfromtxt(
        files("fusedloss") / "data" / "iris.csv", delimiter=",", skip_header=1, dtype=str
    )
    _, species = np.unique(table[:, 4], return_inverse=True)
    return table[:, :4].astype(float), species


X, SPECIES = iris()
TWO = SPECIES > 0
BINARY_X, BINARY_Y = X[TWO], SPECIES[TWO] - 1
WEIGHT = np.random.default_rng(1).uniform(0.5, 2, size=len(X))

# Boosters hand labels over as floats, which would be class probabilities: the objectives below
# cast them to integers.


def lightgbm_multiclass(scores, labels, weight):
    """K / (K - 1) p (1 - p), Friedman's factor for the redundant class."""
    classes = scores.shape[1]
    grad, hess = fl.cross_entropy.grad_and_hess(
        scores, labels.astype(int), sample_weight=weight, reduction="sum"
    )
    return grad, hess * classes / (classes - 1)


def xgboost_doubled(scores, labels, weight):
    """max(2 p (1 - p), 1e-16): the rule up to 2026."""
    grad, hess = fl.cross_entropy.grad_and_hess(
        scores, labels.astype(int), sample_weight=weight, reduction="sum"
    )
    return grad, np.maximum(2 * hess, 1e-16)


def xgboost_absolute(scores, labels, weight):
    """|p - [c = y]|: the rule that follows it."""
    grad, _ = fl.cross_entropy.grad_and_hess(
        scores, labels.astype(int), sample_weight=weight, reduction="sum"
    )
    return grad, np.abs(grad)


def exact_binary(scores, labels, weight):
    return fl.binary_cross_entropy_with_logits.grad_and_hess(
        scores, labels.astype(int), weight=weight, reduction="sum"
    )


def half_squares(scores, labels, weight):
    """The boosters' squared error has a factor 1/2."""
    grad, hess = fl.mse_loss.grad_and_hess(scores, labels, weight=weight, reduction="sum")
    return grad / 2, hess / 2


def ones(weight, labels):
    return np.ones(len(labels)) if weight is None or not len(weight) else weight


# ---------------------------------------------------------------------------------- LightGBM

LIGHTGBM = {
    "learning_rate": 0.3,
    "min_data_in_leaf": 5,
    "num_leaves": 6,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "boost_from_average": False,
    "verbosity": -1,
    "seed": 1,
}


def lightgbm_scores(features, labels, weight, objective, **more):
    lightgbm = imported("lightgbm")
    if callable(objective):
        rule = objective

        def objective(scores, data):
            grad, hess = rule(scores, data.get_label(), ones(data.get_weight(), scores))
            return grad, hess

    data = lightgbm.Dataset(features, labels, weight=weight)
    model = lightgbm.train({**LIGHTGBM, **more, "objective": objective}, data, ROUNDS)
    return model.predict(features, raw_score=True)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["no weights", "weights"])
def test_lightgbm_multiclass(weight, backend):
    ours = lightgbm_scores(X, SPECIES, weight, lightgbm_multiclass, num_class=3)
    theirs = lightgbm_scores(X, SPECIES, weight, "multiclass", num_class=3)
    np.testing.assert_allclose(ours, theirs, **CLOSE)
    assert fl.cross_entropy(ours, SPECIES) < 0.05


@pytest.mark.parametrize("weight", [None, WEIGHT[TWO]], ids=["no weights", "weights"])
def test_lightgbm_binary(weight, backend):
    ours = lightgbm_scores(BINARY_X, BINARY_Y, weight, exact_binary)
    theirs = lightgbm_scores(BINARY_X, BINARY_Y, weight, "binary")
    np.testing.assert_allclose(ours, theirs, **CLOSE)
    assert fl.binary_cross_entropy_with_logits(ours, BINARY_Y) < 0.1


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["no weights", "weights"])
def test_lightgbm_regression(weight, backend):
    ours = lightgbm_scores(X[:, :3], X[:, 3], weight, half_squares)
    theirs = lightgbm_scores(X[:, :3], X[:, 3], weight, "regression")
    np.testing.assert_allclose(ours, theirs, **CLOSE)
    assert fl.mse_loss(ours, X[:, 3]) < 0.03


def test_the_comparison_sees_a_wrong_hessian(backend):
    """The plain diagonal without Friedman's factor grows other trees."""

    def plain(scores, labels, weight):
        return fl.cross_entropy.grad_and_hess(scores, labels.astype(int), reduction="sum")

    ours = lightgbm_scores(X, SPECIES, None, plain, num_class=3)
    theirs = lightgbm_scores(X, SPECIES, None, "multiclass", num_class=3)
    assert not np.allclose(ours, theirs, **CLOSE)


# ----------------------------------------------------------------------------------- XGBoost

XGBOOST = {
    "eta": 0.3,
    "max_depth": 3,
    "nthread": 1,
    "tree_method": "exact",
    "seed": 1,
    "verbosity": 0,
}


def xgboost_scores(features, labels, weight, objective, **more):
    xgboost = imported("xgboost")
    data = xgboost.DMatrix(features, labels, weight=weight)
    options = {**XGBOOST, **more}
    if callable(objective):

        def custom(scores, data):
            return objective(scores, data.get_label(), ones(data.get_weight(), scores))

        # The scores start at 0, as those of the built-in objectives do with the settings below.
        model = xgboost.train({**options, "base_score": 0.0}, data, ROUNDS, obj=custom)
    else:
        model = xgboost.train({**options, "objective": objective}, data, ROUNDS)
    return model.predict(data, output_margin=True)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["no weights", "weights"])
def test_xgboost_multiclass(weight, backend):
    """By the rule of the installed release, whichever that is."""
    theirs = xgboost_scores(X, SPECIES, weight, "multi:softprob", num_class=3, base_score=0.0)
    found = {}
    for rule in (xgboost_doubled, xgboost_absolute):
        ours = xgboost_scores(X, SPECIES, weight, rule, num_class=3)
        found[rule.__name__] = np.allclose(ours, theirs, **CLOSE)
        assert fl.cross_entropy(ours, SPECIES) < 0.1
    assert sum(found.values()) == 1, found


@pytest.mark.parametrize("weight", [None, WEIGHT[TWO]], ids=["no weights", "weights"])
def test_xgboost_binary(weight, backend):
    ours = xgboost_scores(BINARY_X, BINARY_Y, weight, exact_binary)
    theirs = xgboost_scores(BINARY_X, BINARY_Y, weight, "binary:logistic", base_score=0.5)
    np.testing.assert_allclose(ours, theirs, **CLOSE)
    assert fl.binary_cross_entropy_with_logits(ours, BINARY_Y) < 0.2


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["no weights", "weights"])
def test_xgboost_regression(weight, backend):
    ours = xgboost_scores(X[:, :3], X[:, 3], weight, half_squares)
    theirs = xgboost_scores(X[:, :3], X[:, 3], weight, "reg:squarederror", base_score=0.0)
    np.testing.assert_allclose(ours, theirs, **CLOSE)
    assert fl.mse_loss(ours, X[:, 3]) < 0.03

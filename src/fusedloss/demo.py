"""Three models of Fisher's iris measurements, fitted by plain gradient descent.

``python -m fusedloss demo`` runs this file. It reads from top to bottom: the data, the loop
(`fit`), the three problems, then what is printed about them, how far the backends differ, and what
one call costs on each.
"""

from __future__ import annotations

import time
from importlib.resources import files
from importlib.util import find_spec
from statistics import median
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fusedloss as fl
from fusedloss.losses import Loss

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

Array = NDArray[Any]

BACKENDS = ("cython", "numba", "numpy")
PLOT = "fusedloss-demo.png"
WIDTH = 80

# --------------------------------------------------------------------------------------------------
# The data
# --------------------------------------------------------------------------------------------------


def load_iris() -> tuple[Array, Array, list[str]]:
    """Read Fisher's iris measurements.

    Returns
    -------
    flowers : (150, 4) float64 array
        Sepal length, sepal width, petal length and petal width, in cm.
    species : (150,) int64 array
        0, 1 or 2: the position in `names`.
    names : list of str
        ``["setosa", "versicolor", "virginica"]``.
    """
    text = files("fusedloss").joinpath("data/iris.csv").read_text(encoding="utf-8")
    _, *rows = (line.split(",") for line in text.splitlines())
    names = sorted({row[-1] for row in rows})
    flowers = np.array([row[:-1] for row in rows], dtype=np.float64)
    species = np.array([names.index(row[-1]) for row in rows], dtype=np.int64)
    return flowers, species, names


def standardise(X: Array) -> Array:
    """Scale each column to mean 0 and standard deviation 1: one step size then suits them all."""
    scaled: Array = (X - X.mean(axis=0)) / X.std(axis=0)
    return scaled


# --------------------------------------------------------------------------------------------------
# The loop
# --------------------------------------------------------------------------------------------------


def fit(
    loss: Loss, X: Array, y: Array, outputs: int, steps: int, rate: float
) -> tuple[Array, Array, Array]:
    """Fit the linear model ``X @ W + b`` to `y` by gradient descent on ``loss(X @ W + b, y)``.

    Parameters
    ----------
    loss : Loss
        ``fl.mse_loss``, ``fl.cross_entropy``, ...
    X : (n, features) array
        One row per flower.
    y : array
        What the loss expects as its target.
    outputs : int
        Number of columns of the model's output: 1, or the number of classes.
    steps : int
        Number of gradient steps.
    rate : float
        Length of a step, as a multiple of the gradient.

    Returns
    -------
    W, b : (features, outputs) and (outputs,) arrays
        The fitted weights.
    history : (steps,) array
        The loss before each step.
    """
    W, b = np.zeros((X.shape[1], outputs)), np.zeros(outputs)
    buffer = np.empty((X.shape[0], outputs))  # the gradient of every step goes here
    history = np.empty(steps)
    for step in range(steps):
        logits = X @ W + b
        history[step], grad = loss.value_and_grad(logits, y, out=buffer)
        W -= rate * (X.T @ grad)
        b -= rate * grad.sum(axis=0)
    return W, b, history


# --------------------------------------------------------------------------------------------------
# The three problems
# --------------------------------------------------------------------------------------------------


class Problem(NamedTuple):
    """A model to fit: what it is called, its loss, its data, and how long to descend."""

    title: str
    loss: Loss
    X: Array
    y: Array
    outputs: int
    steps: int
    rate: float


def make_problems() -> list[Problem]:
    """Return the three problems: linear, logistic and softmax regression."""
    flowers, species, _ = load_iris()
    two = species > 0  # versicolor and virginica, the pair that overlaps
    return [
        Problem(
            title="Petal width from the other three measurements: linear regression",
            loss=fl.mse_loss,
            X=standardise(flowers[:, :3]),
            y=flowers[:, 3:],
            outputs=1,
            steps=1000,
            rate=0.3,
        ),
        Problem(
            title="Versicolor or virginica: logistic regression",
            loss=fl.binary_cross_entropy_with_logits,
            X=standardise(flowers[two]),
            y=species[two][:, None] - 1,
            outputs=1,
            steps=2000,
            rate=8.0,
        ),
        Problem(
            title="All three species: softmax regression",
            loss=fl.cross_entropy,
            X=standardise(flowers),
            y=species,
            outputs=3,
            steps=3000,
            rate=4.0,
        ),
    ]


def r_squared(prediction: Array, y: Array) -> float:
    """Return the share of the variance of `y` that the prediction explains."""
    return float(1 - np.mean((prediction - y) ** 2) / np.var(y))


def confusion(predicted: Array, actual: Array, classes: int) -> Array:
    """Count the flowers of each actual class (rows) by predicted class (columns)."""
    table = np.zeros((classes, classes), dtype=int)
    np.add.at(table, (actual, predicted), 1)
    return table


# --------------------------------------------------------------------------------------------------
# What is printed about a fit
# --------------------------------------------------------------------------------------------------


def heading(text: str) -> None:
    """Print a section heading."""
    print(f"\n{text}\n{'-' * len(text)}")


def show_descent(history: Array) -> None:
    """Print the loss before steps 0, 1, 10, 100, ... and the last, with a bar of that length."""
    last = len(history) - 1
    shown = [0, *(10**k for k in range(9) if 10**k < last), last]
    print(f"{'step':>8}  {'loss':>10}")
    for step in shown:
        bar = "#" * round(50 * history[step] / history[0])
        print(f"{step:>8}  {history[step]:>10.6f}  {bar}".rstrip())


def show_counts(table: Array, names: list[str]) -> None:
    """Print a confusion table."""
    width = max(map(len, names)) + 2
    print(
        f"\n  {'':>{width}}   predicted\n  {'actual':<{width}}"
        + "".join(f"{name:>{width}}" for name in names)
    )
    for name, row in zip(names, table, strict=True):
        print(f"  {name:<{width}}" + "".join(f"{count:>{width}}" for count in row))


def fit_and_show(problems: list[Problem], names: list[str]) -> tuple[list[Array], list[Array]]:
    """Fit each problem, print how it went, and return the fitted outputs and the loss histories."""
    outputs: list[Array] = []
    histories: list[Array] = []
    for number, problem in enumerate(problems, 1):
        heading(f"{number}. {problem.title}")
        start = time.perf_counter()
        W, b, history = fit(
            problem.loss, problem.X, problem.y, problem.outputs, problem.steps, problem.rate
        )
        seconds = time.perf_counter() - start
        flowers, features = problem.X.shape
        print(f"{problem.loss.name}: {flowers} flowers, {features} features, ", end="")
        print(f"{problem.steps} steps, {seconds:.2f} s\n")
        show_descent(history)
        prediction = problem.X @ W + b
        outputs.append(prediction)
        histories.append(history)
        if problem.loss is fl.mse_loss:
            error = np.sqrt(np.mean((prediction - problem.y) ** 2))
            r2 = r_squared(prediction, problem.y)
            print(f"\n  R^2 {r2:.4f}, root mean square error {error:.3f} cm")
            continue
        if problem.loss is fl.cross_entropy:
            predicted, actual, classes = prediction.argmax(axis=1), problem.y, names
        else:
            predicted, actual, classes = (
                (prediction[:, 0] > 0).astype(int),
                problem.y[:, 0],
                names[1:],
            )
        right = np.count_nonzero(predicted == actual)
        print(f"\n  accuracy {right / len(actual):.1%} ({right} of {len(actual)} flowers)")
        show_counts(confusion(predicted, actual, len(classes)), classes)
    return outputs, histories


# --------------------------------------------------------------------------------------------------
# The backends side by side
# --------------------------------------------------------------------------------------------------


def find_backends(problems: list[Problem]) -> list[str]:
    """Name each backend, or say why it is not available; return the names of those that are."""
    found = []
    for name in BACKENDS:
        print(f"  {name:<8}", end="", flush=True)
        try:
            with fl.use_backend(name):
                info = fl.runtime_info()
                if name == "numba":
                    print("compiling, unless it is kept from last time ... ", end="", flush=True)
                    print(f"{compile_losses(problems):.1f} s")
                elif name == "cython":
                    print(f"compiled for {info['isa']}, threads: {info['num_threads']}")
                else:
                    print("the reference: textbook formulae in float64")
        except ImportError as error:
            print(fill(f"not available: {error}", WIDTH - 10).replace("\n", "\n" + " " * 10))
        else:
            found.append(name)
    return found


def compile_losses(problems: list[Problem]) -> float:
    """Call each loss on the active backend, which compiles it, and return the seconds this took."""
    start = time.perf_counter()
    for problem in problems:
        logits = np.zeros((len(problem.X), problem.outputs))
        problem.loss.value_and_grad(logits, problem.y)
    return time.perf_counter() - start


def ulp_difference(actual: Any, expected: Any) -> float:
    """Return the largest difference of two arrays, in units in the last place of `expected`."""
    return float(np.max(np.abs(np.subtract(actual, expected)) / np.spacing(np.abs(expected))))


def compare(loss: Loss, logits: Array, y: Array, backend: str) -> list[float]:
    """Return how far a backend's value and gradient are from those of the reference, in ulp.

    Raises `ArithmeticError` if that is more than the error bounds of the loss allow: one for the
    backend plus one for the reference.
    """
    results = {}
    for name in ("numpy", backend):
        with fl.use_backend(name):
            results[name] = loss.value_and_grad(logits, y)
    differences = []
    for output, actual, expected in zip(
        ("value", "grad"), results[backend], results["numpy"], strict=True
    ):
        difference = ulp_difference(actual, expected)
        bound = 2 * loss.error_bounds[output]["float64"]
        if not difference <= bound:  # nan is a difference too
            raise ArithmeticError(
                f"{output} of {loss.name} on the backend {backend} must be within "
                f"{bound} ulp of the reference, not {difference}"
            )
        differences.append(difference)
    return differences


def show_agreement(problems: list[Problem], outputs: list[Array], backends: list[str]) -> None:
    """Print the largest difference between each backend and the reference, loss by loss."""
    heading("Do the backends agree?")
    print("Largest difference from the backend numpy at the fitted models, in units in")
    print("the last place (ulp) of float64:\n")
    others = [name for name in backends if name != "numpy"]
    if not others:
        print("  numpy is the only backend here: nothing to compare.")
        return
    print(f"  {'loss':<34}{'backend':<10}{'value':>8}{'gradient':>12}")
    for problem, output in zip(problems, outputs, strict=True):
        for backend in others:
            value, grad = compare(problem.loss, output, problem.y, backend)
            print(f"  {problem.loss.name:<34}{backend:<10}{value:>8.1f}{grad:>12.1f}")


def seconds_per_call(
    loss: Loss, logits: Array, y: Array, buffer: Array, repeats: int = 7, budget: float = 0.02
) -> float:
    """Return the median time of one call over several repeats, each long enough for the clock."""
    start = time.perf_counter()
    loss.value_and_grad(logits, y, out=buffer)
    once = time.perf_counter() - start
    number = max(1, min(10000, int(budget / repeats / once)))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(number):
            loss.value_and_grad(logits, y, out=buffer)
        times.append((time.perf_counter() - start) / number)
    return median(times)


def short(number: float, digits: int = 2) -> str:
    """Write a number with decimals only where they mean something."""
    return f"{number:.{digits}f}" if number < 100 else f"{number:.0f}"


def show_cost(
    problems: list[Problem], outputs: list[Array], backends: list[str], copies: int = 1000
) -> None:
    """Print what one ``value_and_grad`` costs on each backend, for the flowers and many copies."""
    heading("What does one call cost?")
    print("Median time of value_and_grad(logits, y, out=buffer) in microseconds (float64),")
    print("and how many times faster than the backend numpy that is:")
    others = [name for name in backends if name != "numpy"]
    for repeat in (1, copies):
        print(
            f"\n  {'loss':<34}{'rows':>7}{'numpy':>10}" + "".join(f"{name:>13}" for name in others)
        )
        for problem, output in zip(problems, outputs, strict=True):
            logits = np.tile(output, (repeat, 1))
            y = np.concatenate([problem.y] * repeat)
            buffer = np.empty_like(logits)
            cost = {}
            for backend in backends:
                compare(problem.loss, logits, y, backend)  # nothing wrong is ever timed
                with fl.use_backend(backend):
                    cost[backend] = seconds_per_call(problem.loss, logits, y, buffer)
            line = f"  {problem.loss.name:<34}{len(logits):>7}{short(cost['numpy'] * 1e6):>10}"
            for backend in others:
                ratio = short(cost["numpy"] / cost[backend], 1) + "x"
                line += f"{short(cost[backend] * 1e6):>7}{ratio:>6}"
            print(line)


# --------------------------------------------------------------------------------------------------
# The plot
# --------------------------------------------------------------------------------------------------


def save_plot(
    path: str, problems: list[Problem], outputs: list[Array], histories: list[Array]
) -> None:
    """Save a page of four plots: the losses falling, and the three fitted models."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    flowers, species, names = load_iris()
    styles = [
        ("#0072b2", "o"),
        ("#e69f00", "s"),
        ("#009e73", "^"),
    ]  # told apart by shape as well as by colour
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    (falling, linear), (logistic, softmax) = figure.subplots(2, 2)
    figure.suptitle("fusedloss: three models of Fisher's iris measurements")

    for problem, history, line in zip(problems, histories, ("-", "--", ":"), strict=True):
        falling.loglog(
            np.arange(1, len(history) + 1), history, line, color="black", label=problem.loss.name
        )
    falling.set(title="The loss falls", xlabel="step", ylabel="loss")
    falling.legend(fontsize="small")

    for k, (colour, marker) in enumerate(styles):
        chosen = species == k
        linear.plot(
            flowers[chosen, 3],
            outputs[0][chosen, 0],
            marker,
            color=colour,
            alpha=0.7,
            label=names[k],
        )
    linear.axline((1, 1), slope=1, color="black", linewidth=1)
    linear.set(title=f"Linear regression: $R^2$ = {r_squared(outputs[0], problems[0].y):.3f}",
               xlabel="petal width, measured (cm)", ylabel="petal width, fitted (cm)")  # fmt: skip
    linear.legend(fontsize="small")

    labels = problems[1].y[:, 0]
    z = np.linspace(-np.abs(outputs[1]).max(), np.abs(outputs[1]).max(), 400)
    logistic.plot(z, fl.sigmoid(z), color="black", linewidth=1, label="sigmoid(logit)")
    for k in (0, 1):
        colour, marker = styles[k + 1]
        chosen = labels == k
        logistic.plot(
            outputs[1][chosen, 0],
            labels[chosen],
            marker,
            color=colour,
            alpha=0.5,
            label=names[k + 1],
        )
    right = np.count_nonzero((outputs[1][:, 0] > 0) == labels)
    logistic.axvline(0, color="grey", linewidth=1, linestyle=":")
    logistic.set(title=f"Logistic regression: {right} of {len(labels)} right",
                 xlabel="logit", ylabel="probability of virginica")  # fmt: skip
    logistic.legend(fontsize="small", loc="center left")

    predicted = outputs[2].argmax(axis=1)
    for k, (colour, marker) in enumerate(styles):
        chosen = species == k
        softmax.plot(
            flowers[chosen, 2], flowers[chosen, 3], marker, color=colour, alpha=0.7, label=names[k]
        )
    wrong = predicted != species
    softmax.plot(
        flowers[wrong, 2],
        flowers[wrong, 3],
        "o",
        markersize=14,
        fillstyle="none",
        color="black",
        label="wrong",
    )
    softmax.set(title=f"Softmax regression: {np.count_nonzero(~wrong)} of {len(species)} right",
                xlabel="petal length (cm)", ylabel="petal width (cm)")  # fmt: skip
    softmax.legend(fontsize="small")
    figure.savefig(path, dpi=120)


# --------------------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------------------


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of ``python -m fusedloss demo`` to an argparse parser."""
    parser.add_argument(
        "--backend", choices=BACKENDS, help="fit with this backend (default: the best one here)"
    )
    parser.add_argument(
        "--plot",
        metavar="PATH",
        help=f"save the plot here (default: {PLOT}, where matplotlib is installed)",
    )
    parser.add_argument("--no-plot", action="store_true", help="save no plot")
    parser.set_defaults(parser=parser)


def run(arguments: Namespace) -> int:
    """Run the demo with parsed arguments and return the exit status: 1 if the backends disagree."""
    can_plot = find_spec("matplotlib") is not None
    if arguments.plot and not can_plot:
        arguments.parser.error(
            "--plot needs matplotlib, which is not installed: pip install 'fusedloss[demo]'"
        )
    backend = arguments.backend or fl.runtime_info()["backend"]
    try:
        with fl.use_backend(backend):
            pass
    except ImportError as error:
        arguments.parser.error(f"argument --backend: {error}")
    with fl.use_backend(backend):
        return report(
            None if arguments.no_plot or not can_plot else arguments.plot or PLOT, can_plot
        )


def report(path: str | None, can_plot: bool) -> int:
    """Fit, compare, time and plot."""
    _, _, names = load_iris()
    problems = make_problems()
    backend = fl.runtime_info()["backend"]
    print(f"fusedloss {fl.__version__}: three models of Fisher's iris measurements (150 flowers)")
    print(f"fitted by gradient descent with the backend {backend}")
    if backend == "numba":
        print("compiling with Numba, unless it is kept from last time ... ", end="", flush=True)
        print(f"{compile_losses(problems):.1f} s")
    outputs, histories = fit_and_show(problems, names)

    heading("Which backends are here?")
    backends = find_backends(problems)
    try:
        show_agreement(problems, outputs, backends)
        show_cost(problems, outputs, backends)
    except ArithmeticError as error:
        print(f"\nThe backends DISAGREE: {error}")
        return 1

    if path:
        save_plot(path, problems, outputs, histories)
        print(f"\nPlot saved as {path}")
    elif not can_plot:
        print("\nNo plot: matplotlib is not installed (pip install 'fusedloss[demo]')")
    return 0

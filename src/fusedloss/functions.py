"""Functions of one array that go with the losses: softmax, log-sum-exp, sigmoid and their kin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from .dispatch import evaluate
from .losses.base import Bounds, fill

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

# The largest error in units in the last place (ulp) of the dtype.
ERROR_BOUNDS: Bounds = {
    "softmax": {"float32": 2.0, "float64": 2.5},
    "log_softmax": {"float32": 1.5, "float64": 2.0},
    "logsumexp": {"float32": 1.5, "float64": 2.0},
    "sigmoid": {"float32": 2.0, "float64": 2.5},
    "log_sigmoid": {"float32": 1.5, "float64": 2.0},
    "softplus": {"float32": 1.5, "float64": 2.0},
}

_SHARED = {
    "x_axis": """
x : array_like of float16, bfloat16, float32 or float64
    Of any shape with at least one dimension, and at least one item along `axis`.
axis : int, default -1
    The axis over which exponentials are summed.""",
    "x": """
x : array_like of float16, bfloat16, float32 or float64
    Of any shape.""",
    "out": """
out : ndarray, optional
    Where to write the result: an array of its shape and dtype. It may be `x` itself, which is then
    overwritten.""",
    "num_threads": """
num_threads : int, optional
    The most threads to use, at least 1; None leaves it to `fusedloss.set_num_threads`. The result
    is the same for any number.""",
    "result": """
ndarray
    Of the shape and dtype of `x`.""",
    "raises": """
TypeError
    `x` or `out` is of the wrong dtype, or an option is not an integer.
ValueError
    A shape does not fit, `out` is read-only, or an option is out of range (for `axis` it is a
    `numpy.exceptions.AxisError`).""",
    "same_bits": """
The bits of the result depend neither on the number of threads nor, with the compiled kernels, on
the instruction set. No case emits a warning.""",
}

_Function = TypeVar("_Function")


def _documented(function: _Function) -> _Function:
    name = function.__name__  # type: ignore[attr-defined]
    if function.__doc__:
        bound = ERROR_BOUNDS[name]
        bounds = (
            f"Error bound: {bound['float32']:g} ulp in float32, {bound['float64']:g} in float64."
        )
        function.__doc__ = fill(function.__doc__, {**_SHARED, "bounds": bounds})
    return function


@_documented
def softmax(
    x: ArrayLike, axis: int = -1, *, out: Array | None = None, num_threads: int | None = None
) -> Array:
    """Exponentials divided by their sum: exp(x) / sum(exp(x)).

    Parameters
    ----------
    {x_axis}
    {out}
    {num_threads}

    Returns
    -------
    {result}

    Raises
    ------
    {raises}

    See Also
    --------
    log_softmax, logsumexp, cross_entropy

    Notes
    -----
    {bounds} -inf gives 0. A row of -inf alone, or with +inf or nan, is nan.

    {same_bits}

    Examples
    --------
    >>> import fusedloss as fl
    >>> fl.softmax([1.0, 1.0, float("-inf")])
    array([0.5, 0.5, 0. ])
    """
    result: Array = evaluate("softmax", x, axis, num_threads, out)
    return result


@_documented
def log_softmax(
    x: ArrayLike, axis: int = -1, *, out: Array | None = None, num_threads: int | None = None
) -> Array:
    """Logarithm of the softmax: x - log(sum(exp(x))), without the digits lost in this difference.

    Parameters
    ----------
    {x_axis}
    {out}
    {num_threads}

    Returns
    -------
    {result}

    Raises
    ------
    {raises}

    See Also
    --------
    softmax, logsumexp, cross_entropy

    Notes
    -----
    {bounds} -inf gives -inf. A row of -inf alone, or with +inf or nan, is nan.

    {same_bits}

    Examples
    --------
    >>> import fusedloss as fl
    >>> fl.log_softmax([0.0, 0.0]).round(6)
    array([-0.693147, -0.693147])
    >>> float(fl.log_softmax([20.0, 0.0])[0])  # doctest: +ELLIPSIS
    -2.06115362...e-09
    """
    result: Array = evaluate("log_softmax", x, axis, num_threads, out)
    return result


@_documented
def logsumexp(
    x: ArrayLike, axis: int = -1, *, out: Array | None = None, num_threads: int | None = None
) -> Array:
    """Logarithm of the sum of exponentials: log(sum(exp(x))).

    Parameters
    ----------
    {x_axis}
    {out}
    {num_threads}

    Returns
    -------
    ndarray
        Of the dtype of `x` and its shape without `axis`; with `x` of one dimension an array of
        shape ().

    Raises
    ------
    {raises}

    See Also
    --------
    softmax, log_softmax

    Notes
    -----
    {bounds} Where the largest logit and the logarithm nearly cancel, it is in ulp of the larger of
    them. A row of -inf alone gives -inf; one with nan gives nan, and else one with +inf gives +inf.

    {same_bits}

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp and
       softmax functions", IMA Journal of Numerical Analysis 41, 2021.

    Examples
    --------
    >>> import fusedloss as fl
    >>> fl.logsumexp([[1000.0, 1000.0], [0.0, float("-inf")]]).round(6)
    array([1000.693147,    0.      ])
    """
    result: Array = evaluate("logsumexp", x, axis, num_threads, out)
    return result


@_documented
def sigmoid(x: ArrayLike, *, out: Array | None = None, num_threads: int | None = None) -> Array:
    """Logistic function: 1 / (1 + exp(-x)).

    Parameters
    ----------
    {x}
    {out}
    {num_threads}

    Returns
    -------
    {result}

    Raises
    ------
    {raises}

    See Also
    --------
    log_sigmoid, softplus, binary_cross_entropy_with_logits

    Notes
    -----
    {bounds} -inf gives 0, +inf gives 1, nan gives nan.

    {same_bits}

    Examples
    --------
    >>> import fusedloss as fl
    >>> fl.sigmoid([0.0, 40.0])
    array([0.5, 1. ])
    """
    result: Array = evaluate("sigmoid", x, num_threads, out)
    return result


@_documented
def log_sigmoid(x: ArrayLike, *, out: Array | None = None, num_threads: int | None = None) -> Array:
    """Logarithm of the logistic function: -log(1 + exp(-x)).

    Parameters
    ----------
    {x}
    {out}
    {num_threads}

    Returns
    -------
    {result}

    Raises
    ------
    {raises}

    See Also
    --------
    sigmoid, softplus

    Notes
    -----
    {bounds} -inf gives -inf, +inf gives 0, nan gives nan.

    {same_bits}

    Examples
    --------
    >>> import fusedloss as fl
    >>> fl.log_sigmoid([-10.0, 0.0]).round(6)
    array([-10.000045,  -0.693147])
    """
    result: Array = evaluate("log_sigmoid", x, num_threads, out)
    return result


@_documented
def softplus(x: ArrayLike, *, out: Array | None = None, num_threads: int | None = None) -> Array:
    """Smooth form of max(x, 0): log(1 + exp(x)).

    Parameters
    ----------
    {x}
    {out}
    {num_threads}

    Returns
    -------
    {result}

    Raises
    ------
    {raises}

    See Also
    --------
    sigmoid, log_sigmoid

    Notes
    -----
    {bounds} -inf gives 0, +inf gives +inf, nan gives nan.

    {same_bits}

    Examples
    --------
    >>> import fusedloss as fl
    >>> fl.softplus([0.0, 10.0]).round(6)
    array([ 0.693147, 10.000045])
    """
    result: Array = evaluate("softplus", x, num_threads, out)
    return result

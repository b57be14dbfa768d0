"""Binary cross-entropy, from logits and from probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from ..backends import GRAD_AND_HESS, VALUE, VALUE_AND_GRAD
from ..dispatch import evaluate
from .base import Bounds, Loss, documented, with_fast_methods

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

WEIGHT = """
weight : array_like of real numbers, optional
    A factor for each item, of any sign, in a shape that can be broadcast to that of `{first}`."""

LOGITS_PARAMETERS = """
logits : array_like of float16, bfloat16, float32 or float64
    The log-odds of the label 1, of any shape.
target : array_like of real numbers
    The labels, in the shape of `logits`. Bools, integers 0 and 1, or floats, of which any value is
    accepted: the loss is linear in the target.
{weight}
pos_weight : array_like of real numbers, optional
    A factor for the part of the loss that belongs to the label 1, in a shape that can be broadcast
    to that of `logits`: above 1 it raises recall, below 1 precision.
{reduction}
{num_threads}"""

PROBS_PARAMETERS = """
probs : array_like of float16, bfloat16, float32 or float64
    The probability of the label 1, from 0 to 1 or nan, of any shape.
target : array_like of real numbers
    The labels, in the shape of `probs`. Bools, integers 0 and 1, or floats from 0 to 1 or nan.
{weight}
{reduction}
{num_threads}"""


@documented(first="logits", items="items", parameters=LOGITS_PARAMETERS, weight=WEIGHT)
class BinaryCrossEntropyWithLogits(Loss):
    """Binary cross-entropy of logits: softplus(x) - t x.

    Parameters
    ----------
    {parameters}

    Returns
    -------
    {value}

    Raises
    ------
    {raises}
        Or an integer target is neither 0 nor 1; the first one in C order is named.

    See Also
    --------
    binary_cross_entropy : the same from probabilities; less accurate, as these are close to 1.
    cross_entropy : for classes of which exactly one is right.

    Notes
    -----
    With weight w and pos_weight q, the loss of an item, its derivative and its second derivative
    are

        w ((1 - t) softplus(x) + q t softplus(-x))
        w ((1 - t) sigmoid(x)  - q t sigmoid(-x))
        w ((1 - t) + q t) e / (1 + e)^2,    e = exp(-|x|).

    "mean" divides by the number of items, whatever the weights. The mean of no items is nan.

    Zero times infinity is zero: x = inf with t = 1 has loss and gradient 0, where PyTorch gives
    nan; with t < 1 the loss is inf and the gradient 1 - t. nan gives nan in that item and in the
    reduced value.

    Error bounds for labels 0 and 1:

    {bounds}

    {small} For other targets the gradient is a difference, and has the error of its terms.

    {same_bits}

    References
    ----------
    .. [1] torch.nn.functional.binary_cross_entropy_with_logits: names and meanings.

    Examples
    --------
    >>> import fusedloss as fl
    >>> round(fl.binary_cross_entropy_with_logits([0.0, 2.0], [1, 0]), 6)
    1.410038
    >>> fl.binary_cross_entropy_with_logits([-20.0], [0])  # doctest: +ELLIPSIS
    2.06115362...e-09
    """

    __slots__ = ()

    name = "binary_cross_entropy_with_logits"
    error_bounds: ClassVar[Bounds] = {
        "value": {"float32": 2.0, "float64": 2.0},
        "mean": {"float32": 1.0, "float64": 2.0},
        "grad": {"float32": 2.0, "float64": 2.5},
        "hess": {"float32": 2.0, "float64": 3.0},
    }

    @overload
    def __call__(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        pos_weight: ArrayLike | None = None,
        reduction: Literal["none"],
        num_threads: int | None = None,
    ) -> Array: ...
    @overload
    def __call__(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        pos_weight: ArrayLike | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        num_threads: int | None = None,
    ) -> float: ...
    def __call__(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        pos_weight: ArrayLike | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
        num_threads: int | None = None,
    ) -> float | Array:
        """Return the value of the loss.

        Parameters
        ----------
        {parameters}

        Returns
        -------
        {value}
        """
        value: float | Array = evaluate(
            "binary_cross_entropy_with_logits",
            VALUE, logits, target, weight, pos_weight, reduction, num_threads, None,
        )  # fmt: skip
        return value

    @overload
    def value_and_grad(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        pos_weight: ArrayLike | None = None,
        reduction: Literal["none"],
        num_threads: int | None = None,
        out: Array | None = None,
    ) -> tuple[Array, Array]: ...
    @overload
    def value_and_grad(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        pos_weight: ArrayLike | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        num_threads: int | None = None,
        out: Array | None = None,
    ) -> tuple[float, Array]: ...
    def value_and_grad(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        pos_weight: ArrayLike | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
        num_threads: int | None = None,
        out: Array | None = None,
    ) -> tuple[float | Array, Array]:
        """Return the value of the loss and its gradient with respect to the logits, in one pass.

        {derivatives}

        Parameters
        ----------
        {parameters}
        {out}

        Returns
        -------
        {value}
        {grad}

        Examples
        --------
        >>> import fusedloss as fl
        >>> value, grad = fl.binary_cross_entropy_with_logits.value_and_grad([0.0, 0.0], [1, 0])
        >>> grad
        array([-0.25,  0.25])
        """
        result: tuple[float | Array, Array] = evaluate(
            "binary_cross_entropy_with_logits",
            VALUE_AND_GRAD, logits, target, weight, pos_weight, reduction, num_threads, out,
        )  # fmt: skip
        return result

    def grad_and_hess(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        pos_weight: ArrayLike | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
        num_threads: int | None = None,
        out: tuple[Array | None, Array | None] | None = None,
    ) -> tuple[Array, Array]:
        """Return the gradient and the diagonal of the Hessian with respect to the logits.

        {derivatives}

        Parameters
        ----------
        {parameters}
        {out_pair}

        Returns
        -------
        {grad}
        {hess}

        Examples
        --------
        >>> import fusedloss as fl
        >>> grad, hess = fl.binary_cross_entropy_with_logits.grad_and_hess([0.0], [1])
        >>> hess
        array([0.25])
        """
        result: tuple[Array, Array] = evaluate(
            "binary_cross_entropy_with_logits",
            GRAD_AND_HESS, logits, target, weight, pos_weight, reduction, num_threads, out,
        )  # fmt: skip
        return result


@documented(first="probs", items="items", parameters=PROBS_PARAMETERS, weight=WEIGHT)
class BinaryCrossEntropy(Loss):
    """Binary cross-entropy of probabilities: -t log(p) - (1 - t) log(1 - p).

    Parameters
    ----------
    {parameters}

    Returns
    -------
    {value}

    Raises
    ------
    {raises}
        Or a probability is outside [0, 1], or an integer target neither 0 nor 1; the first one in C
        order is named. After a bad probability the content of `out` is unspecified.

    See Also
    --------
    binary_cross_entropy_with_logits : the same from logits; more accurate, and faster than a
        sigmoid and this.

    Notes
    -----
    With weight w, the loss of an item, its derivative and its second derivative are

        -w (t max(log p, -100) + (1 - t) max(log(1 - p), -100))
        w ((1 - t) / max(1 - p, 1e-12)   - t / max(p, 1e-12))
        w ((1 - t) / max(1 - p, 1e-12)^2 + t / max(p, 1e-12)^2).

    "mean" divides by the number of items, whatever the weights. The mean of no items is nan.

    The bounds keep everything finite: p = 0 with t = 1 has loss 100 and gradient -1e12. nan gives
    nan in that item and in the reduced value.

    Error bounds for labels 0 and 1:

    {bounds}

    {small} For other targets the gradient is a difference, and has the error of its terms.

    {same_bits}

    References
    ----------
    .. [1] torch.nn.functional.binary_cross_entropy: names, meanings and the value. The gradient
       there vanishes where p is close to a right label; here it is the true derivative.

    Examples
    --------
    >>> import fusedloss as fl
    >>> round(fl.binary_cross_entropy([0.5, 0.25], [1, 0]), 6)
    0.490415
    """

    __slots__ = ()

    name = "binary_cross_entropy"
    error_bounds: ClassVar[Bounds] = {
        "value": {"float32": 1.5, "float64": 2.0},
        "mean": {"float32": 1.5, "float64": 2.0},
        "grad": {"float32": 2.0, "float64": 2.0},
        "hess": {"float32": 3.0, "float64": 3.5},
    }

    @overload
    def __call__(
        self,
        probs: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        reduction: Literal["none"],
        num_threads: int | None = None,
    ) -> Array: ...
    @overload
    def __call__(
        self,
        probs: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        num_threads: int | None = None,
    ) -> float: ...
    def __call__(
        self,
        probs: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
        num_threads: int | None = None,
    ) -> float | Array:
        """Return the value of the loss.

        Parameters
        ----------
        {parameters}

        Returns
        -------
        {value}
        """
        value: float | Array = evaluate(
            "binary_cross_entropy", VALUE, probs, target, weight, reduction, num_threads, None
        )
        return value

    @overload
    def value_and_grad(
        self,
        probs: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        reduction: Literal["none"],
        num_threads: int | None = None,
        out: Array | None = None,
    ) -> tuple[Array, Array]: ...
    @overload
    def value_and_grad(
        self,
        probs: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        num_threads: int | None = None,
        out: Array | None = None,
    ) -> tuple[float, Array]: ...
    def value_and_grad(
        self,
        probs: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
        num_threads: int | None = None,
        out: Array | None = None,
    ) -> tuple[float | Array, Array]:
        """Return the value of the loss and its gradient with respect to `probs`, in one pass.

        {derivatives}

        Parameters
        ----------
        {parameters}
        {out}

        Returns
        -------
        {value}
        {grad}

        Examples
        --------
        >>> import fusedloss as fl
        >>> value, grad = fl.binary_cross_entropy.value_and_grad([0.5, 0.5], [1, 0])
        >>> grad
        array([-1.,  1.])
        """
        result: tuple[float | Array, Array] = evaluate(
            "binary_cross_entropy",
            VALUE_AND_GRAD,
            probs,
            target,
            weight,
            reduction,
            num_threads,
            out,
        )
        return result

    def grad_and_hess(
        self,
        probs: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
        num_threads: int | None = None,
        out: tuple[Array | None, Array | None] | None = None,
    ) -> tuple[Array, Array]:
        """Return the gradient and the diagonal of the Hessian with respect to the probabilities.

        {derivatives}

        Parameters
        ----------
        {parameters}
        {out_pair}

        Returns
        -------
        {grad}
        {hess}

        Examples
        --------
        >>> import fusedloss as fl
        >>> grad, hess = fl.binary_cross_entropy.grad_and_hess([0.5], [1])
        >>> hess
        array([4.])
        """
        result: tuple[Array, Array] = evaluate(
            "binary_cross_entropy",
            GRAD_AND_HESS,
            probs,
            target,
            weight,
            reduction,
            num_threads,
            out,
        )
        return result


binary_cross_entropy_with_logits = with_fast_methods(BinaryCrossEntropyWithLogits())
binary_cross_entropy = with_fast_methods(BinaryCrossEntropy())

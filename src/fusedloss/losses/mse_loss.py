"""Squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from ..backends import GRAD_AND_HESS, VALUE, VALUE_AND_GRAD
from ..dispatch import evaluate
from .base import Bounds, Loss, documented, with_fast_methods

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

PARAMETERS = """
input : array_like of float16, bfloat16, float32 or float64
    The predictions, of any shape.
target : array_like of real numbers
    What they should be, in the shape of `input`: nothing is broadcast.
weight : array_like of real numbers, optional
    A factor for each item, of any sign, in the shape of `input`.
{reduction}
{num_threads}"""


@documented(first="input", items="items", parameters=PARAMETERS)
class MSELoss(Loss):
    """Squared error: (x - t)^2.

    Parameters
    ----------
    {parameters}

    Returns
    -------
    {squared}

    Raises
    ------
    {raises}

    Notes
    -----
    With weight w, the loss of an item, its derivative and its second derivative are

        w (x - t)^2,    2 w (x - t),    2 w.

    There is no factor 1/2: scikit-learn and the boosters, which have one, get half of these
    derivatives.

    "mean" divides by the number of items, or by the sum of the weights where these are given. The
    mean of no items is nan.

    nan, and inf - inf, give nan in that item and in the reduced value.

    Error bounds:

    {bounds}

    {small}

    {same_bits}

    References
    ----------
    .. [1] torch.nn.functional.mse_loss: names and meanings. There shapes that differ are broadcast.

    Examples
    --------
    >>> import fusedloss as fl
    >>> fl.mse_loss([1.0, 2.0, 4.0], [1.0, 2.0, 1.0])
    3.0
    >>> fl.mse_loss([1.0, 2.0], [0.0, 0.0], weight=[3.0, 5.0])
    2.875
    """

    __slots__ = ()

    name = "mse_loss"
    error_bounds: ClassVar[Bounds] = {
        "value": {"float32": 1.0, "float64": 1.0},
        "mean": {"float32": 0.51, "float64": 1.0},
        "grad": {"float32": 1.0, "float64": 1.0},
        "hess": {"float32": 1.0, "float64": 1.0},
    }

    @overload
    def __call__(
        self,
        input: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        reduction: Literal["none"],
        num_threads: int | None = None,
    ) -> Array: ...
    @overload
    def __call__(
        self,
        input: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        num_threads: int | None = None,
    ) -> float: ...
    def __call__(
        self,
        input: ArrayLike,
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
        {squared}
        """
        value: float | Array = evaluate(
            "mse_loss", VALUE, input, target, weight, reduction, num_threads, None
        )
        return value

    @overload
    def value_and_grad(
        self,
        input: ArrayLike,
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
        input: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        num_threads: int | None = None,
        out: Array | None = None,
    ) -> tuple[float, Array]: ...
    def value_and_grad(
        self,
        input: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
        num_threads: int | None = None,
        out: Array | None = None,
    ) -> tuple[float | Array, Array]:
        """Return the value of the loss and its gradient with respect to `input`, in one pass.

        {derivatives}

        Parameters
        ----------
        {parameters}
        {out}

        Returns
        -------
        {squared}
        {grad}

        Examples
        --------
        >>> import fusedloss as fl
        >>> fl.mse_loss.value_and_grad([1.0, 2.0], [1.0, 0.0])
        (2.0, array([0., 2.]))
        """
        result: tuple[float | Array, Array] = evaluate(
            "mse_loss", VALUE_AND_GRAD, input, target, weight, reduction, num_threads, out
        )
        return result

    def grad_and_hess(
        self,
        input: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
        num_threads: int | None = None,
        out: tuple[Array | None, Array | None] | None = None,
    ) -> tuple[Array, Array]:
        """Return the gradient and the diagonal of the Hessian with respect to the input.

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
        >>> grad, hess = fl.mse_loss.grad_and_hess([1.0, 2.0], [1.0, 0.0])
        >>> hess
        array([1., 1.])
        """
        result: tuple[Array, Array] = evaluate(
            "mse_loss", GRAD_AND_HESS, input, target, weight, reduction, num_threads, out
        )
        return result


mse_loss = with_fast_methods(MSELoss())

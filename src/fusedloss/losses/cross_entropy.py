"""Softmax cross-entropy, from class indices or class probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from ..backends import GRAD_AND_HESS, VALUE, VALUE_AND_GRAD
from ..dispatch import evaluate
from .base import Bounds, Loss, documented, with_fast_methods

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

PARAMETERS = """
logits : array_like of float16, bfloat16, float32 or float64
    Unnormalised log-probabilities, of any shape with at least one dimension; C classes along
    `axis`.
target : array_like of integers or floats
    The dtype decides. Integers are class indices from 0 to C - 1 (or `ignore_index`), in the shape
    of `logits` without `axis`. Floats are class probabilities in the shape of `logits`; neither
    their sign nor their sum is checked.
weight : array_like of shape (C,), optional
    A factor for each class, of any sign.
sample_weight : array_like, optional
    A factor for each row, in the shape of `logits` without `axis`.
ignore_index : int, default -100
    Rows with this label take no part: their loss and gradient are 0, whatever their logits hold. It
    may be one of the classes. With class probabilities it must be negative, and has no effect.
label_smoothing : float, default 0.0
    From 0 to 1: the share of each target that is spread evenly over all classes, the target's own
    among them.
z_loss : float, default 0.0
    The factor, at least 0, of the squared log-sum-exp of each row, which keeps the logits from
    drifting.
{reduction}
axis : int, default -1
    The class axis. For PyTorch's (N, C, d1, ...) it is 1.
{num_threads}"""


@documented(first="logits", items="rows", parameters=PARAMETERS)
class CrossEntropy(Loss):
    """Softmax cross-entropy: -log softmax(logits)[target], or -sum(target * log softmax(logits)).

    Parameters
    ----------
    {parameters}

    Returns
    -------
    {value}

    Raises
    ------
    {raises}
    IndexError
        A label is neither a class nor `ignore_index`; the first one in C order is named.
    numpy.exceptions.AxisError
        `axis` is out of range. (It is a ValueError and an IndexError.)

    See Also
    --------
    binary_cross_entropy_with_logits : for two classes, or for labels that may all be right.
    log_softmax

    Notes
    -----
    With p = softmax(x), class weights w, a sample weight s, smoothing e and z-loss factor c, a
    row's loss is, for a class index y,

        s ((1 - e) w[y] (-log p[y]) + e / C sum_k w[k] (-log p[k])  +  c logsumexp(x)^2)

    and for class probabilities t

        s (sum_k w[k] ((1 - e) t[k] + e / C) (-log p[k])  +  c logsumexp(x)^2).

    "mean" divides the sum by the sum of s w[y] over the rows that take part; for class
    probabilities by the sum of s, without class weights. So one-hot probabilities and the same
    labels as indices have different means as soon as `weight` is given, as in PyTorch. The z-loss
    part is divided by the sum of s in both cases.

    Zero times infinity is zero: a class of weight or probability 0 does not count, even where its
    logit is -inf. A row whose target has a logit of -inf has loss inf; a row with +inf or nan, or
    with -inf alone, is nan. The mean of no rows is nan.

    Error bounds for class indices:

    {bounds}

    {small} Other options cost up to 3 ulp in the mean, and a gradient entry that is the difference
    of two close numbers has the error of these.

    {same_bits}

    References
    ----------
    .. [1] torch.nn.functional.cross_entropy: names and meanings, but for `sample_weight` and
       `z_loss`. There the class axis is 1.
    .. [2] C. Szegedy et al., "Rethinking the Inception architecture for computer vision", 2016,
       section 7 (label smoothing).
    .. [3] A. Chowdhery et al., "PaLM: scaling language modeling with pathways", 2022, section 5
       (z-loss).

    Examples
    --------
    >>> import numpy as np
    >>> import fusedloss as fl
    >>> logits = np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    >>> round(fl.cross_entropy(logits, [0, 2]), 6)
    0.753109
    >>> fl.cross_entropy(logits, [0, 2], reduction="none").round(6)
    array([0.407606, 1.098612])
    >>> value, grad = fl.cross_entropy.value_and_grad(logits, [0, 2])
    >>> grad.round(3)
    array([[-0.167,  0.122,  0.045],
           [ 0.167,  0.167, -0.333]])
    """

    __slots__ = ()

    name = "cross_entropy"
    error_bounds: ClassVar[Bounds] = {
        "value": {"float32": 1.5, "float64": 2.0},
        "mean": {"float32": 1.5, "float64": 2.0},
        "grad": {"float32": 2.0, "float64": 2.5},
        "hess": {"float32": 2.5, "float64": 2.5},
    }

    @overload
    def __call__(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        reduction: Literal["none"],
        axis: int = -1,
        num_threads: int | None = None,
    ) -> Array: ...
    @overload
    def __call__(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        reduction: Literal["mean", "sum"] = "mean",
        axis: int = -1,
        num_threads: int | None = None,
    ) -> float: ...
    def __call__(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        reduction: Literal["mean", "sum", "none"] = "mean",
        axis: int = -1,
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
            "cross_entropy", VALUE, logits, target, weight, sample_weight, ignore_index,
            label_smoothing, z_loss, reduction, axis, num_threads, None,
        )  # fmt: skip
        return value

    @overload
    def value_and_grad(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        reduction: Literal["none"],
        axis: int = -1,
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
        sample_weight: ArrayLike | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        reduction: Literal["mean", "sum"] = "mean",
        axis: int = -1,
        num_threads: int | None = None,
        out: Array | None = None,
    ) -> tuple[float, Array]: ...
    def value_and_grad(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        reduction: Literal["mean", "sum", "none"] = "mean",
        axis: int = -1,
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
        >>> import numpy as np
        >>> import fusedloss as fl
        >>> logits = np.zeros((1, 2))
        >>> buffer = np.empty((1, 2))
        >>> value, grad = fl.cross_entropy.value_and_grad(logits, [1], out=buffer)
        >>> grad is buffer
        True
        >>> grad
        array([[ 0.5, -0.5]])
        """
        result: tuple[float | Array, Array] = evaluate(
            "cross_entropy", VALUE_AND_GRAD, logits, target, weight, sample_weight, ignore_index,
            label_smoothing, z_loss, reduction, axis, num_threads, out,
        )  # fmt: skip
        return result

    def grad_and_hess(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        reduction: Literal["mean", "sum", "none"] = "mean",
        axis: int = -1,
        num_threads: int | None = None,
        out: tuple[Array | None, Array | None] | None = None,
    ) -> tuple[Array, Array]:
        """Return the gradient and the diagonal of the Hessian with respect to the logits.

        Without z-loss an entry of the Hessian is the row's weight times p (1 - p), as Newton's
        method and gradient boosting use it. {derivatives}

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
        >>> grad, hess = fl.cross_entropy.grad_and_hess([[0.0, 0.0]], [1], reduction="sum")
        >>> hess
        array([[0.25, 0.25]])
        """
        result: tuple[Array, Array] = evaluate(
            "cross_entropy", GRAD_AND_HESS, logits, target, weight, sample_weight, ignore_index,
            label_smoothing, z_loss, reduction, axis, num_threads, out,
        )  # fmt: skip
        return result


cross_entropy = with_fast_methods(CrossEntropy())

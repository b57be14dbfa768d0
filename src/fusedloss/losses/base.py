"""What the losses share: how they look to Python, and the common parts of their docstrings.

Each loss is the one instance of a class of its own, whose three methods are written out by hand
with their types. The docstrings name shared parts in braces, `{num_threads}`; `documented` puts in
the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import cleandoc
from typing import Any, ClassVar, TypeVar

from ..backends import GRAD_AND_HESS, VALUE, VALUE_AND_GRAD
from ..dispatch import fast_method

Bounds = Mapping[str, Mapping[str, float]]


class Loss:
    """A loss function: call it for the value; its methods give derivatives too.

    Attributes
    ----------
    name : str
        The name in `fusedloss`.
    error_bounds : mapping
        The largest error of "value" (of an item or row), "mean" (and sum), "grad" and "hess" in
        units in the last place (ulp) of "float32" and "float64".
    """

    __slots__ = ()

    name: ClassVar[str]
    error_bounds: ClassVar[Bounds]

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Return the value of the loss."""
        raise NotImplementedError

    def value_and_grad(self, *args: Any, **options: Any) -> Any:
        """Return the value of the loss and its gradient."""
        raise NotImplementedError

    def grad_and_hess(self, *args: Any, **options: Any) -> Any:
        """Return the gradient of the loss and the diagonal of its Hessian."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<loss '{self.name}'>"

    def __reduce__(self) -> str:
        """Pickle and copy by name, as functions are."""
        return self.name


SHARED = {
    "reduction": """
reduction : {"mean", "sum", "none"}, default "mean"
    What becomes of the losses of the single {items}.""",
    "num_threads": """
num_threads : int, optional
    The most threads to use, at least 1; None leaves it to `fusedloss.set_num_threads`. The results
    are the same for any number.""",
    "out": """
out : ndarray, optional
    Where to write the gradient: an array of the shape and dtype of `{first}`. It may be `{first}`
    itself, which is then overwritten.""",
    "out_pair": """
out : (ndarray or None, ndarray or None), optional
    Where to write the gradient and the Hessian: arrays of the shape and dtype of `{first}`, or None
    for a new one. Either may be `{first}` itself, which is then overwritten.""",
    "value": """
value : float or ndarray
    The loss in nats. With "mean" and "sum" a Python float, which carries a float64 sum and is not
    rounded to the dtype of `{first}`; with "none" an array with the loss of each of the {items}, of
    the dtype of `{first}`, or float32 where that has 16 bits.""",
    "squared": """
value : float or ndarray
    The loss, in the square of the input's unit. With "mean" and "sum" a Python float, which carries
    a float64 sum and is not rounded to the dtype of `{first}`; with "none" an array with the loss
    of each of the {items}, of the dtype of `{first}`, or float32 where that has 16 bits.""",
    "grad": """
grad : ndarray
    The derivative of the value with respect to `{first}`, of its shape and dtype. With "none" it is
    the derivative of each loss by itself, so the same as with "sum".""",
    "hess": """
hess : ndarray
    The diagonal of the Hessian with respect to `{first}`, of its shape and dtype; with "none" as
    with "sum".""",
    "raises": """
TypeError
    An argument is of the wrong kind, or an array of the wrong dtype.
ValueError
    A shape does not fit, an option is outside of its range, or `out` is read-only.""",
    "small": """
In ulp of the dtype of `{first}`; for 16 bits one rounding from float32 is added. A result below the
smallest normal number may be 0.""",
    "same_bits": """
The bits of the result depend neither on the number of threads nor, with the compiled kernels, on
the instruction set. No case emits a warning.""",
    "derivatives": """
The arguments are those of the loss itself, where shapes, domains, errors and special cases are
described.""",
}

_LossClass = TypeVar("_LossClass", bound=type[Loss])


def bounds_text(bounds: Bounds) -> str:
    """Return the list of error bounds, as docstrings show it."""
    words = {"value": "value", "mean": "mean and sum", "grad": "gradient", "hess": "Hessian"}
    return "\n".join(
        f"- {words[output]}: {bound['float32']:g} ulp in float32, {bound['float64']:g} in float64"
        for output, bound in bounds.items()
    )


def fill(text: str, parts: Mapping[str, str]) -> str:
    """Return a docstring with the named parts put in; a part may name others."""
    text = cleandoc(text)
    for _ in range(2):
        for key, part in parts.items():
            text = text.replace("{" + key + "}", part.strip("\n"))
    return text


def documented(**parts: str) -> Callable[[_LossClass], _LossClass]:
    """Make a class decorator that completes the docstrings of a loss.

    `parts` has at least `first`, the name of the first argument, `items`, what has a loss of its
    own, and `parameters`, the description of all arguments that the three methods share.
    """

    def complete(loss: _LossClass) -> _LossClass:
        texts = {**parts, **SHARED, "bounds": bounds_text(loss.error_bounds)}
        for thing in (loss, loss.__call__, loss.value_and_grad, loss.grad_and_hess):
            if thing.__doc__:  # there are none under python -OO
                thing.__doc__ = fill(thing.__doc__, texts)
        return loss

    return complete


_LossInstance = TypeVar("_LossInstance", bound=Loss)

_VERBS = {"__call__": VALUE, "value_and_grad": VALUE_AND_GRAD, "grad_and_hess": GRAD_AND_HESS}


def with_fast_methods(loss: _LossInstance) -> _LossInstance:
    """Return the loss, the one instance of its class, with the fastest methods there are."""
    for name, verb in _VERBS.items():
        method = getattr(loss, name)
        fast = fast_method(loss.name, verb, method)
        if fast is not method:
            setattr(type(loss), name, fast)
    return loss

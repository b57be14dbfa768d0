"""The friendly door: every check, cast and message about the arguments of a call.

One function per public function turns a user's arguments, in contract order (`fusedloss.backends`),
into canonical ones or raises. All error texts of the package live here, so they are the same
whichever backend computes: `<argument> must be <expected>, not <got>`. Arguments are checked in the
order of the signatures, except for `axis`, without which the shape of no target can be judged: it
comes with the logits. Bad values inside arrays are found by the backends; `blame` then finds the
first of them again, in C order, and raises.

Arrays that are canonical already are passed on, never copied.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.exceptions import AxisError, TooHardError

from .backends import GRAD_AND_HESS, VALUE

if TYPE_CHECKING:
    from typing import NoReturn

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Shape = tuple[int, ...]
    Output = tuple[Array, Array] | None  # the caller's array, and what the backend fills

# An OpenMP runtime that cannot start a thread ends the process, so no call asks for more than this.
MOST_THREADS = 1024

_REDUCTIONS = {"mean": "mean", "sum": "sum", "none": "none"}
_CHUNK = 1 << 16  # items looked at together in a search for a bad value


class Prepared:
    """Canonical arguments, and where the results go that a temporary array stands in for.

    `outputs` has an item for each result: None if the caller gave no array for it, else what the
    caller gave and the array that the backend fills, which often has the same memory.
    """

    __slots__ = ("canonical", "outputs")

    def __init__(self, canonical: tuple[Any, ...], outputs: tuple[Output, ...]) -> None:
        self.canonical = canonical
        self.outputs = outputs

    def deliver(self, result: Any) -> Any:
        """Return a backend's result with the caller's own arrays, filled, in the place of ours."""
        if not any(self.outputs):
            return result
        if isinstance(result, tuple):
            return tuple(_settle(*pair) for pair in zip(result, self.outputs, strict=True))
        return _settle(result, self.outputs[0])


def _settle(computed: Any, output: Output) -> Any:
    if output is None:
        return computed
    theirs, ours = output
    if _start(theirs) != _start(ours):
        np.copyto(theirs, ours)
    return theirs


# --- The losses -----------------------------------------------------------------------------------


def cross_entropy(
    verb: int,
    logits: Any,
    target: Any,
    weight: Any,
    sample_weight: Any,
    ignore_index: Any,
    label_smoothing: Any,
    z_loss: Any,
    reduction: Any,
    axis: Any,
    num_threads: Any,
    out: Any,
) -> Prepared:
    """Make the arguments of `cross_entropy` canonical, or raise."""
    logits = _floating("logits", logits)
    axis = _axis("logits", logits, axis)
    classes = logits.shape[axis]
    rows = logits.shape[:axis] + logits.shape[axis + 1 :]
    target = _class_target(target, logits.shape, rows)
    weight = _weight_of_shape("weight", weight, (classes,))
    sample_weight = _weight_of_shape("sample_weight", sample_weight, rows)
    ignore_index = _integer("ignore_index", ignore_index, "an integer")
    if ignore_index >= 0 and target.dtype.kind not in "iu":
        raise ValueError(
            "ignore_index must be negative when target holds class probabilities, "
            f"not {ignore_index}"
        )
    smoothing = _number("label_smoothing", label_smoothing)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing must be between 0 and 1, not {_shown(label_smoothing)}")
    z_factor = _number("z_loss", z_loss)
    if not 0 <= z_factor < float("inf"):
        raise ValueError(f"z_loss must be finite and at least 0, not {_shown(z_loss)}")
    reduction = _reduction(reduction)
    num_threads = check_num_threads(num_threads)
    inputs = (logits, target, weight, sample_weight)
    out, outputs = _loss_outputs(verb, out, inputs, in_place=True)
    return Prepared(
        (
            verb,
            logits,
            target,
            weight,
            sample_weight,
            ignore_index,
            smoothing,
            z_factor,
            reduction,
            axis,
            num_threads,
            out,
        ),
        outputs,
    )


def binary_cross_entropy_with_logits(
    verb: int,
    logits: Any,
    target: Any,
    weight: Any,
    pos_weight: Any,
    reduction: Any,
    num_threads: Any,
    out: Any,
) -> Prepared:
    """Make the arguments of `binary_cross_entropy_with_logits` canonical, or raise."""
    logits = _floating("logits", logits)
    target = _real_target(target, logits.shape)
    weight = _broadcast_weight("weight", weight, logits.shape)
    pos_weight = _broadcast_weight("pos_weight", pos_weight, logits.shape)
    reduction = _reduction(reduction)
    num_threads = check_num_threads(num_threads)
    out, outputs = _loss_outputs(verb, out, (logits, target, weight, pos_weight), in_place=True)
    return Prepared(
        (verb, logits, target, weight, pos_weight, reduction, num_threads, out), outputs
    )


def binary_cross_entropy(
    verb: int, probs: Any, target: Any, weight: Any, reduction: Any, num_threads: Any, out: Any
) -> Prepared:
    """Make the arguments of `binary_cross_entropy` canonical, or raise."""
    probs = _floating("probs", probs)
    target = _real_target(target, probs.shape)
    weight = _broadcast_weight("weight", weight, probs.shape)
    reduction = _reduction(reduction)
    num_threads = check_num_threads(num_threads)
    # A backend may find a bad probability after it has written some results. In place these would
    # have replaced probabilities, and the search for the bad one would look at gradients.
    out, outputs = _loss_outputs(verb, out, (probs, target, weight), in_place=False)
    return Prepared((verb, probs, target, weight, reduction, num_threads, out), outputs)


def mse_loss(
    verb: int, input: Any, target: Any, weight: Any, reduction: Any, num_threads: Any, out: Any
) -> Prepared:
    """Make the arguments of `mse_loss` canonical, or raise."""
    input = _floating("input", input)
    target = _real_target(target, input.shape)
    weight = _weight_of_shape("weight", weight, input.shape)
    reduction = _reduction(reduction)
    num_threads = check_num_threads(num_threads)
    out, outputs = _loss_outputs(verb, out, (input, target, weight), in_place=True)
    return Prepared((verb, input, target, weight, reduction, num_threads, out), outputs)


# --- The functions of one array -------------------------------------------------------------------


def softmax(x: Any, axis: Any, num_threads: Any, out: Any) -> Prepared:
    """Make the arguments of `softmax` canonical, or raise."""
    x = _floating("x", x)
    axis = _axis("x", x, axis)
    num_threads = check_num_threads(num_threads)
    out, outputs = _function_output(out, x, x.shape)
    return Prepared((x, axis, num_threads, out), outputs)


log_softmax = softmax


def logsumexp(x: Any, axis: Any, num_threads: Any, out: Any) -> Prepared:
    """Make the arguments of `logsumexp` canonical, or raise."""
    x = _floating("x", x)
    axis = _axis("x", x, axis)
    num_threads = check_num_threads(num_threads)
    out, outputs = _function_output(out, x, x.shape[:axis] + x.shape[axis + 1 :])
    return Prepared((x, axis, num_threads, out), outputs)


def sigmoid(x: Any, num_threads: Any, out: Any) -> Prepared:
    """Make the arguments of `sigmoid` canonical, or raise."""
    x = _floating("x", x)
    num_threads = check_num_threads(num_threads)
    out, outputs = _function_output(out, x, x.shape)
    return Prepared((x, num_threads, out), outputs)


log_sigmoid = sigmoid
softplus = sigmoid


# --- Arrays ---------------------------------------------------------------------------------------


def _array(name: str, given: Any) -> Array:
    """Return `given` as an exact ndarray, without a copy where its memory can be read as it is."""
    if type(given) is np.ndarray:
        return given
    if _is_masked(given):
        raise TypeError(f"{name} must be a plain array, not a masked array")
    kind = type(given)
    if hasattr(kind, "__dlpack__") and not (
        hasattr(kind, "__array__") or hasattr(given, "__array_interface__")
    ):
        return np.asarray(np.from_dlpack(given))
    if not isinstance(given, (list, tuple)):
        return np.asarray(given)
    try:
        return np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise ValueError(
            f"{name} must be an array or nested sequences of equal lengths, not {_kind(given)}"
        ) from error


def _is_masked(given: Any) -> bool:
    masked = sys.modules.get("numpy.ma")  # who has made a masked array has imported it
    return masked is not None and isinstance(given, masked.MaskedArray)


def _canonical(array: Array) -> Array:
    """Return the array itself if it is C-contiguous, aligned and native, else a copy that is."""
    flags, dtype = array.flags, array.dtype
    if flags.c_contiguous and flags.aligned and dtype.isnative:
        return array
    return np.array(array, dtype=_native(dtype), order="C")


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def _is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is one that the losses compute in (bfloat16: `ml_dtypes` is optional)."""
    return dtype.type in (np.float32, np.float64, np.float16) or dtype.name == "bfloat16"


def _floating(name: str, given: Any) -> Array:
    """Return the first array argument, canonical."""
    array = _array(name, given)
    if not _is_floating(array.dtype):
        raise TypeError(
            f"{name} must be an array of float16, bfloat16, float32 or float64, "
            f"not {array.dtype.name}"
        )
    return _canonical(array)


def _narrow(array: Array) -> Array:
    """Return long doubles as float64, the widest type that backends read; others as they are."""
    return array.astype(np.float64, order="K") if array.dtype.type is np.longdouble else array


def _real(name: str, given: Any) -> Array:
    """Return an array of real numbers, bool and integers among them."""
    array = _array(name, given)
    if (
        array.dtype.kind not in "biu"
        and array.dtype.type is not np.longdouble
        and not _is_floating(array.dtype)
    ):
        raise TypeError(f"{name} must be an array of real numbers, not {array.dtype.name}")
    return _narrow(array)


def _class_target(given: Any, shape: Shape, rows: Shape) -> Array:
    """Return the target of cross-entropy: class indices or probabilities; the dtype says which."""
    target = _array("target", given)
    dtype = target.dtype
    if dtype.kind in "iu":
        expected, content = rows, "class indices"
    elif dtype.type is np.longdouble or _is_floating(dtype):
        expected, content = shape, "class probabilities"
    else:
        raise TypeError(f"target must be an array of integer or floating dtype, not {dtype.name}")
    if target.shape != expected:
        raise ValueError(
            f"target must be of shape {expected} when it holds {content} ({dtype.name}), "
            f"not {target.shape}"
        )
    return _canonical(_narrow(target))


def _real_target(given: Any, shape: Shape) -> Array:
    target = _real("target", given)
    if target.shape != shape:
        raise ValueError(f"target must be of shape {shape}, not {target.shape}")
    return _canonical(target)


def _weight_of_shape(name: str, given: Any, shape: Shape) -> Array | None:
    if given is None:
        return None
    weight = _real(name, given)
    if weight.shape != shape:
        raise ValueError(f"{name} must be of shape {shape}, not {weight.shape}")
    return _canonical(weight)


def _broadcast_weight(name: str, given: Any, shape: Shape) -> Array | None:
    """Return a view of the weight in the logits' shape, which repeats items by strides of zero."""
    if given is None:
        return None
    weight = _real(name, given)
    if not weight.flags.aligned or not weight.dtype.isnative:
        weight = np.array(weight, dtype=_native(weight.dtype))
    if weight.shape == shape:
        return weight
    try:
        return np.broadcast_to(weight, shape)
    except ValueError:
        message = f"{name} must be broadcastable to shape {shape}, not of shape {weight.shape}"
        raise ValueError(message) from None


def _axis(name: str, array: Array, given: Any) -> int:
    """Return the class axis, counted from the front."""
    if array.ndim == 0:
        raise ValueError(f"{name} must be an array of at least 1 dimension, not 0")
    axis = _integer("axis", given, "an integer")
    if not -array.ndim <= axis < array.ndim:
        raise AxisError(f"axis must be from {-array.ndim} to {array.ndim - 1}, not {axis}")
    if array.shape[axis] == 0:
        raise ValueError(
            f"{name} must be an array with at least one class along axis {axis}, "
            f"not of shape {array.shape}"
        )
    return axis % array.ndim


# --- Options --------------------------------------------------------------------------------------


def _integer(name: str, given: Any, expected: str) -> int:
    try:
        return int(operator.index(given))  # a bool would stay one
    except TypeError:
        raise TypeError(f"{name} must be {expected}, not {_shown(given)}") from None


def _number(name: str, given: Any) -> float:
    """Return a real number as a float, and NumPy's scalars and 0-d arrays among them."""
    if type(given) is float:
        return given
    real = (hasattr(given, "__float__") or hasattr(given, "__index__")) and getattr(
        given, "ndim", 0
    ) == 0
    if not real or np.iscomplexobj(given):
        raise TypeError(f"{name} must be a real number, not {_shown(given)}")
    try:
        return float(given)
    except OverflowError:  # an integer above all floats
        return float("inf") if given > 0 else float("-inf")


def _reduction(given: Any) -> str:
    reduction = _REDUCTIONS.get(given) if isinstance(given, str) else None
    if reduction is None:
        raise ValueError(f'reduction must be "mean", "sum" or "none", not {_shown(given)}')
    return reduction


def check_num_threads(given: Any) -> int | None:
    """Return a number of threads, or None as it is, or raise."""
    if given is None:
        return None
    threads = _integer("num_threads", given, "a positive integer or None")
    if threads < 1:
        raise ValueError(f"num_threads must be a positive integer or None, not {_shown(threads)}")
    return min(threads, MOST_THREADS)


def _shown(value: Any) -> str:
    """Return a value as messages show it: strings in quotes, other objects than numbers by type."""
    if isinstance(value, str):
        return f'"{value}"'
    if (
        value is None
        or isinstance(value, (int, float, complex, np.generic))
        or getattr(value, "shape", None) == ()
    ):
        try:
            return str(value)
        except ValueError:  # Python does not print integers of more than 4300 digits
            return "an integer of thousands of digits"
    return _kind(value)


def _kind(value: Any) -> str:
    return type(value).__name__


# --- Results in the caller's arrays ---------------------------------------------------------------


def _loss_outputs(
    verb: int, out: Any, inputs: tuple[Array | None, ...], *, in_place: bool
) -> tuple[Any, tuple[Output, ...]]:
    """Return the `out` that a backend gets for a loss, and which array belongs to which result."""
    first = inputs[0]
    if verb == VALUE or out is None or first is None:
        return None, (None, None)
    if verb != GRAD_AND_HESS:
        output = _output(
            _writeable("out", out, first.shape, first.dtype), inputs, in_place=in_place
        )
        return output[1], (None, output)
    if not isinstance(out, (tuple, list)):
        raise TypeError(f"out must be a pair (grad, hess), not {_kind(out)}")
    if len(out) != 2:
        raise ValueError(f"out must be a pair (grad, hess), not {_kind(out)} of length {len(out)}")
    grad, hess = (
        None if item is None else _writeable(f"out[{position}]", item, first.shape, first.dtype)
        for position, item in enumerate(out)
    )
    if grad is not None and hess is not None and _share_memory(grad, hess):
        raise ValueError(
            "out must be a pair of arrays apart from each other, not two views of the same memory"
        )
    # Only the gradient can take the place of the logits: they would be needed again after the
    # Hessian was stored.
    outputs = (
        None if grad is None else _output(grad, inputs, in_place=in_place),
        None if hess is None else _output(hess, inputs, in_place=False),
    )
    ours = tuple(None if output is None else output[1] for output in outputs)
    return (None if all(item is None for item in ours) else ours), outputs


def _function_output(out: Any, x: Array, shape: Shape) -> tuple[Any, tuple[Output]]:
    """Return the `out` that a backend gets for a function of one array, and the caller's array."""
    if out is None:
        return None, (None,)
    output = _output(_writeable("out", out, shape, x.dtype), (x,), in_place=shape == x.shape)
    return output[1], (output,)


def _writeable(name: str, given: Any, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """Return an array that a caller gave for a result, if it can hold it."""
    if _is_masked(given):
        raise TypeError(f"{name} must be a plain array, not a masked array")
    if not isinstance(given, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, not {_kind(given)}")
    if given.shape != shape:
        raise ValueError(f"{name} must be of shape {shape}, not {given.shape}")
    if _native(given.dtype) != dtype:
        raise TypeError(f"{name} must be an array of {dtype.name}, not {given.dtype.name}")
    if not given.flags.writeable:
        raise ValueError(f"{name} must be writeable, not read-only")
    return given


def _output(
    theirs: Array, inputs: tuple[Array | None, ...], *, in_place: bool
) -> tuple[Array, Array]:
    """Return the caller's array and the one that a backend fills: the same memory or a temporary.

    A temporary one stands in for an array that is not canonical, and for one that overlaps an input
    in any way but being the first of them, exactly.
    """
    ours = np.asarray(theirs)
    usable = ours.flags.c_contiguous and ours.flags.aligned and ours.dtype.isnative
    for position, other in enumerate(inputs):
        if other is not None and not (in_place and position == 0 and _start(ours) == _start(other)):
            usable = usable and not np.may_share_memory(ours, other)
    return theirs, ours if usable else np.empty(ours.shape, _native(ours.dtype))


def _start(array: Array) -> int:
    """Return the address of the first item, which tells canonical arrays of one shape apart."""
    address: int = array.__array_interface__["data"][0]
    return address


def _share_memory(first: Array, second: Array) -> bool:
    try:
        return np.shares_memory(first, second, max_work=10_000)  # type: ignore[arg-type]
    except TooHardError:  # strange strides: rather refuse than let one result overwrite the other
        return True


# --- Bad values -----------------------------------------------------------------------------------


def blame(name: str, canonical: tuple[Any, ...]) -> None:
    """Raise for the first bad value in canonical arguments that a backend declined, if any."""
    if name == "cross_entropy":
        _, logits, target, _, _, ignore_index, _, _, _, axis, _, _ = canonical
        if target.dtype.kind in "iu":
            _check_labels(target, logits.shape[axis], ignore_index)
    elif name == "binary_cross_entropy_with_logits":
        _check_binary_labels(canonical[2])
    elif name == "binary_cross_entropy":
        probs, target = canonical[1:3]
        _check_binary_labels(target)
        _check_probabilities("probs", probs)
        if target.dtype.kind not in "biu":
            _check_probabilities("target", target)


def _first(array: Array, is_bad: Callable[[Array], Array]) -> int:
    """Return the flat position of the first bad item of a contiguous array, -1 if there is none."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        bad = is_bad(flat[start : start + _CHUNK])
        position = int(bad.argmax())
        if bad[position]:
            return start + position
    return -1


def _refuse(
    error: type[Exception], name: str, array: Array, position: int, expected: str
) -> NoReturn:
    index = (
        ", ".join(str(int(i)) for i in np.unravel_index(position, array.shape))
        if array.ndim
        else ""
    )
    place = f"{name}[{index}]" if index else name
    raise error(f"{place} must be {expected}, not {array.reshape(-1)[position]}")


def _check_labels(target: Array, classes: int, ignore_index: int) -> None:
    kind = target.dtype.type
    limits = np.iinfo(target.dtype)

    # Comparisons stay within the dtype: some versions of NumPy would compare uint64 with a negative
    # int as floats.
    def is_bad(labels: Array) -> Array:
        bad: Array = labels < kind(0)
        if classes <= limits.max:
            bad |= labels >= kind(classes)
        if limits.min <= ignore_index <= limits.max:
            bad &= labels != kind(ignore_index)
        return bad

    position = _first(target, is_bad)
    if position >= 0:
        counted = f"{classes} classes" if classes > 1 else "1 class"
        _refuse(
            IndexError,
            "target",
            target,
            position,
            f"a class index from 0 to {classes - 1} ({counted})",
        )


def _check_binary_labels(target: Array) -> None:
    if target.dtype.kind in "iu":
        position = _first(target, lambda labels: (labels != 0) & (labels != 1))
        if position >= 0:
            _refuse(ValueError, "target", target, position, "0 or 1 when of integer dtype")


def _check_probabilities(name: str, array: Array) -> None:
    kind = array.dtype.type
    position = _first(
        array, lambda values: (values < kind(0)) | (values > kind(1))
    )  # neither is true of nan
    if position >= 0:
        _refuse(ValueError, name, array, position, "between 0 and 1")

"""The backends: three independent writings of the same arithmetic behind one set of functions.

Every backend module, `reference` ("numpy"), `jit` ("numba") and `compiled` ("cython"), has these
functions. All arguments are positional::

    cross_entropy(verb, logits, target, weight, sample_weight, ignore_index, label_smoothing,
                  z_loss, reduction, axis, num_threads, out)
    binary_cross_entropy_with_logits(verb, logits, target, weight, pos_weight, reduction,
                                     num_threads, out)
    binary_cross_entropy(verb, probs, target, weight, reduction, num_threads, out)
    mse_loss(verb, input, target, weight, reduction, num_threads, out)
    softmax(x, axis, num_threads, out)    log_softmax(...)    logsumexp(...)
    sigmoid(x, num_threads, out)          log_sigmoid(...)    softplus(...)

**Results.** The verb VALUE gives a float ("mean", "sum") or an array ("none"), VALUE_AND_GRAD gives
`(value, grad)`, GRAD_AND_HESS gives `(grad, hess)`. Reduced values are Python floats that were not
rounded to the input's dtype.

**out** is None; or for VALUE_AND_GRAD an array; for GRAD_AND_HESS a pair of which either item may
be None; for functions of one array an array. Given arrays are filled and returned, missing ones are
allocated. `out`, and of a pair the first item, may be exactly the first array argument (in place;
never in `binary_cross_entropy`); apart from that it overlaps no input.

**NotImplemented** may be answered by any backend instead of a result: the arguments are not
canonical, or a value among them is bad (a class label out of range, an integer target of a binary
loss other than 0 and 1, a probability outside [0, 1]). `out` is then as it was, except that after a
bad probability its content is unspecified. `fusedloss.arguments` names the mistake, so that the
words are the same whichever backend found it.

**Canonical arguments** are what `fusedloss.arguments` makes, and what `reference` and `jit` may
rely on:

- The first array: exactly ndarray, C-contiguous, aligned, native byte order; float16, bfloat16,
  float32 or float64. Any rank; with an axis at least one dimension, and at least one entry along
  the axis.
- `axis`: a Python int from 0 to ndim - 1.
- `target` of cross_entropy: canonical too. An integer dtype and the logits' shape without the axis,
  or a floating one and the logits' shape.
- `weight` of cross_entropy: None or shape (C,); `sample_weight`: None or the logits' shape without
  the axis. Canonical; bool, integer or floating.
- `ignore_index`: a Python int, possibly outside of the range of every dtype; negative with class
  probabilities.
- Targets of the other losses: canonical, bool, integer or floating, of the first array's shape.
- `weight` and `pos_weight` of the binary losses: None, or of the logits' shape, aligned, native,
  bool, integer or floating, with any strides: zero where they were broadcast. A backend does not
  materialise them.
- `weight` of mse_loss: None, or canonical and of the input's shape.
- `reduction`: one of the three strings. `label_smoothing`, `z_loss`: floats. `num_threads`: None or
  an int from 1 to 1024.
- No floating dtype is wider than float64.

**Numbers.** The compute type is float32 for 16-bit and float32 input, else float64. Targets and
elementwise weights are rounded to it first, so that all backends see the same numbers; class and
sample weights are read as float64. Sums and denominators are float64. No backend emits warnings.
"""

VALUE = 0
VALUE_AND_GRAD = 1
GRAD_AND_HESS = 2


class Unavailable(ImportError):
    """A backend cannot run here, but is not broken: not built, not installed, or too old a CPU."""

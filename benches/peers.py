"""The peers: what a user would write with another library, and nothing slower.

Each is given its inputs in the types it wants, converted before the clock starts, keeps `out=`
where it offers one, and runs on as many threads as we do where it has any. NumPy and SciPy compute
on one.
"""

from functools import partial

import numpy as np

from . import axes
from .axes import BCE, CE, EVALUATE, GRAD_AND_HESS, MSE, PROBS, VALUE, VALUE_AND_GRAD
from .contenders import named, unchanged


class Peer:
    """A library. `recipes` has a function of `arguments(...)` for each (work, verb) that the
    library can do.
    """

    name = ""
    dtypes = ("float32", "float64")
    ours = False
    in_place = False
    threads = 1

    def __init__(self, threads):
        self.recipes = {}

    def runs(self, case):
        return case.dtype in self.dtypes and (case.work, case.verb) in self.recipes

    def settings(self):
        return unchanged()

    def calls(self, case, sets):
        recipe = self.recipes[case.work, case.verb]
        return [partial(recipe, *self.arguments(case, buffers)) for buffers in sets]

    def arguments(self, case, buffers):
        raise NotImplementedError(f"{type(self).__name__}.arguments")

    def outcome(self, case, raw):
        return named(case, raw)


def _has_class_labels(case):
    return case.work == CE and not case.target.startswith("float")


def _float_target(case, buffers):
    return buffers.target.astype(buffers.x.dtype, copy=False)


class _NumPyLike(Peer):
    """Arguments as NumPy and SciPy users have them; class labels come with the row numbers that
    index them.
    """

    def runs(self, case):
        return super().runs(case) and (case.work != CE or _has_class_labels(case))

    def arguments(self, case, buffers):
        if case.work in axes.FUNCTIONS:
            return buffers.x, (buffers.row_result if case.work == "logsumexp" else buffers.grad)
        if case.work == CE:
            return buffers.x, (np.arange(case.rows), buffers.target)
        return buffers.x, buffers.target


class NumPyByHand(_NumPyLike):
    """The few lines of NumPy that people write instead of importing anything."""

    name = "NumPy by hand"

    def __init__(self, threads):
        def shifted(x):
            return x - x.max(axis=-1, keepdims=True)

        def cross_entropy(x, at):
            z = shifted(x)
            return np.mean(np.log(np.exp(z).sum(axis=-1)) - z[at])

        def cross_entropy_grad(x, at):
            z = shifted(x)
            picked = z[at]
            p = np.exp(z, out=z)
            total = p.sum(axis=-1, keepdims=True)
            value = np.mean(np.log(total[..., 0]) - picked)
            p /= total
            p[at] -= 1
            p /= len(p)
            return value, p

        def cross_entropy_hess(x, at):
            z = shifted(x)
            p = np.exp(z, out=z)
            p /= p.sum(axis=-1, keepdims=True)
            hess = p * (1 - p)
            hess /= len(p)
            p[at] -= 1
            p /= len(p)
            return p, hess

        def bce(x, t):
            return np.mean(np.logaddexp(0, x) - t * x)

        def sigmoid(x, out=None):
            e = np.exp(np.negative(x, out=out), out=out)
            e += 1
            return np.divide(1, e, out=e)

        def bce_grad(x, t):
            grad = sigmoid(x)
            grad -= t
            grad /= x.size
            return bce(x, t), grad

        def bce_hess(x, t):
            grad = sigmoid(x)
            hess = grad * (1 - grad)
            hess /= x.size
            grad -= t
            grad /= x.size
            return grad, hess

        def probs(p, t):
            return -np.mean(t * np.log(p) + (1 - t) * np.log1p(-p))

        def probs_grad(p, t):
            grad = (p - t) / (p * (1 - p))
            grad /= p.size
            return probs(p, t), grad

        def mse(x, t):
            d = x - t
            return np.dot(d, d) / d.size

        def mse_grad(x, t):
            d = x - t
            value = np.dot(d, d) / d.size
            d *= 2 / d.size
            return value, d

        def mse_hess(x, t):
            d = x - t
            d *= 2 / d.size
            return d, np.full_like(d, 2 / d.size)

        def softmax(x, out):
            p = np.exp(np.subtract(x, x.max(axis=-1, keepdims=True), out=out), out=out)
            p /= p.sum(axis=-1, keepdims=True)
            return p

        def log_softmax(x, out):
            z = np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
            z -= np.log(np.exp(z).sum(axis=-1, keepdims=True))
            return z

        def logsumexp(x, out):
            top = x.max(axis=-1, keepdims=True)
            rest = np.exp(x - top).sum(axis=-1)
            return np.add(np.log(rest), top[..., 0], out=out)

        def log_sigmoid(x, out):
            return np.negative(np.logaddexp(0, -x, out=out), out=out)

        self.recipes = {
            (CE, VALUE): cross_entropy,
            (CE, VALUE_AND_GRAD): cross_entropy_grad,
            (CE, GRAD_AND_HESS): cross_entropy_hess,
            (BCE, VALUE): bce,
            (BCE, VALUE_AND_GRAD): bce_grad,
            (BCE, GRAD_AND_HESS): bce_hess,
            (PROBS, VALUE): probs,
            (PROBS, VALUE_AND_GRAD): probs_grad,
            (MSE, VALUE): mse,
            (MSE, VALUE_AND_GRAD): mse_grad,
            (MSE, GRAD_AND_HESS): mse_hess,
            ("softmax", EVALUATE): softmax,
            ("log_softmax", EVALUATE): log_softmax,
            ("logsumexp", EVALUATE): logsumexp,
            ("sigmoid", EVALUATE): sigmoid,
            ("log_sigmoid", EVALUATE): log_sigmoid,
            ("softplus", EVALUATE): lambda x, out: np.logaddexp(0, x, out=out),
        }


class SciPy(_NumPyLike):
    """`scipy.special`; it has no function for squared errors."""

    name = "SciPy"

    def __init__(self, threads):
        from scipy import special

        def cross_entropy(x, at):
            return -np.mean(special.log_softmax(x, axis=-1)[at])

        def cross_entropy_grad(x, at):
            logs = special.log_softmax(x, axis=-1)
            value = -np.mean(logs[at])
            grad = np.exp(logs, out=logs)
            grad[at] -= 1
            grad /= len(grad)
            return value, grad

        def bce(x, t):
            return -np.mean(t * x + special.log_expit(-x))

        def bce_grad(x, t):
            grad = special.expit(x)
            grad -= t
            grad /= x.size
            return bce(x, t), grad

        def bce_hess(x, t):
            grad = special.expit(x)
            hess = grad * special.expit(-x)
            hess /= x.size
            grad -= t
            grad /= x.size
            return grad, hess

        def probs(p, t):
            return -np.mean(special.xlogy(t, p) + special.xlog1py(1 - t, -p))

        self.recipes = {
            (CE, VALUE): cross_entropy,
            (CE, VALUE_AND_GRAD): cross_entropy_grad,
            (BCE, VALUE): bce,
            (BCE, VALUE_AND_GRAD): bce_grad,
            (BCE, GRAD_AND_HESS): bce_hess,
            (PROBS, VALUE): probs,
            ("softmax", EVALUATE): lambda x, out: special.softmax(x, axis=-1),
            ("log_softmax", EVALUATE): lambda x, out: special.log_softmax(x, axis=-1),
            ("logsumexp", EVALUATE): lambda x, out: special.logsumexp(x, axis=-1),
            ("sigmoid", EVALUATE): lambda x, out: special.expit(x, out=out),
            ("log_sigmoid", EVALUATE): lambda x, out: special.log_expit(x, out=out),
        }


class ScikitLearn(Peer):
    """The loss module of scikit-learn's linear models and boosting (private there), and
    `metrics.log_loss`.

    Its gradients are those of the sum and its squared error is halved; the division is left to the
    caller, so it is not timed here either. Its targets have the logits' dtype.
    """

    name = "scikit-learn"

    # log_loss encodes the labels as classes first, in memory that grows to many times the input's.
    LOG_LOSS_LIMIT = 1_000_000

    def __init__(self, threads):
        from sklearn._loss import HalfBinomialLoss, HalfMultinomialLoss, HalfSquaredError
        from sklearn.metrics import log_loss

        self.threads = threads
        self.losses = {
            CE: lambda case: HalfMultinomialLoss(n_classes=case.shape[-1]),
            BCE: lambda case: HalfBinomialLoss(),
            MSE: lambda case: HalfSquaredError(),
        }
        self.factors = {CE: 1, BCE: 1, MSE: 2}

        def value(loss, y, x, rows, grad, hess, n_threads):
            return loss.loss(y, x, loss_out=rows, n_threads=n_threads).mean()

        def value_and_grad(loss, y, x, rows, grad, hess, n_threads):
            losses, gradient = loss.loss_gradient(
                y, x, loss_out=rows, gradient_out=grad, n_threads=n_threads
            )
            return losses.mean(), gradient

        def grad_and_hess(loss, y, x, rows, grad, hess, n_threads):
            return loss.gradient_hessian(
                y, x, gradient_out=grad, hessian_out=hess, n_threads=n_threads
            )

        self.recipes = {
            (work, verb): recipe
            for work in self.losses
            for verb, recipe in (
                (VALUE, value),
                (VALUE_AND_GRAD, value_and_grad),
                (GRAD_AND_HESS, grad_and_hess),
            )
        }
        self.recipes[PROBS, VALUE] = log_loss

    def runs(self, case):
        if case.work == CE and (not _has_class_labels(case) or case.shape[-1] < 3):
            return False
        if case.work == PROBS and case.items > self.LOG_LOSS_LIMIT:
            return False
        return super().runs(case)

    def arguments(self, case, buffers):
        target = buffers.target.astype(buffers.x.dtype)
        if case.work == PROBS:
            return target, buffers.x
        rows = np.zeros(case.rows if case.work == CE else case.items, buffers.x.dtype)
        n_threads = 1 if case.memory == axes.SMALL else self.threads
        loss = self.losses[case.work](case)
        hess = buffers.hess if case.verb == GRAD_AND_HESS else None
        grad = None if case.verb == VALUE else buffers.grad
        return loss, target, buffers.x, rows, grad, hess, n_threads

    def outcome(self, case, raw):
        parts = named(case, raw)
        if case.work == PROBS:
            return parts
        factor = self.factors[case.work]
        count = case.rows if case.work == CE else case.items
        return {
            name: part * (factor if name == "value" else factor / count)
            for name, part in parts.items()
        }


class PyTorch(Peer):
    """`torch.nn.functional` on the CPU; value_and_grad is its forward and backward pass."""

    name = "PyTorch"
    dtypes = ("float16", "bfloat16", "float32", "float64")

    def __init__(self, threads):
        import torch
        import torch.nn.functional as F

        torch.set_num_threads(threads)
        self.torch = torch
        self.threads = threads
        losses = {
            CE: F.cross_entropy,
            BCE: F.binary_cross_entropy_with_logits,
            PROBS: F.binary_cross_entropy,
            MSE: F.mse_loss,
        }

        def with_gradient(loss, x, t):
            value = loss(x, t)
            (grad,) = torch.autograd.grad(value, x)
            return value, grad

        self.recipes = {
            ("softmax", EVALUATE): lambda x, out: torch.softmax(x, -1, out=out),
            ("log_softmax", EVALUATE): lambda x, out: torch.log_softmax(x, -1, out=out),
            ("logsumexp", EVALUATE): lambda x, out: torch.logsumexp(x, -1, out=out),
            ("sigmoid", EVALUATE): lambda x, out: torch.sigmoid(x, out=out),
            ("log_sigmoid", EVALUATE): lambda x, out: F.logsigmoid(x),
            ("softplus", EVALUATE): lambda x, out: F.softplus(x),
        }
        for work, loss in losses.items():
            self.recipes[work, VALUE] = loss
            self.recipes[work, VALUE_AND_GRAD] = partial(with_gradient, loss)

    def _tensor(self, array):
        if array.dtype.name == "bfloat16":
            return self.torch.from_numpy(array.view(np.uint16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(array)

    def arguments(self, case, buffers):
        x = self._tensor(buffers.x)
        if case.work in axes.FUNCTIONS:
            out = buffers.row_result if case.work == "logsumexp" else buffers.grad
            return x, self._tensor(out)
        if case.verb == VALUE_AND_GRAD:
            x = x.detach().requires_grad_()
        if _has_class_labels(case):
            return x, self._tensor(buffers.target.astype(np.int64, copy=False))
        return x, self._tensor(_float_target(case, buffers))

    def outcome(self, case, raw):
        def numbers(tensor):
            tensor = tensor.detach()
            return (tensor if tensor.dtype == self.torch.float64 else tensor.float()).numpy()

        parts = named(case, raw)
        return {name: numbers(part) for name, part in parts.items()}


def jax_functions(jax):
    """The functions of one array; rows are the last axis."""
    return {
        "softmax": jax.nn.softmax,
        "log_softmax": jax.nn.log_softmax,
        "logsumexp": lambda x: jax.nn.logsumexp(x, axis=-1),
        "sigmoid": jax.nn.sigmoid,
        "log_sigmoid": jax.nn.log_sigmoid,
        "softplus": jax.nn.softplus,
    }


class Jax(Peer):
    """Functions compiled by `jax.jit`, waited for; its arrays are copies of ours, made before the
    clock starts.
    """

    name = "JAX"
    dtypes = ("float16", "bfloat16", "float32", "float64")

    def __init__(self, threads):
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)  # or it would compute float64 cases in float32
        self.jnp = jnp
        self.threads = threads

        def cross_entropy(x, t):
            logs = jax.nn.log_softmax(x)
            if jnp.issubdtype(t.dtype, jnp.integer):
                return -jnp.mean(jnp.take_along_axis(logs, t[..., None], axis=-1))
            return -jnp.mean(jnp.sum(t * logs, axis=-1))

        def bce(x, t):
            return jnp.mean(jax.nn.softplus(x) - t * x)

        def probs(p, t):
            return -jnp.mean(t * jnp.log(p) + (1 - t) * jnp.log1p(-p))

        def mse(x, t):
            return jnp.mean((x - t) ** 2)

        def waited(function):
            compiled = jax.jit(function)
            return lambda *arguments: jax.block_until_ready(compiled(*arguments))

        self.recipes = {}
        for work, loss in {CE: cross_entropy, BCE: bce, PROBS: probs, MSE: mse}.items():
            self.recipes[work, VALUE] = waited(loss)
            self.recipes[work, VALUE_AND_GRAD] = waited(jax.value_and_grad(loss))
        for work, function in jax_functions(jax).items():
            self.recipes[work, EVALUATE] = waited(function)

    def arguments(self, case, buffers):
        x = self.jnp.array(buffers.x)
        if case.work in axes.FUNCTIONS:
            return (x,)
        if _has_class_labels(case):
            return x, self.jnp.array(buffers.target)
        return x, self.jnp.array(_float_target(case, buffers))

    def outcome(self, case, raw):
        return {name: np.asarray(part) for name, part in named(case, raw).items()}


PEERS = (NumPyByHand, SciPy, ScikitLearn, PyTorch, Jax)


def peers(threads):
    """The peers that can be imported here, and for each that cannot the reason."""
    found, absent = [], {}
    for peer in PEERS:
        try:
            found.append(peer(threads))
        except ImportError as error:
            absent[peer.name] = str(error)
    return found, absent

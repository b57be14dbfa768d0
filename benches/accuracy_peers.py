"""What other libraries make of the data in tests/regimes.py: one result per row or item, sums,
means and gradients, as their users get them.

A peer's `results(data)` has those outputs that the library can do, by name. Where a library has no
such loss, but the function that it is made of, the formula is what its users write around it.
"""

import numpy as np

from .axes import BCE, CE, MSE, PROBS
from .peers import jax_functions


def _with_sums(values):
    return {"value": values, "mean": values.mean(), "sum": values.sum()}


class PyTorch:
    def __init__(self):
        import torch

        self.options = {CE: {"weight", "label_smoothing"}, BCE: {"weight", "pos_weight"}}

        self.torch = torch
        self.name = f"PyTorch {torch.__version__.partition('+')[0]}"
        self.functions = {
            "softmax": lambda x: torch.softmax(x, -1),
            "log_softmax": lambda x: torch.log_softmax(x, -1),
            "logsumexp": lambda x: torch.logsumexp(x, -1),
            "sigmoid": torch.sigmoid,
            "log_sigmoid": torch.nn.functional.logsigmoid,
            "softplus": torch.nn.functional.softplus,
        }

    def results(self, data):
        if not set(data.options) <= self.options.get(data.loss, set()):
            return {}
        torch = self.torch
        x = torch.tensor(data.x)
        target = torch.tensor(data.target)
        if data.loss != CE or target.is_floating_point():
            target = target.to(x.dtype)
        options = {
            name: torch.tensor(value).to(x.dtype) if isinstance(value, np.ndarray) else value
            for name, value in data.options.items()
        }
        loss = getattr(torch.nn.functional, data.loss)
        found = {
            output: loss(x, target, reduction=output, **options).numpy()
            for output in ("mean", "sum")
            if output in data.truths
        }
        if "value" in data.truths:
            x.requires_grad_()
            values = loss(x, target, reduction="none")
            values.sum().backward()
            found |= {"value": values.detach().numpy(), "grad": x.grad.numpy()}
        x = x.detach()
        for name in data.truths.keys() & self.functions.keys():
            found[name] = self.functions[name](x).numpy()
        return found


class SciPy:
    def __init__(self):
        import scipy
        from scipy import special

        self.special = special
        self.name = f"SciPy {scipy.__version__}"

    def results(self, data):
        if data.loss == MSE or not data.plain:
            return {}
        return getattr(self, data.loss)(data.x, data.target)

    def cross_entropy(self, x, y):
        at = np.arange(len(x)), y
        logs = self.special.log_softmax(x, axis=-1)
        p = self.special.softmax(x, axis=-1)
        grad = p.copy()
        grad[at] -= 1
        lse = self.special.logsumexp(x, axis=-1)
        functions = {"softmax": p, "log_softmax": logs, "logsumexp": lse}
        return {**_with_sums(-logs[at]), "grad": grad, **functions}

    def binary_cross_entropy_with_logits(self, x, t):
        log_sigmoid, sigmoid = self.special.log_expit(x), self.special.expit(x)
        t = t.astype(x.dtype)
        values = -(t * x + self.special.log_expit(-x))
        return {
            **_with_sums(values),
            "grad": sigmoid - t,
            "hess": sigmoid * self.special.expit(-x),
            "sigmoid": sigmoid,
            "log_sigmoid": log_sigmoid,
        }

    def binary_cross_entropy(self, p, t):
        t = t.astype(p.dtype)
        return _with_sums(-(self.special.xlogy(t, p) + self.special.xlog1py(1 - t, -p)))


class ScikitLearn:
    """The loss module of its linear models and boosting, which is private; it halves the squared
    error.
    """

    def __init__(self):
        import sklearn
        from sklearn import _loss

        self.name = f"scikit-learn {sklearn.__version__}"
        self.losses = {
            CE: lambda x: _loss.HalfMultinomialLoss(n_classes=x.shape[-1]),
            BCE: lambda x: _loss.HalfBinomialLoss(),
            MSE: lambda x: _loss.HalfSquaredError(),
        }

    def results(self, data):
        too_few = data.loss == CE and data.x.shape[-1] < 3
        if not data.plain or too_few or data.loss not in self.losses:
            return {}
        loss = self.losses[data.loss](data.x)
        target = data.target.astype(data.x.dtype)
        factor = data.x.dtype.type(2 if data.loss == MSE else 1)
        values, grad = loss.loss_gradient(target, data.x)
        _, hess = loss.gradient_hessian(target, data.x)
        return {
            **_with_sums(values * factor),
            "grad": grad * factor,
            "hess": hess.reshape(grad.shape) * factor,
        }


class Jax:
    def __init__(self):
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)  # or it would compute float64 in float32
        self.jnp = jnp
        self.name = f"JAX {jax.__version__}"

        def cross_entropy(x, y):
            return -jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], axis=-1)[:, 0]

        def bce(x, t):
            return jax.nn.softplus(x) - t * x

        def probs(p, t):
            return -(t * jnp.log(p) + (1 - t) * jnp.log1p(-p))

        def mse(x, t):
            return (x - t) ** 2

        self.losses, self.gradients = {}, {}
        for name, loss in {CE: cross_entropy, BCE: bce, PROBS: probs, MSE: mse}.items():
            self.losses[name] = jax.jit(loss)
            self.gradients[name] = jax.jit(jax.grad(lambda x, t, loss=loss: loss(x, t).sum()))
        self.functions = {name: jax.jit(function) for name, function in jax_functions(jax).items()}

    def results(self, data):
        if not data.plain:
            return {}
        x = self.jnp.array(data.x)
        target = self.jnp.array(data.target)
        if data.loss != CE:
            target = target.astype(x.dtype)
        values = self.losses[data.loss](x, target)
        found = {"value": values, "mean": values.mean(), "sum": values.sum()}
        if "grad" in data.truths:
            found["grad"] = self.gradients[data.loss](x, target)
        for name in data.truths.keys() & self.functions.keys():
            found[name] = self.functions[name](x)
        return {name: np.asarray(result) for name, result in found.items()}


def peers():
    """Those that are installed."""
    found = []
    for peer in (PyTorch, SciPy, ScikitLearn, Jax):
        try:
            found.append(peer())
        except ImportError:
            continue
    return found

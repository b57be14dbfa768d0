"""Loss functions for NumPy arrays: value, gradient and Hessian diagonal in one compiled pass.

A loss is called for its value; its methods do more with the same arguments:

>>> import fusedloss as fl
>>> logits = [[2.0, 1.0, 0.1], [0.5, 2.5, 0.3]]
>>> value = fl.cross_entropy(logits, [0, 1])
>>> value, grad = fl.cross_entropy.value_and_grad(logits, [0, 1])
>>> grad, hess = fl.cross_entropy.grad_and_hess(logits, [0, 1])

Losses: `cross_entropy`, `binary_cross_entropy_with_logits`, `binary_cross_entropy`, `mse_loss`.
Functions of one array: `softmax`, `log_softmax`, `logsumexp`, `sigmoid`, `log_sigmoid`, `softplus`.
What computes them: `runtime_info`, `show_config`, `use_backend`, `set_num_threads`,
`get_num_threads`.
"""

__version__ = "0.1.0"

from .functions import log_sigmoid, log_softmax, logsumexp, sigmoid, softmax, softplus
from .losses import binary_cross_entropy, binary_cross_entropy_with_logits, cross_entropy, mse_loss
from .runtime import get_num_threads, runtime_info, set_num_threads, show_config, use_backend

__all__ = [
    "__version__",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "get_num_threads",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "mse_loss",
    "runtime_info",
    "set_num_threads",
    "show_config",
    "sigmoid",
    "softmax",
    "softplus",
    "use_backend",
]

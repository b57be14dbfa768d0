"""The losses, one module each, and the registry that tests and benches iterate over."""

from .base import Loss
from .binary_cross_entropy import binary_cross_entropy, binary_cross_entropy_with_logits
from .cross_entropy import cross_entropy
from .mse_loss import mse_loss

REGISTRY: dict[str, Loss] = {
    loss.name: loss
    for loss in (cross_entropy, binary_cross_entropy_with_logits, binary_cross_entropy, mse_loss)
}

__all__ = [
    "REGISTRY",
    "Loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "mse_loss",
]

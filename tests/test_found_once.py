"""Mistakes that were found once, by fuzzing or by reading, each kept as its smallest example."""

import numpy as np
import pytest

import fusedloss as fl


def test_an_empty_output_inside_a_weight_is_no_overlap(backend):
    memory = np.ones(20, np.float32)
    out = np.ndarray((0, 10), np.float32, buffer=memory, offset=24)
    logits, labels = np.empty((0, 10), np.float32), np.empty(0, int)
    value, grad = fl.cross_entropy.value_and_grad(logits, labels, weight=memory[3:13], out=out)
    assert np.isnan(value)
    assert grad is out


@pytest.mark.parametrize("ignore_index", [0, 2**62, 2**63, 2**64])
def test_ignore_index_with_probabilities_is_negative_however_large(backend, ignore_index):
    with pytest.raises(ValueError, match="ignore_index must be negative"):
        fl.cross_entropy(np.zeros((2, 2)), np.zeros((2, 2)), ignore_index=ignore_index)


@pytest.mark.parametrize("reduction", [np.array("mean"), np.array(["sum"]), np.array([]), b"mean"])
def test_a_reduction_is_a_string(backend, reduction):
    with pytest.raises(ValueError, match="reduction must be"):
        fl.mse_loss(np.zeros(2), np.zeros(2), reduction=reduction)


@pytest.mark.parametrize("z_loss", [1e-4, 1e-10, 1e-14])
@pytest.mark.parametrize("classes", [2, 50])
def test_a_small_z_loss_keeps_its_digits_beside_a_certain_soft_target(backend, z_loss, classes):
    logits = np.zeros((1, classes))
    logits[0, 0] = 50.0
    target = np.zeros((1, classes))
    target[0, 0] = 1.0
    grad = fl.cross_entropy.value_and_grad(logits, target, z_loss=z_loss, reduction="sum")[1]
    rest = (classes - 1) * np.exp(-50.0)
    truth = 2 * z_loss * 50.0 - rest
    assert abs(grad[0, 0] - truth) <= 1e-14 * truth


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (np.array([[0, 1.0, -1.0]]), {}),
        (np.array([0]), {"weight": np.array([1.0, 1.0, -1.0]), "label_smoothing": 0.1}),
    ],
)
def test_sample_weight_0_hides_inf_minus_inf(backend, target, options):
    logits = np.array([[1.0, -np.inf, -np.inf]])
    value = fl.cross_entropy(logits, target, sample_weight=np.zeros(1), reduction="sum", **options)
    assert value == 0.0


@pytest.mark.parametrize("classes", [3, 50])
def test_weights_that_cancel_leave_no_finite_gradient(backend, classes):
    logits = np.arange(2.0 * classes).reshape(2, classes) / classes
    _, grad = fl.cross_entropy.value_and_grad(
        logits, np.array([0, 1]), sample_weight=np.array([1.0, -1.0])
    )
    assert not np.isfinite(grad).any()


def test_an_integer_too_long_to_print_has_a_message_all_the_same(backend):
    with pytest.raises(ValueError, match="num_threads must be a positive integer or None, not an"):
        fl.mse_loss(np.zeros(2), np.zeros(2), num_threads=-(10**5000))

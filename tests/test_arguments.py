"""The friendly door, where it matters what lies in which memory and when it is looked at."""

import numpy as np
import pytest

import fusedloss as fl
from fusedloss import arguments, dispatch
from fusedloss.backends import GRAD_AND_HESS, VALUE, VALUE_AND_GRAD


def prepare(logits, target, *, verb=VALUE, out=None, **options):
    """Make arguments of cross-entropy canonical; return them by name."""
    names = ("weight", "sample_weight", "ignore_index", "label_smoothing", "z_loss", "reduction")
    defaults = (None, None, -100, 0.0, 0.0, "mean")
    given = [options.pop(name, default) for name, default in zip(names, defaults, strict=True)]
    axis, num_threads = options.pop("axis", -1), options.pop("num_threads", None)
    assert not options
    prepared = arguments.cross_entropy(verb, logits, target, *given, axis, num_threads, out)
    keys = ("verb", "logits", "target", *names, "axis", "num_threads", "out")
    return dict(zip(keys, prepared.canonical, strict=True)), prepared


def canonical(array):
    flags = array.flags
    return (
        type(array) is np.ndarray and flags.c_contiguous and flags.aligned and array.dtype.isnative
    )


# ----------------------------------------------------------------------------- no needless copies


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("labels", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_canonical_arrays_are_passed_on_as_they_are(dtype, labels):
    logits, target = np.zeros((4, 3), dtype), np.zeros(4, labels)
    weight, sample_weight = np.ones(3, "f4"), np.ones(4, bool)
    out = np.empty_like(logits)
    made, _ = prepare(
        logits, target, weight=weight, sample_weight=sample_weight, verb=VALUE_AND_GRAD, out=out
    )
    assert made["logits"] is logits
    assert made["target"] is target
    assert made["weight"] is weight
    assert made["sample_weight"] is sample_weight
    assert made["out"] is out


def test_views_of_other_kinds_of_array_share_their_memory(tmp_path):
    mapped = np.memmap(tmp_path / "logits", "f4", "w+", shape=(4, 3))
    made, _ = prepare(mapped, [0, 1, 2, 0])
    assert canonical(made["logits"])
    assert np.shares_memory(made["logits"], mapped)


def test_broadcast_weights_are_views():
    logits, weight = np.zeros((5, 3)), np.ones(3, "f4")
    prepared = arguments.mse_loss(VALUE, logits, logits, None, "mean", None, None)
    assert prepared.canonical[3] is None
    prepared = arguments.binary_cross_entropy(VALUE, logits, logits, weight, "mean", None, None)
    made = prepared.canonical[3]
    assert made.shape == (5, 3)
    assert made.strides == (0, 4)
    assert np.shares_memory(made, weight)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: np.asfortranarray(a),
        lambda a: a[::-1],
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a.astype(a.dtype.newbyteorder("S")),
        lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
        lambda a: a.tolist(),
    ],
    ids=["Fortran", "backwards", "strided", "swapped", "unaligned", "list"],
)
def test_other_arrays_become_canonical(change):
    logits = np.random.default_rng(0).normal(size=(4, 3))
    given = change(logits)
    made, _ = prepare(given, [0, 1, 2, 0])
    assert canonical(made["logits"])
    np.testing.assert_array_equal(made["logits"], given)


def test_long_doubles_become_doubles():
    target = np.full((4, 3), 1 / 3, np.longdouble)
    made, _ = prepare(np.zeros((4, 3)), target, weight=np.ones(3, np.longdouble))
    assert made["target"].dtype == made["weight"].dtype == np.float64


def test_options_become_plain():
    made, _ = prepare(
        np.zeros((4, 3)),
        [0, 1, 2, 0],
        ignore_index=np.uint8(200),
        label_smoothing=np.float32(0.5),
        z_loss=True,
        reduction=np.str_("sum"),
        axis=np.int16(-1),
        num_threads=10**30,
    )
    plain = {name: value for name, value in made.items() if type(value) is not np.ndarray}
    assert plain == {
        "verb": VALUE,
        "weight": None,
        "sample_weight": None,
        "ignore_index": 200,
        "label_smoothing": 0.5,
        "z_loss": 1.0,
        "reduction": "sum",
        "axis": 1,
        "num_threads": 1024,
        "out": None,
    }
    kinds = {int: ("ignore_index", "axis", "num_threads"), float: ("label_smoothing", "z_loss")}
    for kind, names in kinds.items():
        assert all(type(made[name]) is kind for name in names)
    assert type(made["reduction"]) is str


# -------------------------------------------------------------------------------------- in place


def test_the_gradient_may_replace_the_logits_exactly():
    logits, target = np.zeros((4, 3)), np.zeros(4, int)
    made, _ = prepare(logits, target, verb=VALUE_AND_GRAD, out=logits)
    assert made["out"] is made["logits"]
    made, _ = prepare(logits, target, verb=GRAD_AND_HESS, out=(logits, None))
    assert made["out"][0] is made["logits"]
    assert made["out"][1] is None


def test_the_hessian_gets_memory_of_its_own():
    logits, target = np.zeros((4, 3)), np.zeros(4, int)
    made, _ = prepare(logits, target, verb=GRAD_AND_HESS, out=(None, logits))
    assert not np.shares_memory(made["out"][1], logits)


def test_logits_that_are_the_target_too_are_not_overwritten():
    both = np.full((4, 3), 1 / 3)
    made, _ = prepare(both, both, verb=VALUE_AND_GRAD, out=both)
    assert not np.shares_memory(made["out"], both)


def test_an_output_between_the_rows_of_another_is_filled(backend):
    logits = np.random.default_rng(0).normal(size=(50, 7))
    target = np.arange(50) % 7
    expected = fl.cross_entropy.grad_and_hess(logits, target)
    pair = np.empty((2, 50, 7)).transpose(1, 2, 0).copy()
    out = (pair[..., 0], pair[..., 1])
    grad, hess = fl.cross_entropy.grad_and_hess(logits, target, out=out)
    assert grad is out[0]
    assert hess is out[1]
    np.testing.assert_array_equal(pair[..., 0], expected[0])
    np.testing.assert_array_equal(pair[..., 1], expected[1])


def test_outputs_of_a_pair_must_not_overlap(backend):
    memory = np.empty(24)
    pair = memory[:12].reshape(4, 3), memory[6:18].reshape(4, 3)
    with pytest.raises(ValueError, match=r"^out must be a pair of arrays apart from each other, "):
        fl.cross_entropy.grad_and_hess(np.zeros((4, 3)), [0, 1, 2, 0], out=pair)


@pytest.mark.parametrize("bad", [-0.5, 1.5])
@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("verb", ["value_and_grad", "grad_and_hess"])
def test_a_bad_probability_is_named_although_results_go_to_its_place(verb, label, bad, backend):
    # The gradient of -0.5 with label 0 is a fine probability: who looks there finds nothing wrong.
    probs = np.full(20_000, 0.25)
    probs[12_345] = bad
    out = {"value_and_grad": probs, "grad_and_hess": (None, probs)}[verb]
    with pytest.raises(ValueError) as caught:
        getattr(fl.binary_cross_entropy, verb)(probs, np.full(20_000, label), out=out)
    assert str(caught.value) == f"probs[12345] must be between 0 and 1, not {bad}"


# ---------------------------------------------------------------------------- other array objects


class OnlyDLPack:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_dlpack_objects_are_read_in_place():
    logits, target = np.zeros((4, 3)), np.zeros(4, int)
    made, _ = prepare(OnlyDLPack(logits), OnlyDLPack(target))
    assert np.shares_memory(made["logits"], logits)
    assert np.shares_memory(made["target"], target)


# ------------------------------------------------------------------------- who names the mistakes


def test_bad_labels_are_found_far_into_an_array(backend):
    target = np.zeros(200_000, np.int8)
    target[[150_000, 199_999]] = 5, 7
    with pytest.raises(IndexError) as caught:
        fl.cross_entropy(np.zeros((200_000, 2), np.float32), target)
    assert (
        str(caught.value) == "target[150000] must be a class index from 0 to 1 (2 classes), not 5"
    )


def test_a_backend_that_declines_what_is_right_is_not_believed(monkeypatch):
    with fl.use_backend("numpy"):
        functions = {**dispatch.active().functions, "mse_loss": lambda *given: NotImplemented}
        monkeypatch.setattr(dispatch.active(), "functions", functions)
        with pytest.raises(RuntimeError, match="nobody changes during the call"):
            fl.mse_loss([1.0], [0.0])

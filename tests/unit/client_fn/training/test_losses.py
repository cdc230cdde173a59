"""The losses that a job can name, and how mistakes in their names and arguments are told."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from client_fn.errors import BadModel, TrainingFailed
from client_fn.training import losses
from client_fn.training.orders import Training

pytestmark = pytest.mark.torch

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
LABELS = torch.tensor([0, 2])
OWN = """
def pinball(outputs, targets, q):
    return ((targets - outputs) * q).mean()
value = 3
"""


def loss(name: str, outputs: Tensor, targets: Tensor, **args: object) -> Tensor:
    return losses.make(Training(loss=name, loss_args=args))(outputs, targets)


def test_cross_entropy_with_weights_and_smoothing_is_torch_s() -> None:
    weight = torch.tensor([1.0, 2.0, 5.0])
    expected = functional.cross_entropy(LOGITS, LABELS, weight=weight, label_smoothing=0.1)
    assert torch.equal(loss("cross_entropy", LOGITS, LABELS, weight=[1, 2, 5], label_smoothing=0.1), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_labels_of_any_integer_dtype_may_be_a_column(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    expected = functional.cross_entropy(LOGITS, LABELS)
    assert torch.equal(loss("cross_entropy", LOGITS, LABELS.to(dtype).reshape(shape)), expected)


def test_half_precision_is_computed_in_float32() -> None:
    assert loss("cross_entropy", LOGITS.half(), LABELS).dtype == torch.float32
    assert loss("bce_with_logits", LOGITS.bfloat16(), LOGITS > 0).dtype == torch.float32


def test_dense_labels_of_a_segmentation() -> None:
    outputs, targets = torch.rand(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    assert torch.equal(loss("cross_entropy", outputs, targets), functional.cross_entropy(outputs, targets))


def test_targets_that_are_shares_of_the_classes() -> None:
    shares = LOGITS.softmax(1).double()
    expected = functional.cross_entropy(LOGITS, shares.float())
    assert torch.equal(loss("cross_entropy", LOGITS, shares), expected)


@pytest.mark.parametrize("name", ["mse", "l1", "huber", "bce_with_logits"])
def test_a_column_and_a_row_of_numbers_are_compared_number_by_number(name: str) -> None:
    outputs, targets = torch.tensor([[0.5], [2.0], [-1.0]]), torch.tensor([1, 0, 1])
    torch.testing.assert_close(loss(name, outputs, targets), loss(name, outputs.flatten(), targets.float()))


def test_shapes_that_torch_would_broadcast_are_refused() -> None:
    with pytest.raises(TrainingFailed, match=r"outputs of shape \(3, 2\) and targets of shape \(3,\)"):
        loss("mse", torch.zeros(3, 2), torch.zeros(3))


def test_weights_of_positive_answers() -> None:
    outputs, targets = torch.tensor([[1.0, -1.0]]), torch.tensor([[1, 0]])
    expected = functional.binary_cross_entropy_with_logits(
        outputs, targets.float(), pos_weight=torch.tensor([3.0, 1.0])
    )
    assert torch.equal(loss("bce_with_logits", outputs, targets, pos_weight=[3, 1]), expected)


def test_a_function_of_the_user_s_gets_its_arguments(own: str) -> None:
    assert loss(f"{own}:pinball", torch.zeros(2), torch.ones(2), q=0.25) == 0.25


def test_labels_that_are_floats_are_shown_with_their_range() -> None:
    with pytest.raises(TrainingFailed, match=r"float32 of shape \(2,\) from 0 to 1; cross_entropy needs whole numbers"):
        loss("cross_entropy", LOGITS, torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize(
    ("training", "reason"),
    [
        (Training(loss="cross_entrpy"), "training.loss is 'cross_entrpy': did you mean 'cross_entropy'"),
        (Training(loss="focal"), "Known are cross_entropy, bce_with_logits, mse, l1, huber, package.module:function"),
        (Training(loss="mse", loss_args={"weight": 1}), "training.loss_args.weight: no such argument; mse has no arg"),
        (Training(loss_args={"wieght": 1}), "cross_entropy has weight, label_smoothing"),
        (Training(loss_args={"weight": ["a"]}), r"training.loss_args.weight: expected numbers"),
        (Training(loss_args={"label_smoothing": 2}), "label_smoothing is 2: expected 0 to 1"),
        (Training(loss="huber", loss_args={"delta": 0}), "delta is 0: expected a number above 0"),
        (Training(loss="no_such_package:f"), "'no_such_package:f': no_such_package can't be imported"),
        (Training(loss="{own}:value"), "is no function of that package"),
        (
            Training(loss="{own}:pinball"),
            r"is called as pinball\(outputs, targets, \*\*training.loss_args\), and has \(o",
        ),
    ],
)
def test_a_mistake_is_told_with_the_field(own: str, training: Training, reason: str) -> None:
    with pytest.raises(BadModel, match=reason):
        losses.make(Training(loss=training.loss.format(own=own), loss_args=training.loss_args))

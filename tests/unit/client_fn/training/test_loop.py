"""The training loop learns, repeats itself bit for bit, and explains errors of model and data."""

from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import LBFGS, SGD

from broker.messages.job_sections import Training
from client_fn.errors import LeaseOver, TrainingFailed
from client_fn.training import optimizers, tensors
from tests.support import loops

pytestmark = pytest.mark.torch


def samples(count: int, *shape: int, classes: int = 3) -> loops.Samples:
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, *shape, generator=generator), torch.arange(count) % classes


def run(
    module: nn.Module,
    data: loops.Samples,
    *,
    training: Training | None = None,
    batch_size: int = 4,
    epochs: int = 1,
    seed: int = 1,
) -> dict[str, float]:
    optimizer = optimizers.make(training or Training(optimizer="sgd"), module.parameters())
    return loops.train(module, optimizer, data, batch_size=batch_size, epochs=epochs, seed=seed)


def trained(module: nn.Module) -> bytes:
    return tensors.to_bytes(tensors.tensors_of(module))


def linear() -> nn.Module:
    module = nn.Linear(2, 3)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    return module


class Recorder(nn.Module):
    """A module that records its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 30)
        self.batches: list[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append([round(value) for value in x.flatten().tolist()])
        return self.layer(x)  # type: ignore[no-any-return]


def test_one_step_is_gradient_descent_on_cross_entropy() -> None:
    # From zeros each of the 3 classes has probability 1/3, so the bias of class k gains 0.1 (share of k - 1/3).
    module = linear()
    data = torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])
    metrics = run(module, data, batch_size=4)
    expected = torch.tensor([0.1 * (3 / 4 - 1 / 3), 0.1 * (1 / 4 - 1 / 3), 0.1 * (0 - 1 / 3)])
    torch.testing.assert_close(module.get_parameter("bias").detach(), expected)
    assert metrics["loss"] == pytest.approx(1.0986123)
    assert metrics["steps"] == 1


@pytest.mark.slow
def test_it_learns() -> None:
    x = torch.cat([torch.rand(30, 2), torch.rand(30, 2) + 2])
    metrics = run(nn.Linear(2, 2), (x, torch.arange(60) // 30), epochs=40)
    assert metrics["loss"] < 0.1 < metrics["first_epoch_loss"]


def test_each_epoch_uses_each_sample_once_in_a_new_order() -> None:
    module = Recorder()
    data = torch.arange(10.0).reshape(10, 1), torch.arange(10)
    run(module, data, batch_size=4, epochs=2)
    assert [len(batch) for batch in module.batches] == [4, 4, 2, 4, 4, 2]
    first, second = list(chain(*module.batches[:3])), list(chain(*module.batches[3:]))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert first != sorted(first)


@pytest.mark.slow
def test_labels_stay_with_their_samples() -> None:
    x = torch.eye(6).repeat(3, 1)
    module = nn.Linear(6, 6)
    run(module, (x, x.argmax(dim=1)), epochs=60, training=Training(optimizer="sgd", learning_rate=1.0))
    assert torch.equal(module(torch.eye(6)).argmax(dim=1), torch.arange(6))


@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 3), lambda: nn.Sequential(nn.Dropout(), nn.Linear(2, 3))])
def test_the_seed_alone_decides_the_outcome(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = make()
    start = {name: tensor.clone() for name, tensor in tensors.tensors_of(module).items()}
    outcomes = []
    for seed in (1, 1, 2):
        tensors.load(module, start)
        torch.rand(5)
        run(module, samples(20, 2), seed=seed)
        outcomes.append(trained(module))
    assert outcomes[0] == outcomes[1] != outcomes[2]


def test_training_leaves_the_process_s_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    module = nn.Sequential(nn.Dropout(), linear())
    torch.manual_seed(5)
    run(module, samples(8, 2))
    assert torch.equal(torch.rand(4), expected)


def test_a_last_batch_of_one_is_skipped_if_it_can_t_be_normalised() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert run(module, samples(9, 2), batch_size=4)["steps"] == 2
    assert run(linear(), samples(9, 2), batch_size=4)["steps"] == 3
    # A convolution's batch normalisation has the pixels of a single image.
    pixels = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 3))
    assert run(pixels, samples(3, 1, 2, 2), batch_size=1)["steps"] == 3


def test_a_single_sample_that_can_t_be_normalised_is_an_error() -> None:
    with pytest.raises(TrainingFailed, match="more than 1 value per channel"):
        run(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), samples(1, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_take_the_module_s_dtype(dtype: torch.dtype) -> None:
    assert run(linear().to(dtype), samples(8, 2))["loss"] == pytest.approx(1.0986, rel=0.05)


def test_integer_inputs_stay_integers() -> None:
    module = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(4, 3)).to(torch.float16)
    data = torch.tensor([[0, 1], [3, 4]]), torch.tensor([0, 2])
    assert run(module, data)["steps"] == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (samples(8, 5), r"samples of shape \(5\), torch.float32.*shapes cannot be multiplied"),
        (samples(8, 2, classes=4), r"Target 3 is out of bounds"),
        ((torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)), "there are no samples"),
        ((torch.zeros(4, 2, dtype=torch.int64), torch.arange(4) % 3), "torch.int64"),
    ],
)
def test_data_that_does_not_fit_is_explained(data: loops.Samples, reason: str) -> None:
    with pytest.raises(TrainingFailed, match=reason):
        run(linear(), data)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    x, y = samples(8, 2)
    with pytest.raises(TrainingFailed, match=r"after local epoch [123]: try a smaller learning rate"):
        run(linear(), (x * 1e30, y), training=Training(optimizer="sgd", learning_rate=1e30), epochs=3)


def test_an_error_before_a_batch_ends_the_training() -> None:
    module = linear()
    optimizer = optimizers.make(Training(optimizer="sgd"), module.parameters())
    left = iter([None, None])

    def check() -> None:
        if next(left, "over"):
            raise LeaseOver("job.1.client", 1.0)

    with pytest.raises(LeaseOver):
        loops.train(module, optimizer, samples(40, 2), batch_size=4, epochs=1, seed=1, before_batch=check)
    straight = linear()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:8]
    step = optimizers.make(Training(optimizer="sgd"), straight.parameters())
    x, y = samples(40, 2)
    for batch in order.split(4):  # type: ignore[no-untyped-call]
        step.zero_grad()
        functional.cross_entropy(straight(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
        step.step()
    assert trained(module) == trained(straight)


def test_an_optimizer_forgets_gradients_in_its_own_way() -> None:
    class Counting(SGD):
        forgotten = 0

        def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002 (torch's signature)
            self.forgotten += 1
            super().zero_grad(set_to_none)

    module, plain = linear(), linear()
    optimizer = Counting(module.parameters(), lr=0.1)
    loops.train(module, optimizer, samples(12, 2), batch_size=4)
    loops.train(plain, SGD(plain.parameters(), lr=0.1), samples(12, 2), batch_size=4)
    assert optimizer.forgotten == 3
    assert trained(module) == trained(plain)


def moved(**training: Any) -> Tensor:
    """Return how far one step on a large loss has moved the weights of a linear module."""
    module = linear()
    data = torch.full((4, 2), 100.0), torch.tensor([0, 0, 0, 1])
    loops.train(module, SGD(module.parameters(), lr=1.0), data, batch_size=4, **training)
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_gradients_are_clipped_by_their_norm_or_each() -> None:
    assert moved().norm() > 10
    assert moved(clip_norm=0.5).norm() == pytest.approx(0.5, rel=1e-4)
    assert moved(clip_value=0.25).abs().max() == 0.25
    assert moved(clip_value=0.25, clip_norm=0.1).norm() == pytest.approx(0.1, rel=1e-4)


def test_a_scheduler_changes_the_rate_after_each_step() -> None:
    args = {"step_size": 1, "gamma": 0.0}
    module = linear()
    optimizer = SGD(module.parameters(), lr=1.0)
    metrics = loops.train(module, optimizer, samples(8, 2), scheduler="StepLR", scheduler_args=args)
    once = linear()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))[:4]
    x, y = (part[order] for part in samples(8, 2))
    loops.train(once, SGD(once.parameters(), lr=1.0), (x, y), order="sequential")
    assert metrics["steps"] == 2
    torch.testing.assert_close(module.get_parameter("bias"), once.get_parameter("bias"))


def test_batches_in_the_order_in_which_they_lie_without_the_last() -> None:
    module = Recorder()
    data = torch.arange(10.0).reshape(10, 1), torch.arange(10)
    loops.train(module, None, data, batch_size=4, order="sequential", drop_last=True)
    assert module.batches == [[0, 1, 2, 3], [4, 5, 6, 7]]


class Halved(nn.Linear):
    """A module that keeps the dtype of its last outputs."""

    dtype = torch.float32

    def forward(self, x: Tensor) -> Tensor:
        outputs = super().forward(x)
        self.dtype = outputs.dtype
        return outputs


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "full"])
def test_the_forward_pass_has_the_job_s_precision_and_the_weights_have_their_own(precision: str) -> None:
    module = Halved(2, 3)
    loops.train(module, None, samples(8, 2), precision=precision)
    assert module.dtype == {"full": torch.float32}.get(precision, getattr(torch, precision, None))
    assert module.weight.dtype == torch.float32


def test_an_optimizer_that_computes_the_gradients_itself() -> None:
    module = linear()
    metrics = loops.train(module, LBFGS(module.parameters(), lr=0.5), samples(12, 2), batch_size=12, epochs=3)
    assert metrics["loss"] < metrics["first_epoch_loss"] == pytest.approx(1.0986123)


def test_a_loss_that_is_no_number_is_explained() -> None:
    with pytest.raises(TrainingFailed, match=r"the loss has shape \(2,\): return a tensor of one number"):
        loops.train(linear(), None, samples(2, 2), loss=f"{__name__}:each")


def each(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")

"""An update is the change of the round's model, and applied to that model it gives the trained one."""

import copy
import zlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from broker.messages import tensors as payload
from client_fn.errors import TrainingFailed
from client_fn.training import optimizers, tensors, updates
from client_fn.training.learner import Learner
from client_fn.training.model_tensors import ModelTensors
from client_fn.training.orders import Training
from tests.support import loops

pytestmark = pytest.mark.torch

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Mixed(nn.Module):
    """A module with tensors of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(2, 2)
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(False)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("seen", torch.tensor([False, True]))
        self.register_buffer("passing", torch.zeros(1), persistent=False)


def held(module: nn.Module) -> ModelTensors:
    return ModelTensors(Learner(), module)


def started(module: nn.Module) -> dict[str, Tensor]:
    """Return the module's tensors as the round's model, in memory of their own."""
    return {name: tensor.clone() for name, tensor in tensors.tensors_of(module).items()}


def change(module: nn.Module) -> None:
    """Change all tensors as a training might."""
    with torch.no_grad():
        for tensor in tensors.tensors_of(module).values():
            tensor.copy_(torch.logical_not(tensor) if tensor.dtype == torch.bool else tensor + 2)


def test_floats_are_changes_and_integers_are_values() -> None:
    module = Mixed()
    base = started(module)
    change(module)
    update = updates.make(held(copy.deepcopy(module)), base, "delta")
    assert list(update) == ["mean", "count", "seen", "out.weight", "out.bias"]
    for name in ("mean", "out.weight", "out.bias"):
        assert torch.equal(update[name], tensors.tensors_of(module)[name] - base[name])
    assert (update["count"].item(), update["seen"].tolist()) == (5, [True, False])
    assert {name: tensor.dtype for name, tensor in update.items()} == {name: base[name].dtype for name in update}


def test_weights_are_the_trained_tensors() -> None:
    module = Mixed()
    base = started(module)
    change(module)
    update = updates.make(held(module), base, "weights")
    assert list(update) == ["mean", "count", "seen", "out.weight", "out.bias"]
    assert all(torch.equal(tensor, tensors.tensors_of(module)[name]) for name, tensor in update.items())


def test_tied_weights_are_one_tensor() -> None:
    first, last = nn.Linear(2, 2), nn.Linear(2, 2)
    last.weight = first.weight
    module = nn.ModuleDict({"first": first, "last": last})
    base = started(module)
    change(module)
    assert sorted(updates.make(held(module), base, "delta")) == ["first.bias", "first.weight", "last.bias"]


def train(module: nn.Module) -> None:
    x, y = torch.rand(12, 4, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3
    optimizer = optimizers.make(Training("adam", 0.03), module.parameters())
    loops.train(module, optimizer, (x, y), batch_size=4, epochs=20, seed=1)


def extremes(module: nn.Module) -> None:
    """Move the first weights from large to small, from small to large, across zero, by one bit, and not at all."""
    weight = next(module.parameters()).data.flatten()
    weight[:5] = torch.tensor([1e-4, 200.0, -0.37, 1.0, 3.0]).to(weight.dtype)
    weight[3] = torch.nextafter(weight[3], weight[4])


@pytest.mark.parametrize("training", [train, extremes])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_delta_gives_the_trained_weights_up_to_one_rounding(dtype: torch.dtype, training: object) -> None:
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
    with torch.no_grad():
        next(module.parameters()).flatten()[:5] = torch.tensor([200.0, 1e-4, 0.37, 1.0, 3.0])
    base = started(module)
    training(module)  # type: ignore[operator]
    deltas = updates.make(held(copy.deepcopy(module)), base, "delta")
    arrays, _ = payload.decode(tensors.to_bytes(deltas))
    weights, _ = payload.decode(tensors.to_bytes(base))
    for name, tensor in tensors.trained_of(module).items():
        if not tensor.is_floating_point():
            continue
        got = (weights[name].astype(np.float64) + arrays[name]).astype(weights[name].dtype)
        error = np.abs(got.astype(np.float64) - tensor.double().numpy())
        assert (error <= spacing(tensor) / 2 + spacing(deltas[name]) / 2).all(), name
        # Where a weight has not become much smaller than its change, nothing is lost at all.
        near = (deltas[name].abs() <= tensor.abs() / 2).numpy()
        assert (error[near] == 0).all(), name


def spacing(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return the distance from each value to the next larger one."""
    size = tensor.abs()
    return (torch.nextafter(size, torch.full_like(size, torch.inf)).double() - size.double()).numpy()


def test_a_training_that_changes_the_model_s_tensors_fails_with_a_sentence() -> None:
    module = Mixed()
    base = started(module)
    module.out = nn.Linear(2, 3)
    module.more = nn.Linear(1, 1, bias=False)
    del module.mean
    module.seen = torch.zeros(2, dtype=torch.int32)
    sentence = (
        "the training must keep the model's tensors, now these are missing: mean; unexpected: more.weight; "
        "of another shape or dtype: seen, out.weight, out.bias"
    )
    for kind in ("delta", "weights"):
        with pytest.raises(TrainingFailed) as failed:
            updates.make(held(module), base, kind)
        assert str(failed.value) == sentence


@pytest.mark.parametrize("dtype", FLOATS)
def test_noise_has_the_size_of_an_update(dtype: torch.dtype) -> None:
    module = nn.Linear(100, 100).to(dtype)
    base = started(module)
    delta = updates.noise(held(module), base, "delta", 7)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in delta.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in base.items()
    }
    values = delta["weight"].double()
    assert 2**-11 <= values.abs().min() < 2**-10.9
    assert 2**-9.1 < values.abs().max() < 2**-9
    assert abs(values.mean()) < 5e-5
    weights = updates.noise(held(module), base, "weights", 7)
    assert torch.equal(weights["weight"], base["weight"] + delta["weight"])


@pytest.mark.parametrize("dtype", FLOATS)
def test_noise_is_about_as_hard_to_compress_as_a_training_s_result(dtype: torch.dtype) -> None:
    module = nn.Linear(100, 100).to(dtype)
    noise, trained = (
        tensors.to_bytes({"weight": weight})
        for weight in (
            updates.noise(held(module), started(module), "delta", 7)["weight"],
            torch.randn(100, 100, dtype=torch.float64).mul(1e-3).to(dtype),
        )
    )
    assert len(zlib.compress(noise)) > 0.8 * len(zlib.compress(trained))


def test_noise_of_a_scalar_and_of_nothing_keeps_the_shape() -> None:
    base = {"scale": torch.tensor(1.0), "none": torch.empty(0, 3)}
    module = nn.ParameterDict({name: nn.Parameter(tensor) for name, tensor in base.items()})
    noise = updates.noise(held(module), base, "delta", 7)
    assert {name: tensor.shape for name, tensor in noise.items()} == {name: base[name].shape for name in base}


def test_noise_follows_from_the_seed_and_leaves_frozen_tensors_and_integers_alone() -> None:
    module = Mixed()
    base = started(module)
    first = updates.noise(held(module), base, "delta", 7)
    torch.rand(17)
    assert list(first) == ["mean", "count", "seen", "out.weight", "out.bias"]
    assert (first["count"].item(), first["seen"].tolist()) == (3, [False, True])
    assert tensors.to_bytes(updates.noise(held(module), base, "delta", 7)) == tensors.to_bytes(first)
    assert not torch.equal(updates.noise(held(module), base, "delta", 8)["mean"], first["mean"])


def test_the_strategy_s_tensors_lie_beside_the_model_s() -> None:
    update, aux = {"weight": torch.ones(1)}, {"weight": torch.zeros(2)}
    assert list(updates.with_aux(update, aux)) == ["weight", "aux.weight"]
    with pytest.raises(TrainingFailed, match=r"the strategy needs the names aux\.weight: the model must not use them"):
        updates.with_aux({"aux.weight": torch.ones(1)}, aux)

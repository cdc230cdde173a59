"""The tensors of any torch module are named once, can be trained, and survive the conversion to bytes."""

import json
import mmap
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from broker.messages import tensors as payload
from broker.messages.job_sections import Model, Training
from client_fn.errors import BadModel, TrainingFailed
from client_fn.training import models, optimizers, tensors
from client_fn.training.model_tensors import DTYPES
from tests.support import loops
from tests.support.loops import Samples

pytestmark = pytest.mark.torch


class Scaled(nn.Module):
    """A 0-d parameter, and buffers of several kinds."""

    mask: Tensor
    steps: Tensor
    cache: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.layer = nn.Linear(4, 3)
        self.register_buffer("mask", torch.tensor([True, True, False, True]))
        self.register_buffer("steps", torch.tensor(0, dtype=torch.int64))
        self.register_buffer("cache", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.layer(x * self.mask)  # type: ignore[no-any-return]


class Tied(nn.Module):
    """A small language model whose embedding and output share one tensor."""

    def __init__(self, words: int = 7, width: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.out = nn.Linear(width, words, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.embedding(x).mean(dim=1))  # type: ignore[no-any-return]


class OneNumber(nn.Module):
    """A model with a single parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :1] * self.slope, (0, 2))


def half_frozen() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    module[0].requires_grad_(requires_grad=False)
    return module


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def of_dtype(dtype: torch.dtype) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).to(dtype)


FLOATS = (torch.rand(12, 4, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3)
WORDS = (torch.arange(24).reshape(12, 2) % 7, torch.arange(12) % 7)

ANY_MODULE: dict[str, tuple[Callable[[], nn.Module], Samples]] = {
    "0-d parameter and buffers": (Scaled, FLOATS),
    "tied weights": (Tied, WORDS),
    "one parameter": (OneNumber, FLOATS),
    "frozen parameters": (half_frozen, FLOATS),
    "batch normalisation": (normalised, FLOATS),
    "float16": (lambda: of_dtype(torch.float16), FLOATS),
    "bfloat16": (lambda: of_dtype(torch.bfloat16), FLOATS),
    "float64": (lambda: of_dtype(torch.float64), FLOATS),
}


def step(module: nn.Module, data: Samples, optimizer: str) -> dict[str, float]:
    training = Training(optimizer=optimizer, batch_size=4, local_epochs=1)
    return loops.train(module, optimizers.make(training, module.parameters()), data, batch_size=4, epochs=1, seed=1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "nadam"])
@pytest.mark.parametrize("kind", ANY_MODULE)
def test_any_module_trains_and_comes_back_from_bytes(kind: str, optimizer: str) -> None:
    make, data = ANY_MODULE[kind]
    torch.manual_seed(0)
    module, copy = make(), make()
    before = {name: tensor.clone() for name, tensor in tensors.tensors_of(module).items()}

    step(module, data, optimizer)

    after = tensors.tensors_of(module)
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in after)
    tensors.load(copy, tensors.from_bytes(tensors.to_bytes(after)))
    for name, tensor in tensors.tensors_of(copy).items():
        assert tensor.dtype == after[name].dtype
        assert torch.equal(tensor, after[name])


def test_persistent_buffers_are_tensors_of_the_module_and_others_are_not() -> None:
    assert list(tensors.tensors_of(Scaled())) == ["scale", "mask", "steps", "layer.weight", "layer.bias"]


def test_batch_normalisation_s_statistics_travel() -> None:
    module = normalised()
    step(module, FLOATS, "sgd")
    got = tensors.from_bytes(tensors.to_bytes(tensors.trained_of(module)))
    assert got["1.num_batches_tracked"].dtype == torch.int64
    assert got["1.num_batches_tracked"].item() == 3
    assert got["1.running_mean"].any()


def test_tied_weights_travel_once_and_stay_tied() -> None:
    module, other = Tied(), Tied()
    assert list(tensors.tensors_of(module)) == ["embedding.weight"]
    tensors.load(other, tensors.tensors_of(module))
    assert torch.equal(other.out.weight, module.embedding.weight)


def test_frozen_parameters_are_named_keep_their_value_and_stay_out_of_an_update() -> None:
    module = half_frozen()
    before = module.get_parameter("0.weight").clone()
    step(module, FLOATS, "adam")
    assert tensors.frozen_names(module) == ("0.weight", "0.bias")
    assert list(tensors.trained_of(module)) == ["2.weight", "2.bias"]
    assert list(tensors.tensors_of(module)) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert torch.equal(module.get_parameter("0.weight"), before)


def test_a_model_without_trainable_parameters_is_an_error() -> None:
    module = nn.Linear(4, 3).requires_grad_(requires_grad=False)
    with pytest.raises(TrainingFailed, match="no parameter to train"):
        step(module, FLOATS, "sgd")


@pytest.mark.slow
@pytest.mark.xdist_group("much memory")
def test_an_embedding_of_300_mb_trains_and_travels() -> None:
    # Without an initialisation that would take longer than all the rest.
    weight = torch.zeros(1_200_000, 64)
    module = nn.Sequential(nn.Embedding(1_200_000, 64, _weight=weight), nn.Flatten(), nn.Linear(64, 2))
    data = torch.tensor([[1_199_999], [3]]), torch.tensor([0, 1])
    optimizer = optimizers.make(Training(optimizer="sgd"), module.parameters())
    loops.train(module, optimizer, data, batch_size=2, epochs=1, seed=1)
    blob = tensors.to_bytes(tensors.tensors_of(module))
    got = tensors.from_bytes(blob)["0.weight"]
    assert len(blob) > 300_000_000
    assert got[1_199_999].any()
    assert got[3].any()
    assert not got[4].any()


def test_equal_tensors_give_equal_bytes_that_the_broker_s_gate_reads() -> None:
    module = models.build(Model(), seed=1)
    blob = tensors.to_bytes(tensors.tensors_of(module))
    assert blob == tensors.to_bytes(tensors.tensors_of(models.build(Model(), seed=1)))
    decoded, metadata = payload.decode(blob)
    assert decoded.keys() == tensors.tensors_of(module).keys()
    assert metadata == {}


def test_the_file_is_the_library_s() -> None:
    named = {f'é{dtype}\x07"\\\x7f\u2028': torch.tensor([[1], [0], [1]]).to(dtype) for dtype in DTYPES}
    named |= {"scalar": torch.tensor(0.5), "none": torch.empty(0, 3), "parameter": nn.Parameter(torch.ones(2))}
    assert tensors.to_bytes(named) == safetensors.torch.save(named)
    assert tensors.to_bytes({}) == safetensors.torch.save({})


def test_a_dtype_that_only_an_optimizer_has_is_kept() -> None:
    shared = torch.tensor([[1 + 2j, 3], [4, 5j]])
    got = tensors.from_bytes(tensors.to_bytes({"a": shared, "b": shared.t()}))
    assert torch.equal(got["a"], shared)
    assert torch.equal(got["b"], shared.t())


def test_tensors_that_share_memory_or_are_not_contiguous_keep_their_values() -> None:
    base = torch.arange(6.0).reshape(2, 3)
    got = tensors.from_bytes(tensors.to_bytes({"base": base, "first": base[0], "turned": base.t()}))
    assert torch.equal(got["first"], base[0])
    assert torch.equal(got["turned"], base.t())


def test_tensors_do_not_share_the_memory_of_the_file() -> None:
    blob = tensors.to_bytes({"a": torch.zeros(2)})
    tensors.from_bytes(blob)["a"].add_(1)
    assert not tensors.from_bytes(blob)["a"].any()


@pytest.mark.parametrize("garbage", [b"", b"garbage", json.dumps({"a": 1}).encode()])
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(TrainingFailed, match="not a safetensors file"):
        tensors.from_bytes(garbage)


def test_loading_another_model_s_tensors_names_the_differences_and_changes_nothing() -> None:
    module = nn.Linear(2, 2)
    before = {name: tensor.clone() for name, tensor in tensors.tensors_of(module).items()}
    others = {"weight": torch.ones(2, 2), "bias": torch.ones(2, dtype=torch.float16), "more": torch.ones(1)}
    with pytest.raises(BadModel, match=r"unexpected: more; of another shape or dtype: bias$"):
        tensors.load(module, others)
    with pytest.raises(BadModel, match="missing: bias"):
        tensors.load(module, {"weight": torch.ones(2, 2)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.tensors_of(module).items())


def test_tensors_are_read_in_the_order_of_their_names() -> None:
    module = models.build(Model(), seed=3)
    assert tensors.frozen_names(module) == ()
    blob = tensors.to_bytes(tensors.tensors_of(module))
    assert list(tensors.from_bytes(blob)) == ["hidden.bias", "hidden.weight", "out.bias", "out.weight"]


def test_tensors_of_mapped_memory_are_those_of_the_bytes(tmp_path: Path) -> None:
    named = {
        "half": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
        "float": torch.randn(3, 5),
        "whole": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 4),
    }
    file = tmp_path / "tensors"
    file.write_bytes(safetensors.torch.save(named, {"a": "b"}))
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE)
    got = tensors.from_bytes(mapped)
    assert list(got) == sorted(named)
    assert all(torch.equal(got[name], named[name]) and got[name].dtype == named[name].dtype for name in named)
    before = file.read_bytes()
    got["float"].zero_()
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"\xff" * 64, b"\x08" + b"\0" * 7 + b"no json." + b"x" * 64])
def test_mapped_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "tensors"
    file.write_bytes(content)
    with file.open("rb") as opened, pytest.raises(TrainingFailed, match="not a safetensors file"):
        tensors.from_bytes(mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE))

"""The paper's models have its sizes and initial weights; a user's class is imported unchanged, or named in an error."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from broker.messages.job import Model
from client_fn.errors import BadModel
from client_fn.training import models, tensors

pytestmark = pytest.mark.torch

OWN = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.layer = nn.Linear(width, 2)
        nn.init.constant_(self.layer.bias, 7.0)

    def forward(self, x):
        return self.layer(x)

class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LazyLinear(2)

class Fails(nn.Module):
    def __init__(self):
        raise KeyError("no such thing")

class NoModule:
    pass
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of an importable module with a user's classes."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def weights(module: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in module.parameters()]


@pytest.mark.parametrize(("kind", "count"), [("nn", 397_510), ("cnn", 582_026)])
def test_the_paper_s_models_have_its_number_of_parameters(kind: str, count: int) -> None:
    module = models.build(Model(type=kind), seed=1)
    assert sum(parameter.numel() for parameter in module.parameters()) == count


@pytest.mark.parametrize("kind", ["nn", "cnn"])
def test_they_give_logits_for_a_batch_of_images(kind: str) -> None:
    module = models.build(Model(type=kind), seed=1)
    assert module(torch.rand(3, 28, 28)).shape == (3, 10)


def test_the_cnn_takes_images_with_colours() -> None:
    module = models.build(Model(type="cnn", args={"channels": 3, "size": 32, "classes": 5}), seed=1)
    assert module(torch.rand(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize("kind", ["nn", "cnn"])
def test_weights_start_glorot_uniform_and_biases_at_zero(kind: str) -> None:
    module = models.build(Model(type=kind), seed=1)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
            continue
        field = parameter[0][0].numel() if parameter.dim() == 4 else 1
        bound = math.sqrt(6 / ((parameter.shape[0] + parameter.shape[1]) * field))
        largest = parameter.abs().max().item()
        assert 0.95 * bound < largest <= bound
        # A uniform distribution's standard deviation is its bound over the root of three.
        assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize("kind", ["nn", "cnn"])
def test_the_seed_alone_decides_the_initial_weights(kind: str) -> None:
    first = weights(models.build(Model(type=kind), seed=1))
    torch.rand(17)
    again = weights(models.build(Model(type=kind), seed=1))
    other = weights(models.build(Model(type=kind), seed=2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_building_leaves_the_process_s_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    models.build(Model(), seed=1)
    assert torch.equal(torch.rand(4), expected)


def test_a_user_s_class_is_imported_and_keeps_its_own_initial_weights(own: str) -> None:
    module = models.build(Model(type=f"{own}:Own", args={"width": 4}), seed=1)
    assert module(torch.rand(2, 4)).shape == (2, 2)
    assert module.get_parameter("layer.bias").tolist() == [7.0, 7.0]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no_such_package.models:Net", "No module named 'no_such_package'"),
        ("{own}:Missing", "has no attribute 'Missing'"),
        ("{own}:NoModule", "no class of torch.nn.Module"),
        ("{own}:Lazy", "the shape of layer.weight is open"),
        ("{own}:Fails", "no such thing"),
        ("math:pi", "no class of torch.nn.Module"),
    ],
)
def test_a_class_that_can_t_be_used_is_named(own: str, path: str, reason: str) -> None:
    path = path.format(own=own)
    with pytest.raises(BadModel, match=reason) as failed:
        models.build(Model(type=path), seed=1)
    assert failed.value.type == path
    assert "; " in str(failed.value)


def test_wrong_args_are_answered_with_the_right_ones() -> None:
    with pytest.raises(BadModel, match=r"unexpected keyword argument 'width'.*input_size: int = 784"):
        models.build(Model(type="nn", args={"width": 3}), seed=1)


def test_images_too_small_for_the_cnn_are_refused() -> None:
    with pytest.raises(BadModel, match="size is 8, needs to be at least 16"):
        models.build(Model(type="cnn", args={"size": 8}), seed=1)


def test_keys_differ_with_the_args_and_not_with_their_order() -> None:
    first = models.key(Model(args={"hidden": 5, "classes": 2}))
    assert first == models.key(Model(args={"classes": 2, "hidden": 5}))
    assert first != models.key(Model(args={"classes": 2, "hidden": 6}))


def test_models_built_by_several_threads_have_the_weights_of_their_seeds() -> None:
    """torch's random number generator belongs to the process, and several jobs may start at once."""
    alone = [tensors.to_bytes(tensors.tensors_of(models.build(Model(), seed=seed))) for seed in range(4)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: models.build(Model(), seed=i % 4), range(32)))
    assert [tensors.to_bytes(tensors.tensors_of(module)) for module in together] == alone * 8

"""The paper's models have its sizes and initial weights; a user's class is imported unchanged, or named in an error."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from broker.messages.job_sections import Model
from client_fn.errors import BadModel
from client_fn.training import models

pytestmark = pytest.mark.torch

OWN = """
import random
import subprocess

import numpy as np
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

class Exits(nn.Module):
    def __init__(self):
        raise SystemExit(3)

class NoModule:
    pass

def make(width=3):
    return Own(width)

def make_none():
    return None

class Drawn(nn.Linear):
    def __init__(self):
        super().__init__(1, 2, bias=False)
        nn.init.constant_(self.weight, random.random())
        nn.init.constant_(self.weight[1], np.random.random())
"""


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


def test_building_leaves_the_process_s_random_numbers_alone(own: str) -> None:
    def drawn() -> list[float]:
        return [torch.rand(1).item(), random.random(), np.random.random()]  # noqa: NPY002, S311 (what a user may call)

    def seed() -> None:
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002

    seed()
    expected = drawn()
    for model in (Model(), Model(type=f"{own}:Drawn")):
        seed()
        models.build(model, seed=1)
        assert drawn() == expected


def test_the_seed_decides_numpy_s_and_the_standard_library_s_random_numbers_too(own: str) -> None:
    first, again, other = (
        models.build(Model(type=f"{own}:Drawn"), seed=seed).get_parameter("weight").flatten().tolist()
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first[0] != other[0]
    assert first[1] != other[1]


def test_a_user_s_class_is_imported_and_keeps_its_own_initial_weights(own: str) -> None:
    module = models.build(Model(type=f"{own}:Own", args={"width": 4}), seed=1)
    assert module(torch.rand(2, 4)).shape == (2, 2)
    assert module.get_parameter("layer.bias").tolist() == [7.0, 7.0]


def test_a_user_s_function_makes_a_module(own: str) -> None:
    module = models.build(Model(type=f"{own}:make", args={"width": 4}), seed=1)
    assert module(torch.rand(2, 4)).shape == (2, 2)


@pytest.mark.parametrize(
    ("path", "reason", "cause"),
    [
        ("no_such_package.models:Net", "no_such_package.models can't be imported", "ModuleNotFoundError"),
        ("{own}:Missing", "has no Missing", ""),
        ("{own}:NoModule", "is neither a class of torch.nn.Module nor a function of that package", ""),
        ("{own}:Fails", "it can't be constructed; model.args are those of Fails()", "KeyError"),
        ("{own}:Exits", "it can't be constructed", "SystemExit"),
        ("{own}:make_none", "it returns a NoneType", ""),
        ("math:pi", "is neither a class of torch.nn.Module nor a function of that package", ""),
    ],
)
def test_a_class_that_can_t_be_used_is_named(own: str, path: str, reason: str, cause: str) -> None:
    path = path.format(own=own)
    with pytest.raises(BadModel) as failed:
        models.build(Model(type=path), seed=1)
    assert failed.value.sentence.startswith(f"model {path!r}: ")
    assert reason in failed.value.sentence
    assert failed.value.cause == cause


def test_the_line_of_the_user_s_code_is_named_and_its_text_is_apart(own: str) -> None:
    with pytest.raises(BadModel) as failed:
        models.build(Model(type=f"{own}:Fails"), seed=1)
    line = OWN.splitlines().index('        raise KeyError("no such thing")') + 1
    assert failed.value.where == f"{own}.py:{line}"
    assert "no such thing" in str(failed.value)
    assert "no such thing" not in failed.value.message(reveal=False)


@pytest.mark.parametrize("path", ["{own}:subprocess.run", "{own}:subprocess", "{own}:torch.load", "subprocess:Popen"])
def test_nothing_else_that_a_module_can_reach_is_called(own: str, path: str) -> None:
    with pytest.raises(BadModel):
        models.build(Model(type=path.format(own=own), args={"args": ["true"]}), seed=1)


def test_a_function_that_a_user_s_module_has_imported_is_not_called(
    own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{own}_two.py").write_text("from shutil import rmtree\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadModel, match="is neither a class"):
        models.build(Model(type=f"{own}_two:rmtree", args={"path": str(tmp_path)}), seed=1)
    assert (tmp_path / f"{own}_two.py").exists()


def test_wrong_args_are_answered_with_the_right_ones() -> None:
    with pytest.raises(BadModel, match=r"input_size: int = 784.*unexpected keyword argument 'width'"):
        models.build(Model(type="nn", args={"width": 3}), seed=1)


def test_images_too_small_for_the_cnn_are_refused() -> None:
    with pytest.raises(BadModel, match="size is 8, needs to be at least 16"):
        models.build(Model(type="cnn", args={"size": 8}), seed=1)

"""What a learner does by default, and how a class of the user's changes it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client_fn.errors import BadModel, TrainingFailed
from client_fn.learner import Learner
from client_fn.training import learner
from client_fn.training.orders import Build, Evaluation, Model, Order, Training
from client_fn.training.orders import Learner as Section

pytestmark = pytest.mark.torch

OWN = """
import dataclasses
from client_fn.learner import Learner
from torch import nn

class Plain:
    def __init__(self, width=1):
        self.width = width
    def model(self):
        return nn.Linear(self.width, 1)

class Extending(Learner):
    def metrics(self):
        return {**super().metrics(), "more": "mae"}

@dataclasses.dataclass(frozen=True)
class Frozen:
    width: int

class Fails:
    def __init__(self):
        raise KeyError("Meier")

def no_class():
    pass
"""


def order(type_: str = "", training: Training | None = None, metrics: tuple[str, ...] = (), **args: Any) -> Order:
    model = Model("nn", {"input_size": 2, "hidden": 2, "classes": 2})
    return Build(model, 1, Section(type_, args), training or Training(), Evaluation(metrics=metrics))


def predict(model: Any, batch: Any) -> tuple[Any, Any]:
    return learner.make(order()).predict(model, batch)


class Masked(nn.Module):
    """A model with two inputs, of which the second may be missing."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x if mask is None else x * mask


class First(nn.Module):
    """A model whose only input has a name of its own."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels


class Returning(nn.Module):
    """A model that returns what a test says."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Any:
        del x
        return self.value


X, Y = torch.ones(2, 3), torch.tensor([0, 1])


def test_a_tuple_s_last_part_is_the_target_and_the_others_are_arguments() -> None:
    outputs, targets = predict(Masked(), (X, 2 * X, Y))
    assert torch.equal(outputs, 2 * X)
    assert targets is Y


def test_a_dict_s_tensors_go_to_the_arguments_of_their_names() -> None:
    outputs, targets = predict(Masked(), {"mask": 3 * X, "x": X, "id": Y, "y": Y})
    assert torch.equal(outputs, 3 * X)
    assert targets is Y
    assert torch.equal(predict(First(), {"x": X, "id": Y, "y": Y})[0], X)


@pytest.mark.parametrize(
    "returned",
    [(X, Y), [X], {"logits": X, "loss": Y}, {"out": X}, SimpleNamespace(logits=X), SimpleNamespace(loss=Y, out=X)],
)
def test_of_several_outputs_the_one_that_counts_is_taken(returned: Any) -> None:
    assert predict(Returning(returned), (X, Y))[0] is X


@pytest.mark.parametrize(
    ("returned", "batch", "reason"),
    [
        ({"boxes": X, "scores": Y}, (X, Y), "the model returns a dict of boxes, scores: return a tensor"),
        (None, (X, Y), "the model returns a NoneType: return a tensor"),
        (X, {"x": X}, "a batch has x and no 'y': give the learner a predict"),
        (X, X, "a batch is a Tensor, and no tuple"),
        (X, (X,), "a batch is a tuple, and no tuple"),
    ],
)
def test_what_can_t_be_predicted_is_explained(returned: Any, batch: Any, reason: str) -> None:
    with pytest.raises(TrainingFailed, match=reason):
        predict(Returning(returned), batch)


def test_what_is_measured_suits_the_loss_unless_the_job_or_the_learner_says_more(own: str) -> None:
    assert learner.make(order()).metrics() == {"accuracy": "accuracy"}
    assert learner.make(order(training=Training(loss="mse"))).metrics() == {"rmse": "rmse"}
    assert learner.make(order(metrics=("auroc", "mine:Pinball"))).metrics() == {
        "auroc": "auroc",
        "pinball": "mine:Pinball",
    }
    assert learner.make(order(f"{own}:Extending")).metrics() == {"accuracy": "accuracy", "more": "mae"}


def test_a_class_need_not_inherit_and_gets_the_defaults(own: str) -> None:
    made = learner.make(order(f"{own}:Plain", width=4))
    assert isinstance(made, Learner)
    assert made.model().in_features == 4
    assert (type(made).__name__, type(made).__module__) == ("Plain", own)
    loss = made.loss(nn.Linear(2, 2), (torch.zeros(1, 2), torch.tensor([0])))
    assert loss.shape == ()


def test_a_class_that_forbids_attributes_can_be_a_learner(own: str) -> None:
    made = learner.make(order(f"{own}:Frozen", width=4))
    assert isinstance(made.model(), nn.Module)


@pytest.mark.parametrize(
    ("name", "args", "reason"),
    [
        ("{own}:Plain", {"wdith": 1}, r"it can't be constructed; learner.args are those of Plain\(width=1\)"),
        ("{own}:Fails", {}, "it can't be constructed.*KeyError"),
        ("{own}:no_class", {}, "is no class of that package"),
        ("{own}:Missing", {}, "has no Missing"),
        ("no_such_package:L", {}, "no_such_package can't be imported"),
    ],
)
def test_a_learner_that_can_t_be_made_is_named(own: str, name: str, args: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadModel, match=f"learner '.*': .*{reason}"):
        learner.make(order(name.format(own=own), **args))


def test_a_module_s_tensors_are_arrays_by_default() -> None:
    made, module = Learner(), nn.BatchNorm1d(2)
    arrays = dict(made.arrays(module))
    arrays["weight"] = np.array([3.0, 4.0], np.float32)
    made.load(module, arrays)
    assert module.weight.tolist() == [3.0, 4.0]


def test_a_model_that_is_no_module_needs_arrays_of_its_own() -> None:
    with pytest.raises(BadModel, match=r"is a dict, no torch.nn.Module: give the learner arrays\(\) and load\(\)"):
        Learner().arrays({})

"""A model is evaluated correctly, whatever was evaluated before and by however many threads."""

import concurrent.futures
from pathlib import Path

import pytest
import torch

from broker.messages.errors import BadTensors
from broker.messages.job import Model
from client_fn.errors import BadModel, TrainingFailed
from client_fn.training import models, tensors
from client_fn.training.evaluate import MODULES_KEPT, _modules, evaluate
from tests.support.function_site import initial_weights

pytestmark = pytest.mark.torch

OWN = """
import threading
from torch import nn

BOTH = threading.Barrier(2)

class Unsteady(nn.Sequential):
    def __init__(self):
        super().__init__(nn.BatchNorm1d(2), nn.Dropout(0.9), nn.Linear(2, 2))

class Together(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(2, 2, bias=False)

    def forward(self, x):
        BOTH.wait(10)
        return self.out(x)
"""
SMALL = Model(type="nn", args={"input_size": 2, "hidden": 2, "classes": 2})


def weights(*, swapped: bool = False) -> bytes:
    """Return identity weights: the logits are the two inputs, if these are positive."""
    eye = torch.eye(2)
    return tensors.to_bytes(
        {
            "hidden.weight": eye,
            "hidden.bias": torch.zeros(2),
            "out.weight": eye.flip(0) if swapped else eye,
            "out.bias": torch.zeros(2),
        }
    )


X = torch.tensor([[5.0, 0.0], [0.0, 5.0], [5.0, 0.0], [0.0, 5.0]])
Y = torch.tensor([0, 1, 0, 0])


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_accuracy_and_loss_by_hand(batch_size: int) -> None:
    evaluation = evaluate(SMALL, weights(), X, Y, batch_size)
    # log(1 + exp(-5)) where it is right, log(1 + exp(5)) where it is wrong.
    assert evaluation.accuracy == 0.75
    assert evaluation.loss == pytest.approx((3 * 0.0067153 + 5.0067153) / 4, rel=1e-5)
    assert evaluation.samples == 4


def test_the_module_is_kept_and_its_weights_are_not() -> None:
    evaluate(SMALL, weights(), X, Y, 2)
    module = _modules[models.key(SMALL)]
    assert evaluate(SMALL, weights(swapped=True), X, Y, 2).accuracy == 0.25
    assert _modules[models.key(SMALL)] is module
    assert evaluate(SMALL, weights(), X, Y, 2).accuracy == 0.75


def test_other_args_are_another_module() -> None:
    evaluate(SMALL, weights(), X, Y, 2)
    with pytest.raises(BadModel, match="not this model's tensors"):
        evaluate(Model(type="nn", args={"input_size": 2, "hidden": 3, "classes": 2}), weights(), X, Y, 2)


def test_only_a_few_modules_are_kept() -> None:
    for hidden in range(1, MODULES_KEPT + 3):
        model = Model(type="nn", args={"input_size": 2, "hidden": hidden, "classes": 2})
        evaluate(model, initial_weights(model, 1), X, Y, 2)
    assert len(_modules) == MODULES_KEPT


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of an importable module with a user's classes."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_dropout_and_batch_normalisation_are_off(own: str) -> None:
    model = Model(type=f"{own}:Unsteady")
    blob = initial_weights(model, 1)
    assert evaluate(model, blob, X, Y, 1) == evaluate(model, blob, X, Y, 1)


def test_threads_do_not_mix_their_weights(own: str) -> None:
    model = Model(type=f"{own}:Together")
    right, wrong = (tensors.to_bytes({"out.weight": weight}) for weight in (torch.eye(2), torch.eye(2).flip(0)))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        # The second pair finds a module that the first has left.
        for _ in range(2):
            futures = [pool.submit(evaluate, model, blob, X, Y, 4) for blob in (right, wrong)]
            assert [future.result(timeout=120).accuracy for future in futures] == [0.75, 0.25]


def test_errors_of_the_evaluation_are_explained() -> None:
    with pytest.raises(BadTensors):
        evaluate(SMALL, b"garbage", X, Y, 2)
    with pytest.raises(BadModel):
        evaluate(Model(type="no_such_package:Net"), weights(), X, Y, 2)
    with pytest.raises(TrainingFailed, match="shapes cannot be multiplied"):
        evaluate(SMALL, weights(), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), 2)
    with pytest.raises(TrainingFailed, match="no samples"):
        evaluate(SMALL, weights(), X[:0], Y[:0], 2)

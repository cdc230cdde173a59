"""A global model is judged by hand-checkable numbers, whatever was judged before and by however many threads."""

import concurrent.futures

import pytest
import torch

from broker.errors import BadTensors
from broker.job import Model
from client_fn import models, tensors
from client_fn.errors import BadModel, TrainingFailed, WrongTensors
from client_fn.evaluate import MODULES_KEPT, _idle, evaluate

SMALL = Model(type="nn", args={"input_size": 2, "hidden": 2, "classes": 2})


def weights(*, swapped: bool = False) -> bytes:
    """The identity: logits are the two inputs, where they are positive."""
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
    judged = evaluate(SMALL, weights(), X, Y, batch_size)
    # log(1 + exp(-5)) where it is right, log(1 + exp(5)) where it is wrong.
    assert judged.accuracy == 0.75
    assert judged.loss == pytest.approx((3 * 0.0067153 + 5.0067153) / 4, rel=1e-5)
    assert judged.samples == 4


def test_the_module_is_kept_and_its_weights_are_not() -> None:
    evaluate(SMALL, weights(), X, Y, 2)
    module = _idle[models.key(SMALL)]
    assert evaluate(SMALL, weights(swapped=True), X, Y, 2).accuracy == 0.25
    assert _idle[models.key(SMALL)] is module
    assert evaluate(SMALL, weights(), X, Y, 2).accuracy == 0.75


def test_other_args_are_another_module() -> None:
    evaluate(SMALL, weights(), X, Y, 2)
    with pytest.raises(WrongTensors):
        evaluate(Model(type="nn", args={"input_size": 2, "hidden": 3, "classes": 2}), weights(), X, Y, 2)


def test_only_a_few_modules_are_kept() -> None:
    for hidden in range(1, MODULES_KEPT + 3):
        model = Model(type="nn", args={"input_size": 2, "hidden": hidden, "classes": 2})
        evaluate(model, tensors.initial(model, 1)[0], X, Y, 2)
    assert len(_idle) == MODULES_KEPT


def test_dropout_and_batch_normalisation_are_off(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_dropout_model.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.BatchNorm1d(2), nn.Dropout(0.9), nn.Linear(2, 2))\n"
    )
    model = Model(type="own_dropout_model:Net")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        blob, _ = tensors.initial(model, 1)
        assert evaluate(model, blob, X, Y, 1) == evaluate(model, blob, X, Y, 1)


def test_threads_do_not_mix_their_weights() -> None:
    x, y = X.repeat(500, 1), Y.repeat(500)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [
            (swapped, pool.submit(evaluate, SMALL, weights(swapped=swapped), x, y, 7)) for swapped in [False, True] * 8
        ]
        for swapped, judged in jobs:
            assert judged.result(timeout=60).accuracy == (0.25 if swapped else 0.75)


def test_what_can_t_be_judged_is_explained() -> None:
    with pytest.raises(BadTensors):
        evaluate(SMALL, b"garbage", X, Y, 2)
    with pytest.raises(BadModel):
        evaluate(Model(type="no_such_package:Net"), weights(), X, Y, 2)
    with pytest.raises(TrainingFailed, match="shapes cannot be multiplied"):
        evaluate(SMALL, weights(), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), 2)
    with pytest.raises(TrainingFailed, match="no samples"):
        evaluate(SMALL, weights(), X[:0], Y[:0], 2)

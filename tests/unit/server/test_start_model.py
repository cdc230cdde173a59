"""Which tensors of an earlier model a job starts from."""

import numpy as np
import pytest

from broker.messages.tensors import Tensors
from server import start_model
from server.errors import LearningFailed

INITIAL: Tensors = {
    "body.weight": np.zeros((2, 3), np.float32),
    "head.weight": np.zeros((4, 2), np.float32),
    "head.bias": np.zeros(4, np.float32),
    "count": np.array(0, np.int64),
}


def test_tensors_of_the_same_name_shape_and_dtype_are_taken() -> None:
    earlier: Tensors = {
        "body.weight": np.ones((2, 3), np.float32),
        "head.weight": np.ones((9, 2), np.float32),
        "head.bias": np.ones(4, np.float64),
        "old.bias": np.ones(1, np.float32),
    }
    weights, report = start_model.take(INITIAL, earlier, "job:base")
    assert (report.source, report.matched) == ("job:base", ("body.weight",))
    assert (report.reshaped, report.missing, report.unused) == (("head.weight", "head.bias"), ("count",), ("old.bias",))
    assert weights.keys() == INITIAL.keys()
    assert {name: float(tensor.sum()) for name, tensor in weights.items()} == {
        "body.weight": 6.0,
        "head.weight": 0.0,
        "head.bias": 0.0,
        "count": 0.0,
    }


def test_what_each_site_makes_itself_stays_as_it_was_constructed() -> None:
    earlier: Tensors = {name: np.ones_like(tensor) for name, tensor in INITIAL.items()}
    weights, report = start_model.take(INITIAL, earlier, "job:base", own=("body.weight",))
    assert float(weights["body.weight"].sum()) == 0.0
    assert (report.unused, report.missing) == (("body.weight",), ())
    assert report.matched == ("head.weight", "head.bias", "count")


def test_a_model_of_which_nothing_matches_is_refused() -> None:
    with pytest.raises(LearningFailed) as failed:
        start_model.take(
            INITIAL, {f"model.{name}": tensor for name, tensor in INITIAL.items()}, "file:///a.safetensors"
        )
    assert str(failed.value) == (
        "model.from = 'file:///a.safetensors': no tensor of it has the name, shape and dtype of one of the model's: "
        "it has model.body.weight F32 (2, 3), model.head.weight F32 (4, 2), model.head.bias F32 (4,) and 1 more; "
        "the model has body.weight F32 (2, 3), head.weight F32 (4, 2), head.bias F32 (4,) and 1 more"
    )

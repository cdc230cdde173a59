from typing import Any

import numpy as np
import pytest
import torch

from client_fn.training.learner import Learner
from client_fn.training.model_tensors import ModelTensors

pytestmark = pytest.mark.torch


class Line:
    def __init__(self) -> None:
        self.slope = np.zeros(2)


class KeepsWhatItIsGiven(Learner):
    def arrays(self, model: Line) -> dict[str, Any]:
        return {"slope": model.slope}

    def load(self, model: Line, arrays: Any) -> None:
        model.slope = arrays["slope"]


def test_a_learner_that_trains_in_place_does_not_change_the_rounds_model() -> None:
    base = {"slope": torch.ones(2, dtype=torch.float64)}
    model = Line()
    ModelTensors(KeepsWhatItIsGiven(), model).load(base)
    model.slope += 1
    assert model.slope.tolist() == [2, 2]
    assert base["slope"].tolist() == [1, 1]

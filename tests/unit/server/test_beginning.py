"""What a job's first model must not be."""

import dataclasses

import numpy as np
import pytest

import broker
from broker.messages.job import Job
from broker.messages.update_forms import SCALES
from server import beginning
from server.errors import LearningFailed
from server.learning import InitialModel
from tests.support import fakes


class WithScales(fakes.FakeLearning):
    """A model with a tensor of the name that the scales of an `int8` update have."""

    async def initial_model(self, job: Job) -> InitialModel:
        initial = await super().initial_model(job)
        return dataclasses.replace(initial, weights={**initial.weights, SCALES: np.ones(3, np.float32)})


async def test_a_model_with_the_scales_name_is_refused_before_any_client_trains(memory_url: str) -> None:
    async with broker.connect(memory_url) as bus:
        with pytest.raises(LearningFailed, match=r"'int8' needs the name int8\.scales: the model must not use it"):
            await beginning.begin(fakes.job(training={"update": "int8"}), WithScales(), bus)
        made = await beginning.begin(fakes.job(training={"update": "bf16"}), WithScales(), bus)
        assert SCALES in made.model.weights

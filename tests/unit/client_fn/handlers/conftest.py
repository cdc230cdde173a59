"""An instance of the function for the platforms' handlers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from broker.messages.round import RoundTask
from client_fn.data import shards
from client_fn.handlers import gcf, openfaas, openwhisk
from client_fn.runtime.instance import Instance
from client_fn.runtime.settings import Settings
from tests.support.function_site import FAR, SMALL, TRAINING, initial_weights, model_ref
from tests.support.handler_calls import KEY, Deployed
from tests.support.trainers import use_inline


@pytest.fixture
def deployed(tmp_path: Path, memory_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployed]:
    """An instance whose broker is empty; only a bundle brings the model."""
    data_loc = f"{tmp_path}/shard.safetensors"
    shards.write(data_loc, np.random.default_rng(1).random((10, 2, 2), dtype=np.float32), np.arange(10) % 3)
    model = initial_weights(SMALL, 1)
    task = RoundTask(
        client_id="c1",
        client_type="openfaas",
        url="",
        model_configuration=SMALL,
        data_loc=data_loc,
        training_hyperparameters=TRAINING,
        job="job",
        round=1,
        model=model_ref(model),
        state=None,
        token="t0ken",  # noqa: S106 (nobody's)
        seed=7,
        deadline_s=FAR,
        max_attempts=3,
    )
    use_inline(monkeypatch)
    with Instance(Settings(memory_url, "c1", KEY)) as instance:
        for handler in (openfaas, openwhisk, gcf):
            monkeypatch.setattr(handler, "of_this_process", lambda: instance)
        yield Deployed(instance, task, model)

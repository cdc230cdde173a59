"""The initial model that the server builds with torch, tensor by tensor."""

import pytest
import torch
from torch import nn

from broker.messages import job as jobs
from broker.messages import tensors as payload
from broker.messages.job import Job
from broker.messages.round import seed
from client_fn.training import models, tensors
from fedkeeper.learning import TorchLearning
from server.errors import LearningFailed


class Angle(nn.Module):
    """A model with a tensor whose dtype no update can carry."""

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.register_buffer("angle", torch.zeros(2).to(getattr(torch, dtype)))


def job_with(module: str, **args: object) -> Job:
    model = {"type": module, "args": args}
    return jobs.from_dict({"model": model, "data": {"dataset": "own"}, "evaluation": {"every": 0}})


@pytest.mark.parametrize("module", ["BatchNormed", "Scalar", "Tied", "Frozen", "Half", "Brain", "Single"])
def test_the_first_model_has_the_bytes_that_the_function_would_write(module: str) -> None:
    job = job_with(f"tests.support.modules:{module}")
    built = models.build(job.model, seed=seed(job.seed, "model"))
    initial = TorchLearning(None).initial_model(job)
    assert payload.encode(initial.weights) == tensors.to_bytes(tensors.tensors_of(built))
    assert initial.frozen == tensors.frozen_names(built)
    assert initial.buffers == tuple(name for name, _ in built.named_buffers())


@pytest.mark.parametrize("dtype", ["complex64", "float8_e4m3fn"])
def test_a_dtype_that_no_update_carries_is_named(dtype: str) -> None:
    with pytest.raises(LearningFailed, match=f"angle has dtype torch.{dtype}, known are F64"):
        TorchLearning(None).initial_model(job_with(f"{__name__}:Angle", dtype=dtype))

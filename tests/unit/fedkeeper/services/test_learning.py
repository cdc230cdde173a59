"""The initial model that the server builds in a trainer, tensor by tensor, and how a trainer's errors are named."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from broker.messages import job_file as jobs
from broker.messages import tensors as payload
from broker.messages.job import Job
from broker.messages.round import seed
from client_fn.code.named import Names
from client_fn.errors import BadModel, ClientError, LimitExceeded, NotAllowed, TrainerDied
from client_fn.site import Site
from client_fn.trainer.answers import Answer
from client_fn.trainer.shared import SharedBytes
from client_fn.training import models, tensors
from client_fn.training.orders import Look, Order, Together
from fedkeeper.services.learning import TrainerLearning
from server.errors import LearningDied, LearningFailed
from tests.support.trainers import InlineTrainers

pytestmark = pytest.mark.torch

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
RAISED = BadModel("model 'a:B': it can't be constructed", cause="KeyError", where="a.py:3", text="Jane Doe")


class Stub(InlineTrainers):
    """A trainer whose orders end as a test says."""

    def __init__(self, end: ClientError | Answer) -> None:
        super().__init__()
        self._end = end

    async def do(
        self,
        names: Names,  # noqa: ARG002 (the interface's arguments)
        order: Order | Look | Together,  # noqa: ARG002
        inputs: Mapping[str, SharedBytes],  # noqa: ARG002
        *,
        on_training: Callable[[], None] | None = None,  # noqa: ARG002
        limit_s: float | None = None,  # noqa: ARG002
    ) -> Answer:
        if isinstance(self._end, ClientError):
            raise self._end
        return self._end


def job_with(module: str, every: int = 0, dataset: str = "own") -> Job:
    return jobs.from_dict({"model": {"type": module}, "data": {"dataset": dataset}, "evaluation": {"every": every}})


def learning(trainers: InlineTrainers, data_dir: Path | None = None, site: Site | None = None) -> TrainerLearning:
    return TrainerLearning(site or Site(), trainers, data_dir)


@pytest.mark.parametrize("module", ["BatchNormed", "Scalar", "Tied", "Frozen", "Half", "Brain", "Single"])
async def test_the_first_model_has_the_bytes_that_the_function_would_write(module: str) -> None:
    job = job_with(f"tests.support.modules:{module}")
    built = models.build(job.model, seed=seed(job.seed, "model"))
    initial = await learning(InlineTrainers()).initial_model(job)
    assert payload.encode(initial.weights) == tensors.to_bytes(tensors.tensors_of(built))
    assert initial.frozen == tensors.frozen_names(built)
    assert initial.buffers == tuple(name for name, _ in built.named_buffers())
    assert initial.code == ""


def personal_job() -> Job:
    return jobs.from_dict(
        {
            "model": {"type": "tests.support.modules:BatchNormed", "personal": ["2.*"]},
            "data": {"dataset": "own"},
            "evaluation": {"every": 0},
        }
    )


async def test_personal_layers_are_not_in_the_first_model() -> None:
    initial = await learning(InlineTrainers()).initial_model(personal_job())
    assert initial.weights.keys() == {"1.weight", "1.bias", "3.weight", "3.bias"}
    assert set(initial.personal) == {f"2.{name}" for name in NORM}
    assert initial.buffers == ()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(
            {"frozen": [], "buffers": [], "personal": ["2.weight"]},
            {"weights": payload.encode({"2.weight": np.ones(8, np.float32)})},
        ),
        Answer({"frozen": [], "buffers": []}, {"weights": payload.encode({"1.weight": np.ones(8, np.float32)})}),
    ],
)
async def test_a_trainer_that_would_send_them_fails_the_job(answer: Answer) -> None:
    with pytest.raises(LearningFailed, match=r"the trainer's answer .* model.personal"):
        await learning(Stub(answer)).initial_model(personal_job())


async def test_a_model_is_evaluated_on_the_dataset_s_test_samples() -> None:
    job = job_with("nn", every=1, dataset="digits")
    ours = learning(InlineTrainers())
    weights = payload.encode((await ours.initial_model(job)).weights)
    result = await ours.evaluate(job, weights)
    assert result.samples == 360
    assert result == await ours.evaluate(job, weights)
    with pytest.raises(LearningFailed, match="not this model's tensors"):
        await ours.evaluate(job_with("tests.support.modules:Tied", every=1, dataset="digits"), weights)


async def test_a_missing_dataset_fails_the_job_and_is_looked_for_again(tmp_path: Path) -> None:
    ours = learning(InlineTrainers(), tmp_path)
    for _ in range(2):
        with pytest.raises(LearningFailed, match=f"mnist.*{tmp_path}"):
            await ours.initial_model(job_with("nn", every=1, dataset="mnist"))
    await ours.initial_model(job_with("nn", every=0, dataset="mnist"))


@pytest.mark.parametrize(
    ("error", "raised", "reason"),
    [
        (RAISED, LearningFailed, r"constructed: KeyError in a.py:3 \(its text is in the log\)$"),
        (NotAllowed("a:B", "start the server with it"), LearningFailed, "'a:B' is not allowed here: start the server"),
        (LimitExceeded("the training used 9 MiB", ("Jane Doe",)), LearningFailed, "^the training used 9 MiB$"),
        (TrainerDied("the process was killed", ("Jane Doe",)), LearningDied, "^the process was killed$"),
    ],
)
async def test_errors_are_mapped_and_hold_no_text_of_the_user_s(
    error: ClientError, raised: type[Exception], reason: str
) -> None:
    with pytest.raises(raised, match=reason):
        await learning(Stub(error)).initial_model(job_with("nn"))


async def test_an_operator_may_reveal_the_texts() -> None:
    with pytest.raises(LearningFailed, match=r"KeyError in a\.py:3: Jane Doe"):
        await learning(Stub(RAISED), site=Site(reveal="text")).initial_model(job_with("nn"))


@pytest.mark.parametrize(
    "answer",
    [
        Answer({"frozen": [], "buffers": []}, {}),
        Answer({"frozen": [], "buffers": []}, {"weights": b"garbage"}),
        Answer({"frozen": 3, "buffers": []}, {"weights": payload.encode({})}),
        Answer({}, {"weights": payload.encode({})}),
    ],
)
async def test_what_user_code_makes_of_a_trainer_s_answer_fails_the_job_alone(answer: Answer) -> None:
    with pytest.raises(LearningFailed, match="model 'nn'"):
        await learning(Stub(answer)).initial_model(job_with("nn"))


@pytest.mark.parametrize(
    "facts", [{}, {"metrics": {"loss": 0.5}, "samples": 0}, {"metrics": {"accuracy": "good"}, "samples": 1}]
)
async def test_an_impossible_evaluation_fails_the_job_alone(facts: dict[str, object]) -> None:
    with pytest.raises(LearningFailed, match="model 'nn'"):
        await learning(Stub(Answer(facts, {}))).evaluate(job_with("nn", every=1, dataset="digits"), b"")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file://{}/no.safetensors", "no file lies there"),
        ("file:///etc/passwd", "it is outside of {} (FEDKEEPER_DATA_PREFIXES)"),
        ("ftp://x/y", "its scheme is not allowed here; FEDKEEPER_DATA_SCHEMES allows file, s3, gs, abfs, https"),
    ],
)
async def test_a_model_to_start_from_is_read_where_the_site_allows_it(tmp_path: Path, url: str, reason: str) -> None:
    ours = learning(InlineTrainers(), site=Site(data_prefixes=(str(tmp_path),)))
    (tmp_path / "base.safetensors").write_bytes(b"tensors")
    assert await ours.read_model(f"file://{tmp_path}/base.safetensors") == b"tensors"
    with pytest.raises(LearningFailed) as failed:
        await ours.read_model(url.format(tmp_path))
    assert str(failed.value) == f"model.from = {url.format(tmp_path)!r}, read by the server: {reason.format(tmp_path)}"


async def test_a_test_set_at_any_place_is_named_in_its_errors(tmp_path: Path) -> None:
    (tmp_path / "test.safetensors").write_bytes(b"no tensors at all")
    place = f"{tmp_path}/test.safetensors"
    job = jobs.from_dict({"data": {"dataset": "own"}, "evaluation": {"data": place}})
    with pytest.raises(LearningFailed, match=f"^evaluation.data = '{place}', read by the server: "):
        await learning(InlineTrainers()).initial_model(job)

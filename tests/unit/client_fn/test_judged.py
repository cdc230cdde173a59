"""What a function believes of its trainer's judgement, and the update of a task that is only to judge."""

from typing import Any

import numpy as np
import pytest

from broker.messages.job_sections import Evaluation
from client_fn import judged
from client_fn.data.shard_cache import Shard
from client_fn.errors import TrainerDied
from client_fn.function import handle
from client_fn.trainer.answers import Answer
from client_fn.trainer.shared import SharedBytes
from tests.support.function_site import Site, read_update, task_for
from tests.support.trainers import warm_state

HELD = Evaluation(holdout=0.4)


def facts(judged_samples: Any, evaluation: Any, limit: int = 10) -> judged.Judged:
    answer = Answer({"judged": judged_samples, "evaluation": evaluation}, {})
    return judged.facts_of(answer, Shard("safetensors", SharedBytes(b"x"), "", "", limit, ""))


def test_finite_numbers_of_bounded_names_are_believed() -> None:
    values = {
        "loss": 0.5,
        "top_5": 1,
        "a-b": -2.0,
        "NaN": float("nan"),
        "inf": float("inf"),
        "truth": True,
        "text": "0.5",
        "none": None,
        "../path": 1.0,
        "x" * 65: 1.0,
        "": 1.0,
    }
    assert facts(4, values) == (4, {"loss": 0.5, "top_5": 1, "a-b": -2.0})


def test_no_more_values_are_believed_than_a_header_has_room_for() -> None:
    assert len(facts(4, {f"m{i}": 1.0 for i in range(500)}).evaluation) == judged.VALUES_KEPT


def test_a_client_has_judged_no_more_samples_than_it_has() -> None:
    assert facts(1000, {"loss": 0.5}).judged == 10


@pytest.mark.parametrize("evaluation", [None, [], "loss", 5])
def test_an_evaluation_that_is_no_table_is_none(evaluation: Any) -> None:
    assert facts(4, evaluation) == (4, {})


def test_nothing_is_measured_without_samples() -> None:
    assert facts(0, {"loss": 0.5}) == (0, {})
    assert judged.facts_of(Answer({}, {}), None) == (0, {})


@pytest.mark.parametrize("samples", [-1, 1.5, True, "4", None, [4]])
def test_a_number_of_samples_that_is_none_is_the_trainer_s_fault(samples: Any) -> None:
    with pytest.raises(TrainerDied, match="how many samples it has judged"):
        facts(samples, {})


@pytest.mark.torch
async def test_an_update_says_what_the_client_has_found(site: Site) -> None:
    done = await handle(await task_for(site, evaluation=HELD), site.bus, warm_state(), attempt=1)
    tensors, header = await read_update(site)
    assert header == done.header
    assert header.judged > 0
    assert header.samples + header.judged == 10
    assert header.evaluation.keys() == {"loss", "accuracy"}
    assert header.evaluation["loss"] == tensors["eval.loss.sum"] / header.judged
    assert header.seconds.keys() == {"fetch", "data", "build", "judge", "train"}


@pytest.mark.torch
async def test_a_task_to_judge_is_answered_with_sums_alone(site: Site) -> None:
    began: list[str] = []
    task = await task_for(site, evaluation=HELD, purpose="evaluate")
    done = await handle(task, site.bus, warm_state(), attempt=1, on_training=lambda: began.append("began"))
    tensors, header = await read_update(site)
    assert tensors.keys() == {
        f"eval.{name}" for name in ("loss.sum", "loss.count", "accuracy.correct", "accuracy.count")
    }
    assert (header.samples, header.states) == (header.judged, {})
    assert (header.base, header.token, header.metrics) == (task.model.sha256, "t0ken", {})
    assert began == ["began"]
    await handle(await task_for(site, evaluation=HELD, round=2), site.bus, warm_state(), attempt=1)
    beside, trained = await read_update(site, round_=2)
    assert (trained.judged, trained.evaluation) == (done.header.judged, done.header.evaluation)
    assert all(np.array_equal(tensors[name], beside[name]) for name in tensors)


@pytest.mark.torch
async def test_a_client_that_holds_nothing_out_answers_a_task_to_judge_with_nothing(site: Site) -> None:
    task = await task_for(site, evaluation=Evaluation(holdout=1e-9), purpose="evaluate")
    done = await handle(task, site.bus, warm_state(), attempt=1)
    tensors, _ = await read_update(site)
    assert (tensors, done.header.judged, done.header.samples, done.header.evaluation) == ({}, 0, 0, {})

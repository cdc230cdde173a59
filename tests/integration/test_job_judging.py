"""Clients judge the models of a job on data that they hold out; with fake clients."""

import time
from typing import Any

import numpy as np
import pytest

from broker import topics
from broker.base import Broker
from broker.messages import cloudevents, progress
from broker.messages.cloudevents import Envelope
from broker.messages.invocation import Invocation
from broker.messages.job import Job
from broker.messages.round import RoundTask
from broker.messages.tensors import Tensors
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.job_progress import digest, events_of, watch_to_end

NOBODY = "no client has held-out data, or their functions are older than this server"


def judged_job(**sections: Any) -> Job:
    """A job of four clients and two rounds without a test set, judged by its clients."""
    evaluation = {"data": "", "holdout": 0.2, **sections.pop("evaluation", {})}
    return fakes.job(evaluation=evaluation, cohort={"grace_s": 60.0, **sections.pop("cohort", {})}, **sections)


async def run(sdk: Client, bus: Broker, job: Job, fleet: Fleet, learning: FakeLearning | None = None) -> list[Any]:
    """Run a job with ten registered clients, and return its events."""
    await sdk.register(fakes.clients(10))
    async with running(serve(bus, learning or FakeLearning()), fleet.serve()):
        return await watch_to_end(sdk, await sdk.submit(job))


def evaluations(messages: list[Any]) -> list[progress.ModelEvaluated]:
    return [event for event in events_of(messages, progress.ModelEvaluated) if event.by == "clients"]


async def test_each_round_s_model_is_judged_by_those_who_train_with_it_and_the_last_one_too(
    sdk: Client, bus: Broker
) -> None:
    fleet = Fleet(bus)
    messages = await run(sdk, bus, judged_job(), fleet)

    judged = evaluations(messages)
    assert [event.round for event in judged] == [0, 1, 2]
    tasks = ([fakes.number(task.client_id) for task in fleet.tasks if task.round == round_] for round_ in (1, 2, 3))
    for event, numbers in zip(judged, tasks, strict=True):
        assert event.clients == 4
        assert event.samples == sum(n + 1 for n in numbers)
        assert event.accuracy == sum(numbers) / event.samples
        assert event.loss == pytest.approx(0.1)
        assert event.metrics == {"accuracy": event.accuracy, "loss": event.loss}
        assert event.spread["accuracy"].mean == pytest.approx(event.accuracy)
        assert event.spread["accuracy"].worst_decile == min(n / (n + 1) for n in numbers)
        assert event.left_out == {}
        assert event.evaluation_s == 4 * 0.25
    assert [event.background for event in judged] == [True, True, False]
    (completed,) = events_of(messages, progress.JobCompleted)
    assert (completed.reason, completed.rounds) == ("2 rounds are done", 2)
    assert completed.metrics["accuracy"] == judged[-1].accuracy


async def test_judging_adds_one_round_of_tasks_for_the_last_model_and_no_other_task(sdk: Client, bus: Broker) -> None:
    fleet = Fleet(bus)
    messages = await run(sdk, bus, judged_job(), fleet)
    purposes = [(task.round, task.purpose) for task in fleet.tasks]
    assert sorted(purposes) == [(1, "train")] * 4 + [(2, "train")] * 4 + [(3, "evaluate")] * 4
    assert [event.round for event in events_of(messages, progress.RoundCompleted)] == [1, 2]
    opened = events_of(messages, progress.RoundOpened)[-1]
    assert (opened.round, opened.cohort, len(opened.evaluators)) == (3, (), 4)


async def test_a_client_s_own_judgement_is_told_with_its_update(sdk: Client, bus: Broker) -> None:
    messages = await run(sdk, bus, judged_job(stop={"rounds": 1}), Fleet(bus))
    told = events_of(messages, progress.UpdateCounted)
    assert [event.purpose for event in told] == ["train"] * 4 + ["evaluate"] * 4
    for event in told:
        n = fakes.number(event.client)
        assert (event.judged, event.evaluation["accuracy"]) == (n + 1, n / (n + 1))
        assert event.of == 4
    assert [event.counted for event in told] == [1, 2, 3, 4] * 2
    assert {event.samples for event in told[4:]} == {0}


async def test_clients_that_do_not_train_judge_by_a_task_of_their_own(sdk: Client, bus: Broker) -> None:
    fleet = Fleet(bus)
    messages = await run(sdk, bus, judged_job(evaluation={"clients": 3}, stop={"rounds": 3}), fleet)
    for round_ in (1, 2, 3):
        trained = {task.client_id for task in fleet.tasks if (task.round, task.purpose) == (round_, "train")}
        judged = [task for task in fleet.tasks if (task.round, task.purpose) == (round_, "evaluate")]
        assert len(trained) == 4
        assert len(judged) == (3 if round_ > 1 else 0), "the initial model is judged by those who train with it"
        assert not trained & {task.client_id for task in judged}
        assert all(not task.states and task.along is None for task in judged)
    assert [event.clients for event in evaluations(messages)] == [4, 7, 7, 4]
    assert all(len(event.counted) == 4 and not event.missing for event in events_of(messages, progress.RoundCompleted))


async def test_the_model_does_not_depend_on_who_judges_it(sdk: Client, bus: Broker) -> None:
    digests = set()
    for asked in (0, 2, 0.5, 1):
        fleet = Fleet(bus)
        await sdk.register(fakes.clients(10))
        async with running(serve(bus, FakeLearning()), fleet.serve()):
            job = await sdk.submit(judged_job(evaluation={"clients": asked}))
            await watch_to_end(sdk, job)
        digests.add(await digest(sdk, job))
    assert len(digests) == 1


async def test_evaluators_that_stay_silent_cost_the_grace_and_no_round(sdk: Client, bus: Broker) -> None:
    async def evaluators_are_silent(bus: Broker, task: RoundTask) -> None:
        if task.purpose == "train" or task.round == 3:
            await fakes.answer(bus, task)

    job = judged_job(evaluation={"clients": 1}, cohort={"grace_s": 0.1})
    messages = await run(sdk, bus, job, Fleet(bus, evaluators_are_silent))
    assert [len(event.counted) for event in events_of(messages, progress.RoundCompleted)] == [4, 4]
    assert not events_of(messages, progress.RoundFailed)
    assert [event.clients for event in evaluations(messages)] == [4, 4, 4]


async def test_a_job_completes_though_clients_are_lost_that_were_to_judge_its_last_model(
    sdk: Client, bus: Broker
) -> None:
    lost: list[str] = []

    async def three_fail(bus: Broker, task: RoundTask) -> None:
        if task.purpose == "train" or len(lost) == 3:
            await fakes.answer(bus, task)
            return
        lost.append(task.client_id)
        await report_dead(bus, task)

    messages = await run(sdk, bus, judged_job(), Fleet(bus, three_fail))
    (completed,) = events_of(messages, progress.JobCompleted)
    assert completed.reason == "2 rounds are done; 1 of 4 clients have judged the last model"
    assert evaluations(messages)[-1].clients == 1


async def test_a_job_completes_though_every_client_is_lost_that_was_to_judge_its_last_model(
    sdk: Client, bus: Broker
) -> None:
    async def all_fail(bus: Broker, task: RoundTask) -> None:
        await (fakes.answer(bus, task) if task.purpose == "train" else report_dead(bus, task))

    messages = await run(sdk, bus, judged_job(), Fleet(bus, all_fail))
    (completed,) = events_of(messages, progress.JobCompleted)
    assert completed.reason == "2 rounds are done; 0 of 4 clients have judged the last model"
    assert evaluations(messages)[-1].reason == NOBODY


async def report_dead(bus: Broker, task: RoundTask) -> None:
    """Report that a client is given up, as its bridge does."""
    report = Invocation(
        job=task.job,
        round=task.round,
        client=task.client_id,
        platform="fake",
        attempt=3,
        outcome="dead",
        reason="its data is gone",
    )
    event = cloudevents.encode(Envelope(f"{task.id}.dead", "/fake", "invocation.dead", time.time()), report)
    await bus.publish(topics.invocation("fake", task.client_id), event)


async def test_functions_of_an_older_version_judge_nothing_and_the_rounds_go_on(sdk: Client, bus: Broker) -> None:
    async def trains_whatever_it_is_asked(bus: Broker, task: RoundTask) -> None:
        content = fakes.update(fakes.trained(await fakes.base_of(bus, task), task), fakes.header(task))
        await bus.publish(topics.update(task.job, task.round, task.client_id, 1), content)

    messages = await run(sdk, bus, judged_job(), Fleet(bus, trains_whatever_it_is_asked))
    assert not events_of(messages, progress.UpdateRefused)
    assert [(event.round, event.clients, event.metrics, event.reason) for event in evaluations(messages)] == [
        (round_, 0, {}, NOBODY) for round_ in (0, 1, 2)
    ]
    assert events_of(messages, progress.JobCompleted)[0].reason == "2 rounds are done"


async def test_some_functions_of_an_older_version_are_left_out_and_counted(sdk: Client, bus: Broker) -> None:
    async def half_are_old(bus: Broker, task: RoundTask) -> None:
        if fakes.number(task.client_id) % 2:
            await fakes.answer(bus, task)
            return
        content = fakes.update(fakes.trained(await fakes.base_of(bus, task), task), fakes.header(task))
        await bus.publish(topics.update(task.job, task.round, task.client_id, 1), content)

    job = judged_job(cohort={"clients": 10}, stop={"rounds": 1})
    first, *_ = evaluations(await run(sdk, bus, job, Fleet(bus, half_are_old)))
    assert (first.clients, first.left_out) == (5, {"accuracy": 5, "loss": 5})


FORGED: dict[str, Tensors] = {
    "NaN": {"eval.loss.sum": np.array(np.nan)},
    "infinity": {"eval.loss.sum": np.array(-np.inf)},
    "a negative count": {"eval.loss.count": np.array(-3)},
    "a huge count": {"eval.loss.count": np.array(2**62)},
    "a huge number": {"eval.loss.sum": np.array(1e300)},
    "a wrong dtype": {"eval.loss.sum": np.zeros((), np.float16)},
    "a path as its name": {"eval.../../model.x": np.array(1)},
    "too many tensors": {f"eval.m{i}.x": np.array(1) for i in range(300)},
    "too many bytes": {"eval.loss.sum": np.zeros(1 << 20, np.int64)},
}


@pytest.mark.parametrize("what", FORGED)
async def test_a_forged_sum_is_refused_and_harms_nothing(sdk: Client, bus: Broker, what: str) -> None:
    async def one_forges(bus: Broker, task: RoundTask) -> None:
        sums, said = fakes.judgement(task)
        if task.client_id == "client-01":
            sums = {**sums, **FORGED[what]}
        tensors = fakes.trained(await fakes.base_of(bus, task), task) if task.purpose == "train" else {}
        content = fakes.update(tensors | sums, fakes.header(task, **said))
        await bus.publish(topics.update(task.job, task.round, task.client_id, 1), content)

    job = judged_job(cohort={"clients": 10, "quorum": 9, "grace_s": 0.0}, stop={"rounds": 1})
    messages = await run(sdk, bus, job, Fleet(bus, one_forges))
    first = evaluations(messages)[0]
    assert first.round == 0
    assert first.accuracy is not None
    assert 0 <= first.accuracy <= 1
    assert all("client-01" not in event.counted for event in events_of(messages, progress.RoundCompleted))
    assert messages[-1].event.what == "job.completed"


async def test_sums_of_another_layout_are_left_out_and_counted(sdk: Client, bus: Broker) -> None:
    async def one_differs(bus: Broker, task: RoundTask) -> None:
        sums, said = fakes.judgement(task)
        if task.client_id == "client-01":
            sums["eval.loss.sum"] = np.zeros(2)
        tensors = fakes.trained(await fakes.base_of(bus, task), task) if task.purpose == "train" else {}
        content = fakes.update(tensors | sums, fakes.header(task, **said))
        await bus.publish(topics.update(task.job, task.round, task.client_id, 1), content)

    job = judged_job(cohort={"clients": 10}, stop={"rounds": 1})
    first, *_ = evaluations(await run(sdk, bus, job, Fleet(bus, one_differs)))
    assert first.left_out == {"loss": 1}
    assert first.loss == pytest.approx(0.1)


async def test_sums_that_can_t_be_scored_are_announced_with_the_reason(sdk: Client, bus: Broker) -> None:
    messages = await run(sdk, bus, judged_job(), Fleet(bus), FakeLearning(fails_to_score=True))
    assert [(event.clients, event.metrics) for event in evaluations(messages)] == [(4, {})] * 3
    assert {event.reason for event in evaluations(messages)} == {
        "the clients' sums can't be scored: these sums are no numbers of ours"
    }
    assert messages[-1].event.what == "job.completed"


async def test_a_job_stops_when_the_clients_judge_its_model_good_enough(sdk: Client, bus: Broker) -> None:
    job = judged_job(stop={"rounds": 9, "metric": "loss", "target": 0.2})
    messages = await run(sdk, bus, job, Fleet(bus))
    (completed,) = events_of(messages, progress.JobCompleted)
    assert completed.reason == "loss 0.1 reached the target 0.2"
    assert completed.rounds == 1, "the model of round 0 is judged in round 1"


async def test_a_cancelled_job_s_last_model_is_not_judged(sdk: Client, bus: Broker) -> None:
    async def cancels(bus: Broker, task: RoundTask) -> None:
        if task.purpose == "evaluate":
            await sdk.cancel(task.job)
        else:
            await fakes.answer(bus, task)

    messages = await run(sdk, bus, judged_job(), Fleet(bus, cancels))
    assert messages[-1].event.what == "job.cancelled"

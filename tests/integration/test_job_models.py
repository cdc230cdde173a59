"""The models of a job: which are kept, which is the best, what a job starts from, what is never sent twice."""

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.messages import progress, tensors
from broker.messages.errors import NoSuchModel
from broker.messages.progress import Progress
from broker.messages.tensors import Tensors
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.job_progress import events_of, watch_to_end
from tests.support.server_crashes import Crash, crashing, wait_until_over

FROZEN = ("layer.weight", "norm.running_mean")


def near(target: float) -> Any:
    """A metric that is best for the model whose bias is nearest to the target: the bias grows from round to round."""

    def measure(model: Tensors) -> dict[str, float]:
        return {"distance": abs(float(model["layer.bias"].mean()) - target)}

    return measure


def judged(**stop: Any) -> dict[str, Any]:
    return {
        "evaluation": {"best": "distance", "metrics": ("distance",), "directions": {"distance": "min"}},
        "stop": {"rounds": 6, **stop},
    }


async def train(sdk: Client, bus: Broker, learning: FakeLearning, **tables: Any) -> tuple[str, list[Progress]]:
    """Run a job to its end; return its id and its events."""
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, learning), Fleet(bus).serve()):
        job = await sdk.submit(fakes.job(**tables))
        return job, await watch_to_end(sdk, job)


@pytest.fixture
def stored(bus: Broker, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The models that were put on the broker and not deleted, by topic."""
    models: dict[str, bytes] = {}
    put, purge = bus.put, bus.purge

    async def noted_put(topic: str, content: bytes, **options: Any) -> int:
        if topic.startswith("fl.models."):
            models[topic] = content
        return await put(topic, content, **options)

    async def noted_purge(topic: str) -> None:
        models.pop(topic, None)
        await purge(topic)

    monkeypatch.setattr(bus, "put", noted_put)
    monkeypatch.setattr(bus, "purge", noted_purge)
    return models


async def test_the_best_model_stays_until_the_end(sdk: Client, bus: Broker, stored: dict[str, bytes]) -> None:
    job, messages = await train(sdk, bus, FakeLearning(measure=near(0.12)), **judged())
    record = await sdk.job(job)
    measured = {each.round: each.metrics["distance"] for each in events_of(messages, progress.ModelEvaluated)}
    best = min(measured, key=lambda round_: measured[round_])
    assert record.best is not None
    assert 1 < best < 5
    assert (record.best.round, record.best.value) == (best, measured[best])
    content = tensors.decode(await sdk.model(job, "best"))[0]
    assert near(0.12)(content)["distance"] == pytest.approx(measured[best])
    assert await sdk.model(job, best) == await sdk.model(job, "best") != await sdk.model(job)
    (end,) = events_of(messages, progress.JobCompleted)
    assert (end.best_round, end.best, end.metrics) == (best, record.best.model, record.metrics)
    assert len(stored) == 3, "the best one, the last one and the one before"


async def test_patience_ends_the_job_some_rounds_after_the_best_one(sdk: Client, bus: Broker) -> None:
    job, messages = await train(sdk, bus, FakeLearning(measure=near(0.0)), **judged(patience=2))
    assert (await sdk.job(job)).done == 3
    (end,) = events_of(messages, progress.JobCompleted)
    assert end.reason.startswith("test distance was not better than ")
    assert end.best_round == 1


async def test_every_nth_model_is_kept_and_can_be_fetched(sdk: Client, bus: Broker) -> None:
    job, messages = await train(sdk, bus, FakeLearning(), model={"keep_every": 2}, stop={"rounds": 5})
    digests = {each.round: each.model for each in events_of(messages, progress.RoundCompleted)}
    assert (await sdk.job(job)).kept == {2: digests[2], 4: digests[4]}
    for round_ in (2, 4, 5):
        assert tensors.decode(await sdk.model(job, round_))[0].keys() == fakes.INITIAL.keys()
    with pytest.raises(NoSuchModel, match=f"job {job} does not keep the model of round 3, but those of 2, 4, 5"):
        await sdk.model(job, 3)
    with pytest.raises(NoSuchModel, match=r"evaluation\.best names the metric that decides"):
        await sdk.model(job, "best")


@pytest.mark.parametrize(("which", "of"), [("", "best"), ("@2", 2), ("@6", "last")])
async def test_a_job_starts_from_a_model_of_another_one(sdk: Client, bus: Broker, which: str, of: Any) -> None:
    learning = FakeLearning(measure=near(0.12))
    earlier, _ = await train(sdk, bus, learning, **judged(), model={"keep_every": 2})
    source = f"job:{earlier}{which}"
    _, messages = await train(sdk, bus, learning, name="next", model={"from": source, "keep_every": 1})
    (started,) = events_of(messages, progress.JobStarted)
    assert (started.start.source, set(started.start.matched)) == (source, set(fakes.INITIAL))
    expected = tensors.decode(await sdk.model(earlier, of))[0]
    assert started.model.sha256 == hashlib.sha256(tensors.encode(expected)).hexdigest()


async def test_a_job_starts_from_a_file_whose_tensors_match_in_part(sdk: Client, bus: Broker, tmp_path: Path) -> None:
    file = tmp_path / "base.safetensors"
    file.write_bytes(tensors.encode({"layer.bias": np.ones(3, np.float32), "layer.weight": np.ones(2, np.float32)}))
    _, messages = await train(sdk, bus, FakeLearning(), model={"from": f"file://{file}"})
    (started,) = events_of(messages, progress.JobStarted)
    assert (started.start.matched, started.start.reshaped) == (("layer.bias",), ("layer.weight",))


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ("job:nobody", "model.from = 'job:nobody': no job 'nobody' is known to this broker"),
        ("file://{}/other.safetensors", "no tensor of it has the name, shape and dtype of one of the model's"),
        ("file://{}/text.safetensors", "it is no safetensors file"),
    ],
)
async def test_a_start_that_can_t_be_used_fails_the_job(
    sdk: Client, bus: Broker, tmp_path: Path, start: str, reason: str
) -> None:
    (tmp_path / "other.safetensors").write_bytes(tensors.encode({"x": np.ones(3)}))
    (tmp_path / "text.safetensors").write_bytes(b"no tensors")
    _, messages = await train(sdk, bus, FakeLearning(), model={"from": start.format(tmp_path)})
    (failed,) = events_of(messages, progress.JobFailed)
    assert reason in failed.reason


@pytest.mark.parametrize("frozen", ["send", "site"])
async def test_frozen_tensors_are_published_once_or_not_at_all(
    sdk: Client, bus: Broker, stored: dict[str, bytes], frozen: str
) -> None:
    fleet = Fleet(bus)
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning(frozen=FROZEN)), fleet.serve()):
        job = await sdk.submit(fakes.job(model={"frozen": frozen}, stop={"rounds": 3}))
        await watch_to_end(sdk, job)
    record = await sdk.job(job)
    assert record.model is not None
    holders = [topic for topic, content in stored.items() if tensors.decode(content)[0].keys() & set(FROZEN)]
    made = {name for task in fleet.tasks for name in (task.frozen_digest and "site", task.frozen and "send") if name}
    assert made == {frozen}
    model = tensors.decode(await sdk.model(job))[0]
    if frozen == "send":
        assert {task.frozen for task in fleet.tasks} == {record.frozen_model}
        assert record.frozen_model is not None
        assert holders == [record.frozen_model.topic]
        assert model.keys() == fakes.INITIAL.keys()
        np.testing.assert_array_equal(model["layer.weight"], fakes.INITIAL["layer.weight"])
    else:
        assert holders == []
        assert model.keys() == fakes.INITIAL.keys() - set(FROZEN)


@pytest.mark.parametrize("frozen", ["send", "site"])
async def test_another_server_goes_on_with_a_model_whose_frozen_tensors_are_apart(
    sdk: Client, bus: Broker, frozen: str
) -> None:
    spec = fakes.job(model={"frozen": frozen}, stop={"rounds": 3})
    await sdk.register(fakes.clients(4))
    digests = []
    for name, is_interrupted in (("one", False), ("two", True)):
        named = msgspec.structs.replace(spec, id=f"job-{name}", name="same")
        async with running(Fleet(bus, platform="fake").serve()):
            learning = FakeLearning(frozen=FROZEN)
            async with running(serve(bus, learning)):
                job = await sdk.submit(named)
                async for message in sdk.watch(job):
                    if is_interrupted and isinstance(message.event, progress.RoundCompleted):
                        break
            async with running(serve(bus, learning)):
                await watch_to_end(sdk, job)
        record = await sdk.job(job)
        assert record.phase == "completed", record.reason
        assert record.model is not None
        digests.append(record.model.sha256)
    assert digests[0] == digests[1]


@pytest.mark.parametrize("writes", range(30, 75, 4))
async def test_a_server_that_takes_over_finds_the_same_best_model_and_the_same_end(
    memory_url: str, writes: int
) -> None:
    spec = fakes.job(**judged(patience=2))
    learning = FakeLearning(measure=near(0.06))
    async with broker.connect(memory_url) as bus, broker.connect(memory_url) as servers:
        sdk = Client(bus)
        await sdk.register(fakes.clients(4))
        async with running(Fleet(bus).serve()):
            await bus.publish(topics.submission("crashing"), msgspec.json.encode(spec))
            with contextlib.suppress(Crash):
                async with running(serve(crashing(servers, writes), learning)):
                    await wait_until_over(bus, "crashing")
            async with running(serve(bus, learning)):
                await wait_until_over(bus, "crashing")
                whole = await sdk.submit(msgspec.structs.replace(spec, id="whole"))
                await wait_until_over(bus, whole)
        first, second = await sdk.job("crashing"), await sdk.job(whole)
    assert first.best is not None
    assert second.best is not None
    assert (first.best.round, first.best.value) == (second.best.round, second.best.value)
    assert (first.done, first.without_better, first.reason) == (second.done, second.without_better, second.reason)

"""Tasks that reach a worker at the same time are trained together, and each publishes an update of its own."""

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import pytest

from broker import topics
from broker.messages.round import RoundTask
from broker.messages.update import UpdateHeader
from client_fn import gathering
from client_fn.data import shards
from client_fn.errors import TrainingFailed
from client_fn.function import Published, WarmState, handle
from client_fn.gathering import Gathering
from client_fn.training import tensors
from tests.support.function_site import Site, task_for
from tests.support.trainers import warm_state

pytestmark = pytest.mark.torch

SIZES = (10, 23, 5)


def together(most: int) -> WarmState:
    warm = warm_state()
    warm.gathering = Gathering(warm.trainers, most, 0)
    return warm


async def tasks_of(site: Site, folder: Path, *, round_: int = 1, earlier: list[Published] = []) -> list[RoundTask]:  # noqa: B006 (not changed)
    first, found = await task_for(site, round=round_), []
    for number, size in enumerate(SIZES):
        at = f"{folder}/c{number}/shard.safetensors"
        if not earlier:
            samples = np.random.default_rng(number).random((size, 2, 2), dtype=np.float32)
            shards.write(at, samples, np.arange(size) % 3)
        states = earlier[number].header.states if earlier else {}
        found.append(
            msgspec.structs.replace(
                first, client_id=f"c{number}", data_loc=at, seed=number, states=states, token=f"t{number}"
            )
        )
    return found


async def train_all(site: Site, tasks: list[RoundTask], warm: WarmState) -> list[Published]:
    return await asyncio.gather(*(handle(task, site.bus, warm, attempt=1) for task in tasks))


async def update_of(site: Site, header: UpdateHeader) -> dict[str, np.ndarray]:
    wanted = topics.update(header.job, header.round, header.client, header.attempt)
    async with site.bus.subscribe(topics.round_updates(header.job, header.round), start="first") as deliveries:
        async for delivery in deliveries:
            if delivery.topic == wanted:
                return {name: each.numpy() for name, each in tensors.from_bytes(await delivery.read()).items()}
    raise AssertionError("the subscription ended")


async def test_two_rounds_of_clients_that_are_trained_together(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "PREPARING_S", 60.0)
    done: list[Published] = []
    for round_, warm in ((1, together(3)), (2, together(3))):
        tasks = await tasks_of(site, tmp_path, round_=round_, earlier=done)
        site.gets.clear()
        done = await train_all(site, tasks, warm)
        # The model is fetched once, and each client's state once.
        assert len(site.gets) == 1 + (round_ == 2) * len(SIZES)
        assert sum(published.header.fetched > 0 for published in done) == (1 if round_ == 1 else len(SIZES))
    alone = await train_all(site, [msgspec.structs.replace(task, job="alone") for task in tasks], warm_state())
    for number, (published, expected) in enumerate(zip(done, alone, strict=True)):
        header = published.header
        assert (header.client, header.token, header.samples) == (f"c{number}", f"t{number}", SIZES[number])
        assert header.metrics["together"] == 3
        assert "together" not in expected.header.metrics
        assert header.metrics["loss"] == pytest.approx(expected.header.metrics["loss"], rel=1e-4)
        assert header.states["opt"].topic == topics.client_state("job", f"c{number}", 2, 1, "opt")
        got, wanted = await update_of(site, header), await update_of(site, expected.header)
        for name in wanted:
            assert np.linalg.norm(got[name] - wanted[name]) <= 1e-5 * np.linalg.norm(wanted[name])


async def test_a_client_whose_data_are_bad_fails_alone(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "PREPARING_S", 60.0)
    tasks = await tasks_of(site, tmp_path)
    shards.write(tasks[1].data_loc, np.full((7, 2, 2), np.nan, np.float32), np.zeros(7, np.int64))
    begun: list[str] = []
    found = await asyncio.gather(
        *(
            handle(task, site.bus, warm, attempt=1, on_training=lambda: begun.append("training"))
            for warm in [together(3)]
            for task in tasks
        ),
        return_exceptions=True,
    )
    assert isinstance(found[1], TrainingFailed)
    assert [found[0].header.samples, found[2].header.samples] == [SIZES[0], SIZES[2]]  # type: ignore[union-attr]
    assert len([topic for topic in site.writes if topic.startswith("fl.updates")]) == 2

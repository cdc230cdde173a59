"""The function and its instance with real trainer processes, which run a user's code."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

import broker
from broker import topics
from broker.messages import codec
from broker.messages.invocation import InvocationRequest, Report
from broker.messages.job_sections import Model
from broker.messages.round import RoundTask
from broker.messages.strategy import FedProx
from broker.nats.server import NatsServer
from client_fn.code.named import Names
from client_fn.data.shard_cache import ShardCache
from client_fn.errors import BadSettings, LeaseOver
from client_fn.function import WarmState, handle
from client_fn.runtime.instance import Instance
from client_fn.runtime.settings import Settings
from client_fn.site import Site as ClientSite
from client_fn.trainer.trainers import Trainers, open_trainers
from tests.support.fakes import soon
from tests.support.function_site import SMALL, Site, initial_weights, open_site, read_update, task_for, train_locally

pytestmark = [pytest.mark.torch, pytest.mark.slow]

OWN = """
import os
import signal
import sys
import time
from pathlib import Path
from torch import nn

class Waits(nn.Module):
    def __init__(self, folder):
        super().__init__()
        self.out = nn.Linear(4, 3)
        self.begun, self.hold = Path(folder) / "begun", Path(folder) / "hold"

    def forward(self, x):
        self.begun.touch()
        while self.hold.exists():
            time.sleep(0.01)
        return self.out(x.flatten(1))

class Fails(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.out = nn.Linear(4, 3)
        self.how = how

    def forward(self, x):
        print("Jane Doe", flush=True)
        match self.how:
            case "divide":
                raise ZeroDivisionError("1/0 \\ud800")
            case "look up":
                raise KeyError("x" * 10_000)
            case "exit":
                sys.exit(3)
            case "end":
                os._exit(3)
            case "be killed":
                os.kill(os.getpid(), signal.SIGKILL)
        return self.out(x.flatten(1))
"""


@dataclass
class Waiting:
    """A function whose trainings wait as long as the file `hold` exists; each creates the file `begun`."""

    site: Site
    warm: WarmState
    model: Model
    begun: Path
    hold: Path

    async def task(self, **changes: Any) -> RoundTask:
        return await task_for(self.site, model_configuration=self.model, **changes)


@contextlib.asynccontextmanager
async def warm_of(site: ClientSite) -> AsyncIterator[WarmState]:
    async with open_trainers(site) as trainers:
        yield WarmState(trainers, site, ShardCache(site))


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    async with open_site(tmp_path, monkeypatch) as opened:
        yield opened


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's models."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "own_awkward.py").write_text(OWN)
    # The models' initial weights are made in this process.
    monkeypatch.syspath_prepend(code)
    return code


async def with_code(model: Model, trainers: Trainers) -> Model:
    return msgspec.structs.replace(model, code=await trainers.current_code(Names((model.type,))))


@pytest.fixture
async def waiting(site: Site, code: Path, tmp_path: Path) -> AsyncIterator[Waiting]:
    client_site = ClientSite(code=code)
    async with open_trainers(client_site) as trainers:
        model = await with_code(Model(type="own_awkward:Waits", args={"folder": str(tmp_path)}), trainers)
        warm = WarmState(trainers, client_site, ShardCache(client_site))
        yield Waiting(site, warm, model, tmp_path / "begun", tmp_path / "hold")


async def test_the_update_is_the_training_of_the_global_model_on_the_client_s_shard(site: Site) -> None:
    async with warm_of(ClientSite()) as warm:
        first = await handle(await task_for(site), site.bus, warm, attempt=1)
        await handle(await task_for(site, round=2, states=first.header.states), site.bus, warm, attempt=1)
    base = initial_weights(SMALL, 1)
    expected, state = train_locally(site, base)
    for round_, tensors in ((1, expected), (2, train_locally(site, base, state)[0])):
        got, _ = await read_update(site, round_)
        assert {name: array.tobytes() for name, array in got.items()} == {
            name: tensor.numpy().tobytes() for name, tensor in tensors.items()
        }


async def test_a_strategy_changes_the_training_of_a_user_s_model(waiting: Waiting) -> None:
    updates = []
    for attempt, mu in enumerate((0.0, 0.0, 1.0), 1):
        task = await waiting.task(strategy=FedProx(mu=mu))
        await handle(task, waiting.site.bus, waiting.warm, attempt=attempt)
        got, header = await read_update(waiting.site, attempt=attempt)
        assert (header.strategy, header.update) == ("fedprox", "delta")
        updates.append(got["out.weight"].tobytes())
    assert updates[0] == updates[1] != updates[2]


async def test_the_event_loop_runs_while_the_function_trains(waiting: Waiting) -> None:
    waiting.hold.touch()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        work = group.create_task(handle(await waiting.task(), waiting.site.bus, waiting.warm, attempt=1), name="handle")
        await soon(waiting.begun.exists)
        assert await waiting.site.bus.get(topics.job_record("job")) is None
        waiting.hold.unlink()
        published = await work
    assert published.receipt.stored
    assert published.header.code == waiting.model.code != ""


async def test_a_training_that_does_not_return_ends_at_the_deadline(waiting: Waiting) -> None:
    bus = waiting.site.bus
    # The trainer's start must not take the time of the task that is watched.
    await handle(await waiting.task(), bus, waiting.warm, attempt=1)
    written = list(waiting.site.writes)
    waiting.hold.touch()
    begin_s = time.monotonic()
    with pytest.raises(LeaseOver) as over:
        await handle(await waiting.task(deadline_s=time.time() + 3), bus, waiting.warm, attempt=2)
    assert over.value.task == "job.1.c1"
    assert time.monotonic() - begin_s < 60
    assert waiting.site.writes == written
    waiting.hold.unlink()
    await handle(await waiting.task(), bus, waiting.warm, attempt=3)


async def test_a_cancelled_training_has_ended_before_the_next_one_begins(waiting: Waiting) -> None:
    bus = waiting.site.bus
    waiting.hold.touch()
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        first = group.create_task(handle(await waiting.task(), bus, waiting.warm, attempt=1), name="first")
        await soon(waiting.begun.exists)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        waiting.begun.unlink()
        waiting.hold.unlink()
        # If the first one were still there, it would go on and publish now.
        await handle(await waiting.task(), bus, waiting.warm, attempt=2)
    assert waiting.site.writes == [topics.client_state("job", "c1", 1, 2, "opt"), topics.update("job", 1, "c1", 2)]


async def test_a_device_that_is_not_here_fails_the_task_with_a_sentence(site: Site) -> None:
    async with warm_of(ClientSite(device="cuda:99")) as warm:
        with pytest.raises(BadSettings, match="FEDKEEPER_DEVICE: 'cuda:99' can't be used here") as bad:
            await handle(await task_for(site), site.bus, warm, attempt=1)
    assert not bad.value.retryable


@pytest.fixture
async def instance(nats_server: NatsServer, code: Path) -> AsyncIterator[Instance]:
    with Instance(Settings(nats_server.url, "c1", site=ClientSite(code=code))) as opened:
        yield opened
        await asyncio.to_thread(opened.close)


@pytest.mark.parametrize(
    ("how", "reason", "retryable"),
    [
        ("divide", "ZeroDivisionError in own_awkward.py:{divide} (its text is in the log)", False),
        ("look up", "KeyError in own_awkward.py:{look_up} (its text is in the log)", False),
        ("exit", "SystemExit in own_awkward.py:{exit} (its text is in the log)", False),
        ("end", "TrainerDied: the process ended with code 3 during the training", False),
        ("be killed", "TrainerDied: the process was killed by signal SIGKILL (9) during the training", True),
    ],
)
async def test_however_a_model_fails_it_is_reported_and_the_instance_stays_usable(
    instance: Instance, site: Site, how: str, reason: str, *, retryable: bool
) -> None:
    lines = {case: OWN.splitlines().index(f'            case "{case}":') + 2 for case in ("divide", "look up", "exit")}
    async with broker.connect(instance.settings.url) as bus:
        function = Site(bus, site.data_loc)
        async with open_trainers(instance.settings.site) as trainers:
            model = await with_code(Model(type="own_awkward:Fails", args={"how": how}), trainers)
        request = InvocationRequest(await task_for(function, model_configuration=model), 1)
        with capture_logs([merge_contextvars]) as logs:
            report = await asyncio.to_thread(instance.run, request)
        value = await bus.get(topics.report("local", "c1"))
        assert value is not None
        assert codec.decode(Report, value.payload) == report
        assert (report.state, report.retryable) == ("failed", retryable)
        numbers = {case.replace(" ", "_"): line for case, line in lines.items()}
        assert report.reason.endswith(reason.format(**numbers))
        failures = [entry for entry in logs if entry["event"] == "the task failed"]
        assert [(entry["log_level"], entry["client"]) for entry in failures] == [("warning", "c1")]
        ours = InvocationRequest(await task_for(function), 2)
        assert (await asyncio.to_thread(instance.run, ours)).state == "done"

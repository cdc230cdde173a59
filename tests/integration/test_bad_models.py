"""Jobs with models that do what they should not: the job ends with its reason, other jobs go on, nothing is left."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

import broker
from broker.messages import progress
from broker.messages.job import Job
from broker.messages.progress import Event
from broker.nats.server import NatsServer
from client_fn.site import Site
from fedkeeper.sdk import Client
from fedkeeper.services.learning import open_learning
from server.service import serve
from tests.support import bad_models, fakes
from tests.support.fakes import Fleet, running, soon
from tests.support.program import Program
from tests.support.trainer_bench import GOOD

pytestmark = [pytest.mark.torch, pytest.mark.asyncio(loop_scope="module")]

WITHIN_S: Final = 120.0
MEMORY_MB: Final = 1200
AT_SERVER: Final = [
    ("raises", "import"),
    ("raises", "evaluation"),
    ("ends", "constructor"),
    ("segfaults", "evaluation"),
    ("kills_its_parent", "import"),
    ("hangs", "constructor"),
    ("hangs", "evaluation"),
    ("allocates", "constructor"),
    ("writes_garbage", "constructor"),
]
BUILDING, EVALUATING = "the construction of the model", "the evaluation of the model"
SILENCE: Final = "took longer than 5 s (FEDKEEPER_TRAINER_SILENCE_S)"
REASONS: Final = {
    ("raises", "import"): "can't be imported: KeyError in bad_raises_at_import.py:",
    (
        "raises",
        "evaluation",
    ): "the model failed on samples of shape (8, 8), torch.float32, or on their labels: KeyError",
    ("ends", "constructor"): f"the process ended with code 3 during {BUILDING}; tried 2 times",
    ("segfaults", "evaluation"): f"the process was killed by signal SIGSEGV (11) during {EVALUATING}; tried 2 times",
    ("kills_its_parent", "import"): f"the process was killed by signal SIGKILL (9) during {BUILDING}; tried 2 times",
    ("hangs", "constructor"): f"{BUILDING} {SILENCE}",
    ("hangs", "evaluation"): f"{EVALUATING} {SILENCE}",
    ("allocates", "constructor"): "it can't be constructed; model.args are those of Model(): MemoryError in",
    ("writes_garbage", "constructor"): f"the trainer wrote garbage to its worker during {BUILDING}; tried 2 times",
}


GATED: Final = """
import os, time
from torch import nn

class Gated(nn.Module):
    def __init__(self, folder):
        super().__init__()
        with open(os.path.join(folder, "begun"), "a") as begun:
            begun.write("x")
        if not os.fork():
            time.sleep(3600)
        while not os.path.exists(os.path.join(folder, "open")):
            time.sleep(0.02)
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))
"""


@dataclass
class System:
    """A server with real trainers, and fake clients.

    Attributes:
        sdk: the SDK on its broker.
    """

    sdk: Client

    async def end_of(self, job: Job) -> Event:
        """Submit a job and return its last event."""
        async with asyncio.timeout(WITHIN_S):
            messages = [message async for message in self.sdk.watch(await self.sdk.submit(job))]
        return messages[-1].event


def job_of(type_: str, **sections: Any) -> Job:
    """A job of one round for fake clients that hold digits."""
    base: dict[str, Any] = {
        "model": {"type": type_},
        "data": {"dataset": "digits"},
        "cohort": {"quorum": 1.0, "deadline_s": 600.0},
        "evaluation": {"data": ""},
        "stop": {"rounds": 1},
    }
    return fakes.job(**{**base, **sections})


def write_code(folder: Path) -> Path:
    """Write all bad models and a good one."""
    for action, place in AT_SERVER:
        bad_models.write(folder, action, place)  # type: ignore[arg-type]
    (folder / "good.py").write_text(GOOD)
    (folder / "gated.py").write_text(GATED)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="system")
async def _open(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    folder = tmp_path_factory.mktemp("zoo")
    site = Site(code=write_code(folder / "code"), silence_s=5.0, memory_mb=MEMORY_MB)
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(broker.connect(f"memory://{folder}"))
        learning = await stack.enter_async_context(open_learning(site, None))
        await stack.enter_async_context(running(serve(bus, learning), Fleet(bus).serve()))
        sdk = Client(bus)
        await sdk.register(fakes.clients(4, data="digits"))
        yield System(sdk)


@pytest.mark.slow
@pytest.mark.parametrize(("action", "place"), AT_SERVER)
async def test_the_servers_job_fails_with_its_reason_and_another_job_completes(
    system: System, action: str, place: str
) -> None:
    bad = job_of(f"bad_{action}_at_{place}:Model")
    async with asyncio.TaskGroup() as group:
        other = group.create_task(system.end_of(job_of("good:Good")), name="good")
        failed = await system.end_of(bad)
    assert isinstance(failed, progress.JobFailed)
    assert REASONS[action, place] in failed.reason
    assert "Meier" not in failed.reason
    assert isinstance(other.result(), progress.JobCompleted)


@asynccontextmanager
async def patient_system(folder: Path) -> AsyncIterator[System]:
    """A server that lets user code be silent."""
    site = Site(code=write_code(folder / "code"), silence_s=600.0)
    async with (
        broker.connect(f"memory://{folder}") as bus,
        open_learning(site, None) as learning,
        running(serve(bus, learning), Fleet(bus).serve()),
    ):
        sdk = Client(bus)
        await sdk.register(fakes.clients(4, data="digits"))
        yield System(sdk)


CANCELLED_WITHIN_S: Final = 20.0
"""Without the cancellation it would take ten minutes."""


async def cancelled_during(system: System, job: Job, what: str, step: str) -> list[Event]:
    """Cancel a job after an event of a kind, during a step; return all its events."""
    name = await system.sdk.submit(job)
    events: list[Event] = []
    async with asyncio.timeout(WITHIN_S), aclosing(system.sdk.watch(name)) as messages:
        async for message in messages:
            events.append(message.event)
            if message.event.what == what:
                while step not in (await system.sdk.job(name)).starts:  # noqa: ASYNC110 (no event to wait for)
                    await asyncio.sleep(0.01)
                await system.sdk.cancel(name)
                begin_s = time.monotonic()
    assert time.monotonic() - begin_s < CANCELLED_WITHIN_S
    return events


@pytest.mark.slow
async def test_a_cancellation_is_heard_while_a_constructor_hangs(tmp_path: Path) -> None:
    async with patient_system(tmp_path) as system:
        job = job_of("bad_hangs_at_constructor:Model")
        events = await cancelled_during(system, job, "job.accepted", BUILDING)
        assert [event.what for event in events] == ["job.accepted", "job.cancelled"]
        assert isinstance(await system.end_of(job_of("good:Good")), progress.JobCompleted)


@pytest.mark.slow
async def test_a_cancellation_is_heard_while_an_evaluation_hangs(tmp_path: Path) -> None:
    """The next round runs meanwhile, and its clients answer nothing."""
    async with patient_system(tmp_path) as system:
        job = job_of("bad_hangs_at_evaluation:Model", stop={"rounds": 3})
        events = await cancelled_during(system, job, "round.completed", "the evaluation of round 1")
        assert events[-1].what == "job.cancelled"


@pytest.mark.slow
async def test_a_server_that_is_killed_while_it_builds_a_model_goes_on_after_its_restart(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    code = write_code(tmp_path / "code")
    gate = tmp_path / "gate"
    gate.mkdir()
    options = ("server", "--url", nats_server.url, "--code", str(code))
    async with broker.connect(nats_server.url) as bus, running(Fleet(bus).serve()):
        sdk = Client(bus)
        await sdk.register(fakes.clients(4, data="digits"))
        first = await Program(*options, cwd=tmp_path).start()
        spec = job_of("gated:Gated", model={"type": "gated:Gated", "args": {"folder": str(gate)}})
        job = await sdk.submit(spec, timeout_s=WITHIN_S)
        await soon((gate / "begun").exists)
        first.send(signal.SIGKILL)
        await first.wait()
        await soon(lambda: not first.processes())
        second = await Program(*options, cwd=tmp_path).start()
        await soon(lambda: len((gate / "begun").read_text()) == 2)
        assert (await sdk.job(job)).starts == {BUILDING: 2}
        (gate / "open").touch()
        async with asyncio.timeout(WITHIN_S):
            events = [message.event async for message in sdk.watch(job)]
        assert isinstance(events[-1], progress.JobCompleted)
        second.send(signal.SIGTERM)
        await second.wait()
        await soon(lambda: not second.processes())

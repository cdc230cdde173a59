"""Models that fail in workers: the client's failure and the job's reason say why, and the same workers go on."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import pytest
import pytest_asyncio

import broker
from broker.messages import job_file as jobs
from broker.messages import progress
from broker.messages.job import Job
from broker.messages.progress import Event
from broker.nats.server import NatsServer
from client_fn.site import Site
from fedkeeper.sdk import Client
from fedkeeper.services.learning import open_learning
from server.service import serve
from tests.support import bad_models
from tests.support.bad_models import Place
from tests.support.brokers import STORE_BYTES
from tests.support.fakes import running, soon
from tests.support.program import Program
from tests.support.trainer_bench import GOOD

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("bad models at workers"),
]

WITHIN_S: Final = 600.0
AT_WORKERS: Final[dict[tuple[str, Place], str]] = {
    ("raises", "forward"): "TrainingFailed: the model failed on samples of shape (8, 8), torch.float32, or on their "
    "labels: KeyError in bad_raises_at_forward.py:",
    ("ends", "forward"): "TrainerDied: the process ended with code 3 during the training",
    ("segfaults", "forward"): "TrainerDied: the process was killed by signal SIGSEGV (11) during the training",
    ("kills_its_parent", "forward"): "TrainerDied: the process was killed by signal SIGKILL (9) during the training",
    ("hangs", "forward"): "LimitExceeded: the training took longer than 5 s (FEDKEEPER_TRAINER_SILENCE_S)",
    ("writes_garbage", "forward"): "TrainerDied: the trainer wrote garbage to its worker during the training",
}


@dataclass
class System:
    """A server, and a bridge with two workers, whose trainers are copies of a fork server.

    Attributes:
        sdk: the SDK on their broker.
        bridge: the bridge's program.
    """

    sdk: Client
    bridge: Program

    async def run(self, type_: str) -> list[Event]:
        """Run a job to its end; return its events."""
        async with asyncio.timeout(WITHIN_S):
            return [message.event async for message in self.sdk.watch(await self.sdk.submit(job_of(type_)))]


def job_of(type_: str) -> Job:
    """A job of one round that ends with its first failure."""
    return jobs.from_dict(
        {
            "model": {"type": type_},
            "training": {"local_epochs": 1, "batch_size": 400},
            "data": {"dataset": "digits", "partition": "iid", "clients": 2},
            "cohort": {"clients": 2, "quorum": 1.0, "deadline_s": 600.0, "on_failure": "stop"},
            "evaluation": {"every": 0},
            "stop": {"rounds": 1},
        }
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="system")
async def _open(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    folder = tmp_path_factory.mktemp("workers")
    code = folder / "code"
    for action, place in AT_WORKERS:
        bad_models.write(code, action, place)
    (code / "good.py").write_text(GOOD)
    nats = NatsServer(folder / "nats", max_file_bytes=STORE_BYTES)
    await nats.start()
    settings = {"FEDKEEPER_TRAINER_SILENCE_S": "5"}
    options = ("--workers", "2", "--code", str(code), "--url", nats.url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(nats.kill)
        bus = await stack.enter_async_context(broker.connect(nats.url))
        learning = await stack.enter_async_context(open_learning(Site(code=code), None))
        await stack.enter_async_context(running(serve(bus, learning)))
        bridge = await Program("bridge", "local", *options, cwd=folder, **settings).start()
        yield System(Client(bus), bridge)
        bridge.send(signal.SIGTERM)
        await bridge.wait()
        await soon(lambda: not bridge.processes())


@pytest.mark.parametrize(("action", "place"), AT_WORKERS)
async def test_a_failure_is_named_and_the_next_job_completes(system: System, action: str, place: Place) -> None:
    events = await system.run(f"bad_{action}_at_{place}:Model")
    reason = AT_WORKERS[action, place]
    failures = [event for event in events if isinstance(event, progress.ClientFailed)]
    good = await system.run("good:Good")
    assert failures
    assert all(event.reason.startswith(reason) for event in failures), failures
    assert isinstance(events[-1], progress.JobFailed)
    assert reason in events[-1].reason
    assert isinstance(good[-1], progress.JobCompleted)

"""The last release's packaged function works with the server and the bridge of today, and trains the same model."""

import asyncio
import contextlib
import functools
import os
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

import broker
from bridges import Invoker, Runner, local
from bridges.local.pool import open_pool
from bridges.secrets import SecretStore
from broker.messages import job_file as jobs
from broker.messages.progress import FINAL_EVENTS, JobCompleted
from broker.nats.server import NatsServer
from broker.support.tasks import task_group
from client_fn.site import Site
from fedkeeper.sdk import Client
from fedkeeper.services.learning import open_learning
from fedkeeper.services.provision import stage_dataset
from server.service import serve
from tests.support.paths import REPOSITORY
from tests.support.store_messages import FUNCTION, JOB

WITHIN_S: Final = 180.0


def version(archive: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in archive.parent.name.split("."))


WORKER: Final = """
import os, runpy, sys
folder, starts = sys.argv[1:]
with open(starts, "a") as file:
    file.write("x")
os.chdir(folder)
sys.dont_write_bytecode = True
sys.path.insert(0, folder)
runpy.run_module("client_fn.handlers.local", run_name="__main__", alter_sys=True)
"""
"""Starts the last release's worker."""

LAST: Final = max((REPOSITORY / "tests/wire").glob(f"*/{FUNCTION}"), key=version)


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """The last release's function, unpacked."""
    with zipfile.ZipFile(LAST) as archive:
        archive.extractall(tmp_path / "released")
    return tmp_path / "released"


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


@contextlib.asynccontextmanager
async def system(url: str, folder: Path) -> AsyncIterator[Client]:
    """Today's server and local bridge, with one worker, and clients for the job."""
    workers, secrets = local.Settings(broker=url), SecretStore(None)
    async with (
        broker.connect(url) as bus,
        local.opened(workers, secrets, bus) as platform,
        open_learning(Site(), None) as learning,
        task_group() as group,
    ):
        sdk, ready = Client(bus), asyncio.Event()
        data = jobs.from_text(JOB).data
        await sdk.register(stage_dataset(data, platform="local", shards_at=str(folder / "shards"), data_dir=None))
        parts = [
            group.create_task(serve(bus, learning, on_ready=ready.set), name="server"),
            group.create_task(Runner(bus, Invoker(platform)).run(), name="bridge"),
        ]
        await ready.wait()
        yield sdk
        for part in parts:
            part.cancel()


async def digest(url: str, folder: Path, job_id: str) -> str:
    """Return the digest of the job's final model."""
    async with asyncio.timeout(WITHIN_S), system(url, folder) as sdk:
        job = await sdk.submit(jobs.from_text(JOB, (f"id={job_id}",)), timeout_s=WITHIN_S)
        events = [message.event async for message in sdk.watch(job)]
    assert isinstance(events[-1], JobCompleted), events[-1]
    assert [event.what for event in events if isinstance(event, FINAL_EVENTS)] == ["job.completed"]
    return events[-1].model.sha256


async def test_it_trains_the_same_model_as_today_s_worker(
    nats_server: NatsServer, released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (sys.executable, "-c", WORKER, str(released), str(tmp_path / "starts"))
    today = await digest(nats_server.url, tmp_path, "today")
    with monkeypatch.context() as patch:
        patch.setattr("bridges.local.platform.open_pool", functools.partial(open_pool, command=command))
        assert await digest(nats_server.url, tmp_path, "released") == today
    assert (tmp_path / "starts").read_text() == "x", "it ended in the middle of the job"


def test_its_worker_imports_nothing_of_today(released: Path) -> None:
    program = "import broker, client_fn.handlers.local as c; print(broker.__file__, c.__file__, sep='\\n')"
    run = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        cwd=released,
        env=environment(released),
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert all(Path(line).is_relative_to(released) for line in run.stdout.splitlines())

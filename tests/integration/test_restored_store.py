"""A system whose NATS server comes back with an older copy of its store, or an empty one."""

import asyncio
import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs

import broker
from broker import reconnect, topics
from broker.errors import StoreChanged
from broker.nats.server import NatsServer
from fedkeeper.sdk import connect
from fedkeeper.services.restart import run_with_restarts
from server.service import serve
from tests.support import fakes
from tests.support.fake_platforms import FakePlatform, runner
from tests.support.fakes import FakeLearning, running, soon
from tests.support.job_progress import WITHIN_S, watch_to_end


async def run_job(url: str) -> str:
    """Register clients, run a job, and return its last event."""
    async with asyncio.timeout(WITHIN_S), connect(url) as sdk:
        await sdk.register(fakes.clients(4))
        job = await sdk.submit(fakes.job(), timeout_s=WITHIN_S)
        return (await watch_to_end(sdk, job))[-1].event.what


@pytest.mark.parametrize(
    ("is_empty", "reason"), [(False, "it is older, and what was written after"), (True, "it was emptied")]
)
async def test_server_and_bridge_start_over_from_what_is_there_and_say_so(
    nats_server: NatsServer, tmp_path: Path, *, is_empty: bool, reason: str
) -> None:
    url, store = nats_server.url, nats_server.folder / "jetstream"

    async def server() -> None:
        async with broker.connect(url, name="server") as bus:
            await serve(bus, FakeLearning())

    async def bridge() -> None:
        async with broker.connect(url, name="bridge-fake") as bus:
            platform = FakePlatform(lambda task, _: asyncio.ensure_future(fakes.answer(bus, task)))
            await runner(bus, platform).run()

    with capture_logs() as logs:
        async with running(run_with_restarts(server, pause_s=0.01), run_with_restarts(bridge, pause_s=0.01)):
            assert await run_job(url) == "job.completed"
            await nats_server.kill()
            shutil.copytree(store, tmp_path / "copy")
            await nats_server.start()
            assert await run_job(url) == "job.completed"
            await nats_server.kill()
            shutil.rmtree(store)
            if not is_empty:
                shutil.copytree(tmp_path / "copy", store)
            await nats_server.start()
            assert await run_job(url) == "job.completed"
    loud = [entry for entry in logs if entry["event"] == "starting over from what the broker has now"]
    assert [entry["log_level"] for entry in loud] == ["error", "error"], "one for the server, one for the bridge"
    assert all(reason in entry["error"] for entry in loud)


async def test_who_watches_a_job_that_the_store_has_forgotten_gets_one_sentence(nats_server: NatsServer) -> None:
    async def watch() -> None:
        async with connect(nats_server.url) as sdk:
            await sdk.broker.publish(topics.progress("forgotten", "job", "accepted"), b"{}")
            watching.set()
            async for _ in sdk.watch("forgotten"):
                pass

    watching = asyncio.Event()
    task = asyncio.create_task(watch(), name="watch")
    await watching.wait()
    await nats_server.kill()
    shutil.rmtree(nats_server.folder / "jetstream")
    await nats_server.start()
    with pytest.raises(StoreChanged, match=r"is not the one from before: it was emptied$"):
        await asyncio.wait_for(task, WITHIN_S)


async def test_a_store_that_changed_in_a_long_outage_is_noticed_too(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then the service has started over, and tries to connect."""
    monkeypatch.setattr(reconnect, "CALL_S", 0.5)

    async def service() -> None:
        async with broker.connect(nats_server.url, name="service") as bus:
            while True:
                await bus.publish(topics.progress("job", "job", "accepted"), b"{}")
                await asyncio.sleep(0.01)

    def has_logged(event: str) -> bool:
        return any(entry["event"] == event for entry in logs)

    with capture_logs() as logs:
        async with running(run_with_restarts(service, pause_s=0.01)):
            await soon(lambda: has_logged("created our streams"))
            await nats_server.kill()
            await soon(lambda: has_logged("the broker is still out of reach"))
            shutil.rmtree(nats_server.folder / "jetstream")
            monkeypatch.undo()
            await nats_server.start()
            await soon(lambda: has_logged("starting over from what the broker has now"))

"""Models that fail in functions on OpenFaaS: the client's failure says why, and the same function goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from io import BytesIO
from pathlib import Path
from typing import Final
from zipfile import ZipFile

import pytest

import broker
from bridges import openfaas
from bridges.openfaas import Settings
from bridges.secrets import SecretStore
from broker.messages import job_file as jobs
from broker.messages.progress import ClientFailed, Event, JobCompleted, JobFailed
from broker.nats.server import NatsServer
from client_fn.code import archive
from client_fn.site import Site
from emulators.openfaas.gateway import running as running_gateway
from fedkeeper.deployment import archives, deploying
from fedkeeper.deployment.file import DataSection, DeploymentFile, PlatformSection
from fedkeeper.sdk import Client
from fedkeeper.services import bridging
from fedkeeper.services.learning import open_learning
from server import service
from tests.support import bad_models
from tests.support.bad_models import Place
from tests.support.fakes import running
from tests.support.openfaas_site import PASSWORD, write_secrets
from tests.support.platform_rounds import IMAGE, SHORT_RETRIES
from tests.support.trainer_bench import GOOD

pytestmark = [pytest.mark.slow, pytest.mark.torch]

WITHIN_S: Final = 300.0
CASES: Final[dict[tuple[str, Place], str]] = {
    ("raises", "forward"): "labels: KeyError in bad_raises_at_forward.py:",
    ("segfaults", "forward"): "TrainerDied: the process was killed by signal SIGSEGV (11) during the training",
    ("hangs", "forward"): "LimitExceeded: the training took longer than 5 s (FEDKEEPER_TRAINER_SILENCE_S)",
}
DATA: Final = {"dataset": "digits", "partition": "iid", "clients": 1}


@pytest.fixture
async def sdk(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Client]:
    """A server, and a function on an emulated OpenFaaS, both with the code of the bad models."""
    code = tmp_path / "code"
    for action, place in CASES:
        bad_models.write(code, action, place)
    (code / "good.py").write_text(GOOD)
    ZipFile(BytesIO(archives.build("openfaas", archive.pack(code)))).extractall(tmp_path / "image")
    write_secrets(tmp_path / "secrets")
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(running_gateway({IMAGE: tmp_path / "image"}, password=PASSWORD))
        bus = await stack.enter_async_context(broker.connect(nats_server.url))
        learning = await stack.enter_async_context(open_learning(Site(code=code), None))
        settings = Settings(gateway=gateway.url, password="gateway", key="openfaas-key", ready_s=240.0)  # noqa: S106
        host = await stack.enter_async_context(openfaas.opened(settings, SecretStore(tmp_path / "secrets"), bus))
        bridge = bridging.serve(bus, host, SHORT_RETRIES)
        await stack.enter_async_context(running(service.serve(bus, learning), bridge))
        sdk = Client(bus)
        await deploy_function(sdk, nats_server.url, tmp_path)
        yield sdk


async def deploy_function(sdk: Client, url: str, folder: Path) -> None:
    """Deploy the function of one client, whose shard is in a folder."""
    section = PlatformSection(
        clients=1,
        memory_mb=1024,
        timeout_s=240,
        image=IMAGE,
        key="openfaas-key",
        env={"FEDKEEPER_TRAINER_SILENCE_S": "5"},
    )
    deal = jobs.from_dict({"data": DATA, "cohort": {"clients": 1}}).data
    data = DataSection(deal=deal, at=str(folder / "shards"), stage=True)
    file = DeploymentFile(name="test", data=data, platforms={"openfaas": section})
    desired = await deploying.desired_clients(sdk, file, url)
    await deploying.apply(sdk, await deploying.plan_steps(sdk, file, desired), lambda _: None)


async def run(sdk: Client, type_: str) -> list[Event]:
    """Run a job of one round to its end; return its events."""
    job = jobs.from_dict(
        {
            "model": {"type": type_},
            "training": {"local_epochs": 1},
            "data": DATA,
            "cohort": {"clients": 1, "deadline_s": 600.0, "on_failure": "stop", "max_attempts": 2},
            "evaluation": {"every": 0},
            "stop": {"rounds": 1},
        }
    )
    async with asyncio.timeout(WITHIN_S):
        return [message.event async for message in sdk.watch(await sdk.submit(job))]


async def test_a_failure_is_named_and_the_same_function_goes_on(sdk: Client) -> None:
    for (action, place), reason in CASES.items():
        events = await run(sdk, f"bad_{action}_at_{place}:Model")
        failures = [event for event in events if isinstance(event, ClientFailed)]
        assert len(failures) == (2 if action == "segfaults" else 1)
        assert all(reason in failure.reason for failure in failures), failures
        assert isinstance(events[-1], JobFailed)
        assert reason in events[-1].reason
        assert "Meier" not in str(events)
        assert isinstance((await run(sdk, "good:Good"))[-1], JobCompleted)

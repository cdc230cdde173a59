"""The real system as processes, as an operator starts it: a broker, FL servers, bridges, perhaps a platform.

A harness that is killed leaves nothing behind: its children get a signal from the kernel.
"""

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

import broker
from broker.messages import job_file
from broker.url import BrokerUrl
from client_fn.code import archive
from emulators.openfaas.gateway import Gateway
from emulators.openfaas.gateway import running as running_gateway
from fedkeeper.deployment import archives, deploying
from fedkeeper.deployment.file import DataSection, DeploymentFile, PlatformSection
from fedkeeper.sdk import Client
from tests.chaos import brokers, parts, proxy, usercode
from tests.chaos.brokers import TestedBroker
from tests.chaos.parts import MARK, Part
from tests.chaos.proxy import Proxy

CLIENTS: Final = {"local": 4, "openfaas": 2}
"""How many clients a job has. Each function is a process with a trainer, so there are few of them."""

ROUNDS: Final = 8

IMAGE: Final = "fedkeeper-client:chaos"
PASSWORD: Final = "of the gateway"  # noqa: S105 (of an emulator)

SHIFT: Final = """
import os, time
shift, real = float(os.environ["CHAOS_SHIFT_S"]), time.time
time.time = lambda: real() + shift
"""
"""A sitecustomize module for a machine whose clock is wrong. libfaketime breaks torch's processes (EINVAL)."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is started.

    Attributes:
        clients: `local`: workers on this machine; `openfaas`: functions on an emulated OpenFaaS.
        servers: number of FL servers.
        bridges: number of bridges to the same platform.
        proxied: names of the parts that reach the broker through a proxy.
        shift_s: how far the clock of each part goes before the real one, by the part's name. Seconds.
        environment: further environment variables of all parts.
        broker: options of a nats-server.
        disk_mb: size of the broker's disk, a tmpfs, in MB; 0: the real disk. Needs root.
    """

    clients: str = "local"
    servers: int = 1
    bridges: int = 1
    proxied: tuple[str, ...] = ()
    shift_s: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    broker: Mapping[str, Any] = field(default_factory=dict)
    disk_mb: int = 0


class System:
    """The processes of a trial. `running` starts them.

    Args:
        folder: folder of the trial.
        setup: what is started.
        server: the broker.

    Attributes:
        folder: see above.
        setup: see above.
        broker: see above.
        parts: servers and bridges, by name: `server`, `server-2`, `bridge`, `bridge-2`.
        proxies: the proxies, by the part's name.
        gateway: the emulated OpenFaaS; None: there is none.
        mark: value of the variable `MARK` of each of its processes.
    """

    def __init__(self, folder: Path, setup: Setup, server: TestedBroker) -> None:
        self.folder = folder
        self.setup = setup
        self.broker = server
        self.parts: dict[str, Part] = {}
        self.proxies: dict[str, Proxy] = {}
        self.gateway: Gateway | None = None
        self.mark = uuid.uuid4().hex

    @property
    def wishes(self) -> Path:
        """Folder through which the model is told what to do."""
        return self.folder / "wishes"

    @property
    def temporary(self) -> Path:
        """Folder of the parts' temporary files."""
        return self.folder / "tmp"

    def part(self, name: str) -> Part:
        """Return a server or a bridge by its name."""
        return self.parts[name]

    def workers(self) -> list[int]:
        """Return the ids of the local workers' processes."""
        return [pid for part in self._bridges() for pid in part.workers()]

    def trainers(self) -> list[int]:
        """Return the ids of the trainers' processes and of their copies, at the clients."""
        return [pid for part in self._bridges() for pid in part.descendants("client_fn/training")]

    def job(self, name: str, **sections: dict[str, Any]) -> dict[str, Any]:
        """Return a job that counts every client in every round, so that its digest does not depend on time.

        Args:
            name: the job's id.
            sections: fields that differ, by section.
        """
        clients = CLIENTS[self.setup.clients]
        usual: dict[str, dict[str, Any]] = {
            "model": {"type": usercode.TYPE},
            "training": {"optimizer": "adam", "local_epochs": 1, "batch_size": 40},
            "data": {"dataset": "digits", "partition": "iid", "clients": clients},
            "cohort": {"clients": clients, "quorum": 1.0, "max_attempts": 10, "deadline_s": 300.0, "wait_s": 300.0},
            "evaluation": {"every": 4},
            "stop": {"rounds": ROUNDS},
        }
        return {"id": name, "seed": 1, **{key: {**value, **sections.get(key, {})} for key, value in usual.items()}}

    def add(self, name: str, *command: str, ready: str) -> None:
        """Add a program, with the broker's address as its proxy or its clock needs it.

        Args:
            name: name of the part.
            command: `fedkeeper`'s arguments.
            ready: text of the log line that says that it is ready.
        """
        url = self.broker.url
        if name in self.proxies:
            port = BrokerUrl.parse(url).port
            url = url.replace(f":{port}", f":{self.proxies[name].port}", 1)
        environment = self._environment()
        if shift_s := self.setup.shift_s.get(name):
            environment |= {"PYTHONPATH": str(self.folder / "shift"), "CHAOS_SHIFT_S": str(shift_s)}
        arguments = (*command, "--url", url)
        self.parts[name] = Part(name, *arguments, ready=ready, folder=self.folder, environment=environment)

    async def deploy(self) -> None:
        """Deploy the functions of the clients on the emulated OpenFaaS."""
        env = {MARK: self.mark, "FEDKEEPER_TRAINER_ENV": MARK, "OMP_NUM_THREADS": "1", **self.setup.environment}
        section = PlatformSection(clients=2, memory_mb=512, timeout_s=240, image=IMAGE, key="openfaas-key", env=env)
        deal = job_file.from_dict(self.job("deal")).data
        data = DataSection(deal=deal, at=str(self.folder / "shards"), stage=True)
        file = DeploymentFile(name="chaos", data=data, platforms={"openfaas": section})
        async with broker.connect(self.broker.url, name="chaos") as bus:
            sdk = Client(bus)
            desired = await deploying.desired_clients(sdk, file, self.broker.url)
            await deploying.apply(sdk, await deploying.plan_steps(sdk, file, desired), lambda _: None)

    async def end(self) -> list[str]:
        """End all parts in order, and the functions; return which parts had ended before, or did not end."""
        for part in reversed(self.parts.values()):
            await part.terminate()
        if self.gateway is not None:
            await self.gateway.provider.close()
        return self.take_deaths()

    def take_deaths(self) -> list[str]:
        """Return which parts have ended without our doing since the last call."""
        found = [f"{part.name} {death}" for part in self.parts.values() for death in part.deaths]
        for part in self.parts.values():
            part.deaths.clear()
        return found

    def _bridges(self) -> list[Part]:
        return [part for name, part in self.parts.items() if name.startswith("bridge") and part.is_running]

    def _environment(self) -> dict[str, str]:
        ours = {
            MARK: self.mark,
            "FEDKEEPER_TRAINER_ENV": MARK,
            "TMPDIR": str(self.temporary),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        return {**os.environ, **ours, **self.setup.environment}


@contextlib.asynccontextmanager
async def running(folder: Path, broker_name: str, setup: Setup) -> AsyncIterator[System]:
    """Run a system until the end of the block.

    Args:
        folder: folder of the trial; empty.
        broker_name: one of `brokers.NAMES`.
        setup: what is started.
    """
    (folder / "tmp").mkdir(parents=True)
    (folder / "shift").mkdir()
    (folder / "shift" / "sitecustomize.py").write_text(SHIFT)
    usercode.write(folder / "code", folder / "wishes")
    server = brokers.create(broker_name, folder / "broker", **setup.broker)
    system = System(folder, setup, server)
    async with AsyncExitStack() as stack:
        if setup.disk_mb:
            stack.enter_context(_small_disk(folder / "broker", setup.disk_mb))
        await server.start()
        stack.push_async_callback(server.kill)
        for name in setup.proxied:
            target = BrokerUrl.parse(server.url).port
            system.proxies[name] = await stack.enter_async_context(proxy.running(target))
        if setup.clients == "openfaas":
            system.gateway = await stack.enter_async_context(_gateway(folder))
        _add_parts(system)
        stack.callback(_kill_all, system)
        for part in system.parts.values():
            await part.launch()
        for part in system.parts.values():
            await part.wait_until_ready()
        if setup.clients == "openfaas":
            await system.deploy()
        yield system


@contextlib.contextmanager
def _small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a small disk until the end of the block."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", folder], check=True)  # noqa: S607
    try:
        yield
    finally:
        shutil.copytree(folder, folder.with_name("broker-files"), ignore=shutil.ignore_patterns("junk", "jetstream"))
        subprocess.run(["umount", "--lazy", folder], check=True)  # noqa: S607


def _gateway(folder: Path) -> contextlib.AbstractAsyncContextManager[Gateway]:
    """Run an emulated OpenFaaS with the image of the client's function."""
    ZipFile(BytesIO(archives.build("openfaas", archive.pack(folder / "code")))).extractall(folder / "image")
    (folder / "secrets").mkdir()
    for name, value in {"gateway": PASSWORD, "openfaas-key": "what calls are signed with"}.items():
        (folder / "secrets" / name).write_text(value)
    return running_gateway({IMAGE: folder / "image"}, password=PASSWORD)


def _add_parts(system: System) -> None:
    code, setup = ("--code", str(system.folder / "code")), system.setup
    for number in range(1, setup.servers + 1):
        system.add(_numbered("server", number), "server", *code, ready="the server takes jobs")
    if system.gateway is None:
        command: tuple[str, ...] = ("bridge", "local", "--workers", "2", *code)
    else:
        config = system.folder / "openfaas.toml"
        config.write_text(
            f'secrets = "{system.folder / "secrets"}"\ngateway = "{system.gateway.url}"\n'
            'password = "gateway"\nkey = "openfaas-key"\nready_s = 240.0\n'
        )
        command = ("bridge", "openfaas", "--config", str(config))
    for number in range(1, setup.bridges + 1):
        system.add(_numbered("bridge", number), *command, ready="the bridge is up")


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _kill_all(system: System) -> None:
    """Kill what a trial has left: by its mark, so nothing else."""
    for part in system.parts.values():
        if part.is_running:
            part.wake()
            part.kill()
    for pid in parts.marked(system.mark):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, 9)

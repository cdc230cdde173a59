"""Another distribution adds a platform with one folder and one row, without a change to FedKeeper."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest

import broker
from bridges import platforms
from broker.messages.progress import RoundCompleted
from broker.nats.server import NatsServer
from fedkeeper.deployment import archives, deploying
from fedkeeper.deployment import file as deployment_file
from fedkeeper.errors import BadConfigFile
from fedkeeper.sdk import Client
from fedkeeper.services import bridging
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, running
from tests.support.paths import REPOSITORY

WITHIN_S = 60.0

FOLDER = {
    "__init__.py": """
from bridges.platforms import Kind

KIND = Kind(
    name="acme", module="acme_faas.platform", about="Acme: functions on the moon.", files="acme_faas.function"
)
""",
    "settings.py": """
from bridges.settings import PlatformSettings


class Settings(PlatformSettings, frozen=True, kw_only=True):
    crater: str
    name: str = "acme"
    run_s: float = 60.0
""",
    "functions.py": """
from bridges import environment
from bridges.errors import PlatformFailed
from broker.messages.function import Deployed


class Functions:
    def __init__(self, settings):
        self.settings = settings
        self.deployed = {}
        self.variables = {}

    async def create(self, function, package):
        if not package:
            raise PlatformFailed(self.settings.name, f"create {function.name}", "it has no package")
        before = self.deployed.get(function.name)
        url = f"{self.settings.crater}/{function.name}"
        self.deployed[function.name] = Deployed(
            name=function.name, fabric=function.fabric, digest=function.digest, url=url
        )
        self.variables[function.name] = environment.with_secret_variables(function).plain
        return "updated" if before else "created", self.deployed[function.name]

    async def delete(self, name):
        return "deleted" if self.deployed.pop(name, None) else "absent"

    async def list(self):
        return [*self.deployed.values()]
""",
    "platform.py": """
import contextlib

from acme_faas.functions import Functions
from acme_faas.settings import Settings
from bridges import Activation, BasePlatform
from bridges.errors import FunctionGone
from tests.support import fakes


class AcmePlatform(BasePlatform):
    def __init__(self, settings, functions, broker):
        super().__init__(settings, functions)
        self.broker = broker

    @property
    def run_s(self):
        return self.settings.run_s

    async def invoke(self, task, attempt):
        if task.client_id not in self.functions.deployed:
            raise FunctionGone(f"there is no {task.client_id}")
        yield Activation(f"moon-{task.client_id}", "running", cold=True)
        await fakes.answer(self.broker, task, attempt)
        yield Activation(f"moon-{task.client_id}", "succeeded")


@contextlib.asynccontextmanager
async def opened(settings, secrets, broker):
    yield AcmePlatform(settings, Functions(settings), broker)
""",
    "function/__init__.py": "",
    "function/main.py": "from client_fn.runtime.instance import of_this_process\n",
    "function/requirements.txt": "acme-runtime>=1\n",
}

ROW = "[fedkeeper.platforms]\nacme = acme_faas:KIND\n"

FABRIC = """
name = "moonbase"

[data]
deal = { dataset = "own", clients = 3 }

[platforms.luna]
kind = "acme"
clients = 3
"""


@pytest.fixture
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install the distribution that adds the platform: its folder, and the row in its entry points."""
    for name, content in FOLDER.items():
        file = tmp_path / "site" / "acme_faas" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    metadata = tmp_path / "site" / "acme_faas-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-faas\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ROW)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield tmp_path / "site"
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme_faas"]:
        del sys.modules[name]


def bridge_file(folder: Path, text: str = 'crater = "tycho"\nname = "luna"\nconcurrency = 2\n') -> Path:
    path = folder / "acme.toml"
    path.write_text(text)
    return path


def read_deployment(folder: Path) -> deployment_file.DeploymentFile:
    path = folder / "fabric.toml"
    path.write_text(FABRIC)
    return deployment_file.read(path)


@pytest.mark.usefixtures("site_packages")
@pytest.mark.parametrize("on", ["memory", "nats"])
async def test_its_functions_are_deployed_and_train_a_round(
    on: str, memory_url: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    url, kind, file = (
        memory_url if on == "memory" else nats_server.url,
        platforms.find("acme"),
        read_deployment(tmp_path),
    )
    bridge = bridging.run_bridge(kind, bridging.read(kind, bridge_file(tmp_path)), url)
    async with (
        asyncio.timeout(WITHIN_S),
        broker.connect(url) as bus,
        running(serve(bus, FakeLearning()), bridge),
    ):
        sdk = Client(bus)
        functions = await deploying.desired_clients(sdk, file, url)
        await deploying.apply(sdk, await deploying.plan_steps(sdk, file, functions), lambda _: None)
        clients = await sdk.clients()
        assert [client.url for client in clients] == [f"tycho/{client.id}" for client in clients]
        assert await deploying.plan_steps(sdk, file, functions) == []

        job = fakes.job(data={"dataset": "own", "clients": 3}, cohort={"clients": 3}, stop={"rounds": 1})
        async with aclosing(sdk.watch(await sdk.submit(job))) as events:
            output = [message.event async for message in events]
        (completed,) = [event for event in output if isinstance(event, RoundCompleted)]
        assert set(completed.counted) == {client.id for client in clients}
        assert completed.missing == ()

        removed = await deploying.plan_steps(sdk, file, [])
        await deploying.apply(sdk, removed, lambda _: None)
        assert await deploying.list_functions(sdk, "luna") == ()


def test_the_command_line_lists_it_and_reads_its_file(site_packages: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(site_packages), "COLUMNS": "80"}

    def fedkeeper(*command: str) -> str:
        program = [str(Path(sys.executable).with_name("fedkeeper")), *command]
        run = subprocess.run(
            program, check=False, capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path
        )
        assert "Traceback" not in run.stderr
        return " ".join((run.stdout + run.stderr).split())

    assert "acme Acme: functions on the moon." in fedkeeper("bridge", "--help")
    assert "--config" in fedkeeper("bridge", "acme", "--help")
    wrong = bridge_file(tmp_path, 'crater = "tycho"\nconcurrency = -5\n')
    output = fedkeeper("bridge", "acme", "--config", str(wrong), "--url", "memory://here")
    assert "concurrency = -5: expected a whole number >= 1" in output
    assert "fedkeeper-acme.zip" in fedkeeper("package", "acme", "--out", str(tmp_path))
    assert (tmp_path / "fedkeeper-acme.zip").is_file()


@pytest.mark.usefixtures("site_packages")
def test_its_archive_holds_its_own_files_beside_our_code() -> None:
    archive = ZipFile(BytesIO(archives.build("acme")))
    own = {name for name in archive.namelist() if name.partition("/")[0] not in {"broker", "client_fn"}}
    assert own == {"main.py", "requirements.txt"}
    assert "client_fn/function.py" in archive.namelist()
    required = archive.read("requirements.txt").decode()
    assert required.endswith("acme-runtime>=1\n")
    assert required.startswith((REPOSITORY / "client_fn/packages/requirements.txt").read_text())


async def test_a_platform_without_files_of_its_own_gets_no_archive(
    site_packages: Path, memory_url: str, tmp_path: Path
) -> None:
    init = site_packages / "acme_faas" / "__init__.py"
    init.write_text(init.read_text().replace(', files="acme_faas.function"', ""))
    async with broker.connect(memory_url) as bus:
        functions = await deploying.desired_clients(Client(bus), read_deployment(tmp_path), memory_url)
    assert [client.function.package for client in functions] == [None] * 3


@pytest.mark.usefixtures("site_packages")
def test_it_is_not_imported_before_it_is_used() -> None:
    kind = platforms.find("acme")
    assert "acme_faas.platform" not in sys.modules
    kind.load()
    assert "acme_faas.platform" in sys.modules


def test_without_the_row_the_platform_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(BadConfigFile, match=r"platforms.luna.kind = 'acme': .* one of openfaas, openwhisk, gcf"):
        read_deployment(tmp_path)

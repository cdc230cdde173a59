"""docs/deploy-openfaas.md from its certificate to the counted round: its files, rights and commands as they stand.

The gateway is the emulated one, and an image is a folder. Only names of machines and places are replaced.
"""

import asyncio
import contextlib
import re
import shlex
import signal
import subprocess
import zipfile
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from broker.nats.server import find_binary
from broker.support import processes
from emulators.programs import running
from tests.support import documents
from tests.support.paths import REPOSITORY
from tests.support.ports import free_port, listens
from tests.support.program import run

pytestmark = [pytest.mark.slow, pytest.mark.torch]

DOCUMENT: Final = "docs/deploy-openfaas.md"
IMAGE: Final = "localhost:5000/fedkeeper-function:1"
CREDENTIALS: Final = "/run/credentials/fedkeeper-bridge.service"


@dataclass(frozen=True)
class Places:
    """Where things of the document are in this test."""

    folder: Path
    port: int

    @property
    def image(self) -> Path:
        return self.folder / "build/image"

    def __call__(self, text: str, gateway: str = "") -> str:
        """Return a text of the document with this test's places."""
        for name, place in {
            "fl.example.org:4222": f"localhost:{self.port}",
            "fl.example.org": "localhost",
            CREDENTIALS: str(self.folder / "secrets"),
            "/run/credentials/fedkeeper-broker.service": str(self.folder),
            "/etc/ssl": str(self.folder),
            "/home/app": str(self.image),
            "http://127.0.0.1:8080": gateway,
            "$PWD": str(self.folder),
        }.items():
            text = text.replace(name, place)
        return text


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """The folder with passwords, certificate, image, data and files, made by the commands of the document."""
    here = Places(tmp_path, free_port())
    made = documents.block(DOCUMENT, "sh", "openssl rand").splitlines()
    wanted = [line for line in made if line.startswith(("for user", "sed -n", "openssl req"))]
    assert len(wanted) == 3
    (tmp_path / "secrets").mkdir()
    script = "\n".join(map(here, wanted))
    subprocess.run(["/bin/bash", "-eu", "-c", script], check=True, cwd=tmp_path, capture_output=True)
    (tmp_path / "fedkeeper.pem").write_bytes((tmp_path / "server.pem").read_bytes())
    passwords = dict(re.findall(r'^(\w+): "(.*)"$', (tmp_path / "passwords.conf").read_text(), re.MULTILINE))
    assert passwords["SERVER"] == (tmp_path / "secrets/server-password").read_text().strip()
    typed = {"secrets/broker-password": "EDGE", "secrets/function-password": "FUNCTION", "fl-password": "ME"}
    for file, user in typed.items():
        (tmp_path / file).write_text(passwords[user] + "\n")
    for name in ("openfaas-password", "openfaas-key"):
        (tmp_path / "secrets" / name).write_text(name * 4)
    rows = [f"{n % 7},{n % 5},{n % 3 * 10},{n % 2},{n % 3}" for n in range(60)]
    (tmp_path / "cells.csv").write_text("\n".join(["a,b,c,d,kind", *rows]) + "\n")
    (tmp_path / "cells-fabric.toml").write_text(here(documents.block(DOCUMENT, "toml", "[broker]")))
    (tmp_path / "cells.toml").write_text(here(documents.block(DOCUMENT, "toml", "[cohort]")))
    return here


@contextlib.asynccontextmanager
async def nats_server(places: Places) -> AsyncIterator[Path]:
    """Run the broker of configs/server, and yield its log."""
    base = (REPOSITORY / "configs/broker.conf").read_text()
    folder = places.folder
    (folder / "broker.conf").write_text(base.replace("/data", str(folder / "store")).replace("20GB", "2GB"))
    own = (REPOSITORY / "configs/server/nats.conf").read_text().replace("0.0.0.0:4222", f"127.0.0.1:{places.port}")
    (folder / "nats.conf").write_text(places(own))
    log = folder / "nats.log"
    process = await asyncio.create_subprocess_exec(
        *(find_binary(), "--config", folder / "nats.conf", "--log", log),
        preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),
        stderr=DEVNULL,
    )
    try:
        await listens(places.port)
        yield log
    finally:
        process.kill()
        await process.wait()


async def typed(places: Places, *lines: str) -> str:
    """Run commands of the document on the reader's computer, and return what they print."""
    output = ""
    url = re.search(r'FEDKEEPER_URL="(.*)"', documents.block(DOCUMENT, "sh", "export FEDKEEPER_URL="))
    assert url is not None
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "fedkeeper"
        code, text = await run(*arguments, cwd=places.folder, FEDKEEPER_URL=places(url[1]))
        assert code == 0, f"{line}: {text}"
        output += text
    return output


def fedkeeper_lines(word: str) -> list[str]:
    """The `fedkeeper` commands of the block that contains a word."""
    return [line for line in documents.block(DOCUMENT, "sh", word).splitlines() if line.startswith("fedkeeper ")]


async def test_the_path_of_the_document_counts_a_round(places: Places) -> None:
    logs = places.folder / "logs"
    logs.mkdir()
    async with AsyncExitStack() as stack:
        nats_log = await stack.enter_async_context(nats_server(places))
        server_url = re.search(r"FEDKEEPER_URL=(.*)", (REPOSITORY / "configs/server/server.env").read_text())
        assert server_url is not None
        url = places(server_url[1]).replace("/run/credentials/fedkeeper-server.service", str(places.folder / "secrets"))
        serve = ("fedkeeper", "server", "--url", url, "--dir", str(places.folder / "server"))
        await stack.enter_async_context(running("server", *serve, logs=logs, ready="the server takes jobs"))
        assert "no bridge has announced itself yet" in await typed(places, *fedkeeper_lines("export FEDKEEPER_URL="))

        (package,) = fedkeeper_lines("fedkeeper package")
        await typed(places, package)
        with zipfile.ZipFile(places.folder / "build/fedkeeper-openfaas.zip") as archive:
            archive.extractall(places.image)
        for name in ("cells.csv", "fedkeeper.pem"):
            (places.image / name).write_bytes((places.folder / name).read_bytes())

        secret = str(places.folder / "secrets/openfaas-password")
        emulated = ("emulators.openfaas.gateway", "--image", f"{IMAGE}={places.image}", "--password-file", secret)
        gateway = await stack.enter_async_context(running("gateway", *emulated, logs=logs, ready="ready "))
        config = places.folder / "bridge.toml"
        config.write_text(places(documents.block(DOCUMENT, "toml", 'gateway = "'), gateway.strip()))
        bridge = ("fedkeeper", "bridge", "openfaas", "--config", str(config))
        await stack.enter_async_context(running("bridge", *bridge, logs=logs, ready="the bridge is up"))

        deployed = await typed(places, *fedkeeper_lines("fedkeeper deploy cells-fabric.toml --plan"))
        assert "clients: 1 created, 0 changed, 0 unchanged" in deployed
        assert "eof_received" not in deployed
        trained = await typed(places, *fedkeeper_lines("fedkeeper submit cells.toml --wait"))
        assert "3 rounds" in trained
        assert "edge" in trained
        assert "succeeded" in trained
        await typed(places, "fedkeeper deploy cells-fabric.toml --remove")
        refused = [
            line for line in nats_log.read_text().splitlines() if "Violation" in line and "user:function" not in line
        ]
        assert refused == []

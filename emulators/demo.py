"""`make fabric`: one job over three kinds of FaaS platform at once, all of them emulated on this machine.

Starts broker, FL server, the three platforms and their bridges; deploys configs/fabric-dev.toml; trains; shows which
client answered from where; removes everything. The functions are the real ones, in processes of their own, reached by
the platforms' own protocols; each command is one that a person would type.
"""

import argparse
import asyncio
import contextlib
import json
import secrets
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

from rich.console import Console
from rich.table import Table

from broker.nats.server import NatsServer
from broker.support import processes
from emulators.parts import started
from emulators.paths import REPOSITORY

IMAGE: Final = "fedkeeper-client:dev"


@dataclass(frozen=True)
class Fabric:
    """Broker, server, platforms and bridges, each a program of its own.

    Attributes:
        folder: of everything; new.
        start_s: how long a function may take to start.
        instances: how many of Cloud Functions' may live at once; one takes 300 MB.
    """

    folder: Path
    start_s: float = 120.0
    instances: int = 20

    @contextlib.asynccontextmanager
    async def up(self, console: Console) -> AsyncIterator[str]:
        """All of it until the end of the block; yields the broker's URL."""
        for name in ("secrets", "image", "logs"):
            (self.folder / name).mkdir(parents=True)
        self._make_secrets()
        await self._make_image()
        async with contextlib.AsyncExitStack() as stack:
            nats = await stack.enter_async_context(NatsServer(self.folder / "broker"))
            console.print(f"broker     {nats.url.partition('?')[0]}", markup=False)
            hosts = [await stack.enter_async_context(platform) for platform in self._platforms()]
            gateway, whisk, (pubsub, functions) = hosts[0], hosts[1], hosts[2].split()
            console.print(f"openfaas   {gateway}\nopenwhisk  {whisk}\ngcf        {functions}, Pub/Sub {pubsub}")
            self._write_bridges(gateway, whisk, functions)
            await stack.enter_async_context(self._part("server", "server", "--url", nats.url, ready="takes jobs"))
            for kind in ("openfaas", "openwhisk", "gcf"):
                await stack.enter_async_context(self._bridge(kind, nats.url, PUBSUB_EMULATOR_HOST=pubsub))
            yield nats.url

    async def _make_image(self) -> None:
        program = Path(sys.executable).with_name("fedkeeper")
        packaging = await asyncio.create_subprocess_exec(
            program, "package", "openfaas", "--out", self.folder, stdout=DEVNULL
        )
        if await packaging.wait():
            raise SystemExit("the function can't be packaged")
        with ZipFile(self.folder / "fedkeeper-openfaas.zip") as archive:
            archive.extractall(self.folder / "image")

    def _make_secrets(self) -> None:
        whisk = f"{secrets.token_hex(16)}:{secrets.token_hex(32)}"
        made = {"gateway": secrets.token_hex(16), "trigger-key": secrets.token_hex(32), "whisk": whisk}
        for name, value in made.items():
            (self.folder / "secrets" / name).write_text(value)

    def _platforms(self) -> list[AbstractAsyncContextManager[str]]:
        password, key = self.folder / "secrets" / "gateway", (self.folder / "secrets" / "whisk").read_text()
        image = f"{IMAGE}={self.folder / 'image'}"
        return [
            self._emulator("openfaas.gateway", "--image", image, "--password-file", str(password)),
            self._emulator("openwhisk.controller", "--auth", key, "--per-minute", "600", "--memory", "2048"),
            self._emulator("gcf.cloud", "--most", str(self.instances)),
        ]

    def _emulator(self, name: str, *options: str) -> AbstractAsyncContextManager[str]:
        return started(name, f"emulators.{name}", *options, logs=self.folder / "logs", ready="ready ")

    def _write_bridges(self, gateway: str, whisk: str, functions: str) -> None:
        folder = f'secrets = "{self.folder / "secrets"}"\nstart_s = {self.start_s}\n'
        files = {
            "openfaas": f'{folder}gateway = "{gateway}"\npassword = "gateway"\nkey = "trigger-key"\n',
            "openwhisk": f'{folder}host = "{whisk}"\nauth = "whisk"\n',
            "gcf": f'{folder}project = "fedkeeper-demo"\napi = "{functions}"\nconcurrency = {self.instances}\n',
        }
        for kind, text in files.items():
            (self.folder / f"{kind}.toml").write_text(text)

    def _bridge(self, kind: str, url: str, **environment: str) -> AbstractAsyncContextManager[str]:
        config = str(self.folder / f"{kind}.toml")
        options = ("bridge", kind, "--config", config, "--url", url)
        return self._part(f"bridge-{kind}", *options, ready="the bridge is up", **environment)

    def _part(self, name: str, *options: str, ready: str, **environment: str) -> AbstractAsyncContextManager[str]:
        return started(name, "fedkeeper", *options, logs=self.folder / "logs", ready=ready, **environment)


async def run(fabric: Fabric, file: Path, job: tuple[str, ...], console: Console) -> None:
    """The demonstration, from start to end."""
    async with fabric.up(console) as url:
        runs = fabric.folder / "runs"
        await command(console, "deploy", str(file), "--plan", url=url)
        await command(console, "deploy", str(file), url=url)
        await command(console, "deploy", str(file), url=url)
        await command(console, "submit", *job, "--wait", "--out", str(runs), url=url)
        for shown in tables(next(runs.iterdir())):
            console.print(shown)
        await command(console, "clients", url=url)
        await command(console, "deploy", str(file), "--remove", url=url)
        await command(console, "clients", url=url)
    console.print("\nbroker, server, bridges and platforms are ended")


async def command(console: Console, *arguments: str, url: str, quiet: bool = False) -> None:
    """Type a command; what it shows is shown, or only what it complains of.

    Raises:
        SystemExit: it failed.
    """
    console.print(f"\n[bold]$ fedkeeper {' '.join(arguments)}[/]", soft_wrap=True)
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("fedkeeper"),
        *arguments,
        "--url",
        url,
        stdout=DEVNULL if quiet else None,
        preexec_fn=processes.signal_on_parent_death(signal.SIGTERM),
    )
    if code := await process.wait():
        raise SystemExit(code)


def tables(folder: Path) -> list[Table]:
    """Who answered from where in the first round and in the last, as the job's folder says it."""
    lines = [json.loads(line) for line in (folder / "clients.jsonl").read_text().splitlines()]
    rounds = sorted({line["round"] for line in lines})
    return [_table(round_, [line for line in lines if line["round"] == round_]) for round_ in (rounds[0], rounds[-1])]


def _table(round_: int, lines: list[dict[str, Any]]) -> Table:
    table = Table(box=None, title=f"\nround {round_}", title_justify="left", header_style="dim")
    for name in ("client", "platform", "activation", "", "attempt"):
        table.add_column(name, overflow="fold")
    for line in lines:
        cold = line.get("cold")
        warmth = "?" if cold is None else "cold" if cold else "warm"
        attempt = str(line.get("attempt", "?"))
        table.add_row(line["client"], line.get("platform", "?"), line.get("activation", "?"), warmth, attempt)
    return table


def main() -> None:
    """Run the demonstration that the command line describes."""
    parser = argparse.ArgumentParser(prog="python -m emulators.demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".fedkeeper/fabric"), help="made anew")
    parser.add_argument("--fabric", type=Path, default=REPOSITORY / "configs/fabric-dev.toml")
    parser.add_argument("--job", default="quickstart")
    parser.add_argument("--set", action="append", default=["stop.rounds=5"], help="override a job's field")
    given = parser.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    job = (given.job, *(part for override in given.set for part in ("--set", override)))
    console = Console(highlight=False)
    try:
        asyncio.run(run(Fabric(given.folder.resolve()), given.fabric, job, console))
    except KeyboardInterrupt:
        console.print("stopped; everything that was started is ended")


if __name__ == "__main__":
    main()

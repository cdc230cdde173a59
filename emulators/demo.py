"""`make fabric`: one job on three kinds of FaaS platforms at once, all emulated on this machine.

It starts broker, FL server, platforms and bridges, deploys configs/fabric-dev.toml, trains, shows which platform each
client answered from, and removes everything. The functions are the real ones, in their own processes, called through
the platforms' own protocols. Every step is a command that a user would type.
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
from typing import Final
from zipfile import ZipFile

from rich.console import Console
from rich.table import Table

from broker.nats.server import NatsServer
from broker.support import processes
from emulators.paths import REPOSITORY
from emulators.programs import running

IMAGE: Final = "fedkeeper-client:dev"


@dataclass(frozen=True)
class Fabric:
    """Broker, server, platforms and bridges, each in its own process.

    Attributes:
        folder: folder for all files; it does not exist yet.
        start_s: time limit of a function's start, in seconds.
        instances: limit of the instances of Cloud Functions at once; each needs 300 MB.
    """

    folder: Path
    start_s: float = 120.0
    instances: int = 20

    @contextlib.asynccontextmanager
    async def up(self, console: Console) -> AsyncIterator[str]:
        """Run everything until the end of the block; yield the broker's URL.

        Raises:
            SystemExit: the function can't be packaged.
        """
        for name in ("secrets", "image", "logs"):
            (self.folder / name).mkdir(parents=True)
        whisk_key = f"{secrets.token_hex(16)}:{secrets.token_hex(32)}"
        values = {
            "openfaas-password": secrets.token_hex(16),
            "openfaas-key": secrets.token_hex(32),
            "openwhisk-key": whisk_key,
        }
        for name, value in values.items():
            (self.folder / "secrets" / name).write_text(value)
        await self._make_image()
        async with contextlib.AsyncExitStack() as stack:
            nats = await stack.enter_async_context(NatsServer(self.folder / "broker"))
            console.print(f"broker     {nats.url.partition('?')[0]}", markup=False)
            addresses = [await stack.enter_async_context(platform) for platform in self._platforms()]
            gateway, whisk, (pubsub, functions) = addresses[0], addresses[1], addresses[2].split()
            console.print(f"openfaas   {gateway}\nopenwhisk  {whisk}\ngcf        {functions}, Pub/Sub {pubsub}")
            self._write_bridges(gateway, whisk, functions)
            logs = self.folder / "logs"
            server = running("server", "fedkeeper", "server", "--url", nats.url, logs=logs, ready="takes jobs")
            await stack.enter_async_context(server)
            for kind in ("openfaas", "openwhisk", "gcf"):
                config = str(self.folder / f"{kind}.toml")
                program = ("fedkeeper", "bridge", kind, "--config", config, "--url", nats.url)
                env = {"PUBSUB_EMULATOR_HOST": pubsub}
                bridge = running(f"bridge-{kind}", *program, logs=logs, ready="the bridge is up", **env)
                await stack.enter_async_context(bridge)
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

    def _platforms(self) -> list[AbstractAsyncContextManager[str]]:
        password = self.folder / "secrets" / "openfaas-password"
        key = (self.folder / "secrets" / "openwhisk-key").read_text()
        image = f"{IMAGE}={self.folder / 'image'}"
        return [
            self._emulator("openfaas.gateway", "--image", image, "--password-file", str(password)),
            self._emulator("openwhisk.controller", "--auth", key, "--per-minute", "600", "--memory", "2048"),
            self._emulator("gcf.cloud", "--max-instances", str(self.instances)),
        ]

    def _emulator(self, name: str, *options: str) -> AbstractAsyncContextManager[str]:
        return running(name, f"emulators.{name}", *options, logs=self.folder / "logs", ready="ready ")

    def _write_bridges(self, gateway: str, whisk: str, functions: str) -> None:
        common = f'secrets = "{self.folder / "secrets"}"\nstart_s = {self.start_s}\n'
        files = {
            "openfaas": f'{common}gateway = "{gateway}"\npassword = "openfaas-password"\nkey = "openfaas-key"\n',
            "openwhisk": f'{common}host = "{whisk}"\nauth = "openwhisk-key"\n',
            "gcf": f'{common}project = "fedkeeper-demo"\napi = "{functions}"\nconcurrency = {self.instances}\n',
        }
        for kind, text in files.items():
            (self.folder / f"{kind}.toml").write_text(text)


async def run(fabric: Fabric, file: Path, job: tuple[str, ...], console: Console) -> None:
    """Run the demonstration.

    Args:
        fabric: broker, server, platforms and bridges to start.
        file: deployment file with the clients to deploy.
        job: arguments of `fedkeeper submit`.
        console: shows the commands and their output.

    Raises:
        SystemExit: a command failed.
    """
    async with fabric.up(console) as url:
        runs = fabric.folder / "runs"
        await command(console, "deploy", str(file), "--plan", url=url)
        await command(console, "deploy", str(file), url=url)
        await command(console, "deploy", str(file), url=url)
        await command(console, "submit", *job, "--wait", "--out", str(runs), url=url)
        for table in tables(runs / "latest"):
            console.print(table)
        await command(console, "clients", url=url)
        await command(console, "deploy", str(file), "--remove", url=url)
        await command(console, "clients", url=url)
    console.print("\nbroker, server, bridges and platforms are ended")


async def command(console: Console, *arguments: str, url: str, quiet: bool = False) -> None:
    """Run a `fedkeeper` command and show its output.

    Args:
        console: shows the command.
        arguments: arguments of the command.
        url: address of the broker.
        quiet: whether to show only the command's errors.

    Raises:
        SystemExit: the command failed.
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
    """Return a table of the clients' answers for the first and the last round.

    Args:
        folder: folder of the job's results.
    """
    lines = [json.loads(line) for line in (folder / "clients.jsonl").read_text().splitlines()]
    rounds = sorted({line["round"] for line in lines})
    result = []
    for number in (rounds[0], rounds[-1]):
        table = Table(box=None, title=f"\nround {number}", title_justify="left", header_style="dim")
        for name in ("client", "platform", "activation", "", "attempt"):
            table.add_column(name, overflow="fold")
        for line in lines:
            if line["round"] == number:
                cold = line.get("cold")
                warmth = "?" if cold is None else "cold" if cold else "warm"
                attempt = str(line.get("attempt", "?"))
                table.add_row(line["client"], line.get("platform", "?"), line.get("activation", "?"), warmth, attempt)
        result.append(table)
    return result


def main() -> None:
    """Run the demonstration with the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m emulators.demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".fedkeeper/fabric"), help="emptied first")
    parser.add_argument("--fabric", type=Path, default=REPOSITORY / "configs/fabric-dev.toml")
    parser.add_argument("--job", default="quickstart")
    parser.add_argument("--set", action="append", default=["stop.rounds=5"], help="override a job's field")
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    job = (options.job, *(part for override in options.set for part in ("--set", override)))
    console = Console(highlight=False)
    try:
        asyncio.run(run(Fabric(options.folder.resolve()), options.fabric, job, console))
    except KeyboardInterrupt:
        console.print("stopped; everything that was started is ended")


if __name__ == "__main__":
    main()

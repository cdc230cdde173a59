"""The commands `fedkeeper bridge ...`: each runs one bridge in the foreground until Ctrl-C."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bridges import platforms
from bridges.errors import UnknownPlatform
from bridges.platforms import Kind
from broker.support import logs
from broker.topics import checked_id
from fedkeeper import running
from fedkeeper.commands import examples
from fedkeeper.options import (
    FOLDER,
    Allow,
    Code,
    DataDir,
    Device,
    Folder,
    MetricsOption,
    RevealOption,
    Together,
    Url,
    Verbose,
    Workers,
    broker_url,
)
from fedkeeper.services import bridging, relaying, site_settings, system
from fedkeeper.services.system import Settings


class _BridgeCommands(TyperGroup):
    """One command for each kind of platform, and the relay. Reads the table of platforms only when needed."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 (typer's signature)
        return [*(kind.name for kind in platforms.known()), platforms.RELAY]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            return command
        try:
            kind = platforms.find(cmd_name)
        except UnknownPlatform:
            return None
        command = _bridge_command(kind)
        command.epilog = examples.of_bridge(kind.name)
        return command


app = typer.Typer(cls=_BridgeCommands, no_args_is_help=True, help="Run the bridge to a FaaS platform.")

Config = Annotated[Path, typer.Option(help="The bridge's file; configs/bridges/ has one for each platform.")]
Platform = Annotated[str, typer.Option(help="The platform's name in the register; unique for each bridge.")]
Provision = Annotated[
    bool, typer.Option("--provision/--no-provision", help="Register clients when a job waits for a built-in dataset.")
]


@app.command(platforms.LOCAL.name, help=platforms.LOCAL.about)
def local(
    url: Url = "",
    platform: Platform = "local",
    code: Code = None,
    allow: Allow = None,
    device: Device = "",
    reveal: RevealOption = None,
    metrics: MetricsOption = None,
    workers: Workers = 0,
    together: Together = "",
    provision: Provision = True,
    folder: Folder = FOLDER,
    data: DataDir = None,
    verbose: Verbose = False,
) -> None:
    """Run the bridge to worker processes on this machine. It has options instead of a file."""
    logs.configure(verbose=verbose)
    address, name = broker_url(url), checked_id(platform)
    site = site_settings.read(
        os.environ, code=code, allow=allow, device=device, reveal=reveal, metrics=metrics, together=together
    )
    workers = workers or system.workers_for(site)
    site = site_settings.prepare(site, folder, trainers=workers, environ=os.environ)
    settings = Settings(folder, workers, data, name, site, provision)
    running.run(system.run_local_bridge(address, settings))


@app.command(platforms.RELAY)
def relay(config: Config, verbose: Verbose = False) -> None:
    """Connect a site's own broker to the backbone, NATS or MQTT. Tasks go down, updates come up."""
    logs.configure(verbose=verbose)
    running.run(relaying.run_relay(relaying.read(config)))


def _bridge_command(kind: Kind) -> Any:
    """Return the command that runs the bridge to a kind of platform."""
    bridge_app = typer.Typer(add_completion=False, rich_markup_mode=None)

    @bridge_app.command(kind.name, help=kind.about)
    def bridge(config: Config, url: Url = "", verbose: Verbose = False) -> None:
        logs.configure(verbose=verbose)
        file = bridging.read(kind, config)
        running.run(bridging.run_bridge(kind, file, file.url or broker_url(url)))

    return typer.main.get_command(bridge_app)

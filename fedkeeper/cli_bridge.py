"""`fedkeeper bridge`: the bridges, each in the foreground until Ctrl-C."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bridges import platforms
from bridges.errors import UnknownPlatform
from bridges.platforms import Kind
from broker.support import logs
from broker.topics import checked_id
from fedkeeper import bridging, relaying, running, system
from fedkeeper.options import FOLDER, DataDir, Folder, Url, Verbose, Workers, url_of
from fedkeeper.system import Settings


class _Bridges(TyperGroup):
    """One command for each kind of platform, and the relay; the table is read when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 (typer's)
        return [*(kind.name for kind in platforms.known()), platforms.RELAY]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            return found
        try:
            return _command(platforms.find(cmd_name))
        except UnknownPlatform:
            return None


app = typer.Typer(cls=_Bridges, no_args_is_help=True, help="Run the bridge to a FaaS platform.")

Config = Annotated[Path, typer.Option(help="The bridge's file; configs/bridges/ has one for each platform.")]


Platform = Annotated[str, typer.Option(help="Its name: one for each bridge, as the register's clients have it.")]
Device = Annotated[
    str,
    typer.Option(envvar="FEDKEEPER_DEVICE", help="What the workers train on, as torch names it: cpu, cuda, cuda:1."),
]
Provision = Annotated[
    bool, typer.Option("--provision/--no-provision", help="Deal the built-in datasets when a job waits for them.")
]


@app.command(platforms.LOCAL.name, help=platforms.LOCAL.about)
def local(
    url: Url = "",
    platform: Platform = "local",
    device: Device = "cpu",
    workers: Workers = 0,
    provision: Provision = True,
    folder: Folder = FOLDER,
    data: DataDir = None,
    verbose: Verbose = False,
) -> None:
    """The bridge to this machine's own workers; it has options instead of a file."""
    logs.configure(verbose=verbose)
    settings = Settings(folder, workers or system.cores(), data, checked_id(platform), device, provision)
    running.run(system.run_local_bridge(url_of(url), settings))


@app.command(platforms.RELAY)
def relay(config: Config, verbose: Verbose = False) -> None:
    """Join a site's own broker, NATS or MQTT, to the backbone: tasks go down, updates come up."""
    logs.configure(verbose=verbose)
    running.run(relaying.run_relay(relaying.read(config)))


def _command(kind: Kind) -> Any:
    """The command that runs the bridge to a kind of platform."""
    only = typer.Typer(add_completion=False)

    @only.command(kind.name, help=kind.about)
    def bridge(config: Config, url: Url = "", verbose: Verbose = False) -> None:
        logs.configure(verbose=verbose)
        file = bridging.read(kind, config)
        running.run(bridging.run_bridge(kind, file, file.url or url_of(url)))

    return typer.main.get_command(only)

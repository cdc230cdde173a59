"""`fedkeeper bridge`: the bridges, each in the foreground until Ctrl-C."""

from pathlib import Path
from typing import Annotated

import typer

from broker.support import logs
from broker.topics import checked_id
from fedkeeper import bridging, relaying, running, system
from fedkeeper.fabric_file import Kind
from fedkeeper.options import FOLDER, DataDir, Folder, Url, Verbose, Workers, url_of
from fedkeeper.system import Settings

app = typer.Typer(no_args_is_help=True, help="Run the bridge to a FaaS platform.")

Config = Annotated[Path, typer.Option(help="The bridge's file; configs/bridges/ has one for each platform.")]


Platform = Annotated[str, typer.Option(help="Its name: one for each bridge, as the register's clients have it.")]
Device = Annotated[
    str,
    typer.Option(envvar="FEDKEEPER_DEVICE", help="What the workers train on, as torch names it: cpu, cuda, cuda:1."),
]
Provision = Annotated[
    bool, typer.Option("--provision/--no-provision", help="Deal the built-in datasets when a job waits for them.")
]


@app.command()
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
    """Warm worker processes on this machine: a site's own, or of a board with a GPU."""
    logs.configure(verbose=verbose)
    settings = Settings(folder, workers or system.cores(), data, checked_id(platform), device, provision)
    running.run(system.run_local_bridge(url_of(url), settings))


@app.command()
def openfaas(config: Config, url: Url = "", verbose: Verbose = False) -> None:
    """OpenFaaS: a gateway on a cluster, on faasd, or on a Jetson board."""
    _run("openfaas", config, url, verbose=verbose)


@app.command()
def openwhisk(config: Config, url: Url = "", verbose: Verbose = False) -> None:
    """Apache OpenWhisk: triggers and actions of one namespace."""
    _run("openwhisk", config, url, verbose=verbose)


@app.command()
def gcf(config: Config, url: Url = "", verbose: Verbose = False) -> None:
    """Google Cloud Functions, 2nd generation, behind Pub/Sub."""
    _run("gcf", config, url, verbose=verbose)


@app.command()
def relay(config: Config, verbose: Verbose = False) -> None:
    """Join a site's own broker, NATS or MQTT, to the backbone: tasks go down, updates come up."""
    logs.configure(verbose=verbose)
    running.run(relaying.run_relay(relaying.read(config)))


def _run(kind: Kind, config: Path, url: str, *, verbose: bool) -> None:
    logs.configure(verbose=verbose)
    file = bridging.read(kind, config)
    running.run(bridging.run_bridge(kind, file, file.url or url_of(url)))

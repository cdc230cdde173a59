"""`fedkeeper bridge`: the bridges, each in the foreground until Ctrl-C."""

from pathlib import Path
from typing import Annotated

import typer

from broker import logs
from fedkeeper import bridging, relaying, running, system
from fedkeeper.fabric_file import Kind
from fedkeeper.options import FOLDER, DataDir, Folder, Url, Verbose, Workers, url_of
from fedkeeper.system import Settings

app = typer.Typer(no_args_is_help=True, help="Run the bridge to a FaaS platform.")

Config = Annotated[Path, typer.Option(help="The bridge's file; configs/bridges/ has one for each platform.")]


@app.command()
def local(
    url: Url = "", workers: Workers = 0, folder: Folder = FOLDER, data: DataDir = None, verbose: Verbose = False
) -> None:
    """Warm worker processes on this machine; gives them clients for the built-in datasets."""
    logs.configure(verbose=verbose)
    running.run(system.run_local_bridge(url_of(url), Settings(folder, workers or system.cores(), data)))


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

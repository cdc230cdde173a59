"""The command line `fedkeeper`: its commands, in the order in which `fedkeeper --help` lists them."""

from typing import Annotated

import typer

from fedkeeper import running
from fedkeeper.commands import (
    bridge,
    clients,
    compare,
    delete,
    deploy,
    fetch,
    fields,
    jobs,
    new,
    plot,
    run,
    server,
    sites,
    stage,
    submit,
    sweep,
    up,
    watch,
)

app = typer.Typer(
    name="fedkeeper",
    help="Federated learning over a FaaS fabric, driven by messages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(run.run)
app.command()(up.up)
app.command()(submit.submit)
app.command()(watch.watch)
app.command()(fetch.fetch)
app.command()(jobs.jobs)
app.command()(new.new)
app.command()(fields.fields)
app.command()(jobs.cancel)
app.command()(delete.delete)
app.command()(delete.prune)
app.command()(sweep.sweep)
app.command()(compare.compare)
app.command()(plot.plot)
app.add_typer(clients.app, name="clients")
app.add_typer(sites.app)
app.add_typer(stage.app)
app.command()(server.server)
app.add_typer(bridge.app, name="bridge")
app.add_typer(deploy.app)


def main() -> None:
    """Run the command line."""
    with running.exit_on_user_error():
        app()


def _print_version(requested: bool) -> None:  # noqa: FBT001 (typer's signature)
    if requested:
        from fedkeeper import __version__

        typer.echo(f"fedkeeper {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every command."""

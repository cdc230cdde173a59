"""The command line `fedkeeper`: its commands, in the order in which `fedkeeper --help` lists them."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fedkeeper import completion, running
from fedkeeper.commands import (
    bridge,
    clients,
    compare,
    delete,
    deploy,
    examples,
    export,
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
from fedkeeper.display import screen
from fedkeeper.exit_codes import ExitCode


class Commands(TyperGroup):
    """The commands. Each shows an example in its help, and ends a user's mistake with one sentence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. typer's own options of completion are those of the current shell, and take no name."""
        option, _, shell = args[0].partition("=") if args else ("", "", "")
        named = [shell, *args[1:]] if shell else args[1:]
        if option in completion.SCRIPTS and named:
            completion.of_shell(ctx, option, named)
            raise typer.Exit
        return super().parse_args(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command with its examples; None: there is none of this name."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            examples.add(command, cmd_name)
        return command

    def invoke(self, ctx: Any) -> Any:
        """Run a command. Ctrl-C ends it also where `running.run` does not, such as at a download before it."""
        try:
            with running.exit_on_user_error():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            screen.say("stopped")
            sys.exit(ExitCode.INTERRUPTED)


app = typer.Typer(
    name="fedkeeper",
    cls=Commands,
    help="Federated learning over a FaaS fabric, driven by messages.",
    epilog="`fedkeeper COMMAND -h` shows a command's options and examples.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(short_help="Train a job on this machine, in a system of its own.")(run.run)
app.command(short_help="Run broker, FL server and local bridge until Ctrl-C.")(up.up)
app.command()(submit.submit)
app.command(short_help="Follow a job to its end, or every job.")(watch.watch)
app.command(short_help="Fetch a job's model, metrics and plot.")(fetch.fetch)
app.command(short_help="Export a model as ONNX or as a state_dict.")(export.export)
app.command()(jobs.jobs)
app.command()(new.new)
app.command(short_help="List the fields of a job, with their meaning.")(fields.fields)
app.command(short_help="Request a job's cancellation.")(jobs.cancel)
app.command(short_help="Delete finished jobs from the broker.")(delete.delete)
app.command(short_help="Delete old finished jobs from the broker.")(delete.prune)
app.command(short_help="Run a job with several values of its fields, and compare.")(sweep.sweep)
app.command(short_help="Compare runs: how they differ, and what they reach.")(compare.compare)
app.command(short_help="Plot the metrics and the times of runs.")(plot.plot)
app.add_typer(clients.app, name="clients")
app.add_typer(sites.app)
app.add_typer(stage.app)
app.command()(server.server)
app.add_typer(bridge.app, name="bridge")
app.add_typer(deploy.app)


def main() -> None:
    """Run the command line."""
    app()


def _print_version(requested: bool) -> None:  # noqa: FBT001 (typer's signature)
    if requested:
        from fedkeeper import __version__

        typer.echo(f"fedkeeper {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every command."""

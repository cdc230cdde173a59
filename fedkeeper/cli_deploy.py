"""The commands `fedkeeper deploy` and `fedkeeper package`: functions and clients of a whole fabric."""

from pathlib import Path
from typing import Annotated, Final

import typer

from bridges import platforms
from broker.support import logs
from fedkeeper import archives, deployment_file, running
from fedkeeper.errors import BadOption
from fedkeeper.options import DataDir, Url, broker_url
from fedkeeper.plan import Step
from fedkeeper.sdk import connect

app = typer.Typer()

_PACKAGED_KINDS: Final = (
    f"One of {', '.join(kind.name for kind in platforms.KINDS if kind.files)}; or one that another package adds."
)


@app.command()
@running.command
async def deploy(
    file: Annotated[Path, typer.Argument(help="A deployment file, such as configs/fabric-dev.toml.")],
    plan: Annotated[bool, typer.Option("--plan", help="Show the steps without doing them.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Delete everything that the file describes.")] = False,
    url: Url = "",
    data: DataDir = None,
) -> None:
    """Create a fabric's functions on its platforms and register its clients. Changes only what differs."""
    from fedkeeper import deploy as deployment

    logs.configure(quiet=True)
    fabric = deployment_file.read(file)
    address = broker_url(url)
    async with connect(address, provision=not plan) as sdk:
        clients = [] if remove else await deployment.desired_clients(sdk, fabric, address, data)
        steps = await deployment.plan_steps(sdk, fabric, clients)
        if plan:
            for client_steps in steps:
                for step in client_steps:
                    _print_step(step)
        else:
            await deployment.apply(sdk, steps, _print_step)
    unchanged = len(clients) - sum(any(step.desired for step in client_steps) for client_steps in steps)
    typer.echo(f"{len(steps)} clients {'to change' if plan else 'changed'}, {unchanged} unchanged")


def _print_step(step: Step) -> None:
    where = f"on {step.platform}" if step.action in ("create", "update", "delete") else "in the register"
    typer.echo(f"{step.action:<10} {step.client}  {where}")


@app.command()
def package(
    platform: Annotated[str, typer.Argument(help=_PACKAGED_KINDS)],
    out: Annotated[Path, typer.Option(help="Folder for the archive.")] = Path(),
) -> None:
    """Write the archive of the function's code for a kind of platform."""
    logs.configure(quiet=True)
    try:
        typer.echo(archives.write(platform, out))
    except OSError as exc:
        raise BadOption(f"--out {out}: {exc.strerror}") from exc

"""`fedkeeper deploy` and `fedkeeper package`: functions and clients of a whole fabric."""

from pathlib import Path
from typing import Annotated, Final

import typer

from bridges import platforms
from broker.support import logs
from fedkeeper import archives, fabric_file, running
from fedkeeper.errors import BadOption
from fedkeeper.fabric_file import DeploymentFile
from fedkeeper.options import DataDir, Url, url_of
from fedkeeper.plan import Step
from fedkeeper.sdk import connect

app = typer.Typer()

_PACKAGED: Final = (
    f"One of {', '.join(kind.name for kind in platforms.KINDS if kind.files)}; or what another package adds."
)


@app.command()
def deploy(
    file: Annotated[Path, typer.Argument(help="A fabric file, such as configs/fabric-dev.toml.")],
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done, and do nothing.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Delete all that it made.")] = False,
    url: Url = "",
    data: DataDir = None,
) -> None:
    """Create the functions of a fabric on its platforms and register its clients; what is right is left alone."""
    logs.configure(quiet=True)
    running.run(_deploy(fabric_file.read(file), url_of(url), data, plan=plan, remove=remove))


async def _deploy(file: DeploymentFile, url: str, data_dir: Path | None, *, plan: bool, remove: bool) -> None:
    from fedkeeper import deploy as deploying

    async with connect(url, provision=not plan) as fabric:
        wanted = [] if remove else await deploying.wanted(fabric, file, url, data_dir)
        steps = await deploying.needed(fabric, file, wanted)
        if plan:
            for step in (step for one in steps for step in one):
                _show(step)
        else:
            await deploying.apply(fabric, steps, _show)
    fine = len(wanted) - sum(any(step.wanted for step in one) for one in steps)
    typer.echo(f"{len(steps)} clients {'to see to' if plan else 'seen to'}, {fine} as they should be")


def _show(step: Step) -> None:
    what = f"on {step.platform}" if step.action in ("create", "update", "delete") else "in the register"
    typer.echo(f"{step.action:<10} {step.client}  {what}")


@app.command()
def package(
    platform: Annotated[str, typer.Argument(help=_PACKAGED)],
    out: Annotated[Path, typer.Option(help="Folder for the archive.")] = Path(),
) -> None:
    """Write the archive of the function for a platform."""
    logs.configure(quiet=True)
    try:
        typer.echo(archives.write(platform, out))
    except OSError as exc:
        raise BadOption(f"--out {out}: {exc.strerror}") from exc

"""The commands `fedkeeper deploy` and `fedkeeper package`: functions and clients of a whole fabric."""

from pathlib import Path
from typing import Annotated, Final

import typer

from bridges import platforms
from broker.support import logs
from client_fn.code.archive import Archive, pack
from fedkeeper import running
from fedkeeper.deployment import archives
from fedkeeper.deployment import file as deployment_file
from fedkeeper.deployment.file import DeploymentFile
from fedkeeper.deployment.plan import Step, summary, unchanged
from fedkeeper.display import screen
from fedkeeper.errors import BadOption
from fedkeeper.options import DataDir, Json, PackedCode, Url, broker_url
from fedkeeper.results import Deployment, DeploymentStep, WrittenFile
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
    code: PackedCode = None,
    as_json: Json = False,
) -> None:
    """Create a fabric's functions and register its clients. Changes only what differs."""
    from fedkeeper.deployment import deploying

    logs.configure(quiet=True)
    fabric = deployment_file.read(file)
    packed = _pack(code)
    if packed:
        _print_images(fabric, code)
    address = broker_url(url)
    async with connect(address, provision=not plan) as sdk:
        clients = [] if remove else await deploying.desired_clients(sdk, fabric, address, data, packed)
        within_s = deploying.PLAN_S if plan else deploying.LIST_S
        steps = await deploying.plan_steps(sdk, fabric, clients, timeout_s=within_s)
        done: list[Step] = []
        if plan:
            done = [step for client_steps in steps for step in client_steps]
            for step in () if as_json else done:
                _print_step(step)
        else:
            await deploying.apply(sdk, steps, done.append if as_json else _print_step)
    deployment = Deployment(
        plan=plan,
        steps=tuple(DeploymentStep(action=step.action, client=step.client, platform=step.platform) for step in done),
        unchanged=unchanged(steps, len(clients)),
    )
    screen.show(deployment, summary(steps, len(clients), is_done=not plan), as_json=as_json)


def _pack(code: Path | None) -> Archive | None:
    """Pack the user's code and print what is in the archive."""
    if code is None:
        return None
    packed = pack(code)
    screen.say(packed.summary())
    return packed


def _print_images(fabric: DeploymentFile, code: Path | None) -> None:
    """Name the platforms that a deployment can't give the code to."""
    for platform in fabric.platforms:
        if not deployment_file.has_archive(fabric, platform):
            build = f"fedkeeper package {deployment_file.kind_of(fabric, platform).name} --code {code}"
            screen.say(f"{platform}: functions have the code of their image; build it from `{build}`")


def _print_step(step: Step) -> None:
    where = f"on {step.platform}" if step.action in ("create", "update", "delete") else "in the register"
    screen.echo(f"{step.action:<10} {step.client}  {where}")


@app.command()
def package(
    platform: Annotated[str, typer.Argument(help=_PACKAGED_KINDS)],
    out: Annotated[Path, typer.Option(help="Folder for the archive.")] = Path(),
    code: PackedCode = None,
    as_json: Json = False,
) -> None:
    """Write the archive of the function's code for a platform."""
    logs.configure(quiet=True)
    packed = _pack(code)
    try:
        path = str(archives.write(platform, out, packed))
    except OSError as exc:
        raise BadOption(f"--out {out}: {exc.strerror}") from exc
    screen.show(WrittenFile(path=path), path, as_json=as_json)

"""The command `fedkeeper export`: a job's model for programs without FedKeeper."""

import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer

from broker.messages.job import Job
from broker.support import logs
from client_fn.site import Site
from fedkeeper import files, running
from fedkeeper.display import screen
from fedkeeper.errors import BadOption, FedKeeperError
from fedkeeper.options import FOLDER, Allow, Code, DataDir, Folder, Json, Reveal, Url, broker_url
from fedkeeper.results import Exported
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import model_file, saving
from fedkeeper.sdk import connect
from fedkeeper.services import site_settings

Source = Annotated[str, typer.Argument(metavar="JOB|FOLDER", help="A job's id, or the folder of a run: runs/latest.")]
Onnx = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the model as ONNX; needs onnx and onnxscript.")]
StateDict = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the model's state_dict, as torch.save does.")
]
Best = Annotated[bool, typer.Option("--best", help="The best model instead of the last one.")]


class _Model(NamedTuple):
    """A model's file, its job, and the metadata of the file."""

    job: Job
    content: bytes
    table: dict[str, str]


@running.command
async def export(
    source: Source,
    onnx: Onnx = None,
    state_dict: StateDict = None,
    best: Best = False,
    url: Url = "",
    code: Code = None,
    allow: Allow = None,
    folder: Folder = FOLDER,
    data: DataDir = None,
    as_json: Json = False,
) -> None:
    """Export a model as ONNX, or as a state_dict for torch. Prints the file's path.

    The model is built by its class, in a process of its own, as on a server.
    """
    from client_fn.code import named

    logs.configure(quiet=True)
    if (onnx is None) == (state_dict is None):
        raise BadOption("give --onnx FILE or --state-dict FILE")
    form: Literal["onnx", "state_dict"] = "state_dict" if onnx is None else "onnx"
    file = onnx or state_dict or Path()
    files.check_folder(file.parent, f"--{form.replace('_', '-')}")
    model = _of_folder(Path(source), best=best) or await _of_job(source, url, best=best)
    site = site_settings.read(os.environ, code=code, allow=allow, reveal=Reveal.TEXT)
    site = site_settings.with_own_code(site, named.of_job(model.job).types, Path())
    site = site_settings.prepare(site, folder, trainers=1, environ=os.environ)
    content = await _convert(model, form, site, data)
    files.write(file, content)
    if model.job.model.personal:
        screen.say("model.personal: these layers are as the model's constructor makes them", style="yellow")
    if as_json:
        screen.print_json(_exported(model, form, file, len(content)))
    else:
        screen.echo(str(file))


async def _convert(model: _Model, form: Literal["onnx", "state_dict"], site: Site, data: Path | None) -> bytes:
    """Return the model in another form, made by a trainer."""
    from fedkeeper.services.learning import open_learning
    from server.errors import LearningDied, LearningFailed

    try:
        async with open_learning(site, data) as learning:
            return await learning.export(model.job, model.content, form, model.table.get("frozen_digest", ""))
    except (LearningDied, LearningFailed) as exc:
        raise FedKeeperError(f"the model can't be exported: {exc}") from exc


def _of_folder(folder: Path, *, best: bool) -> _Model | None:
    """Return the model in a run's folder; None: there is no such folder."""
    if not folder.is_dir():
        return None
    path = folder / (model_file.BEST if best else model_file.NAME)
    table = dict(model_file.verified(path))
    return _Model(run_folder.read_job(folder), path.read_bytes(), table)


async def _of_job(job: str, url: str, *, best: bool) -> _Model:
    async with connect(broker_url(url), provision=False) as sdk:
        record = await sdk.job(job)
        with tempfile.TemporaryDirectory() as folder:
            path = await saving.save_model(sdk, record, Path(folder), "best" if best else "last")
            return _Model(record.job, path.read_bytes(), dict(model_file.verified(path)))


def _exported(model: _Model, form: str, file: Path, size: int) -> Exported:
    table = model.table
    return Exported(
        job=table["job"], round=int(table["round"]), sha256=table["sha256"], format=form, file=str(file), bytes=size
    )

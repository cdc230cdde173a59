"""Saves what a job has brought: its models, its plot, and the lines of a summary."""

from pathlib import Path
from typing import Final, NamedTuple

from broker.messages.job_record import JobRecord
from broker.messages.progress import ModelEvaluated, Progress
from fedkeeper import files
from fedkeeper.errors import BadOption, Missing
from fedkeeper.results import Fetched
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import model_file, plot, run_log, stored, summary
from fedkeeper.runs.recorder import Recorder
from fedkeeper.runs.stored import Ended
from fedkeeper.sdk import Client
from server.models import Which

_NOT_KNOWN_S: Final = 0.0
"""A time that the record does not tell."""


class Saved(NamedTuple):
    """What was saved of a job.

    Attributes:
        record: the job's record.
        names: the files' names, the model first; none: no round is completed.
        lines: a summary for people.
    """

    record: JobRecord
    names: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


async def save(sdk: Client, job: str, recorder: Recorder) -> Saved:
    """Save a job's models and its plot beside what was recorded.

    Args:
        sdk: the system that has the job.
        job: the job's id.
        recorder: has recorded the job's events.

    Raises:
        NoSuchJob: no job has that id.
        BadOption: the folder has the results of another job, or can't be written.
        NotSaved: a file can't be written.
        CorruptPayload: the broker has lost a model.
    """
    record = await sdk.job(job)
    if record.model is None or not record.done:
        if recorder.job is not None:
            _note_end(recorder.folder, record)
        return Saved(record)
    recorder.begin(record.job)
    if not recorder.rounds:
        _record_what_is_known(recorder, record)
    recorder.finish()
    names = [(await save_model(sdk, record, recorder.folder)).name]
    if record.best is not None:
        names.append((await save_model(sdk, record, recorder.folder, "best")).name)
    run_folder.mark_latest(recorder.folder)
    plotted, notes = _plot(recorder)
    logged = [run_log.NAME] if (recorder.folder / run_log.NAME).exists() else []
    names += [run_folder.METRICS, run_folder.CLIENTS, run_folder.JOB, *plotted, *logged]
    names += _note_end(recorder.folder, record)
    lines = summary.lines(record, recorder.rounds) if recorder.rounds else []
    return Saved(record, tuple(names), (*notes, *lines, *summary.written(recorder.folder, names)))


async def save_model(sdk: Client, record: JobRecord, folder: Path, which: Which = "last") -> Path:
    """Save one of a job's models, and return the file's path.

    Args:
        sdk: the system that has the job.
        record: the job's record.
        folder: the job's run folder.
        which: which of its models.

    Raises:
        NoSuchModel: the job has no such model.
        NotSaved: the file can't be written.
        CorruptPayload: the broker has lost the model.
    """
    from server import models

    model = await models.read(sdk.broker, record, which)
    path = folder / model_file.name_of(which)
    files.write(path, model_file.described(model, record, which))
    return path


def fetched(record: JobRecord, folder: Path, names: tuple[str, ...], *, sha256: str = "") -> Fetched:
    """Return what was saved of a job, for programs.

    Args:
        record: the job's record.
        folder: its run folder.
        names: the files' names.
        sha256: digest of the saved model; empty: it is the last one.
    """
    last = None if record.model is None else record.model.sha256
    return Fetched(
        job=record.id,
        phase=record.phase,
        reason=record.reason,
        rounds=record.done,
        metrics=record.metrics,
        sha256=sha256 or last,
        folder=str(folder),
        files=names,
    )


def _note_end(folder: Path, record: JobRecord) -> list[str]:
    """Note how a job has ended; return the file's name, or none if the job goes on."""
    if not record.has_ended:
        return []
    stored.write_ended(folder, Ended(record.id, record.phase, record.reason))
    return [stored.ENDED]


def _plot(recorder: Recorder) -> tuple[list[str], list[str]]:
    """Plot the rounds; return the picture's name, or a note why there is none."""
    if not recorder.rounds:
        return [], []
    try:
        picture = plot.plot([recorder.folder], recorder.folder / plot.default_name(recorder.rounds, recorder.job))
    except (Missing, BadOption) as exc:
        return [], [f"no plot: {exc}"]
    return [picture.name], []


def _record_what_is_known(recorder: Recorder, record: JobRecord) -> None:
    """Record the last round, which the record of a job tells whose events are forgotten."""
    if record.last is None:
        return
    recorder.record(Progress(record.id, record.last, _NOT_KNOWN_S, "last"))
    if record.evaluated == record.last.round:
        loss = record.metrics.get("loss")
        found = ModelEvaluated(
            round=record.evaluated,
            accuracy=record.accuracy,
            loss=loss,
            samples=0,
            evaluation_s=_NOT_KNOWN_S,
            background=False,
            metrics=record.metrics,
        )
        recorder.record(Progress(record.id, found, _NOT_KNOWN_S, "evaluated"))

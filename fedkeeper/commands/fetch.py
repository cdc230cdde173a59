"""The command `fedkeeper fetch`: what a job has brought, from the broker."""

from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer

from broker.messages.job_record import JobRecord
from broker.support import logs
from fedkeeper import files, running, watching
from fedkeeper.display import measured, screen, sentences
from fedkeeper.errors import BadOption, FedKeeperError
from fedkeeper.options import JobId, Json, Out, Url, broker_url
from fedkeeper.results import Fetched
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import follow, saving
from fedkeeper.runs.recorder import Recorder
from fedkeeper.sdk import Client, connect
from server import models
from server.models import Which

Round = Annotated[int | None, typer.Option("--round", min=0, help="Only the model of this round, if the job keeps it.")]
Best = Annotated[bool, typer.Option("--best", help="Only the best model, by the job's evaluation.best.")]


@running.command
async def fetch(
    job: JobId,
    round_: Round = None,
    best: Best = False,
    out: Out = Path("runs"),
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Fetch what a job has brought: its model, its metrics by round and by client, and a plot.

    Also of a running job: what there is by now. Prints the model's path.
    """
    logs.configure(quiet=True)
    if round_ is not None and best:
        raise BadOption("--round and --best: give one of them")
    files.check_folder(out, "--out")
    async with connect(broker_url(url), provision=False) as sdk:
        record = await sdk.job(job)
        folder = run_folder.choose(out, job, record.created_s)
        if best or round_ is not None:
            fetched = await _fetch_model(sdk, record, folder, "best" if round_ is None else round_)
        elif record.done:
            fetched = await _fetch_all(sdk, record, folder)
        else:
            raise FedKeeperError(f"job {job} has completed no round: {_state(record)}")
    if as_json:
        screen.print_json(fetched)
    else:
        screen.echo(str(folder / fetched.files[0]))


async def _fetch_model(sdk: Client, record: JobRecord, folder: Path, which: Which) -> Fetched:
    """Fetch one model alone."""
    found = models.find(record, which)
    run_folder.check_is_of(folder, record.job)
    files.check_folder(folder, "--out")
    path = await saving.save_model(sdk, record, folder, which)
    return saving.fetched(record, folder, (path.name,), sha256=found.sha256)


async def _fetch_all(sdk: Client, record: JobRecord, folder: Path) -> Fetched:
    """Fetch all that the events and the record tell."""
    console, recorder = screen.console(), Recorder(folder)
    recorder.begin(record.job)
    async with aclosing(watching.past(sdk.broker, record.id, follow.reach_notice(console))) as events:
        async for progress in events:
            recorder.record(progress)
    is_forgotten = not recorder.rounds
    saved = await saving.save(sdk, record.id, recorder)
    for line in saved.lines:
        screen.say(line)
    if is_forgotten:
        text = "the events of this job are forgotten: of its metrics there are those of the last round"
        screen.say(text, style="yellow")
    record = saved.record
    if not record.has_ended:
        screen.say(f"the job has not ended: {_state(record)}; fetch it again for what is to come", style="yellow")
    elif record.phase != "completed":
        verb = "was" if record.phase == "cancelled" else "has"
        screen.say(f"the job {verb} {sentences.how_ended(record)}", style="yellow")
    return saving.fetched(record, folder, saved.names)


def _state(record: JobRecord) -> str:
    text = f"{record.phase}, {record.done} of {record.job.stop.rounds} rounds"
    end = record.reason or measured.headline(record)
    return f"{text}, {end}" if end else text

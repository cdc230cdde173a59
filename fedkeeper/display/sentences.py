"""Progress events in words."""

from collections.abc import Callable
from typing import Any, Final

from broker.messages.job_record import JobRecord
from broker.messages.progress import (
    ClientFailed,
    ClientRefused,
    ClientRestored,
    ClientTraining,
    JobAccepted,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobPaused,
    JobRejected,
    JobStarted,
    JobWaiting,
    ModelEvaluated,
    RoundCompleted,
    RoundFailed,
    RoundOpened,
    RoundQuorum,
    UpdateCounted,
    UpdateRefused,
)
from broker.messages.reports import StartReport
from fedkeeper.display import measured, processors
from fedkeeper.display.units import short_digest

NAMES_SHOWN: Final = 3

_POLICIES: Final = {"retry": "it is tried again", "skip": "the next round follows", "stop": "the job ends"}


def how_ended(record: JobRecord) -> str:
    """Return how a job has ended, in words; empty: it has not.

    Args:
        record: the job's record.
    """
    match record.phase:
        case "completed":
            found = measured.result(record)
            return f"completed: {record.reason}" + (f", {found}" if found else "")
        case "failed":
            return f"failed: {record.reason}"
        case "cancelled":
            return _cancelled(record.done)
        case _:
            return ""


def sentence(event: Any) -> str:
    """Return a progress event in words."""
    return _SENTENCES.get(type(event), str)(event)


def _cancelled(rounds: int) -> str:
    return f"cancelled after {rounds} round{'' if rounds == 1 else 's'}"


def _client_failed(event: ClientFailed) -> str:
    # Attempt 0: the client's bridge has gone, so the client was not invoked.
    client = f"{event.client}, attempt {event.attempt}" if event.attempt else event.client
    return f"{client}: {event.reason}" + ("; given up" if event.final else "; will be invoked again")


def _opened(event: RoundOpened) -> str:
    numbers = (len(event.cohort), "clients invited"), (len(event.evaluators), "clients asked to judge")
    text = ", ".join(f"{number} {what}" for number, what in numbers if number)
    return f"round {event.round}: {text}" + (" (resumed)" if event.resumed else "")


def _completed(event: JobCompleted) -> str:
    text = f"completed: {event.reason}"
    if event.accuracy is not None:
        text += f", test accuracy {event.accuracy:.4f}"
    elif event.metrics:
        text += f", {measured.describe(event.metrics)}"
    if event.best_round is not None:
        text += f"; the best model is that of round {event.best_round}"
    kinds = processors.describe(event.processors)
    return text + (f"; trained on {kinds}" if kinds else "")


def _evaluated(event: ModelEvaluated) -> str:
    metrics = measured.metrics_of(event)
    text = measured.describe(metrics, measured.names(None, metrics))
    if "loss" not in metrics and (loss := measured.format_loss(event)):
        text += f", loss {loss}"
    if event.by == "server":
        return f"round {event.round}: {text}"
    if event.reason:
        return f"round {event.round}, not judged by clients: {event.reason}"
    worst = measured.describe({name: spread.worst_decile for name, spread in event.spread.items()})
    left = ", ".join(f"{name} by {clients}" for name, clients in event.left_out.items())
    return (
        f"round {event.round}, judged by {event.clients} clients on {event.samples} held-out samples: {text}"
        + (f"; worst tenth of the clients: {worst}" if worst else "")
        + (f"; not measurable: {left}" if left else "")
    )


def start_sentence(start: StartReport) -> str:
    """Return what was taken of an earlier model, in words."""
    total = len(start.matched) + len(start.reshaped) + len(start.missing)
    text = f"{start.source}: {len(start.matched)} of {total} tensors"
    for names, reason in (
        (start.missing, "not there"),
        (start.reshaped, "of another shape or dtype there"),
        (start.unused, "there but not used"),
    ):
        if names:
            more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            text += f"; {reason}: {', '.join(names[:NAMES_SHOWN])}{more}"
    return text


_SENTENCES: Final[dict[type, Callable[[Any], str]]] = {
    JobAccepted: lambda e: f"accepted ({e.name})",
    JobWaiting: lambda e: f"waiting: {e.reason}",
    JobPaused: lambda e: f"paused: {e.reason}",
    JobStarted: lambda e: (
        f"started: {e.parameters:,} parameters, initial model {short_digest(e.model.sha256)}"
        + ("" if e.start is None else f" from {start_sentence(e.start)}")
    ),
    JobRejected: lambda e: f"rejected: {e.reason}",
    JobFailed: lambda e: f"failed: {e.reason}",
    JobCancelled: lambda e: _cancelled(e.rounds),
    JobCompleted: _completed,
    RoundOpened: _opened,
    RoundQuorum: lambda e: f"round {e.round}: quorum of {e.counted} reached, {e.grace_s:g} s left for the others",
    RoundCompleted: lambda e: (
        f"round {e.round}: {len(e.counted)} updates in {e.split.round_s:.2f} s, model {short_digest(e.model.sha256)}"
    ),
    RoundFailed: lambda e: f"round {e.round} failed: {e.reason}; {_POLICIES.get(e.policy, e.policy)}",
    ModelEvaluated: _evaluated,
    ClientFailed: _client_failed,
    ClientRefused: lambda e: f"{e.client}: {e.platform} did not start it: {e.reason}; asked again",
    ClientRestored: lambda e: f"{e.client} on {e.platform}: {e.reason}",
    ClientTraining: lambda e: f"{e.client} trains on {e.platform} as {e.activation}" + (" (cold)" if e.cold else ""),
    UpdateCounted: lambda e: f"{e.client} {'counted' if e.purpose == 'train' else 'has judged'}, {e.counted} of {e.of}",
    UpdateRefused: lambda e: f"update refused ({e.code}): {e.reason} [{e.topic}]",
}

"""One example of every progress event."""

from typing import Final

from broker.messages.job import Job
from broker.messages.job_sections import Stop
from broker.messages.progress import (
    ClientFailed,
    ClientRefused,
    ClientRestored,
    ClientTraining,
    Event,
    JobAccepted,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobPaused,
    JobRejected,
    JobStarted,
    JobWaiting,
    ModelEvaluated,
    Progress,
    RoundCompleted,
    RoundFailed,
    RoundOpened,
    RoundQuorum,
    UpdateCounted,
    UpdateRefused,
)
from broker.messages.reports import Split
from broker.messages.round import BlobRef

MODEL: Final = BlobRef(f"fl.models.demo.{'ab' * 32}", "ab" * 32, 1_590_040)

EVENTS: Final[tuple[Event, ...]] = (
    JobAccepted(name="demo", job=Job(name="demo", stop=Stop(rounds=3))),
    JobRejected(field="cohort.clients", value="0", reason="cohort.clients = 0: expected a whole number >= 1"),
    JobPaused(reason="the broker has no room for fl.models.job-1.ab: insufficient resources", until_s=1700086400.0),
    JobWaiting(reason="1 of 10 clients are registered", data="digits", have=1, need=10, until_s=1700000600.0),
    JobStarted(model=MODEL, parameters=397_510),
    RoundOpened(round=1, cohort=("c-0", "c-1", "c-2"), quorum=2, deadline_s=1700000300.0, resumed=True),
    ClientTraining(round=1, client="c-0", platform="local", activation="act-7", attempt=1, cold=True),
    ClientFailed(round=1, client="c-1", platform="local", attempt=2, reason="no memory [1 GB]", final=False),
    ClientRefused(round=1, client="c-1", platform="openfaas", attempt=1, reason="429 from the watchdog"),
    ClientRestored(round=1, client="c-1", platform="gcf", attempt=1, reason="no topic; created again"),
    UpdateCounted(
        round=1,
        client="c-0",
        attempt=1,
        samples=600,
        counted=1,
        of=3,
        trained_s=1.5,
        metrics={"loss": 0.25},
        processor="aarch64 NEON",
    ),
    UpdateRefused(topic="fl.updates.demo.1.c-2.1", code="finite", reason="hidden.weight holds NaN or infinity"),
    RoundQuorum(round=1, counted=2, grace_s=5.0),
    RoundCompleted(
        round=1,
        counted=("c-0", "c-1"),
        missing=("c-2",),
        samples=1200,
        model=MODEL,
        split=Split(invocation_s=0.01, clients_start_s=0.2, training_s=1.5, aggregation_s=0.04, round_s=1.75),
        trained_s=2.5,
        metrics={"loss": 0.5},
        bytes_in=3_180_080,
        bytes_out=1_590_040,
    ),
    RoundFailed(round=2, reason="1 of 2 needed updates", counted=("c-0",), policy="retry"),
    ModelEvaluated(round=1, accuracy=0.8125, loss=0.75, samples=360, evaluation_s=0.3, background=True),
    JobCompleted(reason="3 rounds are done", rounds=3, accuracy=0.9375, model=MODEL, processors={"aarch64 NEON": 6}),
    JobFailed(reason="no clients"),
    JobCancelled(rounds=2, model=None),
)


def key_of(message: Progress) -> str:
    """Return the part of an event's id that two jobs share, such as `round.completed.4`."""
    return message.id[message.id.index(message.event.what) :]

"""What others publish to our topics: garbage, copies and forgeries, a flood. Each function returns a `Do`."""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Literal

from broker import topics
from broker.base import Broker
from broker.errors import BrokerError
from broker.messages.progress import RoundOpened
from tests.chaos.actions import Do

if TYPE_CHECKING:
    from tests.chaos.trial import Trial

GARBAGE: Final = (
    b"garbage",
    b"\x00" * 64,
    b"\xff\xfe\x00garbage",
    b"{}",
    b"[]",
    b"null",
    b'{"specversion":"1.0"}',
    b'{"specversion":"1.0","id":"x","source":"/x","type":"x.y","subject":"x","data":{}}',
    b'{"schema":99,"data":' + b"[" * 5000,
    b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ",
    b"x" * 200_000,
)

JOBS: Final = GARBAGE[3], GARBAGE[7]
"""What is garbage elsewhere and a job with default values here."""

FLOOD: Final = 3000
"""Messages of a flood. On a loaded machine a nats-server that syncs each one takes some hundreds per second."""


_TOPICS: Final[dict[str, tuple[str, ...]]] = {
    "updates": ("fl.updates.{job}.{round}.{client}.99", "fl.updates.{job}.{round}.nobody.1", "fl.updates.other.1.c.1"),
    "tasks": ("fl.tasks.{platform}.{client}", "fl.tasks.{platform}.nobody"),
    "reports": ("fl.invocations.{platform}.{client}", "fl.invocations.nobody.{client}"),
    "jobs": ("fl.jobs.submit", "fl.jobs.garbage.submit"),
    "progress": ("fl.progress.{job}.client.training", "fl.progress.other.round.opened"),
}
_VALUES: Final[dict[str, tuple[str, ...]]] = {
    "reports": ("fl.reports.{platform}.{client}", "fl.tallies.{platform}.{client}"),
    "records": ("fl.rounds.garbage-{number}",),
    "register": ("fl.clients.garbage-{number}", "fl.functions.{platform}.garbage-{number}"),
    "presence": ("fl.presence.{platform}.garbage-{number}", "fl.presence.nobody.garbage"),
}


def publish_garbage(kind: str) -> Do:
    """Publish what is no message of ours to the topics of one kind.

    Args:
        kind: a key of the tables above.
    """

    async def do(trial: "Trial") -> None:
        async with trial.connect() as bus:
            for number, payload in enumerate(GARBAGE):
                if kind == "jobs" and payload in JOBS:
                    continue
                for topic in _TOPICS.get(kind, ()):
                    with contextlib.suppress(BrokerError):
                        await bus.publish(_filled(trial, topic, number), payload)
                for topic in _VALUES.get(kind, ()):
                    with contextlib.suppress(BrokerError):
                        await bus.put(_filled(trial, topic, number), payload)
                await trial.pause(0.0, 0.05)

    return do


def _filled(trial: "Trial", topic: str, number: int) -> str:
    round_ = max((getattr(event.event, "round", 1) for _, event in trial.events), default=1)
    platform, clients = trial.system.setup.clients, _clients(trial)
    return topic.format(job=trial.job, round=round_, client=trial.rng.choice(clients), platform=platform, number=number)


def _clients(trial: "Trial") -> list[str]:
    cohorts = [event.event.cohort for _, event in trial.events if isinstance(event.event, RoundOpened)]
    return sorted(cohorts[-1]) if cohorts else ["nobody"]


def forge_updates(how: Literal["copy", "other client", "other round"]) -> Do:
    """Publish the updates of the job once more, as their clients' next attempt, as another client's, for another round.

    Args:
        how: what is changed of their topic.
    """

    async def do(trial: "Trial") -> None:
        count = 0
        async with trial.connect() as bus, bus.subscribe(topics.job_updates(trial.job), start="new") as deliveries:
            with contextlib.suppress(TimeoutError, BrokerError):
                while count < 8:
                    delivery = await asyncio.wait_for(anext(deliveries), 5.0)
                    address = topics.parse_update(delivery.topic)
                    if address.attempt >= 50:
                        continue
                    payload = await delivery.read()
                    client = trial.rng.choice(_clients(trial)) if how == "other client" else address.client
                    round_ = address.round + (1 if how == "other round" else 0)
                    await bus.publish(topics.update(trial.job, round_, client, 50 + count), payload)
                    count += 1
        trial.note(f"{count} updates published once more ({how})")

    return do


async def flood(trial: "Trial") -> None:
    """Publish small messages to another job's progress topics as fast as the broker takes them."""
    topic = topics.progress("other", "round", "opened")

    async def send(bus: Broker, messages: int) -> None:
        for _ in range(messages):
            await bus.publish(topic, b"x" * 100)

    async with trial.connect() as bus, asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(send(bus, FLOOD // 20))

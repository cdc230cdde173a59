"""A job whose server crashes at a write that the test chooses, and is replaced by another server."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

import broker
from broker import topics
from broker.base import Broker
from broker.deliveries import Value
from broker.messages import codec
from broker.messages.job_record import JobRecord
from broker.messages.round import RoundTask, nonce, token
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.events import key_of
from tests.support.fakes import FakeLearning, Fleet, running

ROUNDS: Final = 3
SECRETS: Final = ("of the first server", "of the second server")
WITHIN_S: Final = 120.0


class Crash(BaseException):
    """A crash of the server. A BaseException, so no code of the server catches it."""


def crashing(bus: Broker, writes: int) -> Broker:
    """Make a broker crash the server just before the write after `writes` writes."""
    left = writes

    def counted(write: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def write_or_crash(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return await write(*args, **options)

        return write_or_crash

    for name in ("publish", "put", "purge"):
        setattr(bus, name, counted(getattr(bus, name)))
    return bus


async def event_ids(sdk: Client, job: str) -> list[str]:
    """The ids of a job's events until its end, such as `update.counted.1.client-03`."""
    async with asyncio.timeout(WITHIN_S):
        await sdk.wait_until_accepted(job)
        return [key_of(message) async for message in sdk.watch(job)]


async def train(
    url: str,
    writes: int | None,
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    behave: Callable[[Broker, RoundTask], Awaitable[None]] = fakes.answer,
) -> tuple[str, Fleet, list[str], bool]:
    """Train three rounds with a server that crashes after `writes` writes and a second one that takes over.

    Args:
        url: the broker's address.
        writes: None: no server crashes.
        sections: of the job; None: the fake job's.
        evaluation: fields of the job's evaluation.
        behave: what clients do with a task.

    Returns:
        The final model's digest, the clients, the ids of the events, and whether the first server crashed.
    """
    async with broker.connect(url) as bus, broker.connect(url) as servers:
        sdk, fleet, has_crashed = Client(bus), Fleet(bus, behave), False
        await sdk.register(fakes.clients(6))
        # Who judges is waited for within the grace.
        given: dict[str, Any] = dict(sections or {})
        cohort = {"grace_s": 60.0 if evaluation else 0.0, **given.pop("cohort", {})}
        job = fakes.job(stop={"rounds": ROUNDS}, cohort=cohort, evaluation=evaluation or {}, **given)
        async with running(fleet.serve()):
            await bus.publish(topics.submission("crashing"), msgspec.json.encode(job))
            if writes is not None:
                try:
                    async with running(serve(crashing(servers, writes), FakeLearning(), secret=lambda: SECRETS[0])):
                        await event_ids(sdk, "crashing")
                        await wait_until_over(bus, "crashing")
                except Crash:
                    has_crashed = True
            async with running(serve(bus, FakeLearning(), secret=lambda: SECRETS[1])):
                ids = await event_ids(sdk, "crashing")
                await wait_until_over(bus, "crashing")
        record = await sdk.job("crashing")
        assert record.model is not None
        assert evaluation or record.processors == processors_of(ids)
        assert await bus.get(topics.secret("crashing")) is None, "the job is over, and its secret lies there"
        secret = SECRETS[1] if writes is None else SECRETS[0]
        assert [task.id for task in fleet.tasks if task.token != token_of(task, secret)] == []
        return record.model.sha256, fleet, ids, has_crashed


def processors_of(ids: list[str]) -> Counter[str]:
    """How many updates of completed rounds each kind of processor has trained, as the events of a job tell it."""
    counted = (each.split(".", 3)[2:] for each in ids if each.startswith("update.counted."))
    return Counter(fakes.processor_of(client) for round_, client in counted if f"round.completed.{round_}" in ids)


def token_of(task: RoundTask, secret: str) -> str:
    """The token of a task in a job with this secret."""
    return token(nonce(secret, task.job, task.round), task.client_id)


async def wait_until_over(bus: Broker, job: str) -> None:
    """Wait until the record says that the job's server has nothing more to do."""
    async with bus.watch(topics.job_record(job)) as values:
        async for value in values:
            if isinstance(value, Value) and codec.decode(JobRecord, value.payload).is_finished:
                return

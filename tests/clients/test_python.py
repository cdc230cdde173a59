"""The Python SDK of CloudEvents reads every event of a job, and an example of every kind."""

import asyncio
from typing import Any

import pytest
from cloudevents import http, pydantic
from cloudevents.conversion import to_dict

import broker
from broker import topics
from broker.messages import progress
from broker.messages.progress import Progress
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.events import EVENTS
from tests.support.fakes import FakeLearning, Fleet, running

WITHIN_S = 60.0
HEADERS = {"content-type": "application/cloudevents+json"}


def read(payload: bytes, how: str) -> dict[str, Any]:
    """Read an event as the SDK's users do: from an HTTP request, from JSON, or into a pydantic model."""
    event: Any = {
        "http": lambda: http.from_http(HEADERS, payload),  # type: ignore[no-untyped-call]
        "json": lambda: http.from_json(payload),
        "pydantic": lambda: pydantic.from_json(payload),
    }[how]()
    fields: dict[str, Any] = to_dict(event)
    return fields


@pytest.mark.parametrize("how", ["http", "json", "pydantic"])
async def test_the_sdk_reads_every_event(how: str, memory_url: str) -> None:
    payloads = [progress.encode(Progress("demo", event, 1_700_000_000.0, "1")) for event in EVENTS]
    ready = asyncio.Event()
    async with broker.connect(memory_url) as bus, asyncio.timeout(WITHIN_S):
        await Client(bus).register(fakes.clients(10))
        async with running(serve(bus, FakeLearning(), on_ready=ready.set), Fleet(bus).serve()):
            await ready.wait()
            job = await Client(bus).submit(fakes.job())
            async with bus.subscribe(topics.job_progress(job)) as events:
                async for event in events:
                    payloads.append(await event.read())
                    if event.topic.endswith(".job.completed"):
                        break
    for payload in payloads:
        fields, known = read(payload, how), progress.decode(payload)
        assert (fields["specversion"], fields["source"], fields["id"]) == ("1.0", "/server", known.id)
        assert fields["type"] == f"dev.fedkeeper.{known.event.what}"
        assert fields["subject"] == known.job
        assert fields["data"]
        assert fields["dataschema"].endswith(f"/{known.event.what}.json")

"""A function with the rights that docs/edge.md lists does its work, also with models and updates in chunks."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import broker
from broker import topics
from broker.errors import Denied
from broker.nats.server import NatsServer
from tests.support.paths import REPOSITORY

LARGE = bytes(5 << 20)
"""Above the size of a message, so it is stored in chunks."""

SETTINGS = """
authorization {{
  users: [
    {{ user: "fedkeeper", password: "admin" }},
    {{ user: "function", password: "secret", permissions: {{
        publish: [{publish}],
        subscribe: ["_INBOX_function.>"] }} }},
  ]
}}
"""


def documented_rights(client: str) -> list[str]:
    """The subjects that the function of a client may publish to."""
    text = (REPOSITORY / "docs" / "edge.md").read_text(encoding="utf-8")
    section = text.split("the function of client `<c>` needs:")[1].split("A user who lists")[0]
    subjects = re.findall(r"`((?:fl\.|\$JS\.)[^`]+)`", section)
    return [subject.replace("<c>", client) for subject in subjects]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    publish = ", ".join(f'"{subject}"' for subject in documented_rights("client-7"))
    server = NatsServer(tmp_path / "store", max_file_bytes=2 << 30, settings=SETTINGS.format(publish=publish))
    await server.start()
    yield server
    await server.kill()


async def test_the_documented_rights_are_enough_for_a_function_and_for_its_own_topics_only(server: NatsServer) -> None:
    model, address = topics.model("job-1", "ab" * 32), f"127.0.0.1:{server.port}"
    states = [topics.client_state("job-1", "client-7", 1, 1, name) for name in ("opt", "scaffold", None)]
    update = topics.update("job-1", 1, "client-7", 1)
    async with broker.connect(f"nats://fedkeeper:admin@{address}") as admin:
        await admin.put(model, LARGE)
        async with broker.connect(f"nats://function:secret@{address}", provision=False) as function:
            value = await function.get(model)
            assert value is not None
            assert value.payload == LARGE
            for state in states:
                await function.put(state, LARGE)
                value = await function.get(state)
                assert value is not None
                assert value.payload == LARGE
            assert (await function.publish(update, LARGE)).stored
            await function.put(topics.report("edge", "client-7"), b"{}")
            with pytest.raises(Denied):
                await function.publish(topics.update("job-1", 1, "client-8", 1), LARGE)
            with pytest.raises(Denied):
                await function.put(model, b"forged")
            with pytest.raises(Denied):
                await function.put(topics.client_state("job-1", "client-8", 1, 1, "opt"), b"forged")
        async with admin.subscribe(topics.round_updates("job-1", 1)) as updates:
            assert await (await anext(updates)).read() == LARGE

"""The client states that an update names."""

import pytest

from bridges.relay.up import states_of
from broker import topics
from broker.messages.round import BlobRef
from tests.support.fakes import header, update
from tests.support.tasks import task

STATES = {
    name: BlobRef(topics.client_state("job", "client-00", 1, 1, name), "ab" * 32, 7) for name in ("opt", "scaffold")
}
UPDATE = topics.update("job", 1, "client-00", 1)


def test_an_update_s_own_states_are_found() -> None:
    assert states_of(UPDATE, update({}, header(task(), states=STATES))) == tuple(STATES.values())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"[]",
        (9).to_bytes(8, "little") + b'{"a": [[[',
        update({}, header(task())),
        update({}, header(task(), states={"opt": BlobRef(topics.client("client-00"), "ab" * 32, 7)})),
        update(
            {},
            header(task(), states={"opt": BlobRef(topics.client_state("job", "client-01", 1, 1, "opt"), "ab" * 32, 7)}),
        ),
    ],
)
def test_an_update_without_a_state_of_its_own_client_names_none(content: bytes) -> None:
    assert states_of(UPDATE, content) == ()


@pytest.mark.parametrize(
    "topic",
    [
        "fl.updates.job.2.client-00.1",
        "fl.updates.job.1.client-00",
        "fl.updates.job.x.client-00.1",
        "fl.updates.J!.1.c.1",
    ],
)
def test_an_update_under_a_topic_that_is_not_its_own_has_no_state(topic: str) -> None:
    assert states_of(topic, update({}, header(task(), states=STATES))) == ()

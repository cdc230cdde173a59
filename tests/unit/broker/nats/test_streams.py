from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from broker import BrokerUrl
from broker.errors import ForeignStream, Unsupported
from broker.families import FAMILIES, Keep
from broker.nats.errors import NotFound
from broker.nats.streams import differences, ensure, refuse_foreign, settings

WANTED = {family.name: settings(family, f"FEDKEEPER_{family.name}") for family in FAMILIES}


def as_answered(wanted: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A stream's configuration as the server tells it: without what is false or zero, and with things of its own."""
    told = {key: value for key, value in wanted.items() if value}
    return told | {"compression": "none", "metadata": {"_nats.ver": "2.15.1", **wanted["metadata"]}} | more


@pytest.mark.parametrize("name", WANTED)
def test_a_stream_as_it_was_made_is_ours_and_right(name: str) -> None:
    found = as_answered(WANTED[name])
    refuse_foreign(WANTED[name], found)
    assert differences(WANTED[name], found) == {}


def test_what_may_be_lost_is_stored_later_and_nothing_else() -> None:
    assert {name for name, wanted in WANTED.items() if "persist_mode" in wanted} == {"STATUS"}


def test_write_once_families_refuse_a_second_payload() -> None:
    for family in FAMILIES:
        once = WANTED[family.name]["discard_new_per_subject"], WANTED[family.name]["max_msgs_per_subject"]
        assert (once == (True, 1)) == (family.keep is Keep.FIRST)


def test_servers_that_know_no_persist_mode_are_asked_for_no_update() -> None:
    found = as_answered(WANTED["STATUS"])
    del found["persist_mode"]
    assert differences(WANTED["STATUS"], found) == {}


@pytest.mark.parametrize(("key", "value"), [("max_bytes", 1), ("num_replicas", 3), ("description", "watched by ops")])
def test_what_an_operator_set_is_left(key: str, value: object) -> None:
    found = as_answered(WANTED["PROGRESS"], **{key: value})
    refuse_foreign(WANTED["PROGRESS"], found)
    assert differences(WANTED["PROGRESS"], found) == {}


@pytest.mark.parametrize(
    ("key", "value"), [("max_age", 1), ("subjects", ["fl.progress.>"]), ("discard", "new"), ("allow_direct", False)]
)
def test_only_what_differs_is_set_right(key: str, value: object) -> None:
    found = as_answered(WANTED["PROGRESS"], **{key: value})
    refuse_foreign(WANTED["PROGRESS"], found)
    assert differences(WANTED["PROGRESS"], found) == {key: WANTED["PROGRESS"][key]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"metadata": {}}, "?streams=PREFIX"),
        ({"metadata": None}, "?streams=PREFIX"),
        ({"metadata": {"owner": "plant"}}, "?streams=PREFIX"),
        ({"subjects": ["fl.progress.>", "plant.>"]}, "?streams=PREFIX"),
        ({"retention": "workqueue"}, "retention is workqueue and must be limits"),
        ({"storage": "memory"}, "storage is memory and must be file"),
        ({"max_msgs_per_subject": 1}, "max_msgs_per_subject is 1 and must be -1"),
    ],
)
def test_what_is_not_ours_is_refused(change: dict[str, Any], complaint: str) -> None:
    found = as_answered(WANTED["PROGRESS"]) | change
    with pytest.raises(ForeignStream) as refused:
        refuse_foreign(WANTED["PROGRESS"], found)
    assert complaint in str(refused.value)
    assert (refused.value.stream, refused.value.subjects) == ("FEDKEEPER_PROGRESS", tuple(found["subjects"]))


def test_another_schema_is_another_version_s() -> None:
    found = as_answered(WANTED["PROGRESS"]) | {"metadata": {"fedkeeper.schema": "2"}}
    with pytest.raises(Unsupported, match=r"schema 2, this one has 1"):
        refuse_foreign(WANTED["PROGRESS"], found)


class OldServer:
    """A nats-server before 2.10: it keeps no metadata."""

    address = BrokerUrl.parse("nats://host")

    async def retry(self, attempt: Callable[[Any], Awaitable[None]]) -> None:
        await attempt(self)

    async def call_api(self, topic: str, call: str, request: dict[str, Any], response: Any) -> Any:
        if call.startswith("STREAM.INFO"):
            raise NotFound(topic)
        if call == "STREAM.LIST":
            return response([])
        return response({key: value for key, value in request.items() if key != "metadata"})


async def test_a_server_that_keeps_no_mark_is_too_old() -> None:
    link: Any = OldServer()
    with pytest.raises(Unsupported, match=r"NATS 2.10 or newer"):
        await ensure(link)

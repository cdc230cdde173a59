"""The JetStream streams that keep our topics, derived from `broker.families.FAMILIES`.

A stream of ours has a name of our own and a mark in its metadata. What has our name and not our mark, or keeps our
topics under another name, belongs to someone else: it is refused and never changed.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import structlog

from broker.errors import Denied, ForeignStream, NoSystem, OldStore, Unsupported
from broker.families import FAMILIES, Family, Keep
from broker.filters import overlap
from broker.nats import names
from broker.nats.connection import Connection
from broker.nats.errors import NotFound, SubjectsTaken
from broker.nats.link import Link
from broker.nats.old_store import is_old_store

DEDUPE_WINDOW_S: Final = 120.0
MARK: Final = "fedkeeper.schema"
SCHEMA: Final = "1"
"""How topics are cut into streams, and what lies in them. Another number is another store."""

_NS: Final = 1_000_000_000

_ESSENTIAL: Final = ("retention", "storage", "max_msgs_per_subject")
"""Settings that our promises rest on. To change them on a stream would drop what lies there."""

_REPAIRED: Final = (
    "subjects",
    "discard",
    "discard_new_per_subject",
    "max_age",
    "duplicate_window",
    "allow_direct",
    "no_ack",
)
"""Settings that are set right where they differ. Others are the operator's (max_bytes, num_replicas), or can't be
changed (persist_mode, which servers before 2.12 do not know)."""

_ROOTS: Final = ("fl.", "flt.")
_TAKEN: Final = (
    "two streams can't keep one topic; use another NATS account, or ?streams=PREFIX if its name is PREFIX_..."
)

_log = structlog.get_logger(__name__)


class StreamInfo(msgspec.Struct):
    """JetStream's answer about a stream."""

    config: dict[str, Any]


class _StreamList(msgspec.Struct):
    streams: list[StreamInfo] | None = None


def settings(family: Family, name: str) -> dict[str, Any]:
    """A family's stream, as JetStream wants it in JSON; times in nanoseconds.

    Args:
        family: what it keeps.
        name: what it is called.
    """
    # A log forgets its oldest part when it is full. What is a request or a result must not be lost
    # silently: there the publisher is told.
    discard = "old" if family.keep is Keep.LOG else "new"
    return {
        "name": name,
        "subjects": list(family.filters),
        "retention": "workqueue" if family.keep is Keep.QUEUE else "limits",
        "storage": "file",
        "num_replicas": 1,
        "discard": discard,
        "discard_new_per_subject": family.keep is Keep.FIRST,
        "max_msgs_per_subject": 1 if family.keep in (Keep.FIRST, Keep.LAST) else -1,
        "max_bytes": -1 if family.max_bytes is None else family.max_bytes,
        "max_age": int(family.max_age_s * _NS),
        "duplicate_window": int(DEDUPE_WINDOW_S * _NS),
        "allow_direct": True,
        # The requester wants the answer of whoever handles the message, and JetStream's own would come first.
        "no_ack": family.keep is Keep.INBOX,
        "metadata": {MARK: SCHEMA},
    } | ({"persist_mode": "async"} if family.relaxed else {})


async def ensure(link: Link) -> None:
    """Create the streams that are missing, and set those of ours right that differ.

    It is harmless to do at the same time as others.

    Raises:
        Denied: a stream is missing, and we may not create it.
        ForeignStream: a stream by one of our names, or over our topics, is someone else's. Nothing was created.
        OldStore: the streams of version 0.1 are there.
        StorageFull: the server has not the space that a stream reserves.
        Unsupported: the server can't mark a stream as ours, or the streams are another version's.
    """
    await link.retry(_ensure_all)


async def expect(link: Link) -> None:
    """Make sure that the streams were made by someone; change nothing.

    Raises:
        ForeignStream: the first stream is someone else's.
        NoSystem: there are none.
        OldStore: the streams of version 0.1 are there.
        Unsupported: the streams are another version's.
    """
    await link.retry(_expect)


def refuse_foreign(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Check that a stream by one of our names is ours.

    Args:
        wanted: its configuration, as `settings` has it.
        found: its configuration, as it is.

    Raises:
        ForeignStream: it has no mark of ours, keeps topics of others, or keeps them otherwise than we need it.
        Unsupported: another version made it.
    """
    name, subjects = found["name"], tuple(found.get("subjects") or ())
    schema = (found.get("metadata") or {}).get(MARK)
    if schema is None or not all(subject.startswith(_ROOTS) for subject in subjects):
        raise ForeignStream(name, subjects, "choose other names for ours with ?streams=PREFIX in the broker's URL")
    if schema != SCHEMA:
        raise Unsupported(
            f"another version of FedKeeper made the stream {name} (schema {schema}, this one has {SCHEMA}), and it was "
            "left as it is: use that version, or another NATS account"
        )
    for key in _ESSENTIAL:
        if found.get(key) != wanted[key]:
            remedy = f"its {key} is {found.get(key)} and must be {wanted[key]}; set it right, or delete the stream"
            raise ForeignStream(name, subjects, remedy)


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a stream of ours that are to be set right.

    Args:
        wanted: its configuration, as `settings` has it.
        found: its configuration, as it is.
    """
    # The server leaves out what is false or zero.
    return {key: wanted[key] for key in _REPAIRED if (found.get(key) or False) != (wanted[key] or False)}


async def _ensure_all(connection: Connection) -> None:
    wanted = [settings(family, names.stream_name(connection.address, family.name)) for family in FAMILIES]
    try:
        first = await _found(connection, wanted[0])
    except Denied:
        _log.debug("streams are managed by someone else")
        return
    found = [first, *await asyncio.gather(*(_found(connection, one) for one in wanted[1:]))]
    missing = [one for one, config in zip(wanted, found, strict=True) if config is None]
    if missing:
        # Before any is created: half of a refused set would stand in the way of one under other names.
        await _refuse_owners(connection, wanted)
    # The first one last: whoever only reads takes it for a sign that all are there.
    for some in (missing[1:], missing[:1]):
        await asyncio.gather(*(_create(connection, one) for one in some))
    pairs = zip(wanted, found, strict=True)
    await asyncio.gather(*(_repair(connection, one, config) for one, config in pairs if config is not None))


async def _found(connection: Connection, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The configuration of a stream by one of our names; None if there is none."""
    name = wanted["name"]
    try:
        config = (await connection.api(name, f"STREAM.INFO.{name}", {}, StreamInfo)).config
    except NotFound:
        return None
    refuse_foreign(wanted, config)
    return config


async def _create(connection: Connection, wanted: dict[str, Any]) -> None:
    made = await _write(connection, "CREATE", wanted)
    if MARK not in (made.get("metadata") or {}):
        raise Unsupported(f"{connection.address.address}: NATS 2.10 or newer is needed")


async def _repair(connection: Connection, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    if changed := differences(wanted, found):
        _log.info("changing a stream", stream=wanted["name"], settings=list(changed))
        await _write(connection, "UPDATE", {**found, **changed})


async def _expect(connection: Connection) -> None:
    first = settings(FAMILIES[0], names.stream_name(connection.address, FAMILIES[0].name))
    try:
        if await _found(connection, first) is not None:
            return
    except Denied:
        _log.debug("we may not look at streams; others have made them")
        return
    if is_old_store(await _over_our_topics(connection)):
        raise _old_store(connection)
    raise NoSystem(connection.address.address)


async def _write(connection: Connection, verb: str, config: dict[str, Any]) -> dict[str, Any]:
    """Create or update a stream, and return its configuration."""
    name = config["name"]
    try:
        return (await connection.api(name, f"STREAM.{verb}.{name}", config, StreamInfo)).config
    except SubjectsTaken as exc:
        # We may not have seen it before, or it is that new.
        await _refuse_owners(connection, [config])
        raise ForeignStream("that we may not see", tuple(config["subjects"]), _TAKEN) from exc


async def _refuse_owners(connection: Connection, wanted: Sequence[Mapping[str, Any]]) -> None:
    """Check that no stream but these keeps any of their topics, as far as we may see."""
    owners = await _over_our_topics(connection)
    if is_old_store(owners):
        raise _old_store(connection)
    ours = {one["name"] for one in wanted}
    topics = [subject for one in wanted for subject in one["subjects"]]
    for name, subjects in sorted(owners.items()):
        if name not in ours and any(overlap(one, other) for one in subjects for other in topics):
            raise ForeignStream(name, subjects, _TAKEN)


def _old_store(connection: Connection) -> OldStore:
    remedy = "use an empty store or another NATS account, or delete its streams"
    return OldStore(connection.address.address, remedy)


async def _over_our_topics(connection: Connection) -> dict[str, tuple[str, ...]]:
    """The subjects of each stream that keeps topics below `fl` or `flt`, as far as we may see them."""
    found: dict[str, tuple[str, ...]] = {}
    for root in _ROOTS:
        try:
            # One page is enough: 256 streams.
            listed = await connection.api(root, "STREAM.LIST", {"subject": f"{root}>"}, _StreamList)
        except Denied:
            return {}
        found |= {one.config["name"]: tuple(one.config.get("subjects") or ()) for one in listed.streams or ()}
    return found

"""Creates and checks the JetStream streams that keep our topics, one for each family of `broker.families`.

Our streams have our names and a mark in their metadata. A stream with our name but without the mark, or with our topics
but another name, belongs to another program; we refuse to work with it and never change it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from broker.errors import ConnectFailed, Denied, ForeignStream, NoSystem, OldStore, Unsupported
from broker.families import FAMILIES, Family, Keep
from broker.nats import batches, names
from broker.nats.connection import Connection
from broker.nats.errors import NobodyAnswers, NoJetStream, NoReplicas, StreamMissing, SubjectsTaken
from broker.nats.link import Link
from broker.nats.old_store import is_old_store
from broker.nats.seen import StreamInfo
from broker.support import loggers
from broker.support.filters import overlap

DEDUPE_WINDOW_S: Final = 120.0
LEAF_S: Final = 2.0
"""Time for a leaf node, which has no JetStream of its own, to reach the one behind its link."""

MARK: Final = "fedkeeper.schema"
SCHEMA: Final = "1"
"""Version of the store: how topics map to streams, and the format of the messages."""

_NS: Final = 1_000_000_000

_ESSENTIAL: Final = ("retention", "storage", "max_msgs_per_subject")
"""Settings on which our guarantees depend. Changing them on an existing stream would delete its messages."""

_REPAIRED: Final = (
    "subjects",
    "discard",
    "discard_new_per_subject",
    "max_age",
    "duplicate_window",
    "allow_direct",
    "no_ack",
    "allow_atomic",
)
"""Settings that we correct when they differ. The others belong to the operator (max_bytes; num_replicas, unless the
broker's URL asks for more) or can't be changed (persist_mode, which servers before 2.12 do not have)."""

_ROOTS: Final = ("fl.", "flt.")
_TAKEN: Final = (
    "two streams can't keep one topic; use another NATS account, or ?streams=PREFIX if its name is PREFIX_..."
)
_ASYNC: Final = (
    "the stream {stream} has persist_mode async, so it can't have replicas: delete it (`nats stream rm {stream}`), and "
    "it is created without; what it keeps is written again within seconds"
)

_log = loggers.get_logger(__name__)


class _StreamList(msgspec.Struct):
    streams: list[StreamInfo] | None = None


def settings(
    family: Family, name: str, *, replicas: int = 1, is_clustered: bool = False, has_batches: bool = True
) -> dict[str, Any]:
    """Return the configuration of a family's stream, as in JetStream's API; times are in nanoseconds.

    Args:
        family: the family that the stream keeps.
        name: name of the stream.
        replicas: number of nodes that keep it.
        is_clustered: whether the server belongs to a cluster, where the number of replicas may be raised later.
        has_batches: whether the server knows atomic batches.
    """
    # A full log deletes its oldest messages. Requests and results must not get lost silently, so a full stream of
    # these refuses new messages.
    discard = "old" if family.keep is Keep.LOG else "new"
    return {
        "name": name,
        "subjects": list(family.filters),
        "retention": "workqueue" if family.keep is Keep.QUEUE else "limits",
        "storage": "file",
        "num_replicas": replicas,
        "discard": discard,
        "discard_new_per_subject": family.keep is Keep.FIRST,
        "max_msgs_per_subject": 1 if family.keep in (Keep.FIRST, Keep.LAST) else -1,
        "max_bytes": -1 if family.max_bytes is None else family.max_bytes,
        "max_age": int(family.max_age_s * _NS),
        "duplicate_window": int(DEDUPE_WINDOW_S * _NS),
        "allow_direct": True,
        # The requester expects the answer of the subscriber; JetStream's acknowledgement would arrive first.
        "no_ack": family.keep is Keep.INBOX,
        "allow_atomic": has_batches and family.keep in batches.KEEPS,
        "metadata": {MARK: SCHEMA},
        # A stream with persist_mode can't be replicated.
    } | ({"persist_mode": "async"} if family.relaxed and replicas == 1 and not is_clustered else {})


async def ensure(link: Link) -> None:
    """Create missing streams, and correct the changed settings of ours. Several clients may do this concurrently.

    Raises:
        ConnectFailed: the server, or this account, has no JetStream.
        Denied: a stream is missing, and this user may not create it.
        ForeignStream: a stream of another program has one of our names or topics. Nothing was created.
        OldStore: the server has the streams of version 0.1.
        StorageFull: the server has less space than a stream reserves.
        Unsupported: the server can't store our mark or as many replicas, or another version made the streams.
    """
    await _call_jetstream(link, _ensure_all)


async def expect(link: Link) -> None:
    """Check that the streams exist; change nothing.

    Raises:
        ConnectFailed: the server, or this account, has no JetStream.
        ForeignStream: the first stream belongs to another program.
        NoSystem: the streams do not exist.
        OldStore: the server has the streams of version 0.1.
        Unsupported: another version made the streams.
    """
    await _call_jetstream(link, _expect)


def refuse_foreign(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> None:
    """Check that a stream with one of our names is ours.

    Args:
        expected: the configuration from `settings`.
        actual: the configuration on the server.

    Raises:
        ForeignStream: the stream has no mark of ours, keeps other topics, or has an essential setting changed.
        Unsupported: another version made the stream.
    """
    name, subjects = actual["name"], tuple(actual.get("subjects") or ())
    schema = (actual.get("metadata") or {}).get(MARK)
    if schema is None or not all(subject.startswith(_ROOTS) for subject in subjects):
        raise ForeignStream(name, subjects, "choose other names for ours with ?streams=PREFIX in the broker's URL")
    if schema != SCHEMA:
        raise Unsupported(
            f"another version of FedKeeper made the stream {name} (schema {schema}, this one has {SCHEMA}), and it was "
            "left as it is: use that version, or another NATS account"
        )
    for key in _ESSENTIAL:
        if actual.get(key) != expected[key]:
            remedy = f"its {key} is {actual.get(key)} and must be {expected[key]}; set it right, or delete the stream"
            raise ForeignStream(name, subjects, remedy)


def differences(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings to correct on a stream of ours.

    Args:
        expected: the configuration from `settings`.
        actual: the configuration on the server.
    """
    # The server omits settings that are false or zero.
    changed = {key: expected[key] for key in _REPAIRED if (actual.get(key) or False) != (expected[key] or False)}
    if actual["num_replicas"] < expected["num_replicas"]:
        changed["num_replicas"] = expected["num_replicas"]
    return changed


async def _call_jetstream(link: Link, attempt: Callable[[Connection], Awaitable[None]]) -> None:
    """Retry an attempt, but not without JetStream."""
    loop = asyncio.get_running_loop()
    start_s = loop.time()

    async def checked(connection: Connection) -> None:
        try:
            await attempt(connection)
        except NobodyAnswers as exc:
            if connection.has_jetstream or loop.time() - start_s < LEAF_S:
                raise
            raise NoJetStream(
                "this nats-server has no JetStream: start it with -js, or see configs/broker.conf"
            ) from exc

    try:
        await link.retry(checked)
    except NoJetStream as exc:
        raise ConnectFailed(link.address.address, str(exc)) from exc


async def _ensure_all(connection: Connection) -> None:
    expected = [_settings(connection, family) for family in FAMILIES]
    try:
        first = await _actual(connection, expected[0])
    except Denied:
        _log.debug("no permission to manage the streams")
        return
    actual = [first, *await asyncio.gather(*(_actual(connection, config) for config in expected[1:]))]
    missing = [config for config, existing in zip(expected, actual, strict=True) if existing is None]
    if missing:
        # Before any stream is created: half of a refused set would conflict with a set under other names.
        await _refuse_owners(connection, expected)
    # The first stream comes last, because `expect` takes it as a sign that all exist.
    for group in (missing[1:], missing[:1]):
        await asyncio.gather(*(_create(connection, config) for config in group))
    if missing:
        _log.info("created our streams", streams=len(missing), address=connection.address.address)
    pairs = [(config, existing) for config, existing in zip(expected, actual, strict=True) if existing is not None]
    await asyncio.gather(*(_repair(connection, config, existing) for config, existing in pairs))


def _settings(connection: Connection, family: Family) -> dict[str, Any]:
    name, replicas = names.stream_name(connection.address, family.name), connection.address.replicas or 1
    has_batches = connection.api_level >= batches.API_LEVEL
    return settings(family, name, replicas=replicas, is_clustered=connection.is_clustered, has_batches=has_batches)


async def _actual(connection: Connection, expected: dict[str, Any]) -> dict[str, Any] | None:
    """Return the configuration on the server of one of our streams; None if it does not exist."""
    name = expected["name"]
    try:
        info = await connection.call_api(name, f"STREAM.INFO.{name}", {}, StreamInfo)
    except StreamMissing:
        return None
    refuse_foreign(expected, info.config)
    connection.seen.learn(info)
    return info.config


async def _create(connection: Connection, config: dict[str, Any]) -> None:
    created = await _write(connection, "CREATE", config)
    if MARK not in (created.get("metadata") or {}):
        raise Unsupported(f"{connection.address.address}: NATS 2.10 or newer is needed")


async def _repair(connection: Connection, expected: dict[str, Any], actual: dict[str, Any]) -> None:
    if changed := differences(expected, actual):
        if "num_replicas" in changed and actual.get("persist_mode") == "async":
            raise Unsupported(_ASYNC.format(stream=expected["name"]))
        _log.info("changing a stream", stream=expected["name"], settings=list(changed))
        await _write(connection, "UPDATE", {**actual, **changed})


async def _expect(connection: Connection) -> None:
    first = _settings(connection, FAMILIES[0])
    try:
        if await _actual(connection, first) is not None:
            return
    except Denied:
        _log.debug("no permission to check the streams; assuming that they exist")
        return
    if is_old_store(await _owners_of_our_topics(connection)):
        raise _old_store(connection)
    raise NoSystem(connection.address.address)


async def _write(connection: Connection, verb: str, config: dict[str, Any]) -> dict[str, Any]:
    """Create or update a stream, and return its configuration."""
    name = config["name"]
    try:
        info = await connection.call_api(name, f"STREAM.{verb}.{name}", config, StreamInfo)
    except SubjectsTaken as exc:
        # The owner is not known yet if this user may not list streams, or if the stream is new.
        await _refuse_owners(connection, [config])
        raise ForeignStream("that we may not see", tuple(config["subjects"]), _TAKEN) from exc
    except NoReplicas as exc:
        wanted = config["num_replicas"]
        raise Unsupported(
            f"{connection.address.address} can't keep {wanted} replicas of {name}: {exc}; that takes a cluster of "
            f"{wanted} nodes with JetStream, all running (see docs/nats.md), or another ?replicas= in the broker's URL"
        ) from exc
    connection.seen.learn(info)
    return info.config


async def _refuse_owners(connection: Connection, ours: Sequence[Mapping[str, Any]]) -> None:
    """Check that no stream but ours keeps our topics, as far as this user may list streams."""
    owners = await _owners_of_our_topics(connection)
    if is_old_store(owners):
        raise _old_store(connection)
    our_names = {config["name"] for config in ours}
    our_subjects = [subject for config in ours for subject in config["subjects"]]
    for name, subjects in sorted(owners.items()):
        if name not in our_names and any(overlap(theirs, our) for theirs in subjects for our in our_subjects):
            raise ForeignStream(name, subjects, _TAKEN)


def _old_store(connection: Connection) -> OldStore:
    remedy = "use an empty store or another NATS account, or delete its streams"
    return OldStore(connection.address.address, remedy)


async def _owners_of_our_topics(connection: Connection) -> dict[str, tuple[str, ...]]:
    """Return the subjects of each stream that keeps topics below `fl` or `flt`; empty if listing is denied."""
    owners: dict[str, tuple[str, ...]] = {}
    for root in _ROOTS:
        try:
            # One page of the list is enough: it has 256 streams.
            page = await connection.call_api(root, "STREAM.LIST", {"subject": f"{root}>"}, _StreamList)
        except Denied:
            return {}
        configs = [stream.config for stream in page.streams or ()]
        owners |= {config["name"]: tuple(config.get("subjects") or ()) for config in configs}
    return owners

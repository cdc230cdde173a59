"""The JetStream streams that keep our topics, derived from `broker.families.FAMILIES`."""

import asyncio
from typing import Any, Final

import msgspec
import structlog

from broker.errors import Denied
from broker.families import FAMILIES, Family, Keep
from broker.nats.connection import Connection
from broker.nats.errors import NotFound
from broker.nats.link import Link

DEDUPE_WINDOW_S: Final = 120.0
_NS: Final = 1_000_000_000

_OPERATORS: Final = ("max_bytes", "num_replicas")
"""Settings that an operator may change and that are left as they are."""

_log = structlog.get_logger(__name__)


class StreamInfo(msgspec.Struct):
    """JetStream's answer about a stream."""

    config: dict[str, Any]


def settings(family: Family) -> dict[str, Any]:
    """A family's stream, as JetStream wants it in JSON; times in nanoseconds."""
    # A log forgets its oldest part when it is full. What is a request or a result must not be lost
    # silently: there the publisher is told.
    discard = "old" if family.keep is Keep.LOG else "new"
    return {
        "name": family.name,
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
    }


async def ensure(link: Link) -> None:
    """Create the streams that are missing, and change those that differ; harmless to do at the same time as others.

    Raises:
        Denied: a stream is missing, and we may not create it.
        StorageFull: the server has not the space that a stream reserves.
    """
    await link.persist(_ensure_all)


async def _ensure_all(connection: Connection) -> None:
    try:
        await _ensure(connection, FAMILIES[0])
    except Denied:
        _log.debug("streams are managed by someone else")
        return
    await asyncio.gather(*(_ensure(connection, family) for family in FAMILIES[1:]))


async def _ensure(connection: Connection, family: Family) -> None:
    wanted = settings(family)
    try:
        info = await connection.api(family.name, f"STREAM.INFO.{family.name}", {}, StreamInfo)
    except NotFound:
        await connection.api(family.name, f"STREAM.CREATE.{family.name}", wanted, StreamInfo)
        return
    # The server leaves out what is false or zero.
    changed = [key for key, value in wanted.items() if (info.config.get(key) or False) != (value or False)]
    if set(changed) - set(_OPERATORS):
        _log.info("changing a stream", stream=family.name, settings=changed)
        kept = {key: info.config[key] for key in _OPERATORS}
        await connection.api(family.name, f"STREAM.UPDATE.{family.name}", {**info.config, **wanted, **kept}, StreamInfo)

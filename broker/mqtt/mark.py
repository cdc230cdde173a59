"""The mark that distinguishes a broker with our messages from one with the messages of version 0.1."""

import asyncio
import functools
import secrets
from typing import Final

import msgspec

from broker.errors import ConnectFailed, Denied, NoSystem, OldStore, Unsupported
from broker.mqtt import claims, probe, storage
from broker.mqtt.claims import COMPARE_AND_SET_LEASE
from broker.mqtt.link import Connection, Link
from broker.mqtt.storage import Mark
from broker.support import loggers

SCHEMA: Final = 1
"""Version of the layout of topics, values and claims. A different number means an incompatible layout."""

_OF_0_1: Final = (f"{storage.GROUPS}+", "fl/rounds/+")
"""MQTT filters of messages that every version retains."""

_READ_TRIES: Final = 20
_READ_PAUSE_S: Final = 0.05

_log = loggers.get_logger(__name__)


async def ensure(link: Link, *, provision: bool) -> Mark | None:
    """Check that the broker retains messages of this version, mark it if it retains none, and return its mark.

    Returns None if there is no mark, and this user may not write it.

    Args:
        link: the link to the broker.
        provision: whether to mark a broker that retains nothing of ours.

    Raises:
        ConnectFailed: the broker does not return what was retained, or not each time.
        NoSystem: the broker has no mark, and `provision` is False.
        OldStore: the broker retains messages of version 0.1.
        Unsupported: the broker retains messages of another version.
    """
    if mark := await _read(link):
        return mark
    # Another program of this version may have started meanwhile; it sets the mark before anything else.
    if await _fetch_readable(link, *_OF_0_1) and not (mark := await _read(link)):
        remedy = "use another broker, or clear it as docs/mqtt.md says"
        raise OldStore(link.address.address, remedy)
    if mark:
        return mark
    if not provision:
        raise NoSystem(link.address.address, f", or this user may not read {storage.STORE}")
    await probe.check(link)
    try:
        await link.retry(functools.partial(_write, Mark(SCHEMA, secrets.token_hex(8))))
    except Denied:
        _log.debug("this user may not write the mark", topic=storage.STORE)
        return None
    return await _read_back(link)


async def _write(mark: Mark, connection: Connection) -> None:
    """Retain a mark, unless another program does it at the same time."""
    async with claims.open_lock(connection, storage.STORE, storage.STORE, mark.id, COMPARE_AND_SET_LEASE) as lock:
        if not await lock.read() and await lock.acquire():
            await lock.write(storage.STORE, msgspec.json.encode(mark))
            await lock.release()


async def _read_back(link: Link) -> Mark:
    """Read the mark that was just written; nats-server shows it a moment later."""
    for _ in range(_READ_TRIES):
        if mark := await _read(link):
            return mark
        await asyncio.sleep(_READ_PAUSE_S)
    raise ConnectFailed(
        link.address.address,
        f"it does not return {storage.STORE}, which was retained there. Either this user may not read it, or this "
        "broker does not work like Mosquitto (docs/mqtt.md)",
    )


async def _read(link: Link) -> Mark | None:
    payloads = await _fetch_readable(link, storage.STORE)
    if storage.STORE not in payloads:
        return None
    try:
        mark = msgspec.json.decode(payloads[storage.STORE], type=Mark)
        schema: object = mark.schema
    except msgspec.DecodeError:
        schema = "unknown"
    if schema != SCHEMA:
        raise Unsupported(
            f"another version of FedKeeper stored what {link.address.address} retains (schema {schema}, this one has "
            f"{SCHEMA}), and it was left as it is: use that version, or another broker"
        )
    return mark


async def _fetch_readable(link: Link, *filters: str) -> dict[str, bytes]:
    """Fetch retained messages; return none if this user may not read them."""
    try:
        return await link.fetch(*filters)
    except Denied:
        return {}

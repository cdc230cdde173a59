"""The mark that distinguishes a broker with our messages from one with the messages of version 0.1."""

from typing import Final

import msgspec
import structlog

from broker.errors import Denied, NoSystem, OldStore, Unsupported
from broker.mqtt import storage
from broker.mqtt.link import Link

KEY: Final = "fk/store"
SCHEMA: Final = 1
"""Version of the layout of topics, values and claims. A different number means an incompatible layout."""

_OF_0_1: Final = (f"{storage.GROUPS}+", "fl/rounds/+")
"""MQTT filters of messages that every version retains."""

_log = structlog.get_logger(__name__)


class Mark(msgspec.Struct, frozen=True):
    """The value that is retained under KEY."""

    schema: int


async def ensure(link: Link, *, provision: bool) -> None:
    """Check that the broker retains messages of this version, and mark it if it retains none.

    Args:
        link: the link to the broker.
        provision: whether to mark a broker that retains nothing of ours.

    Raises:
        NoSystem: the broker has no mark, and `provision` is False.
        OldStore: the broker retains messages of version 0.1.
        Unsupported: the broker retains messages of another version.
    """
    if await _is_marked(link):
        return
    # Another program of this version may have started meanwhile; it sets the mark before anything else.
    if await _fetch_readable(link, *_OF_0_1) and not await _is_marked(link):
        remedy = "use another broker, or clear it as docs/mqtt.md says"
        raise OldStore(link.address.address, remedy)
    if not provision:
        raise NoSystem(link.address.address, f", or this user may not read {KEY}")
    try:
        await link.publish(KEY, msgspec.json.encode(Mark(SCHEMA)))
    except Denied:
        _log.debug("this user may not write the mark", topic=KEY)


async def _is_marked(link: Link) -> bool:
    payloads = await _fetch_readable(link, KEY)
    if KEY not in payloads:
        return False
    try:
        schema: object = msgspec.json.decode(payloads[KEY], type=Mark).schema
    except msgspec.DecodeError:
        schema = "unknown"
    if schema != SCHEMA:
        raise Unsupported(
            f"another version of FedKeeper stored what {link.address.address} retains (schema {schema}, this one has "
            f"{SCHEMA}), and it was left as it is: use that version, or another broker"
        )
    return True


async def _fetch_readable(link: Link, *filters: str) -> dict[str, bytes]:
    """Fetch retained messages; return none if this user may not read them."""
    try:
        return await link.fetch(*filters)
    except Denied:
        return {}

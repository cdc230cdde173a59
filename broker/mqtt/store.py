"""The mark that tells a broker that keeps our messages from one that keeps those of version 0.1."""

from typing import Final

import msgspec
import structlog

from broker.errors import Denied, NoSystem, OldStore, Unsupported
from broker.mqtt import storage
from broker.mqtt.link import Link

KEY: Final = "fk/store"
SCHEMA: Final = 1
"""How topics, values and claims lie on a broker. Another number is another store."""

_OF_0_1: Final = (f"{storage.GROUPS}+", "fl/rounds/+")
"""MQTT filters: what every system retains, and always did."""

_log = structlog.get_logger(__name__)


class Mark(msgspec.Struct, frozen=True):
    """What is retained under KEY."""

    schema: int


async def ensure(link: Link, *, provision: bool) -> None:
    """Make sure that what the broker retains is ours, or nothing yet.

    Args:
        link: to the broker.
        provision: mark a broker that retains nothing of ours.

    Raises:
        NoSystem: nothing of ours is there, and we are not to mark it.
        OldStore: it retains what version 0.1 stored.
        Unsupported: what it retains is another version's.
    """
    if await _is_marked(link):
        return
    # A system of this version may have begun just now; its mark came before anything else.
    if await _retained(link, *_OF_0_1) and not await _is_marked(link):
        remedy = "use another broker, or clear it as docs/mqtt.md says"
        raise OldStore(link.address.address, remedy)
    if not provision:
        raise NoSystem(link.address.address, f", or this user may not read {KEY}")
    try:
        await link.publish(KEY, msgspec.json.encode(Mark(SCHEMA)))
    except Denied:
        _log.debug("the broker is managed by someone else", topic=KEY)


async def _is_marked(link: Link) -> bool:
    found = await _retained(link, KEY)
    if KEY not in found:
        return False
    try:
        schema: object = msgspec.json.decode(found[KEY], type=Mark).schema
    except msgspec.DecodeError:
        schema = "unknown"
    if schema != SCHEMA:
        raise Unsupported(
            f"another version of FedKeeper stored what {link.address.address} retains (schema {schema}, this one has "
            f"{SCHEMA}), and it was left as it is: use that version, or another broker"
        )
    return True


async def _retained(link: Link, *filters: str) -> dict[str, bytes]:
    """What is retained under MQTT filters, by topic; nothing where we may not read."""
    try:
        return {topic: message.payload for topic, message in (await link.fetch(*filters)).items()}
    except Denied:
        return {}

"""Tries once whether a broker keeps and returns retained messages as we need it, before the broker gets our mark.

A fetch is a short subscription, and ends with the answer to its unsubscription. A broker that sends retained messages
after that answer (aedes does) would make every reader miss some of them, now and then.
"""

import asyncio
import contextlib
import secrets
from typing import Final

from broker.errors import BrokerError, ConnectFailed, Denied
from broker.mqtt import storage
from broker.mqtt.link import Link

MESSAGES: Final = 16
FETCHES: Final = 12
"""aedes 1.0 returns three of three retained messages in four of five fetches; of 16, it never did in all of 12."""

_EXPIRES_S: Final = 60.0
_READ_TRIES: Final = 40
_READ_PAUSE_S: Final = 0.05
"""nats-server shows a retained message only a moment after its acknowledgement."""

_REMEDY: Final = "Use Mosquitto, or another broker that docs/mqtt.md names"


async def check(link: Link) -> None:
    """Retain some messages, fetch them several times, and delete them. A user without the rights tries nothing.

    Raises:
        ConnectFailed: the broker does not return them, or not all of them each time.
        Disconnected: the connection ended.
    """
    expected = {storage.MARKS + secrets.token_hex(8): secrets.token_bytes(64) for _ in range(MESSAGES)}
    address = link.address.address
    try:
        await asyncio.gather(*(link.publish(topic, expected[topic], expires_s=_EXPIRES_S) for topic in expected))
        await _fetch_first(link, expected)
        for _ in range(FETCHES):
            found = await link.fetch(*expected)
            if found != expected:
                missing = MESSAGES - len(found)
                raise ConnectFailed(
                    address,
                    f"this broker can't serve FedKeeper: it ends a subscription before it has sent all retained "
                    f"messages ({missing} of {MESSAGES} were missing). {_REMEDY}",
                )
    except Denied:
        return
    finally:
        with contextlib.suppress(BrokerError):
            await asyncio.gather(*(link.publish(topic, b"") for topic in expected))


async def _fetch_first(link: Link, expected: dict[str, bytes]) -> None:
    """Wait until the broker has shown each message once."""
    seen = dict[str, bytes]()
    for _ in range(_READ_TRIES):
        seen |= await link.fetch(*(topic for topic in expected if topic not in seen))
        if seen == expected:
            return
        await asyncio.sleep(_READ_PAUSE_S)
    raise ConnectFailed(
        link.address.address,
        f"it does not return what was retained below {storage.MARKS}. Either this user may not write or read there, or "
        f"this broker can't serve FedKeeper: {_REMEDY[0].lower()}{_REMEDY[1:]}",
    )

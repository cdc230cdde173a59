"""Asks the bridge of a client's platform to look at the client's data."""

import contextlib
from typing import TYPE_CHECKING, Final

import msgspec

from broker import topics
from broker.base import Broker
from broker.messages import codec
from broker.messages.data_report import DataReport
from broker.messages.errors import DecodeError
from broker.messages.register import Presence
from fedkeeper.errors import NoBridge, NotChecked

if TYPE_CHECKING:
    from fedkeeper.sdk import Client

CHECK_S: Final = 90.0
"""Longest time that a site may take to look at a client's data."""

MOST: Final = 10**15
"""Largest number of samples or bytes that is believed."""

UNKNOWN_VERB: Final = "no such request: check"
"""What an older bridge replies."""


async def check(sdk: "Client", client: str, timeout_s: float) -> DataReport:
    """Return what a client's data is, as its site sees it.

    Args:
        sdk: the system.
        client: the client's id.
        timeout_s: seconds to wait for the site.

    Raises:
        NotChecked: the client is not registered, its platform has no bridge that answers, or that can't look there.
    """
    record = await sdk.client(client)
    if record is None:
        raise NotChecked(client, "it is not registered; `fedkeeper clients` lists those that are")
    unanswered = f"platform {record.platform!r} has no bridge that answers: start or upgrade it"
    if not await _has_bridge(sdk.broker, record.platform):
        raise NotChecked(client, unanswered)
    places = {"data_loc": record.data_loc, "state_loc": record.state_loc}
    try:
        reply = await sdk.request_functions(record.platform, "check", timeout_s=timeout_s, name=client, **places)
    except NoBridge as exc:
        raise NotChecked(client, f"{unanswered} (none did within {timeout_s:g} s)") from exc
    except DecodeError as exc:
        raise NotChecked(client, f"its site's answer can't be read: {exc}") from exc
    if reply.report is None:
        is_old = reply.error in {"", UNKNOWN_VERB}
        raise NotChecked(client, unanswered if is_old else reply.error)
    return _believable(reply.report)


def _believable(report: DataReport) -> DataReport:
    """Return a report without numbers that no data has: `--register` writes them."""
    numbers = {"samples": report.samples, "bytes": report.bytes, "classes": report.classes}
    return msgspec.structs.replace(report, **{name: None for name, n in numbers.items() if not 0 <= (n or 0) <= MOST})


async def _has_bridge(bus: Broker, platform: str) -> bool:
    """Whether a bridge of the platform has announced itself and has not said goodbye."""
    values = await bus.snapshot(topics.presence(platform, topics.ANY))
    for value in values.values():
        # One that can't be read is of a newer version, and there.
        with contextlib.suppress(DecodeError):
            presence = codec.decode(Presence, value.payload)
            # One that can run no task says that it is gone, with the time. It answers why.
            if presence.gone and not presence.clock_s:
                continue
        return True
    return False

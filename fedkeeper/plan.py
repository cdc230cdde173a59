"""What has to be done to make a fabric what its file says. Pure: what is wanted and what is there in, steps out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from broker.messages.function import Deployed, Function
from broker.messages.register import ClientRecord
from fedkeeper.fabric_file import FABRIC_LABEL

Action = Literal["create", "update", "register", "change", "unregister", "delete"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A client as it should be: its function, and its entry of the register."""

    function: Function
    record: ClientRecord


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do.

    Attributes:
        action: `create` or `update` a function; `register` a client, or `change` its entry; `unregister`; `delete`.
        wanted: how it should be; None where it should not be.
    """

    action: Action
    client: str
    platform: str
    wanted: Wanted | None = None


def plan(
    wanted: Iterable[Wanted],
    deployed: Mapping[str, Iterable[Deployed]],
    register: Iterable[ClientRecord],
    *,
    fabric: str,
) -> list[list[Step]]:
    """The steps for each client, in their order; clients that are as they should be have none.

    Args:
        wanted: every client of the fabric.
        deployed: what each platform lists.
        register: what the register holds.
        fabric: name of the fabric; what it does not own is left alone.
    """
    known = {client.id: client for client in register}
    there = {(platform, found.name): found for platform, functions in deployed.items() for found in functions}
    kept = {(one.record.platform, one.record.id): one for one in wanted}
    steps = [_bring_about(one, there.get(place), known.get(one.record.id)) for place, one in kept.items()]
    ours = {place for place, found in there.items() if found.fabric == fabric}
    ours |= {(one.platform, one.id) for one in known.values() if one.labels.get(FABRIC_LABEL) == fabric}
    staying = {client for _, client in kept}
    leaving = {one.id: one for one in known.values() if one.id not in staying}
    steps += [_remove(place, place in there, leaving) for place in sorted(ours - set(kept))]
    return [one for one in steps if one]


def _bring_about(one: Wanted, found: Deployed | None, known: ClientRecord | None) -> list[Step]:
    client, platform = one.record.id, one.record.platform
    steps: list[Step] = []
    if found is None or found.digest != one.function.digest:
        steps.append(Step("create" if found is None else "update", client, platform, one))
    if known is None or entry(one.record, known, found) != known:
        steps.append(Step("register" if known is None else "change", client, platform, one))
    return steps


def _remove(place: tuple[str, str], deployed: bool, leaving: Mapping[str, ClientRecord]) -> list[Step]:  # noqa: FBT001
    """First out of the register, so that no cohort counts on it."""
    platform, client = place
    steps = [Step("unregister", client, platform)] if client in leaving else []
    return steps + ([Step("delete", client, platform)] if deployed else [])


def entry(record: ClientRecord, known: ClientRecord | None, found: Deployed | None) -> ClientRecord:
    """A client's entry of the register, with what its platform and a person decided: where it is triggered, paused."""
    url = found.url if found is not None else known.url if known is not None else ""
    return msgspec.structs.replace(record, url=url, paused=known is not None and known.paused)

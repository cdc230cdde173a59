"""Plans a deployment: compares a deployment file with what exists and returns the steps. Does no I/O."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from broker.messages.function import Deployed, Function
from broker.messages.register import ClientRecord
from fedkeeper.deployment.file import FABRIC_LABEL

Action = Literal["create", "update", "register", "change", "unregister", "delete"]


@dataclass(frozen=True, slots=True)
class DesiredClient:
    """A client as the deployment file describes it.

    Attributes:
        function: its function on the platform.
        record: its entry in the register, without what only the platform knows.
    """

    function: Function
    record: ClientRecord


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a deployment.

    Attributes:
        action: `create`, `update` or `delete` a function; `register` or `unregister` a client, or `change` its entry.
        client: the client's id.
        platform: the platform that hosts it.
        desired: the client after the step; None if the step removes something.
    """

    action: Action
    client: str
    platform: str
    desired: DesiredClient | None = None


def plan(
    clients: Iterable[DesiredClient],
    deployed: Mapping[str, Iterable[Deployed]],
    register: Iterable[ClientRecord],
    *,
    fabric: str,
) -> list[list[Step]]:
    """Return the steps of each client, in order. A client without a difference has no steps.

    Args:
        clients: every client of the deployment file.
        deployed: the functions that exist, by platform.
        register: the entries of the register.
        fabric: the name of the fabric. Functions and entries of other fabrics are not changed.
    """
    records = {record.id: record for record in register}
    functions = {(platform, function.name): function for platform, group in deployed.items() for function in group}
    desired = {(client.record.platform, client.record.id): client for client in clients}
    steps = [
        _steps_to_deploy(client, functions.get(place), records.get(client.record.id))
        for place, client in desired.items()
    ]
    own_places = {place for place, function in functions.items() if function.fabric == fabric}
    own_places |= {
        (record.platform, record.id) for record in records.values() if record.labels.get(FABRIC_LABEL) == fabric
    }
    desired_ids = {client_id for _, client_id in desired}
    for platform, client_id in sorted(own_places - set(desired)):
        removal = []
        if client_id in records and client_id not in desired_ids:
            # First out of the register, so that no cohort contains a client without a function.
            removal.append(Step("unregister", client_id, platform))
        if (platform, client_id) in functions:
            removal.append(Step("delete", client_id, platform))
        steps.append(removal)
    return [client_steps for client_steps in steps if client_steps]


def unchanged(steps: Iterable[Sequence[Step]], clients: int) -> int:
    """Return how many clients a deployment leaves as they are.

    Args:
        steps: the steps, grouped by client.
        clients: number of clients of the deployment file; 0: everything is removed.
    """
    return clients - sum(_kind(client_steps) != "remove" for client_steps in steps)


def summary(steps: Sequence[Sequence[Step]], clients: int, *, is_done: bool) -> str:
    """Return how many clients a deployment creates, changes, leaves as they are and removes, in words.

    Args:
        steps: the steps, grouped by client.
        clients: number of clients of the deployment file; 0: everything is removed.
        is_done: whether the steps were done.
    """
    kinds = Counter(_kind(client_steps) for client_steps in steps)
    same = unchanged(steps, clients)
    create, change, remove = ("created", "changed", "removed") if is_done else ("to create", "to change", "to remove")
    parts = [f"{kinds['create']} {create}", f"{kinds['change']} {change}", f"{same} unchanged"] if clients else []
    if kinds["remove"] or not clients:
        parts.append(f"{kinds['remove']} {remove}")
    return f"clients: {', '.join(parts)}"


def _kind(steps: Sequence[Step]) -> Literal["create", "change", "remove"]:
    """Return what a client's steps amount to. One whose function or entry is missing is created."""
    actions = {step.action for step in steps}
    if actions <= {"unregister", "delete"}:
        return "remove"
    return "create" if actions & {"create", "register"} else "change"


def _steps_to_deploy(client: DesiredClient, function: Deployed | None, record: ClientRecord | None) -> list[Step]:
    client_id, platform = client.record.id, client.record.platform
    steps: list[Step] = []
    if function is None or function.digest != client.function.digest:
        steps.append(Step("create" if function is None else "update", client_id, platform, client))
    if record is None or register_entry(client.record, record, function) != record:
        steps.append(Step("register" if record is None else "change", client_id, platform, client))
    return steps


def register_entry(desired: ClientRecord, current: ClientRecord | None, function: Deployed | None) -> ClientRecord:
    """Return a client's new entry for the register. It keeps the platform's `url` and a person's `paused`.

    Args:
        desired: the entry from the deployment file.
        current: the entry in the register; None: there is no such entry.
        function: the client's function on the platform; None: it does not exist, or is not known.
    """
    url = function.url if function is not None else current.url if current is not None else ""
    return msgspec.structs.replace(desired, url=url, paused=current is not None and current.paused)

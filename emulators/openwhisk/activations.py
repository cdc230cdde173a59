"""What goes into an activation of an OpenWhisk action, and the record that it leaves."""

import json
import time
from typing import Any, Final

from emulators.openwhisk.entities import Entity
from emulators.openwhisk.pool import SUCCESS, Outcome

STATUSES: Final = ("success", "application error", "action developer error", "whisk internal error")
"""By the code of an outcome."""


def values(entity: Entity) -> dict[str, Any]:
    """The parameters of an action or trigger, by name."""
    return {one["key"]: one["value"] for one in entity["parameters"]}


def divided(action: Entity, arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is for `/run`, and what is for `/init`: the parameters that the action says are, whoever sets them."""
    content = {**values(action), **arguments}
    init = {one["key"] for one in action["parameters"] if one.get("init")}
    return {name: content[name] for name in content.keys() - init}, {name: content[name] for name in init}


def context_of(activation: str, action: Entity, transaction: str, start_s: float, key: str) -> dict[str, str]:
    """What an action is told about its own run; all text."""
    context = {
        "namespace": action["namespace"],
        "action_name": f"/{action['namespace']}/{action['name']}",
        "action_version": action["version"],
        "activation_id": activation,
        "transaction_id": transaction,
        "deadline": str(int(start_s * 1000) + action["limits"]["timeout"]),
    }
    # An action that does not say that it wants no key gets one.
    if {one["key"]: one["value"] for one in action["annotations"]}.get("provide-api-key", True):
        context["api_key"] = key
    return context


def record_of(activation: str, entity: Entity, outcome: Outcome, start_s: float) -> Entity:
    """The record of what an action did, or of what a trigger led to; it ends now."""
    end_s = time.time()
    response = {"status": STATUSES[outcome.code], "success": outcome.code == SUCCESS, "result": outcome.result}
    return {
        "activationId": activation,
        "namespace": entity["namespace"],
        "name": entity["name"],
        "version": entity["version"],
        "subject": "guest",
        "start": int(start_s * 1000),
        "end": int(end_s * 1000),
        "duration": int((end_s - start_s) * 1000),
        "logs": outcome.logs,
        "annotations": [{"key": key, "value": value} for key, value in _notes(entity, outcome).items()],
        "response": {**response, "size": len(json.dumps(outcome.result))},
    }


def _notes(entity: Entity, outcome: Outcome) -> Entity:
    """The annotations of an action's run; `initTime` is there after a cold start only."""
    if "exec" not in entity:
        return {}
    notes: Entity = {
        "path": f"{entity['namespace']}/{entity['name']}",
        "kind": entity["exec"]["kind"],
        "limits": entity["limits"],
        "timeout": outcome.timed_out,
        "waitTime": 1,
    }
    return notes if outcome.init_s is None else {**notes, "initTime": int(outcome.init_s * 1000)}

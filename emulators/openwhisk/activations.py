"""Inputs of an OpenWhisk activation, and its record."""

import json
import time
from typing import Any, Final

from emulators.openwhisk.entities import Entity
from emulators.openwhisk.pool import SUCCESS, Outcome

STATUSES: Final = ("success", "application error", "action developer error", "whisk internal error")
"""Indexed by the code of an outcome."""


def values(entity: Entity) -> dict[str, Any]:
    """Return the parameters of an action or trigger, by name."""
    return {parameter["key"]: parameter["value"] for parameter in entity["parameters"]}


def split_parameters(action: Entity, arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters for `/run` and those for `/init`.

    Args:
        action: the action; it marks the parameters for `/init`.
        arguments: arguments of the call; they replace parameters of the action.
    """
    merged = {**values(action), **arguments}
    init = {parameter["key"] for parameter in action["parameters"] if parameter.get("init")}
    return {name: merged[name] for name in merged.keys() - init}, {name: merged[name] for name in init}


def context_of(activation: str, action: Entity, transaction: str, start_s: float, key: str) -> dict[str, str]:
    """Return the facts that an action gets about its run. All of them are texts.

    Args:
        activation: id of the activation.
        action: the action.
        transaction: id of the transaction.
        start_s: start of the run, in seconds since the epoch.
        key: the namespace's key.
    """
    context = {
        "namespace": action["namespace"],
        "action_name": f"/{action['namespace']}/{action['name']}",
        "action_version": action["version"],
        "activation_id": activation,
        "transaction_id": transaction,
        "deadline": str(int(start_s * 1000) + action["limits"]["timeout"]),
    }
    # An action without this annotation gets the key.
    annotations = {annotation["key"]: annotation["value"] for annotation in action["annotations"]}
    if annotations.get("provide-api-key", True):
        context["api_key"] = key
    return context


def record_of(activation: str, entity: Entity, outcome: Outcome, start_s: float) -> Entity:
    """Return the record of an activation that ends now.

    Args:
        activation: id of the activation.
        entity: the action or trigger.
        outcome: outcome of the run, or of the fire.
        start_s: start of the activation, in seconds since the epoch.
    """
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
        "annotations": [{"key": key, "value": value} for key, value in _annotations(entity, outcome).items()],
        "response": {**response, "size": len(json.dumps(outcome.result))},
    }


def _annotations(entity: Entity, outcome: Outcome) -> Entity:
    """Return the annotations of an activation. `initTime` marks a cold start."""
    if "exec" not in entity:
        return {}
    annotations: Entity = {
        "path": f"{entity['namespace']}/{entity['name']}",
        "kind": entity["exec"]["kind"],
        "limits": entity["limits"],
        "timeout": outcome.timed_out,
        "waitTime": 1,
    }
    return annotations if outcome.init_s is None else {**annotations, "initTime": int(outcome.init_s * 1000)}

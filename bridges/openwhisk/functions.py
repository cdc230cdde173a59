"""Creates, updates, deletes and lists the functions of an OpenWhisk namespace.

A function is an action. With `invoke = "trigger"` it also has a trigger, and a rule that connects the two. Actions,
triggers and rules of a namespace share one set of names, so only the action has the client's name.

OpenWhisk's `docs/rest_api.md` describes the API. The controller's sources contain more details.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from bridges import annotations, environment
from bridges.annotations import DIGEST, FABRIC, TOPIC
from bridges.errors import PlatformFailed
from bridges.openwhisk.api import Api, quoted
from bridges.openwhisk.settings import Settings
from bridges.secrets import SecretStore
from broker.messages.function import Change, Deployed, Function
from broker.support.decoding import UNREADABLE

CONTENT: Final = "fedkeeper.content"
"""Annotation with a digest of the complete action. It changes with a secret's value or the setting `kind` too."""

PAGE: Final = 200
"""Largest page that OpenWhisk returns."""

T = TypeVar("T")


def trigger_name(function: str) -> str:
    """Return the name of a function's trigger. It has a dot, which no client's id has."""
    return f"{function}.trigger"


def rule_name(function: str) -> str:
    """Return the name of a function's rule."""
    return f"{function}.rule"


class Entity(msgspec.Struct, frozen=True):
    """An action, a trigger or a rule as OpenWhisk shows it.

    Attributes:
        name: name of the entity.
        annotations: each has a `key` and a `value`.
        status: status of a rule, `active` or `inactive`; empty for other entities.
    """

    name: str
    annotations: tuple[dict[str, Any], ...] = ()
    status: str = ""

    def annotation(self, key: str) -> str:
        """Return the value of an annotation; empty if it is missing."""
        return next((str(each.get("value", "")) for each in self.annotations if each.get("key") == key), "")


@dataclass
class Functions:
    """Implements `bridges.platform.Functions` for a namespace.

    Attributes:
        settings: settings of the bridge.
        api: API of the namespace.
        secrets: holds the secrets that functions need.
    """

    settings: Settings
    api: Api
    secrets: SecretStore

    async def create(self, function: Function, package: bytes | None) -> tuple[Change, Deployed]:
        """Implements `bridges.platform.Functions.create`."""
        purpose = f"create {function.name}"
        body = self._action_body(function, package, purpose)
        content = hashlib.sha256(msgspec.json.encode(body, order="sorted")).hexdigest()
        # Look at all three first: an entity of another user must not leave an incomplete function of ours.
        action = await self._own("actions", function.name, purpose)
        trigger = rule = None
        if self.settings.uses_triggers:
            trigger = await self._own("triggers", trigger_name(function.name), purpose)
            rule = await self._own("rules", rule_name(function.name), purpose)
        change: Change = "same"
        if action is None or action.annotation(CONTENT) != content or action.annotation(DIGEST) != function.digest:
            # Without `provide-api-key` an action gets the namespace's key with every invocation.
            notes = {FABRIC: function.fabric, DIGEST: function.digest, CONTENT: content, "provide-api-key": False}
            with_limits = f"{purpose} with memory_mb = {function.memory_mb} and timeout_s = {function.timeout_s}"
            await self._put("actions", function.name, {**body, "annotations": _pairs(notes)}, with_limits, action)
            change = "created" if action is None else "updated"
        if self.settings.uses_triggers and not (trigger and rule and rule.status == "active"):
            await self._connect(function, trigger, rule, purpose)
            change = "updated" if change == "same" else change
        return change, self._deployed(function.name, function.fabric, function.digest)

    async def delete(self, name: str) -> Change:
        """Implements `bridges.platform.Functions.delete`."""
        purpose = f"delete {name}"
        # The rule goes first: OpenWhisk keeps a rule whose trigger or action was deleted.
        parts = [("rules", rule_name(name)), ("triggers", trigger_name(name)), ("actions", name)]
        existing = [part for part in parts if await self._own(*part, purpose)]
        for part in existing:
            await self.api.call("DELETE", _path(*part), purpose)
        return "deleted" if existing else "absent"

    async def list(self) -> list[Deployed]:
        """Implements `bridges.platform.Functions.list`; our action without trigger or rule has no digest."""
        actions = await self._all("actions")
        others = [await self._all(kind) for kind in ("triggers", "rules") if self.settings.uses_triggers]
        names = {entity.name for entities in others for entity in entities}
        functions = []
        for action in actions:
            fabric = action.annotation(FABRIC)
            if fabric:
                parts = {trigger_name(action.name), rule_name(action.name)}
                is_complete = not self.settings.uses_triggers or parts <= names
                digest = action.annotation(DIGEST) if is_complete else ""
                functions.append(self._deployed(action.name, fabric, digest))
            else:
                topics = annotations.filters(action.annotation(TOPIC))
                functions.append(Deployed(name=action.name, url=action.name, topics=topics))
        return functions

    async def _connect(self, function: Function, trigger: Entity | None, rule: Entity | None, purpose: str) -> None:
        """Make the trigger start the action."""
        notes = _pairs({FABRIC: function.fabric})
        if trigger is None:
            await self._put("triggers", trigger_name(function.name), {"annotations": notes}, purpose)
        if rule is None:
            ends = {"trigger": f"/_/{trigger_name(function.name)}", "action": f"/_/{function.name}"}
            await self._put("rules", rule_name(function.name), {**ends, "annotations": notes}, purpose)
        else:
            # A rule is inactive if a user switched it off, and also if its trigger was deleted. This call connects it
            # to the new trigger.
            path = _path("rules", rule_name(function.name))
            await self.api.call("POST", path, purpose, json={"status": "active"})

    async def _own(self, collection: str, name: str, purpose: str) -> Entity | None:
        """Return an entity that we created; None if there is none. Raise PlatformFailed if it is not ours."""
        content = await self.api.call("GET", _path(collection, name), purpose, params={"code": "false"})
        entity = None if content is None else self._decode(content, Entity, purpose)
        if entity is not None and not entity.annotation(FABRIC):
            reason = f"{name!r} among the {collection} is somebody else's; left alone"
            raise PlatformFailed(self.settings.name, purpose, reason)
        return entity

    async def _put(
        self, collection: str, name: str, body: dict[str, Any], purpose: str, existing: Entity | None = None
    ) -> None:
        # An entity that did not exist a moment ago must not be overwritten: another user has created it.
        params = {"overwrite": "true" if existing else "false"}
        if await self.api.call("PUT", _path(collection, name), purpose, params=params, json=body) is None:
            reason = f"HTTP 404 for {collection}/{name}: is the namespace right?"
            raise PlatformFailed(self.settings.name, purpose, reason)

    async def _all(self, collection: str) -> Sequence[Entity]:
        entities: tuple[Entity, ...] = ()
        purpose = f"list {collection}"
        while True:
            params = {"limit": PAGE, "skip": len(entities)}
            content = await self.api.call("GET", collection, purpose, params=params)
            page = self._decode(content or b"[]", tuple[Entity, ...], purpose)
            entities += page
            if len(page) < PAGE:
                return entities

    def _decode(self, content: bytes, kind: type[T], purpose: str) -> T:
        try:
            return msgspec.json.decode(content, type=kind)
        except UNREADABLE as exc:
            reason = f"the answer of {self.settings.host} is not OpenWhisk's: {exc}"
            raise PlatformFailed(self.settings.name, purpose, reason) from exc

    def _deployed(self, name: str, fabric: str, digest: str) -> Deployed:
        url = trigger_name(name) if self.settings.uses_triggers else name
        return Deployed(name=name, fabric=fabric, digest=digest, url=url)

    def _action_body(self, function: Function, package: bytes | None, purpose: str) -> dict[str, Any]:
        """Return an action without its annotations."""
        code = {} if package is None else {"binary": True, "code": base64.b64encode(package).decode()}
        if not function.image and not code:
            raise PlatformFailed(self.settings.name, purpose, "it has neither a package nor an image")
        if not function.broker:
            reason = "it has no broker address, and an update is too large for an answer of OpenWhisk"
            raise PlatformFailed(self.settings.name, purpose, reason)
        if function.image:
            runtime = {"kind": "blackbox", "image": function.image}
        else:
            runtime = {"kind": str(function.options.get("kind", self.settings.kind))}
        env = environment.with_secret_variables(function)
        variables = env.plain | {name: self.secrets.value(secret) for name, secret in env.secrets.items()}
        return {
            "exec": {**runtime, "main": "main", **code},
            "limits": {"timeout": function.timeout_s * 1000, "memory": function.memory_mb},
            # With `init` a parameter goes to the container once, with the code, and becomes an environment variable.
            "parameters": [{**pair, "init": True} for pair in _pairs(variables)],
        }


def _pairs(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _path(collection: str, name: str) -> str:
    return f"{collection}/{quoted(name)}"

"""A namespace's functions: each is an action, and for triggers also a trigger and a rule that ties the two together.

Actions, triggers and rules of a namespace share one space of names, so they can't all be called like the client.
The REST API is OpenWhisk's `docs/rest_api.md`; what it leaves out is in the controller's sources.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from bridges import annotations, environment
from bridges.annotations import DIGEST, FABRIC, TOPIC
from bridges.errors import PlatformFailed
from bridges.openwhisk.api import Api
from bridges.openwhisk.settings import Settings
from bridges.secrets import SecretStore
from broker.errors import UNREADABLE
from broker.messages.function import Change, Deployed, Function

CONTENT: Final = "fedkeeper.content"
"""Annotation: digest of all that was sent, so that another secret or another `kind` is a change as well."""

PAGE: Final = 200
"""OpenWhisk lists no more at once."""

T = TypeVar("T")


def trigger_of(name: str) -> str:
    """The trigger of the function `name`; no client's id has a dot."""
    return f"{name}.trigger"


def rule_of(name: str) -> str:
    """The rule of the function `name`."""
    return f"{name}.rule"


class Entity(msgspec.Struct, frozen=True):
    """What OpenWhisk tells of an action, a trigger or a rule."""

    name: str
    annotations: tuple[dict[str, Any], ...] = ()
    status: str = ""

    def annotation(self, key: str) -> str:
        """A text that was noted with it; empty: there is none."""
        return next((str(one.get("value", "")) for one in self.annotations if one.get("key") == key), "")


@dataclass
class Functions:
    """The functions of a namespace; see `bridges.platform.Functions`.

    Attributes:
        settings: of the bridge.
        api: of the namespace.
        vault: has the functions' secrets.
    """

    settings: Settings
    api: Api
    vault: SecretStore

    async def create(self, function: Function, package: bytes | None) -> tuple[Change, Deployed]:
        """Bring a function to what it should be; see `bridges.platform.Functions`."""
        what = f"create {function.name}"
        action = self._action(function, package, what)
        content = hashlib.sha256(msgspec.json.encode(action, order="sorted")).hexdigest()
        notes = {FABRIC: function.fabric, DIGEST: function.digest}
        # All is looked at before anything is made: what is somebody else's must not leave half a function of ours.
        found = await self._ours("actions", function.name, what)
        trigger, rule = await self._link(function.name, what)
        change: Change = "same"
        if found is None or found.annotation(CONTENT) != content or found.annotation(DIGEST) != function.digest:
            # An action that does not say so gets the namespace's key with every invocation.
            all_notes = _pairs({**notes, CONTENT: content, "provide-api-key": False})
            wanted = f"{what} with memory_mb = {function.memory_mb} and timeout_s = {function.timeout_s}"
            await self._put("actions", function.name, {**action, "annotations": all_notes}, wanted, found)
            change = "created" if found is None else "updated"
        if self.settings.triggered and not (trigger and rule and rule.status == "active"):
            await self._connect(function.name, trigger, rule, _pairs({FABRIC: function.fabric}), what)
            change = "updated" if change == "same" else change
        return change, self._deployed(function.name, function.fabric, function.digest)

    async def delete(self, name: str) -> Change:
        """Delete a function of ours; see `bridges.platform.Functions`."""
        what = f"delete {name}"
        # The rule goes first: a rule that outlives its trigger or its action stays behind and dangles.
        parts = [("rules", rule_of(name)), ("triggers", trigger_of(name)), ("actions", name)]
        there = [part for part in parts if await self._ours(*part, what)]
        for collection, part in there:
            await self.api.call("DELETE", _path(collection, part), what)
        return "deleted" if there else "absent"

    async def list(self) -> list[Deployed]:
        """Every action there; one of ours without its trigger or rule has no digest."""
        actions = await self._all("actions")
        names = {
            found.name for kind in ("triggers", "rules") if self.settings.triggered for found in await self._all(kind)
        }
        return [self._listed(action, names) for action in actions]

    async def _link(self, name: str, what: str) -> tuple[Entity | None, Entity | None]:
        """The trigger and the rule of a function, as far as they are there and wanted."""
        if not self.settings.triggered:
            return None, None
        return await self._ours("triggers", trigger_of(name), what), await self._ours("rules", rule_of(name), what)

    async def _connect(
        self, name: str, trigger: Entity | None, rule: Entity | None, notes: Sequence[dict[str, Any]], what: str
    ) -> None:
        """Have the trigger run the action."""
        if trigger is None:
            await self._put("triggers", trigger_of(name), {"annotations": notes}, what)
        if rule is None:
            ends = {"trigger": f"/_/{trigger_of(name)}", "action": f"/_/{name}"}
            await self._put("rules", rule_of(name), {**ends, "annotations": notes}, what)
        else:
            # A rule is inactive if somebody switched it off, and also if its trigger was deleted: this ties it to the
            # new one.
            await self.api.call("POST", _path("rules", rule_of(name)), what, json={"status": "active"})

    async def _ours(self, collection: str, name: str, what: str) -> Entity | None:
        """What we made under that name; None: there is nothing. Raises PlatformFailed for somebody else's."""
        content = await self.api.call("GET", _path(collection, name), what, params={"code": "false"})
        found = None if content is None else self._decoded(content, Entity, what)
        if found is not None and not found.annotation(FABRIC):
            raise PlatformFailed(
                self.settings.name, what, f"{name!r} among the {collection} is somebody else's; left alone"
            )
        return found

    async def _put(
        self, collection: str, name: str, entity: dict[str, Any], what: str, found: Entity | None = None
    ) -> None:
        # What was not there a moment ago is not overwritten: it would be somebody else's by now.
        overwrite = {"overwrite": "true" if found else "false"}
        if await self.api.call("PUT", _path(collection, name), what, params=overwrite, json=entity) is None:
            raise PlatformFailed(self.settings.name, what, f"HTTP 404 for {collection}/{name}: is the namespace right?")

    async def _all(self, collection: str) -> Sequence[Entity]:
        found: tuple[Entity, ...] = ()
        while True:
            page = {"limit": PAGE, "skip": len(found)}
            content = await self.api.call("GET", collection, f"list {collection}", params=page)
            more = self._decoded(content or b"[]", tuple[Entity, ...], f"list {collection}")
            found += more
            if len(more) < PAGE:
                return found

    def _decoded(self, content: bytes, kind: type[T], what: str) -> T:
        try:
            return msgspec.json.decode(content, type=kind)
        except UNREADABLE as exc:
            raise PlatformFailed(
                self.settings.name, what, f"the answer of {self.settings.host} is not OpenWhisk's: {exc}"
            ) from exc

    def _listed(self, action: Entity, connected: set[str]) -> Deployed:
        whole = not self.settings.triggered or {trigger_of(action.name), rule_of(action.name)} <= connected
        fabric = action.annotation(FABRIC)
        if fabric:
            return self._deployed(action.name, fabric, action.annotation(DIGEST) if whole else "")
        return Deployed(name=action.name, url=action.name, topics=annotations.filters(action.annotation(TOPIC)))

    def _deployed(self, name: str, fabric: str, digest: str) -> Deployed:
        return Deployed(
            name=name, fabric=fabric, digest=digest, url=trigger_of(name) if self.settings.triggered else name
        )

    def _action(self, function: Function, package: bytes | None, what: str) -> dict[str, Any]:
        """What makes a function; its environment is that of the container, so it is there from the start."""
        return {
            "exec": self._exec(function, package, what),
            "limits": {"timeout": function.timeout_s * 1000, "memory": function.memory_mb},
            # `init`: handed over once, with the code, and not with every invocation.
            "parameters": [{**pair, "init": True} for pair in _pairs(self._environment(function, what))],
        }

    def _exec(self, function: Function, package: bytes | None, what: str) -> dict[str, Any]:
        code = {} if package is None else {"binary": True, "code": base64.b64encode(package).decode()}
        if function.image:
            return {"kind": "blackbox", "image": function.image, "main": "main", **code}
        if not code:
            raise PlatformFailed(self.settings.name, what, "it has neither a package nor an image")
        return {"kind": str(function.options.get("kind", self.settings.kind)), "main": "main", **code}

    def _environment(self, function: Function, what: str) -> dict[str, str]:
        if not function.broker:
            reason = "it has no broker address, and an update is too large for an answer of OpenWhisk"
            raise PlatformFailed(self.settings.name, what, reason)
        env = environment.with_secret_variables(function)
        return env.plain | {name: self.vault.value(secret) for name, secret in env.secrets.items()}


def _pairs(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _path(collection: str, name: str) -> str:
    return f"{collection}/{quote(name, safe='')}"

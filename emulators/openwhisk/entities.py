"""Actions, triggers and rules of one OpenWhisk namespace, with the rules that the controller has for them."""

import itertools
import re
from dataclasses import dataclass, field
from typing import Any, Final

Entity = dict[str, Any]

KINDS: Final = ("python:3.10", "python:3.11", "python:3.12", "python:default", "blackbox")
CODE_BYTES: Final = 48 << 20
PAGE: Final = 200

_NAME_CHARACTERS: Final = 256
_NAME: Final = re.compile(r"\w([\w@ .-]*[\w@.-]+)?")
_MISSING: Final = "The requested resource does not exist."
_MALFORMED: Final = "The request content was malformed:\n"


class Refused(Exception):
    """What the controller answers instead: a status, and a text for people."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


@dataclass
class Limits:
    """Of the namespace; the defaults are those of a standard installation."""

    invocations_per_minute: int = 60
    concurrent_invocations: int = 30
    fires_per_minute: int = 60
    memory_mb: int = 512
    timeout_ms: int = 300_000

    def document(self) -> Entity:
        """As `GET limits` tells them."""
        return {
            "concurrentInvocations": self.concurrent_invocations,
            "firesPerMinute": self.fires_per_minute,
            "invocationsPerMinute": self.invocations_per_minute,
            "maxActionMemory": self.memory_mb,
            "minActionMemory": 128,
            "maxActionTimeout": self.timeout_ms,
            "minActionTimeout": 100,
            "allowedKinds": None,
        }


@dataclass
class Entities:
    """All of them share one space of names."""

    namespace: str
    limits: Limits
    _all: dict[str, tuple[str, Entity]] = field(default_factory=dict)
    _updates: "itertools.count[int]" = field(default_factory=itertools.count)

    def find(self, collection: str, name: str) -> Entity | None:
        """One of them; refuses a name that another collection has."""
        found = self._all.get(name)
        if found is not None and found[0] != collection:
            raise Refused(409, "Resource by this name exists but is not in this collection.")
        return None if found is None else found[1]

    def get(self, collection: str, name: str) -> Entity:
        """One of them, a rule with its status; refuses a name that nothing has."""
        found = self.find(collection, name)
        if found is None:
            raise Refused(404, _MISSING)
        return {**found, "status": self.status(found)} if collection == "rules" else found

    def put(self, collection: str, name: str, content: Entity, *, overwrite: bool) -> Entity:
        """Create or update; what the content leaves out stays as it was."""
        if not _NAME.fullmatch(name) or len(name) > _NAME_CHARACTERS:
            raise Refused(400, "The name of the entity contains illegal characters.")
        found = self.find(collection, name)
        if found is not None and not overwrite:
            raise Refused(409, "resource already exists")
        made = {**(found or self._new(name)), **content}
        made["version"] = _next(found["version"]) if found else "0.0.1"
        made["updated"] = next(self._updates)
        check = {"actions": self._action, "triggers": self._trigger, "rules": self._rule}
        self._all[name] = (collection, check[collection](made, found))
        return self._all[name][1]

    def delete(self, collection: str, name: str) -> Entity:
        """A deleted action or trigger leaves its rules behind."""
        gone = self.get(collection, name)
        if collection == "rules" and (trigger := self._trigger_of(gone)):
            trigger["rules"].pop(f"{self.namespace}/{name}", None)
        del self._all[name]
        return gone

    def page(self, collection: str, limit: int, skip: int) -> list[Entity]:
        """Summaries, the newest first."""
        if not 0 <= limit <= PAGE:
            raise Refused(400, f"The value '{limit}' is not in the range of 0 to {PAGE} for {collection}.")
        found = [entity for kind, entity in self._all.values() if kind == collection]
        found.sort(key=lambda entity: -int(entity["updated"]))
        hidden = {"parameters", "exec", "rules"}
        return [{k: v for k, v in entity.items() if k not in hidden} for entity in found[skip : skip + (limit or PAGE)]]

    def set_status(self, name: str, status: str) -> None:
        """Switch a rule on or off; the trigger is where that is kept."""
        rule = self.get("rules", name)
        trigger = self._trigger_of(rule)
        if trigger is None:
            raise Refused(404, "Only rules with existing triggers can be activated")
        trigger["rules"][f"{self.namespace}/{name}"] = {"action": rule["action"], "status": status}

    def status(self, rule: Entity) -> str:
        """Whether a rule is active."""
        link = ((self._trigger_of(rule) or {}).get("rules") or {}).get(f"{self.namespace}/{rule['name']}", {})
        return str(link.get("status", "inactive"))

    def _new(self, name: str) -> Entity:
        return {"namespace": self.namespace, "name": name, "publish": False, "annotations": []}

    def _trigger_of(self, rule: Entity) -> Entity | None:
        found = self._all.get(rule["trigger"]["name"])
        return found[1] if found and found[0] == "triggers" else None

    def _action(self, action: Entity, _: Entity | None) -> Entity:
        action["limits"] = {"timeout": 60_000, "memory": 256, "logs": 10, "concurrency": 1, **action.get("limits", {})}
        action.setdefault("parameters", [])
        for name, unit, most in (
            ("timeout", "milliseconds", self.limits.timeout_ms),
            ("memory", "MB", self.limits.memory_mb),
        ):
            if action["limits"][name] > most:
                text = f"requirement failed: {name} {action['limits'][name]} {unit} exceeds allowed threshold of {most}"
                raise Refused(400, f"{_MALFORMED}{text} {unit}")
        execution = action.get("exec") or {}
        if execution.get("kind") not in KINDS:
            raise Refused(400, f"{_MALFORMED}kind '{execution.get('kind')}' not in {KINDS}")
        if len(execution.get("code", "")) > CODE_BYTES:
            raise Refused(413, f"exec larger than allowed: {len(execution['code'])} > {CODE_BYTES} bytes.")
        return action

    def _trigger(self, trigger: Entity, _: Entity | None) -> Entity:
        return {"parameters": [], "rules": {}, **trigger}

    def _rule(self, rule: Entity, found: Entity | None) -> Entity:
        for kind in ("trigger", "action"):
            name = rule[kind]["name"] if isinstance(rule[kind], dict) else rule[kind].rpartition("/")[2]
            if self.find(f"{kind}s", name) is None:
                raise Refused(400, f"{kind} {self.namespace}/{name} does not exist")
            rule[kind] = {"path": self.namespace, "name": name}
        # A new rule is active; one that is put again is what it was, which is inactive if its trigger was deleted.
        status = "active" if found is None else self.status(found)
        trigger = self.get("triggers", rule["trigger"]["name"])
        trigger["rules"][f"{self.namespace}/{rule['name']}"] = {"action": rule["action"], "status": status}
        return rule


def _next(version: str) -> str:
    major, minor, patch = version.split(".")
    return f"{major}.{minor}.{int(patch) + 1}"

"""Actions, triggers and rules of one OpenWhisk namespace, checked like the controller checks them."""

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
    """Raised when the controller refuses a request.

    Attributes:
        status: HTTP status of the response.
    """

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


@dataclass
class Limits:
    """Limits of a namespace, by default those of a standard installation.

    Attributes:
        invocations_per_minute: limit of the invocations in one minute.
        concurrent_invocations: limit of the invocations at once.
        fires_per_minute: limit of the fired triggers in one minute.
        memory_mb: limit of an action's memory, in MB.
        timeout_ms: limit of an action's timeout, in milliseconds.
    """

    invocations_per_minute: int = 60
    concurrent_invocations: int = 30
    fires_per_minute: int = 60
    memory_mb: int = 512
    timeout_ms: int = 300_000

    def document(self) -> Entity:
        """Return the response to `GET limits`."""
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
    """The entities of a namespace. All of them share one set of names.

    Attributes:
        namespace: name of the namespace.
        limits: limits of the namespace.
    """

    namespace: str
    limits: Limits
    _all: dict[str, tuple[str, Entity]] = field(default_factory=dict)
    _updates: "itertools.count[int]" = field(default_factory=itertools.count)

    def find(self, collection: str, name: str) -> Entity | None:
        """Return an entity; None if there is none of that name.

        Args:
            collection: `actions`, `triggers` or `rules`.
            name: name of the entity.

        Raises:
            Refused: an entity of another collection has the name.
        """
        if name not in self._all:
            return None
        kind, entity = self._all[name]
        if kind != collection:
            raise Refused(409, "Resource by this name exists but is not in this collection.")
        return entity

    def get(self, collection: str, name: str) -> Entity:
        """Return an entity; a rule with its status.

        Args:
            collection: `actions`, `triggers` or `rules`.
            name: name of the entity.

        Raises:
            Refused: there is no such entity.
        """
        entity = self.find(collection, name)
        if entity is None:
            raise Refused(404, _MISSING)
        return {**entity, "status": self.status(entity)} if collection == "rules" else entity

    def put(self, collection: str, name: str, content: Entity, *, overwrite: bool) -> Entity:
        """Create or update an entity, and return it.

        Args:
            collection: `actions`, `triggers` or `rules`.
            name: name of the entity.
            content: fields to set. The other fields of an existing entity stay unchanged.
            overwrite: whether an existing entity may change.

        Raises:
            Refused: the name or the content is not valid, or the entity exists and must not change.
        """
        if not _NAME.fullmatch(name) or len(name) > _NAME_CHARACTERS:
            raise Refused(400, "The name of the entity contains illegal characters.")
        current = self.find(collection, name)
        if current is not None and not overwrite:
            raise Refused(409, "resource already exists")
        empty: Entity = {"namespace": self.namespace, "name": name, "publish": False, "annotations": []}
        entity = {**(current or empty), **content}
        major, minor, patch = current["version"].split(".") if current else ("0", "0", "0")
        entity["version"] = f"{major}.{minor}.{int(patch) + 1}"
        entity["updated"] = next(self._updates)
        match collection:
            case "actions":
                self._check_action(entity)
            case "triggers":
                entity = {"parameters": [], "rules": {}, **entity}
            case _:
                self._connect_rule(entity, current)
        self._all[name] = (collection, entity)
        return entity

    def delete(self, collection: str, name: str) -> Entity:
        """Delete an entity, and return it. The rules of an action or trigger stay.

        Args:
            collection: `actions`, `triggers` or `rules`.
            name: name of the entity.

        Raises:
            Refused: there is no such entity.
        """
        entity = self.get(collection, name)
        if collection == "rules" and (trigger := self._trigger_of(entity)):
            trigger["rules"].pop(f"{self.namespace}/{name}", None)
        del self._all[name]
        return entity

    def page(self, collection: str, limit: int, skip: int) -> list[Entity]:
        """Return summaries of a collection, the newest first.

        Args:
            collection: `actions`, `triggers` or `rules`.
            limit: largest number of summaries; 0 for PAGE.
            skip: number of summaries to leave out at the start.

        Raises:
            Refused: the limit is out of range.
        """
        if not 0 <= limit <= PAGE:
            raise Refused(400, f"The value '{limit}' is not in the range of 0 to {PAGE} for {collection}.")
        entities = [entity for kind, entity in self._all.values() if kind == collection]
        entities.sort(key=lambda entity: -int(entity["updated"]))
        page, hidden = entities[skip : skip + (limit or PAGE)], {"parameters", "exec", "rules"}
        return [{key: value for key, value in entity.items() if key not in hidden} for entity in page]

    def set_status(self, name: str, status: str) -> None:
        """Switch a rule on or off. The trigger stores the status.

        Args:
            name: name of the rule.
            status: `active` or `inactive`.

        Raises:
            Refused: the rule or its trigger does not exist.
        """
        rule = self.get("rules", name)
        trigger = self._trigger_of(rule)
        if trigger is None:
            raise Refused(404, "Only rules with existing triggers can be activated")
        trigger["rules"][f"{self.namespace}/{name}"] = {"action": rule["action"], "status": status}

    def status(self, rule: Entity) -> str:
        """Return the status of a rule, `active` or `inactive`."""
        link = ((self._trigger_of(rule) or {}).get("rules") or {}).get(f"{self.namespace}/{rule['name']}", {})
        return str(link.get("status", "inactive"))

    def _trigger_of(self, rule: Entity) -> Entity | None:
        collection, entity = self._all.get(rule["trigger"]["name"], ("", None))
        return entity if collection == "triggers" else None

    def _check_action(self, action: Entity) -> None:
        action["limits"] = {"timeout": 60_000, "memory": 256, "logs": 10, "concurrency": 1, **action.get("limits", {})}
        action.setdefault("parameters", [])
        for name, unit, most in (
            ("timeout", "milliseconds", self.limits.timeout_ms),
            ("memory", "MB", self.limits.memory_mb),
        ):
            value = action["limits"][name]
            if value > most:
                text = f"requirement failed: {name} {value} {unit} exceeds allowed threshold of {most}"
                raise Refused(400, f"{_MALFORMED}{text} {unit}")
        execution = action.get("exec") or {}
        if execution.get("kind") not in KINDS:
            raise Refused(400, f"{_MALFORMED}kind '{execution.get('kind')}' not in {KINDS}")
        if len(execution.get("code", "")) > CODE_BYTES:
            raise Refused(413, f"exec larger than allowed: {len(execution['code'])} > {CODE_BYTES} bytes.")

    def _connect_rule(self, rule: Entity, current: Entity | None) -> None:
        for kind in ("trigger", "action"):
            name = rule[kind]["name"] if isinstance(rule[kind], dict) else rule[kind].rpartition("/")[2]
            if self.find(f"{kind}s", name) is None:
                raise Refused(400, f"{kind} {self.namespace}/{name} does not exist")
            rule[kind] = {"path": self.namespace, "name": name}
        # A new rule is active. An update keeps the status, which is inactive if the trigger was deleted.
        status = "active" if current is None else self.status(current)
        trigger = self.get("triggers", rule["trigger"]["name"])
        trigger["rules"][f"{self.namespace}/{rule['name']}"] = {"action": rule["action"], "status": status}

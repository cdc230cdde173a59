"""What the records of activations say: which run a trigger led to, and what became of a run."""

from typing import Any, Final

import msgspec

from bridges.errors import FunctionGone, InvocationFailed, NotStarted, OutcomeUnknown
from broker.errors import UNREADABLE
from broker.messages import codec
from broker.messages.errors import DecodeError
from broker.messages.invocation import Report
from broker.messages.round import RoundTask

_WHISK_ERROR: Final = 3
_ERROR_CHARS: Final = 500


class _Response(msgspec.Struct, frozen=True):
    status: str = ""
    result: msgspec.Raw = msgspec.Raw(b"null")


class Record(msgspec.Struct, frozen=True):
    """An activation, as far as we read it."""

    logs: tuple[str, ...] = ()
    annotations: tuple[dict[str, Any], ...] = ()
    response: _Response = _Response()

    @property
    def cold(self) -> bool:
        """Whether a container had to be started."""
        return any(one.get("key") == "initTime" for one in self.annotations)


class _Rule(msgspec.Struct, frozen=True, rename="camel"):
    """What became of one rule when its trigger was fired: a line of that activation's log."""

    action: str = ""
    activation_id: str = ""
    error: str = ""
    status_code: int = 0


def decoded(content: bytes, activation: str) -> Record:
    """Decode a record.

    Raises:
        OutcomeUnknown: it is none.
    """
    try:
        return msgspec.json.decode(content, type=Record)
    except UNREADABLE as exc:
        raise OutcomeUnknown(f"the record of {activation} is unreadable: {exc}", activation=activation) from exc


def run_of(fire: Record, action: str, activation: str) -> str:
    """The activation of an action that the fire of its trigger led to.

    Args:
        fire: the record of the trigger's activation.
        action: the action's name.
        activation: the trigger's.

    Raises:
        InvocationFailed: it led to none.
    """
    try:
        rules = [msgspec.json.decode(line, type=_Rule) for line in fire.logs]
    except UNREADABLE as exc:
        raise OutcomeUnknown(f"the record of {activation} is unreadable: {exc}", activation=activation) from exc
    if not rules:
        raise OutcomeUnknown(f"the record of {activation} tells of no rule", activation=activation)
    # A trigger may have rules of others as well.
    ours = [rule for rule in rules if rule.action.rpartition("/")[2] == action]
    if not ours:
        raise FunctionGone(f"its trigger has no rule for the action {action!r}", activation=activation)
    if not ours[0].activation_id:
        raise _refused(ours[0], activation)
    return ours[0].activation_id


def _refused(rule: _Rule, activation: str) -> InvocationFailed:
    """What a rule without an activation means.

    The controller keeps the error's text but not its HTTP status (Triggers.scala): the code is 1 for all that it blames
    on us and 3 for what it blames on itself, so the texts of its Messages.scala have to do.
    """
    reason = f"the rule did not run: {rule.error}"
    if "Too many" in rule.error or rule.status_code == _WHISK_ERROR:
        return NotStarted(reason, activation=activation)
    if "does not exist" in rule.error or "is inactive" in rule.error:
        return FunctionGone(reason, activation=activation)
    too_large = "larger than allowed" in rule.error
    return InvocationFailed(reason, retryable=not too_large, activation=activation)


def raise_for_failure(record: Record, task: RoundTask, activation: str) -> None:
    """See that a run brought its task to the end.

    Raises:
        InvocationFailed: it did not.
    """
    status = record.response.status
    if status != "success":
        # Each may go well another time. "application error": the function raised. "action developer error": the
        # container broke, ran out of memory or time, or did not load the code. "whisk internal error": the platform's.
        raise InvocationFailed(f"{status}: {_error(record.response.result)}", activation=activation)
    try:
        report = codec.decode(Report, bytes(record.response.result))
    except DecodeError as exc:
        raise InvocationFailed(f"the action is not ours: {exc}", retryable=False, activation=activation) from exc
    if report.id != task.id:
        raise InvocationFailed(f"the action answered for {report.id}", activation=activation)
    if report.state != "done":
        reason = report.reason or f"it ended while {report.state}"
        raise InvocationFailed(reason, retryable=report.retryable, activation=activation)


def _error(result: msgspec.Raw) -> str:
    """The `error` of a result, which may be any JSON; where there is none, the result itself."""
    found = msgspec.json.decode(result)
    error = found.get("error", found) if isinstance(found, dict) else found
    return (error if isinstance(error, str) else msgspec.json.encode(error).decode())[:_ERROR_CHARS]

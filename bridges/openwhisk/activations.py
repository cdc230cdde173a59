"""Reads the records of activations: which run a trigger started, and how a run ended."""

import re
from typing import Any, Final

import msgspec

from bridges.errors import FunctionGone, InvocationFailed, NotStarted, OutcomeUnknown
from broker.messages import codec
from broker.messages.errors import DecodeError
from broker.messages.invocation import Report
from broker.messages.round import RoundTask
from broker.support.decoding import UNREADABLE

_SEE_LOGS: Final = re.compile(r"(see|check) logs", re.IGNORECASE)
"""In the errors of a container that could not start its code. The reason is in the log alone, which has no data yet."""

_LOG_PREFIX: Final = re.compile(r"\S+ std(out|err): ?")
"""Time and stream, which OpenWhisk puts before each line of a log."""

_WHISK_ERROR: Final = 3
_ERROR_CHARS: Final = 500


class _Response(msgspec.Struct, frozen=True):
    status: str = ""
    result: msgspec.Raw = msgspec.Raw(b"null")


class Record(msgspec.Struct, frozen=True):
    """The fields of an activation's record that we use.

    Attributes:
        logs: lines of the log.
        annotations: each has a `key` and a `value`.
        response: status and result of the run.
    """

    logs: tuple[str, ...] = ()
    annotations: tuple[dict[str, Any], ...] = ()
    response: _Response = _Response()

    @property
    def cold(self) -> bool:
        """Whether the platform had to start a container."""
        return any(annotation.get("key") == "initTime" for annotation in self.annotations)


class _Rule(msgspec.Struct, frozen=True, rename="camel"):
    """Outcome of one rule of a fired trigger: a line of the log of the trigger's activation."""

    action: str = ""
    activation_id: str = ""
    error: str = ""
    status_code: int = 0


def decode_record(content: bytes, activation: str) -> Record:
    """Decode the record of an activation.

    Args:
        content: the record in JSON.
        activation: id of the activation.

    Raises:
        OutcomeUnknown: the content is not a record.
    """
    try:
        return msgspec.json.decode(content, type=Record)
    except UNREADABLE as exc:
        raise OutcomeUnknown(f"the record of {activation} is unreadable: {exc}", activation=activation) from exc


def action_activation(fire: Record, action: str, activation: str) -> str:
    """Return the id of the action's activation that a trigger started.

    Args:
        fire: record of the trigger's activation.
        action: name of the action.
        activation: id of the trigger's activation.

    Raises:
        InvocationFailed: the trigger did not start the action.
        OutcomeUnknown: the record does not show what the trigger started.
    """
    try:
        rules = [msgspec.json.decode(line, type=_Rule) for line in fire.logs]
    except UNREADABLE as exc:
        raise OutcomeUnknown(f"the record of {activation} is unreadable: {exc}", activation=activation) from exc
    if not rules:
        raise OutcomeUnknown(f"the record of {activation} tells of no rule", activation=activation)
    # The trigger may have rules for other actions too.
    rule = next((rule for rule in rules if rule.action.rpartition("/")[2] == action), None)
    if rule is None:
        raise FunctionGone(f"its trigger has no rule for the action {action!r}", activation=activation)
    if rule.activation_id:
        return rule.activation_id
    # The controller stores the error's text but not its HTTP status (Triggers.scala). The code is 1 for every error of
    # the caller and 3 for every error of the controller, so only the texts of its Messages.scala tell the errors apart.
    reason = f"the rule did not run: {rule.error}"
    if "Too many" in rule.error or rule.status_code == _WHISK_ERROR:
        raise NotStarted(reason, activation=activation)
    if "does not exist" in rule.error or "is inactive" in rule.error:
        raise FunctionGone(reason, activation=activation)
    raise InvocationFailed(reason, retryable="larger than allowed" not in rule.error, activation=activation)


def raise_for_failure(record: Record, task: RoundTask, activation: str) -> None:
    """Check that a run finished its task.

    Args:
        record: record of the run.
        task: the task that the run was started for.
        activation: id of the run.

    Raises:
        InvocationFailed: the run failed, or it reports something else than the end of this task.
    """
    status = record.response.status
    if status != "success":
        # Each kind may succeed at another attempt. "application error": the function raised. "action developer error":
        # the container broke, ran out of memory or time, or did not load the code. "whisk internal error": the
        # platform failed.
        result = msgspec.json.decode(record.response.result)
        error = result.get("error", result) if isinstance(result, dict) else result
        text = error if isinstance(error, str) else msgspec.json.encode(error).decode()
        if _SEE_LOGS.search(text):
            text = f"{text} {_end_of_log(record, activation)}"
        raise InvocationFailed(f"{status}: {text[:_ERROR_CHARS]}", activation=activation)
    try:
        report = codec.decode(Report, bytes(record.response.result))
    except DecodeError as exc:
        raise InvocationFailed(f"the action is not ours: {exc}", retryable=False, activation=activation) from exc
    if report.id != task.id:
        raise InvocationFailed(f"the action answered for {report.id}", activation=activation)
    if report.state != "done":
        reason = report.reason or f"it ended while {report.state}"
        raise InvocationFailed(reason, retryable=report.retryable, activation=activation)


def _end_of_log(record: Record, activation: str) -> str:
    """Return the last line of a log that says something, as a sentence that names the activation."""
    lines = (" ".join(_LOG_PREFIX.sub("", line, count=1).split()) for line in reversed(record.logs))
    last = next((line for line in lines if any(char.isalnum() for char in line)), "")
    return f"The log of activation {activation} ends: {last}" if last else f"(activation {activation})"

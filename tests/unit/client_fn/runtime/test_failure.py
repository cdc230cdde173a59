"""The report of a failed request."""

from typing import Final

import pytest

from broker.errors import BrokerError, Denied
from broker.messages.errors import MessageError
from broker.messages.invocation import InvocationRequest
from client_fn import errors
from client_fn.errors import ClientError, LeaseOver, TrainerDied, TrainingFailed
from client_fn.runtime.failure import REASON_CHARACTERS, failure_report, is_retryable
from tests.support.tasks import task

REQUEST = InvocationRequest(task(), 2)


def test_the_report_names_the_task_the_attempt_and_the_run() -> None:
    report = failure_report(REQUEST, MemoryError("out of memory"), "run-7", reveal=False)
    assert (report.id, report.state, report.attempt, report.activation) == ("job.1.client-00", "failed", 2, "run-7")
    assert report.reason == "MemoryError: out of memory"


AGAIN: Final = {
    "BlobMissing": True,
    "DataMissing": True,
    "DataUnreadable": True,
    "InstanceEnded": True,
    "TopicTaken": True,
    "BadCode": False,
    "BadData": False,
    "BadModel": False,
    "BadSettings": False,
    "CodeDiffers": False,
    "DataNotAllowed": False,
    "LeaseOver": False,
    "NoRoute": False,
    "NotAllowed": False,
    "RequirementsMissing": False,
    "TrainingFailed": False,
    "UserCodeFailed": False,
    "WrongClient": False,
    # These say it at each raise: a signal or an absent place may not come again.
    "LimitExceeded": False,
    "PersonalMissing": False,
    "PersonalNotKept": False,
    "TrainerDied": False,
}
"""Whether a task is tried again after each error of the function."""

NOTHING_RAN: Final = frozenset({"BadCode", "BadSettings"})
"""The errors of a site's settings: they come before anything runs, whatever the task is."""

BROKER_AGAIN: Final = {
    "ConnectFailed": True,
    "Disconnected": True,
    "StoreChanged": True,
    "NoSystem": True,
    "OldStore": True,
    "StoreInUse": True,
    "ForeignStream": True,
    "ServerFailed": True,
    "StorageFull": True,
    "Conflict": True,
    "CorruptPayload": True,
    "BadTopic": False,
    "BadUrl": False,
    "Denied": False,
    "PayloadTooLarge": False,
    "Unsupported": False,
}
"""The same for each error of the broker."""


def kinds_below(root: type[Exception]) -> list[type[Exception]]:
    return [kind for child in root.__subclasses__() for kind in (child, *kinds_below(child))]


def test_every_error_of_the_function_is_classified() -> None:
    ours = [kind for kind in kinds_below(ClientError) if kind.__module__ == ClientError.__module__]
    assert {kind.__name__: is_retryable(kind.__new__(kind)) for kind in ours} == AGAIN


def test_every_error_of_the_broker_and_of_messages_is_classified() -> None:
    theirs = [kind for kind in kinds_below(BrokerError) if kind.__module__ == BrokerError.__module__]
    assert {kind.__name__: is_retryable(kind.__new__(kind)) for kind in theirs} == BROKER_AGAIN
    assert not any(is_retryable(kind.__new__(kind)) for kind in kinds_below(MessageError))


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (RuntimeError("an error of ours"), True),
        (TrainerDied("the process was killed by signal SIGKILL (9)", retryable=True), True),
        (LeaseOver("job.1.client-00", 1.0), False),
        (Denied("fl.updates.x", "permissions violation"), False),
    ],
)
def test_the_report_says_whether_to_try_again(error: Exception, *, retryable: bool) -> None:
    assert failure_report(REQUEST, error, reveal=False).retryable is retryable


def test_a_long_reason_is_truncated() -> None:
    reason = failure_report(REQUEST, ValueError("x" * 10_000), reveal=False).reason
    assert len(reason) == REASON_CHARACTERS + len("...")
    assert reason.endswith("x...")


def test_text_that_can_not_be_encoded_is_replaced() -> None:
    report = failure_report(REQUEST, ValueError("half a \ud83d pair"), reveal=False)
    assert report.reason == "ValueError: half a ? pair"


@pytest.mark.parametrize(
    ("error", "hidden", "revealed"),
    [
        (
            TrainingFailed("the model failed", cause="KeyError", where="mine.py:3", text="Jane Doe"),
            "TrainingFailed: the model failed: KeyError in mine.py:3 (its text is in the log)",
            "TrainingFailed: the model failed: KeyError in mine.py:3: Jane Doe",
        ),
        (
            TrainerDied("the process was killed during the training", ("Jane", "Doe")),
            "TrainerDied: the process was killed during the training",
            "TrainerDied: the process was killed during the training; it printed: Jane | Doe",
        ),
    ],
)
def test_a_text_of_the_user_s_code_leaves_the_site_only_if_the_operator_says_so(
    error: ClientError, hidden: str, revealed: str
) -> None:
    assert failure_report(REQUEST, error, reveal=False).reason == hidden
    assert failure_report(REQUEST, error, reveal=True).reason == revealed


def test_nothing_ran_where_the_site_s_settings_are_at_fault() -> None:
    assert {name for name in AGAIN if getattr(errors, name).is_of_site} == NOTHING_RAN
    fault = errors.BadSettings("FEDKEEPER_DEVICE", "'cuda' can't be used here")
    assert failure_report(REQUEST, fault, reveal=False).nothing_ran
    assert not failure_report(REQUEST, errors.WrongClient("another's"), reveal=False).nothing_ran

"""The report of a failed request."""

import pytest

from broker.messages.invocation import InvocationRequest
from client_fn.errors import BadData, ClientError, LeaseOver, TrainerDied, TrainingFailed
from client_fn.runtime.failure import REASON_CHARACTERS, failure_report
from tests.support.tasks import task

REQUEST = InvocationRequest(task(), 2)


def test_the_report_names_the_task_the_attempt_and_the_run() -> None:
    report = failure_report(REQUEST, MemoryError("out of memory"), "run-7", reveal=False)
    assert (report.id, report.state, report.attempt, report.activation) == ("job.1.client-00", "failed", 2, "run-7")
    assert report.reason == "MemoryError: out of memory"


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (RuntimeError("a user's model"), True),
        (LeaseOver("job.1.client-00", 1.0), LeaseOver.retryable),
        (BadData("shard: empty; write it again"), BadData.retryable),
    ],
)
def test_only_our_own_errors_say_that_a_retry_is_useless(error: Exception, *, retryable: bool) -> None:
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

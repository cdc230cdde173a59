"""The report of a failed request."""

import pytest

from broker.messages.invocation import InvocationRequest
from client_fn.errors import BadData, LeaseOver
from client_fn.runtime.failure import REASON_CHARACTERS, failure_report
from tests.support.tasks import task

REQUEST = InvocationRequest(task(), 2)


def test_the_report_names_the_task_the_attempt_and_the_run() -> None:
    report = failure_report(REQUEST, MemoryError("out of memory"), "run-7")
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
    assert failure_report(REQUEST, error).retryable is retryable


def test_a_long_reason_is_truncated() -> None:
    reason = failure_report(REQUEST, ValueError("x" * 10_000)).reason
    assert len(reason) == REASON_CHARACTERS + len("...")
    assert reason.endswith("x...")


def test_text_that_can_not_be_encoded_is_replaced() -> None:
    assert failure_report(REQUEST, ValueError("half a \ud83d pair")).reason == "ValueError: half a ? pair"

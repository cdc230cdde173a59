import pytest

from broker.nats.replies import ANSWER_WAITS_S, MOST, REQUEST_WAITS_S, ReplyMatcher, is_inbox


@pytest.mark.parametrize("subject", ["_INBOX.abc.1", "_INBOX_server.abc.to.1", "_R_.abc"])
def test_an_inbox_is_answered(subject: str) -> None:
    assert is_inbox(subject)


@pytest.mark.parametrize(
    "subject",
    ["fl.jobs.victim.cancel", "flt.acme.jobs.a.cancel", "$JS.API.STREAM.PURGE.VALUES", "_INBOX", "x._INBOX.a", "plant"],
)
def test_no_other_subject_is_answered(subject: str) -> None:
    assert not is_inbox(subject)


def test_the_request_may_come_first() -> None:
    matcher = ReplyMatcher()
    assert matcher.add_request(b"job", "reply-1", 0.0) is None
    assert matcher.add_answer(b"job", b"accepted", 0.1) == "reply-1"
    assert matcher.add_answer(b"job", b"accepted", 0.1) is None


def test_the_answer_may_come_first() -> None:
    matcher = ReplyMatcher()
    assert matcher.add_answer(b"job", b"accepted", 0.0) is None
    assert matcher.add_request(b"job", "reply-1", 0.1) == b"accepted"
    assert matcher.add_request(b"job", "reply-2", 0.1) is None


def test_equal_requests_are_answered_in_order() -> None:
    matcher = ReplyMatcher()
    matcher.add_request(b"job", "reply-1", 0.0)
    matcher.add_request(b"job", "reply-2", 0.0)
    assert matcher.add_answer(b"job", b"", 0.1) == "reply-1"
    assert matcher.add_answer(b"job", b"", 0.1) == "reply-2"


def test_a_publisher_without_reply_subject_takes_no_answer_from_others() -> None:
    matcher = ReplyMatcher()
    matcher.add_request(b"job", "", 0.0)
    matcher.add_request(b"job", "reply-2", 0.0)
    assert matcher.add_answer(b"job", b"", 0.1) == ""
    assert matcher.add_answer(b"job", b"", 0.1) == "reply-2"


def test_other_payloads_do_not_match() -> None:
    matcher = ReplyMatcher()
    matcher.add_request(b"job", "reply-1", 0.0)
    assert matcher.add_answer(b"other", b"", 0.1) is None


def test_requests_and_answers_expire() -> None:
    matcher = ReplyMatcher()
    matcher.add_request(b"job", "reply-1", 0.0)
    assert matcher.add_answer(b"job", b"", REQUEST_WAITS_S + 1) is None
    assert matcher.add_request(b"job", "reply-2", REQUEST_WAITS_S + 2 + ANSWER_WAITS_S) is None


def test_the_number_of_waiting_requests_is_limited() -> None:
    matcher = ReplyMatcher()
    for number in range(MOST + 1):
        matcher.add_request(str(number).encode(), "reply", 0.0)
    assert matcher.add_answer(b"0", b"", 0.1) is None
    assert matcher.add_answer(b"1", b"", 0.1) == "reply"

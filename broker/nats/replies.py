"""Matches the answers to messages of a stream with the requests that wait for them. No I/O, no clock.

JetStream stores a message without the requester's reply subject. So the subscriber of an INBOX topic also receives each
request directly, and this module pairs both by the digest of the payload, in order.
"""

import hashlib
import re
from collections import deque
from typing import Final, Generic, TypeVar

INBOXES: Final = re.compile(r"_INBOX[^.]*\.|_R_\.")
"""How the reply subjects begin that are answered: inboxes of clients, also with the user's name in them; and `_R_`, to
which nats-server maps the inboxes of other accounts (https://docs.nats.io/running-a-nats-service/configuration/securing_nats/accounts).
"""

T = TypeVar("T")

REQUEST_WAITS_S: Final = 60.0
ANSWER_WAITS_S: Final = 2.0
"""A request arrives within milliseconds of the stream's delivery, or never: a replayed message has no requester."""

MOST: Final = 1024
"""Maximum number of waiting requests, and of waiting answers. The oldest is dropped first."""


def is_inbox(subject: str) -> bool:
    """Whether a reply subject is an inbox.

    Any other subject may be a topic to which the requester may not write, but the one who answers may.
    """
    return INBOXES.match(subject) is not None


class _ExpiringQueue(Generic[T]):
    """FIFO of items keyed by payload digest; items expire after `waits_s` seconds."""

    def __init__(self, waits_s: float) -> None:
        self._waits_s = waits_s
        self._entries: deque[tuple[float, bytes, T]] = deque(maxlen=MOST)

    def put(self, digest: bytes, item: T, now_s: float) -> None:
        self._entries.append((now_s + self._waits_s, digest, item))

    def pop(self, digest: bytes, now_s: float) -> T | None:
        """Remove and return the oldest item with that digest."""
        while self._entries and self._entries[0][0] < now_s:
            self._entries.popleft()
        for entry in self._entries:
            if entry[1] == digest:
                self._entries.remove(entry)
                return entry[2]
        return None


class ReplyMatcher:
    """Holds requests until their answer is known, and answers until their request arrives."""

    def __init__(self) -> None:
        self._requests: _ExpiringQueue[str] = _ExpiringQueue(REQUEST_WAITS_S)
        self._answers: _ExpiringQueue[bytes] = _ExpiringQueue(ANSWER_WAITS_S)

    def add_request(self, payload: bytes, reply: str, now_s: float) -> bytes | None:
        """Add a request; return its answer if that is known already.

        Args:
            payload: payload of the request.
            reply: subject for the answer; empty if the publisher expects none.
            now_s: the current time, in seconds.
        """
        digest = hashlib.sha256(payload).digest()
        answer = self._answers.pop(digest, now_s)
        if answer is None:
            self._requests.put(digest, reply, now_s)
        return answer

    def add_answer(self, payload: bytes, answer: bytes, now_s: float) -> str | None:
        """Add an answer; return the reply subject of its request if that has arrived already.

        Args:
            payload: payload of the request.
            answer: the answer to it.
            now_s: the current time, in seconds.
        """
        digest = hashlib.sha256(payload).digest()
        reply = self._requests.pop(digest, now_s)
        if reply is None:
            self._answers.put(digest, answer, now_s)
        return reply

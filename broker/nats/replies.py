"""Who waits for an answer to a message that came out of a stream.

JetStream keeps the message but not the requester's reply subject. So whoever serves an INBOX also hears the request
itself, and the two are brought together here by the payload's digest, in order.
"""

import hashlib
from collections import deque
from typing import Final, Generic, TypeVar

T = TypeVar("T")

REQUEST_WAITS_S: Final = 60.0
ANSWER_WAITS_S: Final = 2.0
"""The request comes within milliseconds of the stream's delivery, or not at all: a replay has no requester."""

MOST: Final = 1024


class _Shelf(Generic[T]):
    """Things that wait for someone who names the same payload, oldest first, for a while only."""

    def __init__(self, waits_s: float) -> None:
        self._waits_s = waits_s
        self._entries: deque[tuple[float, bytes, T]] = deque(maxlen=MOST)

    def lay(self, digest: bytes, thing: T, now_s: float) -> None:
        self._entries.append((now_s + self._waits_s, digest, thing))

    def take(self, digest: bytes, now_s: float) -> T | None:
        while self._entries and self._entries[0][0] < now_s:
            self._entries.popleft()
        for entry in self._entries:
            if entry[1] == digest:
                self._entries.remove(entry)
                return entry[2]
        return None


class Pairing:
    """Requests that wait for their answer, and answers that wait for their request."""

    def __init__(self) -> None:
        self._requests: _Shelf[str] = _Shelf(REQUEST_WAITS_S)
        self._answers: _Shelf[bytes] = _Shelf(ANSWER_WAITS_S)

    def asked(self, payload: bytes, reply: str, now_s: float) -> bytes | None:
        """A request came, `reply` being empty if nobody waits: the answer to send at once, if it is there."""
        digest = hashlib.sha256(payload).digest()
        answer = self._answers.take(digest, now_s)
        if answer is None:
            self._requests.lay(digest, reply, now_s)
        return answer

    def answered(self, payload: bytes, answer: bytes, now_s: float) -> str | None:
        """The message with that payload is answered: where to send it at once, if the request is there."""
        digest = hashlib.sha256(payload).digest()
        reply = self._requests.take(digest, now_s)
        if reply is None:
            self._answers.lay(digest, answer, now_s)
        return reply

"""Reads the values that many programs write on the broker: the register, records, statistics."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from broker.deliveries import Value
from broker.messages import codec, origin
from broker.messages.errors import DecodeError
from broker.support import loggers

T = TypeVar("T")

log = loggers.get_logger(__name__)


def readable(values: Mapping[str, Value], kind: type[T], topic_of: Callable[[T], str]) -> list[T]:
    """Decode the values that can be read and believed; log the others. One bad value must not hide all good ones.

    Args:
        values: the values by topic.
        kind: class of the messages.
        topic_of: returns the topic of whom a message is about.
    """
    messages: list[T] = []
    for topic, value in values.items():
        try:
            message = codec.decode(kind, value.payload)
            origin.check_topic(topic, topic_of, message)
        except DecodeError as exc:
            log.warning("a value that can't be read is passed over", topic=topic, error=str(exc))
        else:
            messages.append(message)
    return messages

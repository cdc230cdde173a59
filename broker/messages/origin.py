"""Whoever's word is believed must be the one whose topic it came on: a broker's rights are rights to topics."""

from collections.abc import Callable

from broker.errors import BadTopic
from broker.messages.errors import DecodeError


def check_topic(topic: str, build: Callable[..., str], *about: object) -> None:
    """Check that a message came on the topic of the one that it speaks for.

    Args:
        topic: the topic on which it came.
        build: returns the topic of whom the message is about, such as a function of `broker.topics`.
        about: the arguments of that function, as the message names them.

    Raises:
        DecodeError: it came on another topic.
    """
    try:
        own = build(*about)
    except BadTopic as exc:
        raise DecodeError(str(exc)) from exc
    if topic != own:
        raise DecodeError(f"it belongs to {own} and does not count there")

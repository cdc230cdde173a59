"""Whoever's word is believed must be the one whose topic it came on: a broker's rights are rights to topics."""

from collections.abc import Callable

from broker.errors import BadTopic
from broker.messages.errors import DecodeError


def check_topic(topic: str, build: Callable[..., str], *ids: str) -> None:
    """Check that a message came on the topic of the one that it speaks for.

    Args:
        topic: the topic on which it came.
        build: the function of `broker.topics` that builds the topics of such messages.
        ids: the arguments of that function, as the message names them.

    Raises:
        DecodeError: it came on another topic.
    """
    try:
        own = build(*ids)
    except BadTopic as exc:
        raise DecodeError(str(exc)) from exc
    if topic != own:
        raise DecodeError(f"a message about {'.'.join(ids)} does not belong there")

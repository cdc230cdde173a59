"""The annotations of functions: they mark a function as ours, and name the topics that it wants to be called for."""

import re
from collections.abc import Iterable
from typing import Final

from broker import topics
from broker.messages.function import Deployed
from broker.support.filters import matches

FABRIC: Final = "fedkeeper.fabric"
"""Holds the name of the deployment file that the function is part of."""

DIGEST: Final = "fedkeeper.digest"
"""Holds the digest of the function as it was deployed."""

TOPIC: Final = "topic"
"""Holds the wanted topics. The connectors of OpenFaaS use this annotation."""

_LEVEL: Final = r"(?:[A-Za-z0-9_-]+|\*)"
_FILTER: Final = re.compile(rf"{_LEVEL}(?:\.{_LEVEL})*(?:\.>)?")
_WILDCARDS: Final = {"+": topics.ANY, "#": ">"}


def filters(annotation: str) -> tuple[str, ...]:
    """The topic filters of an annotation, in the notation of NATS (`*`, `>`), each once.

    They are separated by commas, and may be written in the notation of MQTT (`/`, `+`, `#`) as well.
    """
    return tuple(dict.fromkeys(_to_nats(topic.strip()) for topic in annotation.split(",") if topic.strip()))


def is_filter(text: str) -> bool:
    """Whether a text is a valid topic filter in the notation of NATS."""
    return _FILTER.fullmatch(text) is not None


def function_for(topic: str, functions: Iterable[Deployed]) -> Deployed | None:
    """The function that wants the tasks of a client; None if no function does.

    A filter that matches more than tasks, such as `>`, is for watching, and does not count.

    Args:
        topic: the topic of the client's tasks.
        functions: the functions to choose from; if several want the topic, the first by its URL is taken.
    """

    def wants(topic_filter: str) -> bool:
        return matches(topics.ALL_TASKS, topic_filter) and matches(topic_filter, topic)

    return min(
        (function for function in functions if any(map(wants, function.topics))),
        key=lambda function: function.url,
        default=None,
    )


def _to_nats(topic: str) -> str:
    if "/" not in topic:
        return topic
    return ".".join(_WILDCARDS.get(level, level) for level in topic.split("/"))

"""What a function's annotations say: whether it is ours, and which topics it wants to be called for."""

import re
from collections.abc import Iterable
from typing import Final

from broker import topics
from broker.messages.function import Deployed
from broker.support.filters import matches

FABRIC: Final = "fedkeeper.fabric"
DIGEST: Final = "fedkeeper.digest"

TOPIC: Final = "topic"
"""The annotation that OpenFaaS's own connectors go by."""

_LEVEL: Final = r"(?:[A-Za-z0-9_-]+|\*)"
_FILTER: Final = re.compile(rf"{_LEVEL}(?:\.{_LEVEL})*(?:\.>)?")
_WILDCARDS: Final = {"+": topics.ANY, "#": ">"}


def filters(annotation: str) -> tuple[str, ...]:
    """The topics of an annotation: separated by commas, with the wildcards of NATS (`*`, `>`) or MQTT (`+`, `#`)."""
    return tuple(dict.fromkeys(_filter(topic.strip()) for topic in annotation.split(",") if topic.strip()))


def is_filter(text: str) -> bool:
    """Whether a broker may be asked for it."""
    return _FILTER.fullmatch(text) is not None


def serving(topic: str, functions: Iterable[Deployed]) -> Deployed | None:
    """The function that asked for a client's tasks; the first by name if there are several.

    One that asked for everything (`>`) watches, and does not serve.
    """
    return min(
        (function for function in functions if any(_serves(wanted, topic) for wanted in function.topics)),
        key=lambda function: function.url,
        default=None,
    )


def _serves(wanted: str, topic: str) -> bool:
    return matches(topics.ALL_TASKS, wanted) and matches(wanted, topic)


def _filter(topic: str) -> str:
    if "/" not in topic:
        return topic
    return ".".join(_WILDCARDS.get(level, level) for level in topic.split("/"))

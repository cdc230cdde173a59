"""What the settings of every platform have in common."""

import msgspec

from bridges.errors import BadSettings
from broker.errors import BadTopic
from broker.support.validation import AtLeastOne, Positive
from broker.topics import checked_id


class PlatformSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields that each platform's `Settings` extends; unknown keys are refused.

    Attributes:
        name: of the platform: the level of the task topics, `fl.tasks.<name>.<client>`; one for each bridge.
        concurrency: how many tasks may be under way at once.
        start_s: how long a function may take until it reports that it trains, its cold start included.

    Raises:
        BadSettings: the name is no id.
    """

    name: str
    concurrency: AtLeastOne = 32
    start_s: Positive = 120.0

    def __post_init__(self) -> None:
        check_id("name", self.name)


def check_id(field: str, value: str) -> None:
    """Check that a field's value can be a level of a topic.

    Args:
        field: its name, for the error.
        value: what the file says.

    Raises:
        BadSettings: it can't.
    """
    try:
        checked_id(value)
    except BadTopic as exc:
        raise BadSettings(field, value, exc.rule) from exc

"""The settings that every platform has."""

from typing import ClassVar

import msgspec

from bridges.errors import BadSettings
from broker.errors import BadTopic
from broker.support.validation import AtLeastOne, Positive
from broker.topics import checked_id


class PlatformSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of each platform's `Settings`. Unknown keys are refused.

    Attributes:
        name: name of the platform: the level of the task topics, `fl.tasks.<name>.<client>`. Each bridge has its own.
        concurrency: how many tasks may be in progress at once.
        start_s: seconds from the platform's last event of a run until the function must report that it trains; a cold
            start is part of this time.
        is_own: whether the platform is this machine, so that no other machine may have a bridge of its name.

    Raises:
        BadSettings: the name is not a valid id.
    """

    is_own: ClassVar[bool] = False

    name: str
    concurrency: AtLeastOne = 32
    start_s: Positive = 120.0

    def __post_init__(self) -> None:
        check_id("name", self.name)


def check_id(field: str, value: str) -> None:
    """Check that a setting can be a level of a topic.

    Args:
        field: name of the setting, for the error.
        value: value of the setting.

    Raises:
        BadSettings: it can't.
    """
    try:
        checked_id(value)
    except BadTopic as exc:
        raise BadSettings(field, value, exc.rule) from exc

"""A relay's file."""

import msgspec

from bridges.errors import BadSettings
from bridges.settings import check_id
from broker.support.validation import AtLeastOne
from broker.url import BrokerUrl


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A relay between the backbone and one site.

    Attributes:
        name: of the site.
        platforms: those whose bridges are connected to the site's broker; to no other relay's, and not to the backbone.
        backbone: address of the broker that the FL server is connected to.
        site: address of the site's broker.
        tasks_at_once: tasks on their way down at the most.
        updates_at_once: updates on their way up at the most; each is in memory meanwhile.

    Raises:
        BadSettings: a name is none, or both addresses are the same broker's.
        BadUrl: an address can't be used.
    """

    name: str
    platforms: tuple[str, ...]
    backbone: str
    site: str
    tasks_at_once: AtLeastOne = 64
    updates_at_once: AtLeastOne = 4

    def __post_init__(self) -> None:
        check_id("name", self.name)
        for platform in self.platforms:
            check_id("platforms", platform)
        if not self.platforms or len(set(self.platforms)) < len(self.platforms):
            raise BadSettings("platforms", self.platforms, "name each of the site's platforms once, and at least one")
        if BrokerUrl.parse(self.backbone).address == BrokerUrl.parse(self.site).address:
            raise BadSettings("site", BrokerUrl.parse(self.site).address, "this is the backbone's address")

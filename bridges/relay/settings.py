"""The settings of a relay."""

import msgspec

from bridges.errors import BadSettings
from bridges.settings import check_id
from broker.support.validation import AtLeastOne
from broker.url import BrokerUrl


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a relay between the backbone and one site.

    Attributes:
        name: name of the site.
        platforms: the platforms whose bridges are connected to the site's broker. No other relay may have them, and
            none of their bridges may be connected to the backbone.
        backbone: address of the FL server's broker.
        site: address of the site's broker.
        tasks_at_once: how many tasks may be on their way down at once.
        updates_at_once: how many updates may be on their way up at once. Each is in memory meanwhile.

    Raises:
        BadSettings: a name is not a valid id, the platforms are missing or repeated, or both addresses are the same
            broker's.
        BadUrl: an address is invalid.
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
        backbone, site = BrokerUrl.parse(self.backbone), BrokerUrl.parse(self.site)
        if set(backbone.hosts) & set(site.hosts):
            raise BadSettings("site", site.address, "this is the backbone's address")

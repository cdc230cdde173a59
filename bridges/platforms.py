"""The table of platforms, used by the command line, by deployment and by packaging.

A new platform is a folder and a row in this table. Another distribution adds a row with an entry point of the group
`fedkeeper.platforms` whose value is a `Kind`:

    [project.entry-points."fedkeeper.platforms"]
    lambda = "acme_lambda:KIND"
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from bridges.errors import BadPlatform, LibraryMissing, UnknownPlatform
from bridges.platform import PlatformModule
from broker.errors import BadTopic
from broker.support import installing
from broker.topics import checked_id

GROUP: Final = "fedkeeper.platforms"

RELAY: Final = "relay"
"""A command beside those of the platforms, `fedkeeper bridge relay`, so no platform may have this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of platform. Its module is imported on first use.

    Attributes:
        name: name of the kind, in `fedkeeper bridge NAME`, `fedkeeper package NAME` and `kind` of a deployment file.
        module: name of its module, a `bridges.platform.PlatformModule`.
        about: one line of help.
        extra: the extra of FedKeeper that installs the libraries it needs; empty: it needs none.
        files: the package whose files complete the archive of a function's code; empty: there is no archive.
        requirements: path of the requirements file in that archive.
        sends_archive: whether a function is created from the archive, unless a deployment file says otherwise.
        has_functions: whether clients need functions of their own, which `fedkeeper deploy` creates.
    """

    name: str
    module: str
    about: str
    extra: str = ""
    files: str = ""
    requirements: str = "requirements.txt"
    sends_archive: bool = True
    has_functions: bool = True

    def load(self) -> PlatformModule:
        """Import the platform's module, and the libraries that it needs.

        Raises:
            LibraryMissing: a library is not installed.
            BadPlatform: the module is not a `bridges.platform.PlatformModule`.
        """
        try:
            module = import_module(self.module)
        except ModuleNotFoundError as exc:
            remedy = installing.remedy(self.extra) if self.extra else f"install what {self.module} needs"
            raise LibraryMissing(self.name, str(exc.name), remedy) from exc
        for name in ("Settings", "opened"):
            if not hasattr(module, name):
                raise BadPlatform(self.name, f"its module {self.module} has no `{name}`")
        return cast("PlatformModule", module)


LOCAL: Final = Kind(
    name="local",
    module="bridges.local",
    about="Worker processes on this machine: a site's, or a board's.",
    has_functions=False,
)

KINDS: Final = (
    LOCAL,
    Kind(
        name="openfaas",
        module="bridges.openfaas",
        about="OpenFaaS: a gateway on a cluster, on faasd or on a board.",
        extra="openfaas",
        files="client_fn.packages.openfaas",
        # A function is an image, which the operator builds from the archive.
        sends_archive=False,
    ),
    Kind(
        name="openwhisk",
        module="bridges.openwhisk",
        about="Apache OpenWhisk: triggers and actions of one namespace.",
        extra="openwhisk",
        files="client_fn.packages.openwhisk",
        # A requirements file beside the code would be installed again at every cold start.
        requirements="image/requirements.txt",
    ),
    Kind(
        name="gcf",
        module="bridges.gcf",
        about="Google Cloud Functions, 2nd generation, behind Pub/Sub.",
        extra="gcf",
        files="client_fn.packages.gcf",
    ),
)
"""The platforms that come with FedKeeper."""


def known() -> tuple[Kind, ...]:
    """All kinds of platforms: ours first, then those that other distributions add, sorted by name.

    Raises:
        BadPlatform: a kind that another distribution adds is invalid.
    """
    added = {point.name: _load(point) for point in entry_points(group=GROUP)}
    return (*KINDS, *(added[name] for name in sorted(added)))


def find(name: str) -> Kind:
    """The kind of platform with this name.

    Raises:
        UnknownPlatform: no kind has this name.
        BadPlatform: a kind that another distribution adds is invalid.
    """
    # Ours first: an invalid entry point of another distribution must not break our own platforms.
    for kind in KINDS:
        if kind.name == name:
            return kind
    kinds = {kind.name: kind for kind in known()}
    if name not in kinds:
        raise UnknownPlatform(name, tuple(kinds))
    return kinds[name]


def _load(point: EntryPoint) -> Kind:
    try:
        kind = point.load()
    except (ImportError, AttributeError) as exc:
        raise BadPlatform(point.name, f"its entry point {point.value} can't be loaded: {exc}") from exc
    if not isinstance(kind, Kind) or kind.name != point.name:
        raise BadPlatform(point.name, f"its entry point {point.value} is not a Kind of that name")
    try:
        checked_id(kind.name)
    except BadTopic as exc:
        raise BadPlatform(point.name, exc.rule) from exc
    if kind.name in {RELAY, *(ours.name for ours in KINDS)}:
        raise BadPlatform(point.name, "`fedkeeper bridge` has a command of that name itself; rename it")
    return kind

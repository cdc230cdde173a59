"""The table of platforms. The command line, deploying and packaging go by it; a new platform is a folder and a row.

Another distribution adds a row by an entry point of the group `fedkeeper.platforms` whose value is a `Kind`:

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
from broker.topics import checked_id

GROUP: Final = "fedkeeper.platforms"

RELAY: Final = "relay"
"""No platform, but a command beside theirs: `fedkeeper bridge relay`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of platform. Nothing is imported before it is used.

    Attributes:
        name: of the kind, in `fedkeeper bridge NAME`, `fedkeeper package NAME` and the `kind` of a fabric file.
        module: has its `Settings` and `opened`; see `bridges.platform.PlatformModule`.
        about: one line of help.
        extra: of FedKeeper, which installs the libraries that it needs; empty: none.
        files: the package whose files are added to the function's code to make an archive; empty: there is no archive.
        requirements: where the archive lists what must be installed.
        sends_archive: whether a function is made from that archive, if a fabric file does not say otherwise.
        has_functions: whether clients there have functions, which `fedkeeper deploy` makes.
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
        """Import the platform's module, and with it the libraries that it needs.

        Raises:
            LibraryMissing: one of them is not installed.
            BadPlatform: the module does not offer what a platform must.
        """
        try:
            module = import_module(self.module)
        except ModuleNotFoundError as exc:
            remedy = f"pip install 'fedkeeper[{self.extra}]'" if self.extra else f"install what {self.module} needs"
            raise LibraryMissing(self.name, str(exc.name), remedy) from exc
        for name in ("Settings", "opened"):
            if not hasattr(module, name):
                raise BadPlatform(self.name, f"its module {self.module} has no `{name}`")
        return cast("PlatformModule", module)


LOCAL: Final = Kind(
    name="local",
    module="bridges.local",
    about="Warm worker processes on this machine: a site's own, or of a board with a GPU.",
    has_functions=False,
)

KINDS: Final = (
    LOCAL,
    Kind(
        name="openfaas",
        module="bridges.openfaas",
        about="OpenFaaS: a gateway on a cluster, on faasd, or on a Jetson board.",
        extra="openfaas",
        files="client_fn.packages.openfaas",
        # Its functions are images, which are built from the archive.
        sends_archive=False,
    ),
    Kind(
        name="openwhisk",
        module="bridges.openwhisk",
        about="Apache OpenWhisk: triggers and actions of one namespace.",
        extra="openwhisk",
        files="client_fn.packages.openwhisk",
        # Beside the code it would be installed anew at every cold start.
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
    """Every kind of platform: ours, then those that other distributions add, by name.

    Raises:
        BadPlatform: one that another distribution adds can't be used.
    """
    added = {point.name: _added(point) for point in entry_points(group=GROUP)}
    return (*KINDS, *(added[name] for name in sorted(added)))


def find(name: str) -> Kind:
    """The kind of that name.

    Raises:
        UnknownPlatform: there is none.
        BadPlatform: one that another distribution adds can't be used.
    """
    # Ours first: what another distribution adds must not get in the way of them.
    for kind in KINDS:
        if kind.name == name:
            return kind
    kinds = {kind.name: kind for kind in known()}
    if name not in kinds:
        raise UnknownPlatform(name, tuple(kinds))
    return kinds[name]


def _added(point: EntryPoint) -> Kind:
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

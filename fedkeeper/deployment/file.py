"""The deployment file: which platform hosts which clients, and how their functions are created."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from bridges import platforms
from bridges.platforms import Kind
from broker.errors import BadTopic
from broker.messages.job_sections import Data
from broker.messages.register import ClientRecord
from broker.support import partly_known, validation
from broker.support.validation import AtLeastOne, Mistake, NotNegative
from broker.topics import checked_id
from broker.url import BrokerUrl
from fedkeeper.config_file import ConfigFile
from fedkeeper.errors import BadConfigFile
from fedkeeper.services import site_settings

FABRIC_LABEL: Final = "fabric"
"""The register's label that names the deployment file which a client belongs to."""

_EXAMPLE: Final = '[broker] url = "nats://USER@HOST:4222" and password = "NAME OF A SECRET" of the bridge or platform'

DATA_LABEL: Final = "data"
"""The register's label that names a client's data: the key of the partition."""


NO_ROUTE: Final = "none"
"""The value of `broker.url` for functions that can't reach the broker."""


class BrokerSection(msgspec.Struct, frozen=True, kw_only=True):
    """The table `[broker]`: how functions reach the broker.

    Attributes:
        url: the broker's address with a user but without a password; `none`: functions have no route to the broker;
            empty: the address that the command uses, which only works for functions on the same machine.
        password: the name of the secret with the password. The bridge or the platform holds its value.
    """

    url: str = ""
    password: str = ""


class DataSection(msgspec.Struct, frozen=True, kw_only=True):
    """The table `[data]`: how a dataset is partitioned across clients.

    Attributes:
        deal: the partition (the key is version 0.1's word), with the same fields as `[data]` of the jobs that use these
            clients. It also names the clients.
        at: the folder or fsspec URL of the shards, as functions reach it: `<at>/<client>/shard.safetensors`.
        stage: partition the built-in dataset during the deployment and write the shards there.
    """

    deal: Data = Data()
    at: str = "shards"
    stage: bool = False


class PlatformSection(msgspec.Struct, frozen=True, kw_only=True):
    """A table `[platforms.NAME]`: the functions of one platform.

    Attributes:
        kind: the kind of platform, a name of the table in `bridges/platforms.py`; empty: NAME is also the kind.
        clients: how many of the partition's clients this platform hosts.
        at: the folder or fsspec URL of these clients' shards; empty: `data.at`.
        state_loc: the folder or fsspec URL of these clients' personal layers; empty: beside their shards.
        package: whether to send the function's code; None: the kind's default. OpenFaaS has the code in its image.
        image: container image of the functions, where the platform runs one.
        key: the name of the secret that the bridge signs triggers with; empty: triggers are not signed.
        memory_mb: memory of one instance, in MB.
        timeout_s: longest time of one invocation, in seconds.
        env: additional environment variables of the functions.
        options: settings that only this kind of platform has, such as `runtime`.
    """

    kind: str = ""
    clients: NotNegative = 0
    at: str = ""
    state_loc: str = ""
    package: bool | None = None
    image: str = ""
    key: str = ""
    memory_mb: AtLeastOne = 2048
    timeout_s: AtLeastOne = 300
    env: dict[str, str] = {}
    options: dict[str, Any] = {}


class ClientSection(msgspec.Struct, frozen=True, kw_only=True):
    """A table `[[clients]]`: a client with its own data, outside the partition.

    Attributes:
        id: the client's id, which is also its function's name.
        platform: the platform that hosts it.
        data_loc: fsspec URL of its shard.
        labels: labels that jobs select clients by; `data` names the data.
        samples: number of samples in the shard; 0: not known.
        state_loc: folder or fsspec URL of its personal layers; empty: beside its shard.
    """

    id: str
    platform: str
    data_loc: str
    labels: dict[str, str] = {}
    samples: NotNegative = 0
    state_loc: str = ""


class DeploymentFile(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment file.

    Attributes:
        name: the fabric's name. Different fabrics can share a platform.
        broker: how functions reach the broker.
        data: how a dataset is partitioned across clients.
        platforms: by the name that the platform's bridge uses. Clients are assigned to them in this order.
        clients: the clients with their own data.
    """

    name: str
    broker: BrokerSection = BrokerSection()
    data: DataSection = DataSection()
    platforms: dict[str, PlatformSection] = {}
    clients: tuple[ClientSection, ...] = ()


def read(path: Path) -> DeploymentFile:
    """Read and check a deployment file.

    Raises:
        BadConfigFile: the file can't be read, or values are not allowed.
    """
    source = ConfigFile(path)
    try:
        file = source.convert(DeploymentFile)
    except BadConfigFile as exc:
        known = partly_known.read(source.table, DeploymentFile)
        further = [each for each in _mistakes(known) if not validation.is_named(each.field, exc.errors)]
        raise source.error([*exc.errors, *further]) from exc
    if mistakes := list(_mistakes(file)):
        raise source.error(mistakes)
    return file


def _mistakes(file: DeploymentFile) -> Iterator[Mistake]:
    """Yield what no single field's type can express. Rules that need a field which is not known are left out."""
    for rule in (_wrong_name, _password, _wrong_platforms, _too_many_hosted, _wrong_clients):
        with contextlib.suppress(partly_known.NotKnown):
            yield from rule(file)


def _wrong_name(file: DeploymentFile) -> Iterator[Mistake]:
    yield from _wrong_id("name", file.name)


def _password(file: DeploymentFile) -> Iterator[Mistake]:
    if file.broker.url != NO_ROUTE and _has_password(file.broker.url):
        reason = (
            "a password in it would stand in messages and in the functions' settings: name its secret in `password`"
        )
        yield Mistake("broker.url", "...", reason)


def _wrong_platforms(file: DeploymentFile) -> Iterator[Mistake]:
    for platform, section in file.platforms.items():
        yield from _wrong_id(f"platforms.{platform}", platform)
        if _find_kind(platform, section) is None:
            yield _no_kind(platform, section)


def _too_many_hosted(file: DeploymentFile) -> Iterator[Mistake]:
    hosted = sum(section.clients for section in file.platforms.values())
    if hosted > file.data.deal.clients:
        reason = f"the platforms have {hosted} clients, the partition has {file.data.deal.clients}"
        yield Mistake("data.deal.clients", file.data.deal.clients, reason)


def _wrong_clients(file: DeploymentFile) -> Iterator[Mistake]:
    for i, client in enumerate(file.clients):
        yield from _wrong_id(f"clients[{i}].id", client.id)
        if client.platform not in file.platforms:
            yield Mistake(f"clients[{i}].platform", client.platform, f"expected one of {', '.join(file.platforms)}")


def _wrong_id(field: str, name: str) -> Iterator[Mistake]:
    try:
        checked_id(str(name))
    except BadTopic as exc:
        yield Mistake(field, name, exc.rule)


def _find_kind(platform: str, section: PlatformSection) -> Kind | None:
    return _kinds().get(section.kind or platform)


def _no_kind(platform: str, section: PlatformSection) -> Mistake:
    return Mistake(f"platforms.{platform}.kind", section.kind, f"say which kind it is: one of {', '.join(_kinds())}")


def _kinds() -> dict[str, Kind]:
    return {known.name: known for known in platforms.known() if known.has_functions}


def functions_url(file: DeploymentFile, own_url: str) -> str:
    """Return the broker's address for the functions; empty: they have no route to it.

    Args:
        file: the deployment file.
        own_url: the broker's address that this command uses, for functions on the same machine.

    Raises:
        BadConfigFile: the file names no address, and the password of this command's is not for functions.
    """
    if file.broker.url:
        return "" if file.broker.url == NO_ROUTE else file.broker.url
    own = BrokerUrl.parse(own_url)
    is_elsewhere = not site_settings.is_this_machine(own_url)
    if own.password is not None or (is_elsewhere and (own.password_file or own.password_env)):
        reason = (
            f"the password of this command's address would not be the functions': add {_EXAMPLE}; "
            f'or url = "{NO_ROUTE}" for functions without a route to the broker'
        )
        raise BadConfigFile([Mistake("broker.url", "", reason)])
    return own_url


def _has_password(url: str) -> bool:
    """Whether a URL, valid or not, holds a password."""
    authority, *rest = re.split("[/?#]", url.partition("://")[2], maxsplit=1)
    login, at, _ = authority.rpartition("@")
    # Without an "@" in it, a password that is not percent-encoded may have ended it too early.
    return ":" in login or (not at and ":" in authority and "@" in "".join(rest))


def kind_of(file: DeploymentFile, platform: str) -> Kind:
    """Return the kind of a platform.

    Args:
        file: the deployment file.
        platform: the platform's name in it.

    Raises:
        BadConfigFile: neither the field `kind` nor the platform's name is a kind of platform with functions.
    """
    section = file.platforms[platform]
    kind = _find_kind(platform, section)
    if kind is None:
        raise BadConfigFile([_no_kind(platform, section)])
    return kind


def has_archive(file: DeploymentFile, platform: str) -> bool:
    """Return whether a platform's functions get their code as an archive, and not from an image.

    Args:
        file: the deployment file.
        platform: the platform's name in it.

    Raises:
        BadConfigFile: it does not say which kind of platform it is.
    """
    kind, section = kind_of(file, platform), file.platforms[platform]
    kind_default = kind.sends_archive and kind.files != ""
    return kind_default if section.package is None else section.package


def client_records(file: DeploymentFile, samples: dict[str, int]) -> list[ClientRecord]:
    """Return the register's entry of each client. The `url` is empty: only the platform knows it.

    Args:
        file: the deployment file.
        samples: number of samples in each client's shard, by client id; a missing client's number is 0, not known.
    """
    from client_fn.data import shards

    partitioned = [
        ClientSection(
            id=client,
            platform=platform,
            data_loc=shards.shard_url(file.platforms[platform].at or file.data.at, client),
            labels={DATA_LABEL: file.data.deal.key},
            samples=samples.get(client, 0),
            state_loc=file.platforms[platform].state_loc,
        )
        for client, platform in placements(file)
    ]
    return [
        ClientRecord(
            id=client.id,
            platform=client.platform,
            function=client.id,
            data_loc=client.data_loc,
            labels={**client.labels, FABRIC_LABEL: file.name},
            samples=client.samples,
            secret=file.platforms[client.platform].key,
            state_loc=client.state_loc,
        )
        for client in (*partitioned, *file.clients)
    ]


def placements(file: DeploymentFile) -> Iterator[tuple[str, str]]:
    """Yield the id of each of the partition's clients, and the platform that hosts it."""
    from client_fn.data import shards

    client_ids = iter(shards.client_ids(file.data.deal))
    for platform, section in file.platforms.items():
        for _ in range(section.clients):
            yield next(client_ids), platform

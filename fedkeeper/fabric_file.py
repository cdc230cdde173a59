"""The fabric file: which clients live on which platform, and how their functions are made."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from bridges import platforms
from bridges.platforms import Kind
from broker.messages.job import Data
from broker.messages.register import ClientRecord
from broker.support.validation import AtLeastOne, NotNegative
from broker.topics import checked_id
from fedkeeper import strict_toml
from fedkeeper.errors import BadDeploymentFile

FABRIC_LABEL: Final = "fabric"
"""Label of the register that says which fabric file a client is part of."""

DATA_LABEL: Final = "data"


class _Section(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the file."""


class Reach(_Section, frozen=True):
    """How functions reach the broker.

    Attributes:
        url: the broker's address with a user but without a password; empty: as this command reaches it, which is right
            for functions on the same machine alone.
        password: name of the secret that is the password; the value is with the bridge or the platform.
    """

    url: str = ""
    password: str = ""


class Holdings(_Section, frozen=True):
    """What the clients hold.

    Attributes:
        deal: how a dataset is dealt to them; as `[data]` of the jobs that they shall train. It names the clients too.
        at: where their shards are, as functions reach it: a folder or fsspec URL, `<at>/<client>/shard.safetensors`.
        stage: deal the built-in dataset now, and write the shards there.
    """

    deal: Data = Data()
    at: str = "shards"
    stage: bool = False


class Hosting(_Section, frozen=True):
    """The functions of one platform; see `broker.messages.function.Function` for what is not explained here.

    Attributes:
        kind: of platform, a name of the table in `bridges/platforms.py`; empty: the platform's own name says so.
        clients: how many of the deal's clients live here.
        at: where the shards of these clients are, if elsewhere than the others'.
        package: send the function's code along; None: as is usual for that kind (OpenFaaS has the code in its image).
    """

    kind: str = ""
    clients: NotNegative = 0
    at: str = ""
    package: bool | None = None
    image: str = ""
    key: str = ""
    memory_mb: AtLeastOne = 2048
    timeout_s: AtLeastOne = 300
    env: dict[str, str] = {}
    options: dict[str, Any] = {}


class Own(_Section, frozen=True):
    """A client with data of its own."""

    id: str
    platform: str
    data_loc: str
    labels: dict[str, str] = {}
    samples: NotNegative = 0


class DeploymentFile(_Section, frozen=True):
    """A fabric.

    Attributes:
        name: tells it from other fabrics on the same platforms.
        platforms: by the name that their bridge runs under. The deal's clients are given out in this order.
        clients: those with data of their own.
    """

    name: str
    broker: Reach = Reach()
    data: Holdings = Holdings()
    platforms: dict[str, Hosting] = {}
    clients: tuple[Own, ...] = ()


def read(path: Path) -> DeploymentFile:
    """Read a fabric file.

    Raises:
        BadDeploymentFile: it can't be read, or says what can't be.
    """
    file = strict_toml.read(path, DeploymentFile)
    _check(file)
    return file


def kind_of(file: DeploymentFile, platform: str) -> Kind:
    """What kind of platform it is.

    Args:
        file: says it.
        platform: its name there.

    Raises:
        BadDeploymentFile: neither its name nor the file says so.
    """
    said = file.platforms[platform].kind
    kinds = {kind.name: kind for kind in platforms.known() if kind.has_functions}
    if (said or platform) not in kinds:
        raise BadDeploymentFile(f"platforms.{platform}.kind", said, f"say which kind it is: one of {', '.join(kinds)}")
    return kinds[said or platform]


def records(file: DeploymentFile, samples: dict[str, int]) -> list[ClientRecord]:
    """What the register should know of each client; where it is triggered, its platform will tell.

    Args:
        file: says it.
        samples: the size of each client's shard, as far as it is known.
    """
    from client_fn.data import shards

    labels, at = {DATA_LABEL: file.data.deal.key}, file.data.at
    dealt = [
        Own(
            id=client,
            platform=platform,
            data_loc=shards.shard_url(file.platforms[platform].at or at, client),
            labels=labels,
            samples=samples.get(client, 0),
        )
        for client, platform in homes(file)
    ]
    return [_record(file, client) for client in (*dealt, *file.clients)]


def _record(file: DeploymentFile, client: Own) -> ClientRecord:
    return ClientRecord(
        id=client.id,
        platform=client.platform,
        function=client.id,
        data_loc=client.data_loc,
        labels={**client.labels, FABRIC_LABEL: file.name},
        samples=client.samples,
        secret=file.platforms[client.platform].key,
    )


def homes(file: DeploymentFile) -> Iterator[tuple[str, str]]:
    """Each of the deal's clients, and the platform that it lives on."""
    from client_fn.data import shards

    names = iter(shards.client_ids(file.data.deal))
    for platform, hosting in file.platforms.items():
        for _ in range(hosting.clients):
            yield next(names), platform


def _check(file: DeploymentFile) -> None:
    """What no single field's type can say."""
    checked_id(file.name)
    for platform in file.platforms:
        checked_id(platform)
        kind_of(file, platform)
    wanted = sum(hosting.clients for hosting in file.platforms.values())
    if wanted > file.data.deal.clients:
        reason = f"the platforms have {wanted} clients, the data is dealt to {file.data.deal.clients}"
        raise BadDeploymentFile("data.deal.clients", file.data.deal.clients, reason)
    for i, client in enumerate(file.clients):
        checked_id(client.id)
        if client.platform not in file.platforms:
            raise BadDeploymentFile(f"clients.{i}.platform", client.platform, f"one of {', '.join(file.platforms)}")

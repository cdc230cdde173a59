"""How a dataset is dealt to clients: one index array each; every sample goes to exactly one client."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.messages.job import Data
from client_fn.errors import BadPartition

Indices = NDArray[np.int64]


def deal(labels: NDArray[np.integer[Any]], data: Data) -> list[Indices]:
    """Deal samples to `data.clients` clients; the same labels and the same section give the same deal.

    Args:
        labels: of all samples, shape (N,).
        data: the job's data section.

    Raises:
        BadPartition: there are fewer samples than clients, or than shards.
    """
    generator = np.random.default_rng(data.seed)
    match data.partition:
        case "shards":
            return _shards(labels, data.clients, data.shards_per_client, generator)
        case "iid":
            return _iid(len(labels), data.clients, generator)
        case "dirichlet":
            return _dirichlet(labels, data.clients, data.alpha, generator)


def _shards(
    labels: NDArray[np.integer[Any]], clients: int, per_client: int, generator: np.random.Generator
) -> list[Indices]:
    """McMahan et al., 2017, section 3; where the shards can't be equal, the first have one sample more."""
    _check(len(labels), clients * per_client)
    shards = np.array_split(np.argsort(labels, kind="stable"), clients * per_client)
    dealt = generator.permutation(len(shards)).reshape(clients, per_client)
    return [np.concatenate([shards[i] for i in row]) for row in dealt]


def _iid(samples: int, clients: int, generator: np.random.Generator) -> list[Indices]:
    _check(samples, clients)
    return np.array_split(generator.permutation(samples), clients)


def _dirichlet(
    labels: NDArray[np.integer[Any]], clients: int, alpha: float, generator: np.random.Generator
) -> list[Indices]:
    """Hsu et al., 2019: each label's samples are split in proportions drawn from Dirichlet(alpha)."""
    _check(len(labels), clients)
    parts: list[list[Indices]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        samples = generator.permutation(np.flatnonzero(labels == label))
        shares = generator.dirichlet(np.full(clients, alpha))
        cuts = np.round(np.cumsum(shares[:-1]) * len(samples)).astype(np.int64)
        for part, share in zip(parts, np.split(samples, cuts), strict=True):
            part.append(share)
    return _without_empty([np.concatenate(part) for part in parts])


def _without_empty(parts: list[Indices]) -> list[Indices]:
    """Each client that drew nothing gets one sample of the client that has most."""
    for i, part in enumerate(parts):
        if not len(part):
            richest = max(range(len(parts)), key=lambda j: len(parts[j]))
            parts[i], parts[richest] = parts[richest][-1:], parts[richest][:-1]
    return parts


def _check(samples: int, needed: int) -> None:
    if samples < needed:
        raise BadPartition(samples, needed)

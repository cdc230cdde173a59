"""Partitions a dataset among clients. Every sample goes to exactly one client."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.messages.job_sections import Data
from client_fn.errors import BadData

Indices = NDArray[np.int64]


def partition(labels: NDArray[np.integer[Any]], data: Data) -> list[Indices]:
    """Return each client's sample indices, int64. Equal arguments give equal partitions.

    Args:
        labels: labels of all samples, integers of shape (N,).
        data: the job's data section; `data.clients` is the number of clients.

    Raises:
        BadData: there are fewer samples than clients, or than label shards.
    """
    parts = data.clients * data.shards_per_client if data.partition == "shards" else data.clients
    least = data.min_samples if data.partition == "dirichlet" else 1
    if len(labels) < parts * least:
        fewest = "one" if least == 1 else f"{least} (data.min_samples)"
        raise BadData(f"{len(labels)} samples can't be split into {parts} parts of at least {fewest}")
    generator = np.random.default_rng(data.seed)
    match data.partition:
        case "shards":
            # McMahan et al., 2017, section 3: sort by label, cut into shards, and give each client a few at random.
            # If the shards can't be equal, the first ones have one sample more.
            shards = np.array_split(np.argsort(labels, kind="stable"), parts)
            assignment = generator.permutation(parts).reshape(data.clients, data.shards_per_client)
            return [np.concatenate([shards[i] for i in row]) for row in assignment]
        case "iid":
            return np.array_split(generator.permutation(len(labels)), data.clients)
        case "dirichlet":
            parts_of_labels = _partition_by_dirichlet(labels, data.clients, data.alpha, generator)
            return _with_at_least(data.min_samples, parts_of_labels)


def _partition_by_dirichlet(
    labels: NDArray[np.integer[Any]], clients: int, alpha: float, generator: np.random.Generator
) -> list[Indices]:
    """Split each label's samples in proportions drawn from Dirichlet(alpha) (Hsu et al., 2019)."""
    pieces: list[list[Indices]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        samples = generator.permutation(np.flatnonzero(labels == label))
        shares = generator.dirichlet(np.full(clients, alpha))
        cuts = np.round(np.cumsum(shares[:-1]) * len(samples)).astype(np.int64)
        for client_pieces, piece in zip(pieces, np.split(samples, cuts), strict=True):
            client_pieces.append(piece)
    return [np.concatenate(client_pieces) for client_pieces in pieces]


def _with_at_least(samples: int, parts: list[Indices]) -> list[Indices]:
    """Give each client that has too few samples those that it lacks, each from the client that has most then."""
    for i in range(len(parts)):
        while len(parts[i]) < samples:
            largest = max(range(len(parts)), key=lambda j: len(parts[j]))
            parts[i] = np.append(parts[i], parts[largest][-1:])
            parts[largest] = parts[largest][:-1]
    return parts

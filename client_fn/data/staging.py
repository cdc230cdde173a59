"""Splits the user's own data among clients: writes their shards, and says what to register and what the job needs."""

from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from broker.messages.job_sections import Data
from broker.messages.register import ClientRecord
from broker.topics import checked_id
from client_fn.data import datasets
from client_fn.data.own import OwnData
from client_fn.data.partition import partition
from client_fn.errors import BadData

TEST: Final = "test"
"""Ends the name of the folder with the test set."""

Indices = NDArray[np.int64]


class Staged(NamedTuple):
    """What has been written.

    Attributes:
        clients: the clients' entries for the register; their label `data` is the data's name.
        data: the data section of a job that uses them.
        test: URL of the test set, for `evaluation.data`; empty: there is none.
        test_samples: number of samples in it.
        labels: names of the classes in the order of their numbers; empty: the labels were no texts.
        samples: names, dtypes and shapes of the samples.
        has_numbers_to_predict: whether y holds floats, so that the job needs a loss for regression.
    """

    clients: list[ClientRecord]
    data: Data
    test: str
    test_samples: int
    labels: tuple[str, ...]
    samples: str
    has_numbers_to_predict: bool


def stage(own: OwnData, data: Data, to: str, *, platform: str, by: str = "", test: float = 0.0) -> Staged:
    """Split own data among clients, and write each one's shard to `<to>/<client>/`.

    Clients are named `<data.dataset>-<number>`. The same data and arguments give the same shards.

    Args:
        own: the data.
        data: the dataset's name, and how it is split.
        to: fsspec URL or folder.
        platform: the platform that hosts the clients' functions.
        by: column whose values each make a client; empty: as `data.partition` says.
        test: share of the samples that no client gets, at random.

    Raises:
        BadData: there are too few samples, they have no labels to split them by, or a shard can't be written.
        BadTopic: the dataset's name can't be a client's.
    """
    checked_id(data.dataset)
    if data.dataset in datasets.NAMES:
        raise BadData(f"{data.dataset!r} is a built-in dataset: give yours another name")
    kept, held_out = _hold_out(len(own), test, data.seed)
    parts = _parts(own, kept, data, by)
    digits = max(3, len(str(len(parts) - 1)))
    records = []
    for number, indices in enumerate(parts):
        client = checked_id(f"{data.dataset}-{number:0{digits}d}")
        url, labels = own.write(to, client, indices), {"data": data.dataset}
        records.append(ClientRecord(id=client, platform=platform, data_loc=url, labels=labels, samples=len(indices)))
    url = own.write(to, f"{data.dataset}-{TEST}", held_out) if len(held_out) else ""
    # The shards are what the job reads, not the file that they come from.
    section = msgspec.structs.replace(data, clients=len(parts), target="", drop=(), format="", labels=own.folder_labels)
    return Staged(records, section, url, len(held_out), own.labels, own.describe(), own.has_float_targets)


def _hold_out(samples: int, share: float, seed: int) -> tuple[Indices, Indices]:
    """Return the samples that are split, and those of the test set, which has at least one if the share is above 0."""
    order = np.random.default_rng([seed, 1]).permutation(samples)
    count = max(1, round(share * samples)) if share else 0
    return np.sort(order[count:]), np.sort(order[:count])


def _parts(own: OwnData, kept: Indices, data: Data, by: str) -> list[Indices]:
    """Return each client's samples."""
    if by:
        values = own.groups(by)[kept]
        return [kept[values == value] for value in np.unique(values)]
    # The iid partition looks at no labels, so the samples need none.
    labels = np.zeros(len(kept), np.int64) if data.partition == "iid" else own.classes()[kept]
    return [kept[part] for part in partition(labels, data)]

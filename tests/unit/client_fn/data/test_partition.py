"""A partition gives each sample to exactly one client, the same way each time."""

from typing import Any

import numpy as np
import pytest

from broker.messages.job_sections import Data
from client_fn.data.partition import partition
from client_fn.errors import BadData

LABELS = np.random.default_rng(3).integers(0, 10, size=1437)

PARTITIONS = [
    Data(partition="shards", clients=10),
    Data(partition="shards", clients=7, shards_per_client=3),
    Data(partition="iid", clients=11),
    Data(partition="dirichlet", clients=10, alpha=0.5),
    Data(partition="dirichlet", clients=200, alpha=0.01),
    Data(partition="dirichlet", clients=5, alpha=1000.0),
]


def of(kind: Any, **more: Any) -> Data:
    return Data(partition=kind, **more)


@pytest.mark.parametrize("data", PARTITIONS, ids=lambda data: data.key)
def test_every_sample_goes_to_one_client_and_every_client_has_some(data: Data) -> None:
    parts = partition(LABELS, data)
    assert len(parts) == data.clients
    assert all(len(part) for part in parts)
    assert sorted(np.concatenate(parts)) == list(range(len(LABELS)))


@pytest.mark.parametrize("data", PARTITIONS, ids=lambda data: data.key)
def test_the_seed_alone_decides_the_partition(data: Data) -> None:
    first, again = partition(LABELS, data), partition(LABELS, data)
    other = partition(LABELS, of(data.partition, clients=data.clients, seed=1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_shards_of_the_paper_are_200_of_300_two_per_client() -> None:
    labels = np.repeat(np.arange(10), 6000)[np.random.default_rng(1).permutation(60_000)]
    parts = partition(labels, of("shards", clients=100))
    assert {len(part) for part in parts} == {600}
    by_label = np.argsort(labels, kind="stable")
    shards = {tuple(shard) for shard in by_label.reshape(200, 300)}
    assert {tuple(half) for part in parts for half in np.split(part, 2)} == shards
    assert all(len(np.unique(labels[part])) <= 2 for part in parts)


def test_shards_by_hand() -> None:
    labels = np.array([1, 0, 1, 0, 2, 2])
    parts = partition(labels, of("shards", clients=3, shards_per_client=1))
    assert sorted(tuple(part) for part in parts) == [(0, 2), (1, 3), (4, 5)]


def test_leftovers_are_assigned_too() -> None:
    parts = partition(np.zeros(11, dtype=np.int64), of("shards", clients=2))
    assert sorted(len(part) for part in parts) in ([5, 6], [6, 5])
    assert sum(map(len, parts)) == 11


def test_iid_parts_are_equal_and_mixed() -> None:
    parts = partition(np.repeat(np.arange(10), 100), of("iid", clients=10))
    assert {len(part) for part in parts} == {100}
    assert all(len(np.unique(part // 100)) == 10 for part in parts)


def test_a_small_alpha_is_more_uneven_than_a_large_one() -> None:
    def unevenness(alpha: float) -> float:
        counts = [np.bincount(LABELS[part], minlength=10) for part in partition(LABELS, of("dirichlet", alpha=alpha))]
        return float(np.std(counts))

    assert unevenness(0.1) > 2 * unevenness(100.0)


@pytest.mark.parametrize("data", [of("iid", clients=6), of("dirichlet", clients=6), of("shards", clients=3)])
def test_too_few_samples_for_all_is_an_error(data: Data) -> None:
    with pytest.raises(BadData, match=r"^5 samples can't be split into 6 parts"):
        partition(np.zeros(5, dtype=np.int64), data)


def test_as_many_clients_as_samples_get_one_each() -> None:
    for kind in ("iid", "dirichlet"):
        assert [len(part) for part in partition(np.arange(6), of(kind, clients=6))] == [1] * 6


def test_a_dirichlet_partition_has_a_floor_if_the_job_sets_one() -> None:
    labels = np.arange(300) % 10
    data = Data(partition="dirichlet", clients=10, alpha=0.01, min_samples=8)
    parts = partition(labels, data)
    assert min(len(part) for part in parts) == 8
    assert sorted(np.concatenate(parts).tolist()) == list(range(300))
    with pytest.raises(BadData, match=r"can't be split into 10 parts of at least 31 \(data\.min_samples\)"):
        partition(labels, Data(partition="dirichlet", clients=10, min_samples=31))


def test_partitions_with_another_floor_have_another_key() -> None:
    assert Data(partition="dirichlet").key == "digits-dir0p5-c10-s0"
    assert Data(partition="dirichlet", min_samples=2).key == "digits-dir0p5-m2-c10-s0"
    assert Data(min_samples=2).key == Data().key

"""A shard is written bit for bit, at any URL; invalid samples and places are named."""

from pathlib import Path

import fsspec
import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from broker.errors import BadTopic
from broker.messages.job_sections import Data
from client_fn.data import datasets, shards
from client_fn.errors import BadData
from tests.support.shard_files import read_shard

X = np.random.default_rng(1).random((5, 2, 3), dtype=np.float32)
Y = np.array([0, 1, 2, 1, 0])


def place(tmp_path: Path, scheme: str) -> str:
    return {
        "path": f"{tmp_path}/a folder/shard.safetensors",
        "file": f"file://{tmp_path}/a/shard.safetensors",
        "memory": f"memory://{tmp_path.name}/shard.safetensors",
    }[scheme]


@pytest.mark.parametrize("scheme", ["path", "file", "memory"])
def test_a_shard_comes_back_bit_for_bit(tmp_path: Path, scheme: str) -> None:
    url = place(tmp_path, scheme)
    shards.write(url, X, Y)
    x, y = read_shard(url)
    assert x.tobytes() == X.tobytes()
    assert x.shape == X.shape
    assert y.tolist() == Y.tolist()
    assert y.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float64])
def test_samples_keep_their_dtype_and_labels_become_int64(tmp_path: Path, dtype: type[np.generic]) -> None:
    url = place(tmp_path, "path")
    shards.write(url, X.astype(dtype), Y.astype(np.uint8))
    x, y = read_shard(url)
    assert x.dtype == dtype
    assert y.dtype == np.int64


def test_targets_keep_their_dtype_and_shape_and_tensors_have_any_names(tmp_path: Path) -> None:
    url = place(tmp_path, "path")
    shards.write(url, X, np.ones((5, 4), np.float32))
    assert read_shard(url)[1].tolist() == np.ones((5, 4)).tolist()
    shards.write_tensors(url, {"ids": Y, "mask": X > 0})
    named = safetensors.numpy.load_file(url)
    assert sorted(named) == ["ids", "mask"]
    assert named["mask"].dtype == np.bool_


def test_the_same_shard_is_not_written_again_and_another_is(tmp_path: Path) -> None:
    url = place(tmp_path, "path")
    shards.write(url, X, Y)
    before = Path(url).stat().st_ino
    shards.write(url, X, Y)
    assert Path(url).stat().st_ino == before
    shards.write(url, X, (Y + 1))
    assert Path(url).stat().st_ino != before
    assert read_shard(url)[1].tolist() == (Y + 1).tolist()


def test_an_incomplete_shard_is_written_again(tmp_path: Path) -> None:
    url = place(tmp_path, "path")
    shards.write(url, X, Y)
    whole = Path(url).read_bytes()
    Path(url).write_bytes(whole[:-1])
    shards.write(url, X, Y)
    assert Path(url).read_bytes() == whole


def test_nothing_but_the_shard_is_left_in_its_folder(tmp_path: Path) -> None:
    url = place(tmp_path, "path")
    shards.write(url, X, Y)
    assert [path.name for path in Path(url).parent.iterdir()] == ["shard.safetensors"]
    assert Path(url).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (X, Y[:4], r"x has shape \(5, 2, 3\), y has shape \(4,\); the first side is the number of samples"),
        (X[:0], Y[:0], "at least 1"),
        (np.array(1.0), Y, r"x has shape \(\)"),
    ],
)
def test_an_invalid_shard_is_not_written(
    tmp_path: Path, x: NDArray[np.generic], y: NDArray[np.generic], reason: str
) -> None:
    with pytest.raises(BadData, match=reason) as failed:
        shards.write(f"{tmp_path}/shard", x, y)
    assert failed.value.where == f"{tmp_path}/shard"
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_can_t_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="Protocol not known: nowhere"):
        shards.write("nowhere://a/b", X, Y)
    with pytest.raises(BadData, match="directory"):
        shards.write(str(tmp_path), X, Y)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadData):
        shards.write(f"{tmp_path}/file/shard.safetensors", X, Y)


def test_no_secret_of_a_url_is_shown() -> None:
    with pytest.raises(BadData) as failed:
        shards.write("nowhere://user:s3cret@host/a?token=s3cret", X, Y)
    assert failed.value.where == "nowhere://host/a"
    assert "s3cret" not in str(failed.value)


def test_staging_gives_each_client_its_own_samples(tmp_path: Path) -> None:
    digits = datasets.load("digits")
    data = Data(clients=10)
    records = shards.stage(digits, data, str(tmp_path), platform="local")
    assert [record.id for record in records] == [f"digits-shards2-c10-s0-{i:03d}" for i in range(10)]
    assert sum(record.samples for record in records) == 1437
    xs = []
    for record in records:
        assert record.platform == "local"
        assert record.labels == {"data": data.key}
        assert record.data_loc == f"file://{tmp_path}/{record.id}/shard.safetensors"
        x, y = read_shard(record.data_loc)
        assert len(y) == record.samples
        xs.append(x)
    staged = np.concatenate(xs).reshape(1437, -1)
    assert np.array_equal(np.sort(staged, axis=0), np.sort(digits.train_x.reshape(1437, -1), axis=0))


def test_staging_twice_writes_once(tmp_path: Path) -> None:
    digits = datasets.load("digits")
    shards.stage(digits, Data(clients=3), str(tmp_path), platform="local")
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*.safetensors")}
    shards.stage(digits, Data(clients=3), str(tmp_path), platform="local")
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*.safetensors")} == before
    assert len(before) == 3


def test_a_relative_folder_becomes_an_absolute_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    records = shards.stage(datasets.load("digits"), Data(clients=2), "data", platform="local")
    assert records[0].data_loc.startswith(f"file://{tmp_path}/data/digits-")


def test_staging_to_a_store_without_folders(tmp_path: Path) -> None:
    to = f"memory://{tmp_path.name}/"
    records = shards.stage(datasets.load("digits"), Data(clients=2), to, platform="gcf")
    assert fsspec.filesystem("memory").exists(records[1].data_loc)
    assert len(read_shard(records[1].data_loc)[1]) == records[1].samples


def test_more_than_a_thousand_clients_are_still_in_order(tmp_path: Path) -> None:
    records = shards.stage(datasets.load("digits"), Data(partition="iid", clients=1001), str(tmp_path), platform="l")
    assert records[-1].id == "digits-iid-c1001-s0-1000"
    assert [record.id for record in records] == sorted(record.id for record in records)


def test_an_impossible_partition_is_refused(tmp_path: Path) -> None:
    digits = datasets.load("digits")
    with pytest.raises(BadData, match="can't be split"):
        shards.stage(digits, Data(partition="iid", clients=1438), str(tmp_path), platform="local")
    with pytest.raises(BadTopic):
        shards.stage(digits, Data(dataset="d" * 40), str(tmp_path), platform="local")
    assert list(tmp_path.iterdir()) == []

"""The user's own data is read from any format, is split as asked, and comes back from the shards as it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
from pyarrow import parquet

from broker.errors import BadTopic
from broker.messages.job_sections import Data
from client_fn.data import own, staging
from client_fn.data.shard_cache import ShardCache
from client_fn.data.staging import Staged
from client_fn.errors import BadData, DataMissing
from client_fn.site import Site

ROWS = 40
A = np.arange(ROWS, dtype=np.float32)
CODES = np.arange(ROWS) % 3
NAMES = np.array(["cat", "dog", "bird"])[CODES]
SITES = np.array(["north", "south"])[np.arange(ROWS) % 2]


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "animals.csv"
    rows = [f"{a},{-a},{name},{site}" for a, name, site in zip(A, NAMES, SITES, strict=True)]
    path.write_text("\n".join(["a,b,animal,site", *rows]))
    return path


def stage(samples: own.OwnData, tmp_path: Path, *, by: str = "", test: float = 0.0, **fields: Any) -> Staged:
    data = Data(**{"dataset": "animals", "partition": "iid", "clients": 4, **fields})
    return staging.stage(samples, data, str(tmp_path / "to"), platform="local", by=by, test=test)


def shards_of(staged: Staged) -> list[dict[str, np.ndarray[Any, Any]]]:
    urls = [client.data_loc.removeprefix("file://") for client in staged.clients]
    return [safetensors.numpy.load_file(url) for url in urls]


def all_a(staged: Staged) -> list[float]:
    return sorted(float(a) for shard in shards_of(staged) for a in shard["x"][:, 0])


def test_a_table_s_rows_each_go_to_one_client(csv: Path, tmp_path: Path) -> None:
    staged = stage(own.read(csv, target="animal", drop=["site"]), tmp_path)
    assert [client.id for client in staged.clients] == [f"animals-{i:03d}" for i in range(4)]
    assert all(client.labels == {"data": "animals"} and client.samples == 10 for client in staged.clients)
    assert all_a(staged) == A.tolist()
    assert staged.labels == ("bird", "cat", "dog")
    assert staged.data == Data(dataset="animals", partition="iid", clients=4)
    for shard in shards_of(staged):
        labels = np.array(staged.labels)[shard["y"]]
        assert [labels[i] == NAMES[int(a)] for i, a in enumerate(shard["x"][:, 0])] == [True] * 10
        assert (shard["x"].dtype, shard["y"].dtype) == (np.float32, np.int64)


def test_the_labels_may_be_given_in_their_order(csv: Path) -> None:
    samples = own.read(csv, target="animal", drop=["site"], labels=["dog", "cat", "bird", "fish"])
    assert samples.labels == ("dog", "cat", "bird", "fish")
    assert samples.classes().tolist() == [{"dog": 0, "cat": 1, "bird": 2}[name] for name in NAMES]


def test_a_column_s_values_each_make_a_client_and_are_no_feature(csv: Path, tmp_path: Path) -> None:
    staged = stage(own.read(csv, target="animal", by="site"), tmp_path, by="site", clients=1)
    assert staged.data.clients == len(staged.clients) == 2
    for number, shard in enumerate(shards_of(staged)):
        assert shard["x"].shape == (20, 2)
        assert {SITES[int(a)] for a in shard["x"][:, 0]} == {("north", "south")[number]}
    with pytest.raises(BadData, match="it has no column 'person'"):
        stage(own.read(csv, target="animal", drop=["site"], by="person"), tmp_path, by="person")


def test_a_test_set_is_held_out_from_all_clients(csv: Path, tmp_path: Path) -> None:
    samples = own.read(csv, target="animal", drop=["site"])
    staged = stage(samples, tmp_path, test=0.25)
    assert staged.test == f"file://{tmp_path}/to/animals-test/shard.safetensors"
    held_out = safetensors.numpy.load_file(staged.test.removeprefix("file://"))
    assert staged.test_samples == len(held_out["y"]) == 10
    assert sorted([*all_a(staged), *held_out["x"][:, 0].tolist()]) == A.tolist()
    assert stage(samples, tmp_path, test=0.25) == staged
    held_out_again = safetensors.numpy.load_file(staged.test.removeprefix("file://"))
    assert np.array_equal(held_out["x"], held_out_again["x"])


@pytest.mark.parametrize("partition", ["shards", "dirichlet"])
def test_labels_that_are_texts_can_be_split_by(csv: Path, tmp_path: Path, partition: str) -> None:
    staged = stage(own.read(csv, target="animal", drop=["site"]), tmp_path, partition=partition, alpha=0.1)
    assert all_a(staged) == A.tolist()


def test_targets_that_are_numbers_can_be_split_at_random_only(tmp_path: Path) -> None:
    samples = own.of_arrays({"x": A.reshape(-1, 1), "y": A + 0.5})
    assert stage(samples, tmp_path).has_numbers_to_predict
    with pytest.raises(BadData, match=r"but y is float32 of shape \(40,\): use the partition iid"):
        stage(samples, tmp_path, partition="dirichlet")
    with pytest.raises(BadData, match=r"but there is no y: use the partition iid"):
        stage(own.of_arrays({"x": A}), tmp_path, partition="shards")


def npz(path: Path) -> None:
    np.savez(path, x=A.reshape(-1, 1), mask=A > 3, y=NAMES)


def with_safetensors(path: Path) -> None:
    safetensors.numpy.save_file({"x": A.reshape(-1, 1), "mask": A > 3, "y": CODES.astype(np.uint8)}, path)


def with_parquet(path: Path) -> None:
    parquet.write_table(pa.table({"a": A, "y": NAMES}), path)


@pytest.mark.parametrize(
    ("name", "write", "names"),
    [
        ("a.npz", npz, ["mask", "x", "y"]),
        ("a.safetensors", with_safetensors, ["mask", "x", "y"]),
        ("a.parquet", with_parquet, ["x", "y"]),
    ],
)
def test_each_format_gives_shards(tmp_path: Path, name: str, write: Any, names: list[str]) -> None:
    write(tmp_path / name)
    staged = stage(own.read(tmp_path / name, target="y"), tmp_path, partition="shards", shards_per_client=1, clients=3)
    assert all_a(staged) == A.tolist()
    for shard in shards_of(staged):
        assert (sorted(shard), shard["y"].dtype) == (names, np.int64)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for i, name in enumerate(NAMES[:9]):
        (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name / f"{i}.png").write_bytes(b"image %d" % i)
    return tmp_path / "images"


def test_a_folder_of_images_gives_folders_of_images(images: Path, tmp_path: Path) -> None:
    samples = own.read(images)
    staged = stage(samples, tmp_path, clients=2, test=0.3)
    assert staged.data.labels == staged.labels == ("bird", "cat", "dog")
    places = [Path(client.data_loc.removeprefix("file://")) for client in staged.clients]
    held_out = Path(staged.test.removeprefix("file://"))
    found = sorted(str(file.relative_to(place)) for place in [*places, held_out] for file in place.rglob("*.png"))
    assert found == sorted(str(file.relative_to(images)) for file in images.rglob("*.png"))
    assert stage(samples, tmp_path, clients=2, test=0.3) == staged
    with pytest.raises(BadData, match="holds other files already: delete it, or choose another folder"):
        stage(samples, tmp_path, clients=2, seed=5)
    with pytest.raises(BadData, match="written to this machine only"):
        staging.stage(samples, Data(dataset="animals", clients=2), "s3://bucket", platform="local")


def test_staged_shards_are_what_a_worker_reads(csv: Path, images: Path, tmp_path: Path) -> None:
    table = stage(own.read(csv, target="animal", drop=["site"]), tmp_path)
    assert ShardCache(Site()).read(table.clients[0].data_loc).samples == 10
    pictures = stage(own.read(images), tmp_path, dataset="pictures", clients=2)
    assert ShardCache(Site()).read(pictures.clients[0].data_loc).format == "folder"


def test_what_can_t_be_staged_is_explained(tmp_path: Path, csv: Path) -> None:
    with pytest.raises(DataMissing, match=r"no data 'none\.csv' at .*: give the path of a file"):
        own.read(tmp_path / "none.csv")
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(BadData, match=r"its format is not known: name it \.safetensors, \.npz, \.csv or"):
        own.read(tmp_path / "a.jsonl")
    (tmp_path / "a.safetensors").write_text("{}")
    with pytest.raises(BadData, match="it is no safetensors file"):
        own.read(tmp_path / "a.safetensors")
    with pytest.raises(BadData, match="y holds no numbers but datetime64"):
        own.of_arrays({"x": A, "y": np.zeros(ROWS, "datetime64[s]")})
    samples = own.read(csv, target="animal", drop=["site"])
    with pytest.raises(BadData, match="40 samples can't be split into 50 parts"):
        stage(samples, tmp_path, clients=50)
    with pytest.raises(BadData, match="'digits' is a built-in dataset: give yours another name"):
        stage(samples, tmp_path, dataset="digits")
    with pytest.raises(BadTopic):
        stage(samples, tmp_path, dataset="My Data")


def test_texts_of_pandas_are_labels_too() -> None:
    samples = own.of_arrays({"x": A, "y": NAMES.astype(object)})
    assert samples.labels == ("bird", "cat", "dog")

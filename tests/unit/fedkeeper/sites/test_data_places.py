"""A client's data is looked at before it is registered, where this machine can."""

from pathlib import Path

import numpy as np
import pytest

from client_fn.data import shards
from client_fn.errors import BadData, DataNotAllowed
from fedkeeper.errors import BadOption
from fedkeeper.sites import data_places


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "shard.safetensors"
    shards.write(str(path), np.zeros((5, 2), np.float32), np.arange(5))
    return path


def test_a_path_becomes_absolute_and_a_url_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ward")
    for place, expected in (
        ("data/../a.csv", f"{tmp_path}/a.csv"),
        ("~/a.csv", "/home/ward/a.csv"),
        ("/data/a.csv", "/data/a.csv"),
        ("file:///data/a.csv", "file:///data/a.csv"),
        ("s3://bucket/a.csv", "s3://bucket/a.csv"),
        ("", ""),
    ):
        assert data_places.absolute(place, is_here=True) == expected


def test_a_relative_path_of_another_machine_is_refused() -> None:
    for place in ("a.csv", "~/a.csv", "file:a.csv", "file://a.csv"):
        with pytest.raises(BadOption, match="lies on another machine: give its absolute path there"):
            data_places.absolute(place, is_here=False)
    for place in ("/data/a.csv", "file:///data/a.csv", "s3://bucket/a.csv", ""):
        assert data_places.absolute(place, is_here=False) == place


def test_the_samples_of_a_shard_are_counted(shard: Path) -> None:
    assert data_places.count(str(shard), 0, {}) == data_places.count(f"file://{shard}", 5, {}) == 5


def test_what_is_elsewhere_or_in_another_format_is_believed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    assert data_places.count(f"{tmp_path}/a.csv", 7, {}) == 7
    assert data_places.count("s3://bucket/a", 8, {}) == 8
    assert data_places.count("", 0, {}) == 0


def test_a_missing_file_names_the_option_for_other_machines(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"none\.npz does not exist here; if it lies on another machine.*--no-check"):
        data_places.count(f"{tmp_path}/none.npz", 0, {})


def test_an_empty_shard_and_another_number_of_samples_are_refused(shard: Path, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"--samples 4: .*shard\.safetensors holds 5"):
        data_places.count(str(shard), 4, {})
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(BadData, match="it is empty"):
        data_places.count(f"{tmp_path}/empty", 0, {})


def test_the_site_s_limits_hold_here_too(shard: Path) -> None:
    with pytest.raises(DataNotAllowed, match="FEDKEEPER_DATA_PREFIXES"):
        data_places.count(str(shard), 0, {"FEDKEEPER_DATA_PREFIXES": "/srv"})

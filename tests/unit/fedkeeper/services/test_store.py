"""Moving a store of version 0.1 aside."""

from pathlib import Path

import pytest

from broker.errors import ServerFailed
from fedkeeper.services import store


def make_folder(folder: Path, content: str) -> Path:
    folder.mkdir()
    (folder / "content").write_text(content)
    return folder


def test_a_store_is_renamed_beside_its_folder(tmp_path: Path) -> None:
    target = store.move_aside(make_folder(tmp_path / "broker", "old"))
    assert target == tmp_path / "broker-0.1"
    assert (target / "content").read_text() == "old"
    assert not (tmp_path / "broker").exists()


def test_an_earlier_store_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "broker-0.1").mkdir()
    for number in (2, 3):
        target = store.move_aside(make_folder(tmp_path / "broker", str(number)))
        assert target == tmp_path / f"broker-0.1-{number}"
    assert not list((tmp_path / "broker-0.1").iterdir())
    assert (tmp_path / "broker-0.1-2" / "content").read_text() == "2"


def test_the_error_for_a_failed_rename_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=r"broker holds a store of FedKeeper 0.1; can't rename it to .*broker-0.1"):
        store.move_aside(tmp_path / "broker")

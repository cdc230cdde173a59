from pathlib import Path

import pytest

from broker.errors import ServerFailed
from fedkeeper import store


def made(folder: Path, content: str) -> Path:
    folder.mkdir()
    (folder / "content").write_text(content)
    return folder


def test_a_store_is_put_beside_its_place(tmp_path: Path) -> None:
    aside = store.move_aside(made(tmp_path / "broker", "old"))
    assert aside == tmp_path / "broker-0.1"
    assert (aside / "content").read_text() == "old"
    assert not (tmp_path / "broker").exists()


def test_what_was_put_aside_before_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "broker-0.1").mkdir()
    for number in (2, 3):
        aside = store.move_aside(made(tmp_path / "broker", str(number)))
        assert aside == tmp_path / f"broker-0.1-{number}"
    assert not list((tmp_path / "broker-0.1").iterdir())
    assert (tmp_path / "broker-0.1-2" / "content").read_text() == "2"


def test_what_can_not_be_put_aside_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=r"broker holds a store of FedKeeper 0.1; can't rename it to .*broker-0.1"):
        store.move_aside(tmp_path / "broker")

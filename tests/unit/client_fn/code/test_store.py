"""Copies of the versions of the user's code."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from client_fn.code import archive
from client_fn.code.store import CodeStore
from client_fn.errors import BadSettings, CodeDiffers


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "mine.py").write_text("VERSION = 1\n", encoding="utf-8")
    (folder / "requirements.txt").write_text("numpy\n", encoding="utf-8")
    return folder


def change(source: Path, text: str) -> None:
    (source / "mine.py").write_text(text, encoding="utf-8")


def test_without_a_source_there_is_no_code() -> None:
    with CodeStore(None, None) as store:
        assert store.current() is None
        with pytest.raises(CodeDiffers) as differs:
            store.get("a" * 64)
    assert (differs.value.wanted, differs.value.held) == ("aaaaaaaa", "")
    assert str(differs.value) == (
        "the server holds code aaaaaaaa, no code is here: start it with the same `--code`, or deploy the function again"
    )


def test_the_current_version_is_copied_and_found_by_its_digest(source: Path, tmp_path: Path) -> None:
    store = CodeStore(source, tmp_path / "store")
    version = store.current()
    assert version is not None
    assert version.folder == tmp_path / "store" / version.digest
    assert version.digest == archive.pack(source).digest == archive.pack(version.folder).digest
    assert (version.modules, version.requirements) == (frozenset({"mine"}), "numpy\n")
    assert store.get(version.digest) is version
    assert [folder.name for folder in (tmp_path / "store").iterdir()] == [version.digest]


def test_unchanged_files_are_not_read_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CodeStore(source, tmp_path / "store")
    first = store.current()
    monkeypatch.setattr(archive, "pack_listing", None)
    assert store.current() is first


def test_a_change_is_a_new_version_and_the_old_one_stays(source: Path, tmp_path: Path) -> None:
    store = CodeStore(source, tmp_path / "store")
    old = store.current()
    change(source, "VERSION = 22\n")
    new = store.current()
    assert old is not None
    assert new is not None
    assert (old.folder / "mine.py").read_text() == "VERSION = 1\n"
    assert (new.folder / "mine.py").read_text() == "VERSION = 22\n"
    restarted = CodeStore(source, tmp_path / "store")
    assert restarted.get(old.digest) == old
    with pytest.raises(CodeDiffers, match=f"the server holds code 00000000, code {new.digest[:8]} is here") as differs:
        restarted.get("0" * 64)
    assert not differs.value.retryable


def test_a_digest_is_no_path(source: Path, tmp_path: Path) -> None:
    store = CodeStore(source, tmp_path / "store")
    (tmp_path / "store").mkdir()
    for digest in ("../source", str(source), "", "A" * 64):
        with pytest.raises(CodeDiffers):
            store.get(digest)


def test_a_damaged_copy_is_not_used_and_is_replaced_while_the_source_has_it(source: Path, tmp_path: Path) -> None:
    version = CodeStore(source, tmp_path / "store").current()
    assert version is not None
    (version.folder / "mine.py").chmod(0o644)
    (version.folder / "mine.py").write_text("VERSION = 0\n", encoding="utf-8")
    with pytest.raises(CodeDiffers):
        CodeStore(None, tmp_path / "store").get(version.digest)
    assert CodeStore(source, tmp_path / "store").get(version.digest) == version
    assert (version.folder / "mine.py").read_text() == "VERSION = 1\n"
    assert [folder.name for folder in (tmp_path / "store").iterdir()] == [version.digest]


def test_a_copy_that_was_deleted_is_written_again(source: Path, tmp_path: Path) -> None:
    store = CodeStore(source, tmp_path / "store")
    version = store.current()
    assert version is not None
    shutil.rmtree(tmp_path / "store")
    assert store.get(version.digest) == version
    assert (version.folder / "mine.py").exists()


def test_several_stores_share_a_folder(source: Path, tmp_path: Path) -> None:
    stores = [CodeStore(source, tmp_path / "store") for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        versions = list(threads.map(CodeStore.current, stores))
    assert len(set(versions)) == 1
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_a_temporary_folder_ends_with_the_store(source: Path) -> None:
    with CodeStore(source, None) as store:
        version = store.current()
        assert version is not None
        assert store.get(version.digest) is version
        assert version.folder.exists()
    assert not version.folder.exists()
    with store:
        again = store.current()
        assert again is not None
        assert again.folder.exists()


def test_a_folder_that_can_not_be_written_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadSettings, match=r"FEDKEEPER_CODE_STORE: the copy of the code can't be written to .*file"):
        CodeStore(source, tmp_path / "file").current()

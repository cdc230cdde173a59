"""A file is written as a whole or not at all."""

import os
from pathlib import Path

import pytest

from broker.support import files


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_written_with_its_folder_and_replaced_as_a_whole(tmp_path: Path, *, durable: bool) -> None:
    path = tmp_path / "a" / "b"
    for content in (b"first", b"second"):
        files.write(path, content, durable=durable)
        assert path.read_bytes() == content
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize(
    ("mode", "umask", "found"), [(0o600, 0o022, 0o600), (0o666, 0o022, 0o644), (0o666, 0o077, 0o600)]
)
def test_the_umask_takes_permissions_away(tmp_path: Path, mode: int, umask: int, found: int) -> None:
    before = os.umask(umask)
    try:
        files.write(tmp_path / "a", b"1", mode=mode)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == found


def test_what_can_not_be_written_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    files.write(path, b"first")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write(path, b"second", durable=True)
    assert path.read_bytes() == b"first"
    assert [*tmp_path.iterdir()] == [path]

"""A folder is known by its names, sizes and times; none that has changed is taken for the old one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from client_fn.data import folders
from client_fn.data.places import Place
from client_fn.data.shard_cache import ShardCache
from client_fn.errors import BadData, DataMissing, DataNotAllowed
from client_fn.site import Site

SITE = Site(secret=b"key", data_max_mb=1)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for name in ("cat/1.png", "dog/1.png", "dog/2.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_folder_is_read_where_it_lies(images: Path) -> None:
    read = ShardCache(SITE).read(f"file://{images}")
    assert (read.format, read.path, read.memory, read.samples) == ("folder", str(images), None, None)


def add(images: Path) -> None:
    (images / "cat" / "2.png").write_bytes(b"new")


def rename(images: Path) -> None:
    (images / "dog" / "2.png").rename(images / "cat" / "2.png")


def overwrite_with_the_old_time(images: Path) -> None:
    path = images / "cat" / "1.png"
    before = path.stat()
    path.write_bytes(b"CAT/1.png")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [add, rename, overwrite_with_the_old_time])
def test_a_changed_folder_has_another_version(images: Path, change: Callable[[Path], None]) -> None:
    place = Place("file", str(images), str(images))
    first = folders.look(place, SITE)
    assert folders.look(place, SITE) == first
    change(images)
    assert folders.look(place, SITE).version != first.version


def test_the_digest_changes_with_the_files_and_needs_the_site_s_secret(images: Path) -> None:
    cache = ShardCache(SITE)
    first = cache.read(str(images)).digest
    assert cache.read(str(images)).digest == ShardCache(SITE).read(str(images)).digest == first
    assert ShardCache(Site(secret=b"other")).read(str(images)).digest != first
    add(images)
    assert cache.read(str(images)).digest != first


def test_a_folder_that_is_too_large_is_refused(images: Path) -> None:
    for name in ("a.png", "b.png"):
        (images / "cat" / name).write_bytes(bytes(600 << 10))
    with pytest.raises(DataNotAllowed, match=r"its files have more than 1 MiB \(FEDKEEPER_DATA_MAX_MB\)"):
        ShardCache(SITE).read(str(images))


def test_a_folder_of_too_many_files_is_refused(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_FILES", 4)
    with pytest.raises(BadData, match="holds more than 4 files"):
        ShardCache(SITE).read(str(images))


def test_a_link_in_a_folder_is_refused_because_it_may_lead_out_of_it(images: Path) -> None:
    (images / "cat" / "secret.png").symlink_to("/etc/passwd")
    with pytest.raises(BadData, match="holds a symbolic link; put the file itself there"):
        ShardCache(SITE).read(str(images))


def test_a_pipe_in_a_folder_is_refused(images: Path) -> None:
    os.mkfifo(images / "cat" / "pipe.png")
    with pytest.raises(BadData, match="no regular file"):
        ShardCache(SITE).read(str(images))


def test_an_empty_folder_and_a_missing_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="the folder is empty"):
        ShardCache(SITE).read(str(tmp_path))
    with pytest.raises(DataMissing):
        ShardCache(SITE).read(f"{tmp_path}/none")


def test_a_folder_outside_of_the_prefixes_is_refused(images: Path) -> None:
    (images.parent / "in").mkdir()
    (images.parent / "in" / "link").symlink_to(images)
    with pytest.raises(DataNotAllowed, match="FEDKEEPER_DATA_PREFIXES"):
        ShardCache(Site(data_prefixes=(f"{images.parent}/in",))).read(f"{images.parent}/in/link")


def test_a_format_that_does_not_fit_the_place_is_named(images: Path) -> None:
    with pytest.raises(BadData, match=r"it is a folder; data\.format is 'csv'"):
        ShardCache(SITE).read(str(images), "csv")
    with pytest.raises(BadData, match=r"it is a file; data\.format is 'folder'"):
        ShardCache(SITE).read(f"{images}/cat/1.png", "folder")

"""A shard is used as it lies there now, is read once per version, and only from where the site allows it."""

import dataclasses
import hashlib
import hmac
import io
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import safetensors.numpy

from client_fn.data import shard_cache, sources
from client_fn.data.shard_cache import ShardCache
from client_fn.errors import BadData, ClientError, DataMissing, DataNotAllowed, DataUnreadable
from client_fn.site import Site
from client_fn.trainer import shared

MB = 1 << 20


def made(samples: int, seed: int = 1) -> bytes:
    x = np.random.default_rng(seed).random((samples, 2), dtype=np.float32)
    return safetensors.numpy.save({"x": x, "y": np.zeros(samples, dtype=np.int64)})


class Store(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """An object store. Its objects, what it tells about them, and its failure are set by the tests."""

    protocol = "fake"
    cachable = False
    content: bytes | None
    info_: dict[str, Any]
    failure: Exception | None
    reads: int
    bytes_read: int

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        if Store.failure:
            raise Store.failure
        if Store.content is None:
            raise FileNotFoundError(path)
        return {"name": path, "type": "file", "size": len(Store.content)} | Store.info_

    def _open(self, *_: Any, **__: Any) -> io.BufferedIOBase:
        Store.reads += 1

        class Reader(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                part = super().read(size)
                Store.bytes_read += len(part)
                return part

        return Reader(Store.content or b"")


@pytest.fixture
def store() -> type[Store]:
    Store.content, Store.info_, Store.failure, Store.reads, Store.bytes_read = made(5), {"ETag": "1"}, None, 0, 0
    fsspec.register_implementation("fake", Store, clobber=True)
    return Store


FAKE = Site(data_schemes=("fake", "file"), data_max_mb=1)
URL = "fake://bucket/shard"


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "shard.safetensors"
    path.write_bytes(made(5))
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths of the files that were opened."""
    paths: list[str] = []
    real = os.open

    def counted(path: str, flags: int) -> int:
        paths.append(path)
        return real(path, flags)

    monkeypatch.setattr(os, "open", counted)
    return paths


def bytes_of(read: shard_cache.Shard) -> bytes:
    assert read.memory is not None
    return shared.read(read.memory.descriptor, read.memory.size)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_file_comes_as_shared_memory_with_its_number_of_samples(shard: Path, scheme: str) -> None:
    read = ShardCache(Site()).read(f"{scheme}{shard}")
    assert bytes_of(read) == shard.read_bytes()
    assert (read.samples, read.format, read.where) == (5, "safetensors", f"{scheme}{shard}")
    assert read.memory is not None
    with pytest.raises(PermissionError):
        os.pwrite(read.memory.descriptor, b"0", 0)


def test_a_relative_path_and_a_link_work(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shard.parent)
    (shard.parent / "link").symlink_to(shard)
    cache = ShardCache(Site())
    assert cache.read("shard.safetensors") is cache.read("link") is cache.read(str(shard))


def test_the_digest_needs_the_site_s_secret(shard: Path) -> None:
    one, other = (ShardCache(Site(secret=secret)).read(str(shard)) for secret in (b"one", b"other"))
    assert one.digest == hmac.new(b"one", shard.read_bytes(), "sha256").hexdigest()
    assert one.digest != other.digest
    assert ShardCache(Site(secret=b"one")).read(str(shard)).digest == one.digest
    without = {ShardCache(Site()).read(str(shard)).digest for _ in range(2)}
    assert len(without) == 2
    assert hashlib.sha256(shard.read_bytes()).hexdigest() not in without


def test_what_did_not_change_is_not_read_twice(shard: Path, opened: list[str]) -> None:
    cache = ShardCache(Site())
    first = cache.read(str(shard))
    assert all(cache.read(str(shard)) is first for _ in range(5))
    assert opened == [str(shard)]


def test_two_threads_read_a_shard_once(shard: Path, opened: list[str]) -> None:
    cache, start = ShardCache(Site()), threading.Barrier(4)

    def read() -> shard_cache.Shard:
        start.wait(10)
        return cache.read(str(shard))

    with ThreadPoolExecutor(4) as pool:
        results = [running.result(10) for running in [pool.submit(read) for _ in range(4)]]
    assert all(result is results[0] for result in results)
    assert len(opened) == 1


def append(path: Path) -> None:
    path.write_bytes(made(6))


def replace(path: Path) -> None:
    (path.parent / "new").write_bytes(made(5, seed=2))
    (path.parent / "new").replace(path)


def overwrite_with_the_old_time(path: Path) -> None:
    before = path.stat()
    path.write_bytes(made(5, seed=2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [append, replace, overwrite_with_the_old_time])
def test_a_changed_file_is_read_again(shard: Path, change: Callable[[Path], None]) -> None:
    cache = ShardCache(Site())
    first = cache.read(str(shard))
    change(shard)
    second = cache.read(str(shard))
    assert bytes_of(second) == shard.read_bytes()
    assert second.digest != first.digest
    assert cache.read(str(shard)) is second
    assert list(cache._kept) == [str(shard)]


def test_a_deleted_file_is_missing_at_once_and_forgotten(shard: Path) -> None:
    cache = ShardCache(Site())
    cache.read(str(shard))
    shard.unlink()
    with pytest.raises(DataMissing) as failed:
        cache.read(str(shard))
    assert failed.value.where == str(shard)
    assert failed.value.retryable
    assert not cache._kept


def test_a_missing_folder_is_missing_data(shard: Path) -> None:
    for path in (f"{shard.parent}/none/shard", f"{shard}/shard"):
        with pytest.raises(DataMissing):
            ShardCache(Site()).read(path)


def test_sixteen_shards_are_kept(tmp_path: Path, opened: list[str]) -> None:
    cache = ShardCache(Site())
    for number in range(17):
        (tmp_path / f"{number}").write_bytes(made(5, seed=number))
    for number in [*range(16), 0, 16, 0]:
        cache.read(f"{tmp_path}/{number}")
    assert len(opened) == 17
    cache.read(f"{tmp_path}/1")
    assert len(opened) == 18
    assert len(cache._kept) == 16


def changing(monkeypatch: pytest.MonkeyPatch, path: Path, times: int) -> list[int]:
    """Append to a file each time when it has been read, for a number of times. Return the reads."""
    reads: list[int] = []
    real = sources._read

    def read(*args: Any, **options: Any) -> tuple[bytearray, int]:
        content, size = real(*args, **options)
        reads.append(size)
        if len(reads) <= times:
            path.write_bytes(made(5 + len(reads)))
        return content, size

    monkeypatch.setattr(sources, "_read", read)
    return reads


def test_a_file_that_changes_while_it_is_read_is_read_again(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = changing(monkeypatch, shard, 2)
    assert ShardCache(Site()).read(str(shard)).samples == 7
    assert len(reads) == 3


def test_a_file_that_changes_all_the_time_is_an_error(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = changing(monkeypatch, shard, 100)
    with pytest.raises(DataUnreadable, match="in 3 reads") as failed:
        ShardCache(Site()).read(str(shard))
    assert failed.value.retryable
    assert len(reads) == 3


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/tty", "fifo"])
def test_only_regular_files_are_opened(tmp_path: Path, device: str, opened: list[str]) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises((BadData, DataMissing), match=r"no regular file|no data"):
        ShardCache(Site()).read(device if device.startswith("/") else f"{tmp_path}/fifo")
    assert opened == []


@pytest.mark.parametrize("swapped", ["fifo", "outside"])
def test_a_file_that_is_swapped_before_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    folder = tmp_path / "in" / "folder"
    shard = folder / "shard"
    folder.mkdir(parents=True)
    shard.write_bytes(made(5))
    real = os.open

    def swap(path: str, flags: int) -> int:
        if swapped == "fifo":
            shard.unlink()
            os.mkfifo(shard)
        else:
            folder.rename(tmp_path / "out")
            folder.symlink_to(tmp_path / "out")
        return real(path, flags)

    monkeypatch.setattr(os, "open", swap)
    with pytest.raises((BadData, DataNotAllowed), match=r"no regular file|outside of"):
        ShardCache(Site(data_prefixes=(f"{tmp_path}/in",))).read(str(shard))


def test_an_empty_file_is_named(shard: Path) -> None:
    shard.write_bytes(b"")
    with pytest.raises(BadData, match=r"shard .*shard\.safetensors: it is empty"):
        ShardCache(Site()).read(str(shard))


def test_a_large_file_is_not_copied_and_is_seen_when_it_changes(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAP_ABOVE", 0)
    cache = ShardCache(Site(secret=b"key"))
    read = cache.read(str(shard))
    assert read.memory is not None
    assert os.fstat(read.memory.descriptor).st_ino == shard.stat().st_ino
    assert (read.samples, read.digest) == (5, hmac.new(b"key", shard.read_bytes(), "sha256").hexdigest())
    assert cache.read(str(shard)) is read
    append(shard)
    assert cache.read(str(shard)).samples == 6


@pytest.mark.parametrize(
    ("name", "content", "wanted", "format_"),
    [
        ("a.csv", b"x,y", "", "csv"),
        ("a.TSV", b"x\ty", "", "csv"),
        ("a.npz", b"", "", "npz"),
        ("a.parquet", b"", "", "parquet"),
        ("a", b"PAR1....", "", "parquet"),
        ("a.data", b"PK\x03\x04....", "", "npz"),
        ("a.jsonl", b'{"text": "a"}', "", "file"),
        ("a.txt", b"x,y", "csv", "csv"),
        ("a.csv", b"x,y", "file", "file"),
    ],
)
def test_a_format_is_the_job_s_or_the_ending_s_or_the_first_bytes(
    tmp_path: Path, name: str, content: bytes, wanted: str, format_: str
) -> None:
    (tmp_path / name).write_bytes(content or b"0")
    read = ShardCache(Site()).read(f"{tmp_path}/{name}", wanted)
    assert (read.format, read.samples) == (format_, None)


def test_the_same_file_in_another_format_is_another_shard(shard: Path) -> None:
    cache = ShardCache(Site())
    assert [cache.read(str(shard), wanted).format for wanted in ("", "file", "")] == [
        "safetensors",
        "file",
        "safetensors",
    ]


def test_a_file_outside_of_the_prefixes_is_not_opened(shard: Path, opened: list[str]) -> None:
    (shard.parent / "in").mkdir()
    (shard.parent / "in" / "link").symlink_to(shard)
    cache = ShardCache(Site(data_prefixes=(f"{shard.parent}/in",)))
    for path in (shard, shard.parent / "in" / "link", f"{shard.parent}/in/../shard.safetensors", "/no/such/file"):
        with pytest.raises(DataNotAllowed, match=r"outside of .*/in \(FEDKEEPER_DATA_PREFIXES\)"):
            cache.read(str(path))
    assert opened == []


def test_a_file_inside_of_the_prefixes_is_read(shard: Path) -> None:
    assert ShardCache(Site(data_prefixes=(str(shard.parent),))).read(str(shard)).samples == 5


def test_a_file_that_is_too_large_is_not_opened(tmp_path: Path, opened: list[str]) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MB + 1)
    with pytest.raises(DataNotAllowed, match=r"more than 1 MiB \(FEDKEEPER_DATA_MAX_MB\)") as failed:
        ShardCache(FAKE).read(f"{tmp_path}/large")
    assert failed.value.setting == "FEDKEEPER_DATA_MAX_MB"
    assert opened == []


def test_an_invalid_shard_is_named_and_not_kept(shard: Path) -> None:
    shard.write_bytes(b"s3cret:x:0:0")
    cache = ShardCache(Site())
    with pytest.raises(BadData, match="no safetensors file") as failed:
        cache.read(str(shard))
    assert failed.value.where == str(shard)
    assert "s3cret" not in str(failed.value)
    assert not cache._kept


def test_a_file_in_proc_that_hides_its_size_gives_nothing() -> None:
    with pytest.raises(DataUnreadable):
        ShardCache(Site()).read("/proc/self/environ")


@pytest.mark.parametrize("mark", ["ETag", "etag", "LastModified", "Last-Modified", "generation", "mtime"])
def test_an_object_is_read_once_per_version(store: type[Store], mark: str) -> None:
    cache = ShardCache(FAKE)
    store.info_ = {mark: "1"}
    first = cache.read(URL)
    assert cache.read(URL) is first
    assert (first.samples, store.reads) == (5, 1)
    store.content, store.info_ = made(5, seed=2), {mark: "2"}
    second = cache.read(URL)
    assert bytes_of(second) == store.content
    assert cache.read(URL) is second
    assert store.reads == 2
    store.content = None
    with pytest.raises(DataMissing):
        cache.read(URL)


def test_a_place_without_versions_is_read_each_time(store: type[Store]) -> None:
    cache = ShardCache(FAKE)
    store.info_ = {"created": "1", "ETag": ""}
    assert cache.read(URL).samples == 5
    store.content = made(5, seed=2)
    assert bytes_of(cache.read(URL)) == store.content
    assert store.reads == 2
    assert not cache._kept


def test_a_failed_look_up_forgets_nothing(store: type[Store]) -> None:
    cache = ShardCache(FAKE)
    first = cache.read(URL)
    store.failure = ConnectionError("away")
    with pytest.raises(DataUnreadable):
        cache.read(URL)
    store.failure = None
    assert cache.read(URL) is first


@pytest.mark.parametrize(
    ("failure", "expected", "reason"),
    [
        (RuntimeError("530 says no: token=s3cret"), DataUnreadable, "reading it failed with RuntimeError"),
        (PermissionError("s3cret"), DataUnreadable, "reading it failed with PermissionError"),
        (ImportError("s3cret"), BadData, "this Python can't read from there: install"),
        (FileNotFoundError("s3cret"), DataMissing, "stage the data there"),
    ],
)
def test_what_a_backend_says_is_not_shown(
    store: type[Store], failure: Exception, expected: type[ClientError], reason: str
) -> None:
    store.failure = failure
    with pytest.raises(expected, match=reason) as failed:
        ShardCache(FAKE).read("fake://user:s3cret@bucket/shard?token=s3cret")
    assert "s3cret" not in str(failed.value)
    assert "fake://bucket/shard" in str(failed.value)


def test_an_allowed_scheme_whose_package_is_missing_names_it() -> None:
    with pytest.raises(BadData, match="install adlfs"):
        ShardCache(Site()).read("abfs://box/shard")
    with pytest.raises(DataUnreadable, match="ValueError"):
        ShardCache(Site(data_schemes=("nowhere",))).read("nowhere://a/b")


def test_an_object_that_is_too_large_is_not_read(store: type[Store]) -> None:
    store.info_ = {"size": MB + 1}
    with pytest.raises(DataNotAllowed, match="FEDKEEPER_DATA_MAX_MB"):
        ShardCache(FAKE).read(URL)
    assert store.reads == 0


@pytest.mark.parametrize(("size", "most"), [(10, 3 * 11), (None, MB + 1)])
def test_no_more_than_the_limit_is_read_if_the_size_is_wrong(store: type[Store], size: int | None, most: int) -> None:
    store.content, store.info_ = bytes(3 * MB), {"size": size, "ETag": "1"}
    with pytest.raises((DataNotAllowed, DataUnreadable)):
        ShardCache(FAKE).read(URL)
    assert store.bytes_read == most


def test_an_object_of_unknown_size_is_read(store: type[Store]) -> None:
    store.info_ = {"size": None}
    assert ShardCache(FAKE).read(URL).samples == 5


def test_a_folder_of_a_store_is_named(store: type[Store]) -> None:
    store.info_ = {"type": "directory", "size": 0}
    with pytest.raises(BadData, match="it is a folder"):
        ShardCache(FAKE).read(URL)


def test_a_shard_can_t_be_changed(shard: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ShardCache(Site()).read(str(shard)).samples = 6  # type: ignore[misc]

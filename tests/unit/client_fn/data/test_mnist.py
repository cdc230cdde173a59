"""MNIST's files: where they are found, how they are downloaded, and the error if they are missing."""

import errno
import gzip
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.support import files
from client_fn.data import mnist
from client_fn.errors import BadData, DataMissing
from tests.support.idx_files import CONTENTS, LABELS, SMALL, put


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the environment nor the user's cache has any data."""
    monkeypatch.delenv(mnist.DATA_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Mirror:
    """A web server with files that records the requested paths."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.requests: list[str] = []
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.requests.append(self.path)
                content = files.get(self.path)
                self.send_response(200 if content else 404)
                self.send_header("content-length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_: object) -> None:
                """Keep stderr clean."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


def serving(files: dict[str, bytes]) -> Iterator[Mirror]:
    mirror = Mirror(files)
    thread = threading.Thread(target=mirror.server.serve_forever, args=(0.01,), name="mirror")
    thread.start()
    yield mirror
    mirror.server.shutdown()
    thread.join(10)
    mirror.server.server_close()


@pytest.fixture
def good() -> Iterator[Mirror]:
    yield from serving({f"/{name}.gz": gzip.compress(content) for name, content in CONTENTS.items()})


@pytest.fixture
def bad() -> Iterator[Mirror]:
    """A mirror with a wrong file under one name, and none under the other."""
    yield from serving({"/images.gz": gzip.compress(b"something else")})


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("below", ["", "mnist"])
def test_a_named_folder_is_used_itself_or_its_subfolder(tmp_path: Path, below: str, *, compressed: bool) -> None:
    existing = put(tmp_path / "data" / below, compressed=compressed)
    folder = mnist.folder(tmp_path / "data", mirrors=(), files=SMALL)
    assert folder == existing
    assert mnist.read(folder, SMALL[0]).tolist() == [[[0, 51], [102, 255]], [[1, 2], [3, 4]]]
    assert mnist.read(folder, SMALL[1]).tolist() == [7, 3]


def test_the_environment_may_name_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    existing = put(tmp_path / "data", compressed=True)
    monkeypatch.setenv(mnist.DATA_VARIABLE, str(existing))
    assert mnist.folder(mirrors=(), files=SMALL) == existing


def test_the_given_folder_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mnist.DATA_VARIABLE, str(put(tmp_path / "other", compressed=True)))
    existing = put(tmp_path / "data", compressed=True)
    assert mnist.folder(existing, mirrors=(), files=SMALL) == existing


def test_a_named_folder_without_the_files_is_an_error_that_lists_them(tmp_path: Path, good: Mirror) -> None:
    with pytest.raises(DataMissing, match=r"put images.gz, labels.gz there") as failed:
        mnist.folder(tmp_path, mirrors=(good.url,), files=SMALL)
    assert failed.value.where == str(tmp_path)
    assert good.requests == []


def test_a_download_fills_the_cache_once(tmp_path: Path, good: Mirror, capsys: pytest.CaptureFixture[str]) -> None:
    first = mnist.folder(mirrors=(good.url,), files=SMALL)
    assert first == tmp_path / "cache" / "fedkeeper" / "mnist"
    assert sorted(path.name for path in first.iterdir()) == ["images.gz", "labels.gz"]
    assert mnist.read(first, SMALL[1]).tolist() == [7, 3]
    mnist.folder(mirrors=(good.url,), files=SMALL)
    assert good.requests == ["/images.gz", "/labels.gz"]
    shown = capsys.readouterr()
    assert "images" in shown.err
    assert shown.out == ""


def test_a_quiet_download_shows_nothing(good: Mirror, capsys: pytest.CaptureFixture[str]) -> None:
    mnist.folder(mirrors=(good.url,), files=SMALL, quiet=True)
    assert capsys.readouterr() == ("", "")


def test_a_full_disk_is_one_sentence(tmp_path: Path, good: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write", write)
    with pytest.raises(DataMissing) as failed:
        mnist.folder(mirrors=(good.url,), files=SMALL, quiet=True)
    cache = tmp_path / "cache" / "fedkeeper" / "mnist"
    assert str(failed.value) == (
        f"no data 'mnist' at {cache}: can't write images.gz: No space left on device; make room there, or set "
        "FEDKEEPER_DATA to a folder that has all its files"
    )
    assert good.requests == ["/images.gz"], "another mirror has no more room"


def test_the_next_mirror_is_asked_for_a_file_that_the_first_lacks_or_has_wrong(bad: Mirror, good: Mirror) -> None:
    folder = mnist.folder(mirrors=(bad.url, good.url), files=SMALL)
    assert mnist.read(folder, SMALL[0]).shape == (2, 2, 2)
    assert bad.requests == good.requests == ["/images.gz", "/labels.gz"]


def test_only_what_is_missing_is_downloaded(tmp_path: Path, good: Mirror) -> None:
    put(tmp_path / "cache" / "fedkeeper" / "mnist", compressed=True)
    (tmp_path / "cache" / "fedkeeper" / "mnist" / "labels.gz").unlink()
    mnist.folder(mirrors=(good.url,), files=SMALL)
    assert good.requests == ["/labels.gz"]


def test_offline_the_error_says_which_files_to_put_where(tmp_path: Path, bad: Mirror) -> None:
    with pytest.raises(DataMissing) as failed:
        mnist.folder(mirrors=(bad.url, "http://127.0.0.1:1/"), files=SMALL)
    assert failed.value.where == str(tmp_path / "cache" / "fedkeeper" / "mnist")
    for part in ("put images.gz, labels.gz there", mnist.DATA_VARIABLE, "SHA-256", "http://127.0.0.1:1/images.gz"):
        assert part in failed.value.remedy
    assert list((tmp_path / "cache" / "fedkeeper").rglob("*.gz")) == []


def test_a_file_with_wrong_content_is_refused(tmp_path: Path) -> None:
    folder = put(tmp_path / "data", compressed=True)
    (folder / "labels.gz").write_bytes(gzip.compress(LABELS[:-1] + b"\x09"))
    with pytest.raises(BadData, match=r"labels.gz.*SHA-256.*delete it"):
        mnist.read(folder, SMALL[1])
    (folder / "labels.gz").write_bytes(gzip.compress(LABELS)[:12] + b"\xff\xff\xff\xff")
    with pytest.raises(BadData):
        mnist.read(folder, SMALL[1])


def test_mnist_s_files_are_those_that_were_published() -> None:
    assert [file.name for file in mnist.FILES] == [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ]
    assert [file.bytes for file in mnist.FILES] == [16 + 60_000 * 784, 8 + 60_000, 16 + 10_000 * 784, 8 + 10_000]
    assert all(len(file.sha256) == 64 for file in mnist.FILES)

"""A shard on a real HTTP server: its version is asked for, its size is limited, and redirections are checked."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import safetensors.numpy

from client_fn.data.shard_cache import ShardCache
from client_fn.errors import ClientError, DataMissing, DataNotAllowed, DataUnreadable
from client_fn.site import Site
from tests.support.ports import free_port

SHARD = safetensors.numpy.save({"x": np.zeros((5, 2)), "y": np.arange(5)})
TARGETS = {"in": "/data/tagged", "out": "/other/tagged", "scheme": "ftp://127.0.0.1/s3cret"}


class Web(ThreadingHTTPServer):
    """A web server that notes each request."""

    def __init__(self) -> None:
        port = free_port()
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{port}"
        self.requests: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """Answers as the last part of the path says: a status, a redirection, or a shard."""

    server: Web

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        kind = self.answer()
        if kind in {"tagged", "plain", "unknown"}:
            self.wfile.write(SHARD)
        while kind == "endless":
            try:
                self.wfile.write(bytes(1 << 16))
            except OSError:
                return

    def answer(self) -> str:
        self.server.requests.append(f"{self.command} {self.path}")
        kind = self.path.partition("?")[0].rpartition("/")[2]
        self.send_response(302 if kind in TARGETS else int(kind) if kind.isdecimal() else 200, "s3cret")
        if kind in TARGETS:
            self.send_header("Location", TARGETS[kind])
        if kind == "tagged":
            self.send_header("ETag", "1")
        if kind in {"tagged", "plain"}:
            self.send_header("Content-Length", str(len(SHARD)))
        self.end_headers()
        return kind


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="web")
    thread.start()
    yield server
    server.shutdown()
    thread.join(10)
    server.server_close()


def site(web: Web) -> Site:
    return Site(data_schemes=("http",), data_prefixes=(f"{web.url}/data",), data_max_mb=1)


def test_a_shard_with_an_etag_is_transferred_once(web: Web) -> None:
    cache = ShardCache(site(web))
    first = cache.read(f"{web.url}/data/tagged")
    assert first.samples == 5
    assert cache.read(f"{web.url}/data/tagged") is first
    assert web.requests.count("GET /data/tagged") == 1


@pytest.mark.parametrize("kind", ["plain", "unknown"])
def test_a_shard_without_a_version_is_transferred_each_time(web: Web, kind: str) -> None:
    cache = ShardCache(site(web))
    for _ in range(2):
        web.requests.clear()
        assert cache.read(f"{web.url}/data/{kind}").samples == 5
        assert f"GET /data/{kind}" in web.requests


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("404", DataMissing),
        ("410", DataMissing),
        ("403", DataUnreadable),
        ("500", DataUnreadable),
        ("endless", DataNotAllowed),
        ("out", DataNotAllowed),
        ("scheme", DataNotAllowed),
    ],
)
def test_a_refusal_does_not_quote_the_server(web: Web, kind: str, expected: type[ClientError]) -> None:
    with pytest.raises(expected) as failed:
        ShardCache(site(web)).read(f"{web.url}/data/{kind}?s3cret")
    assert "s3cret" not in str(failed.value)
    assert not any("/other" in request for request in web.requests)


def test_a_redirection_to_an_allowed_place_is_followed(web: Web) -> None:
    assert ShardCache(site(web)).read(f"{web.url}/data/in").samples == 5


def test_a_server_that_is_away_is_no_missing_shard() -> None:
    away = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(DataUnreadable, match="reading it failed with Client"):
        ShardCache(Site(data_schemes=("http",))).read(f"{away}/data/tagged")

"""A site decides by the text of data_loc, before anything is opened or imported, where data may lie."""

import sys
from pathlib import Path

import pytest

from client_fn.data import places
from client_fn.errors import BadData, DataNotAllowed
from client_fn.site import Site

SITE = Site()


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("/data/shard", "/data/shard"),
        ("file:///data/shard", "/data/shard"),
        ("file:/data/shard", "/data/shard"),
        ("local:///data//a/../shard/", "/data/shard"),
        ("s3://bucket/a b", "s3://bucket/a b"),
        ("https://user:pw@host/a?b", "https://user:pw@host/a?b"),
    ],
)
def test_a_place_keeps_what_its_backend_needs(url: str, target: str) -> None:
    assert places.allowed(url, SITE).target == target


def test_a_relative_path_begins_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert places.allowed("a/shard", SITE).target == f"{tmp_path}/a/shard"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.allowed("~/shard", SITE).target == f"{tmp_path}/shard"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1:21/x",
        "http://169.254.169.254/latest",
        "zip://a::file://bomb.zip",
        "file:///a::file:///b",
        "reference://a::data:application/json;base64,e30=",
        "reference://a",
        "data:application/json;base64,e30=",
        "memory://a",
        "S3://bucket/a",
        "/data/x://y",
        "github://owner:repo@main/file",
    ],
)
def test_what_is_no_allowed_scheme_is_refused_with_the_setting(url: str) -> None:
    with pytest.raises(DataNotAllowed, match="FEDKEEPER_DATA_SCHEMES allows file, s3, gs, abfs, https") as failed:
        places.allowed(url, SITE)
    assert failed.value.setting == "FEDKEEPER_DATA_SCHEMES"
    assert not failed.value.retryable


def test_a_site_may_forbid_its_own_files_and_allow_others() -> None:
    site = Site(data_schemes=("memory",))
    assert places.allowed("memory://a", site).scheme == "memory"
    for url in ("/data/shard", "file:///data/shard", "local:///data/shard"):
        with pytest.raises(DataNotAllowed, match="DATA_SCHEMES allows memory"):
            places.allowed(url, site)


@pytest.mark.parametrize("url", ["/data/\0", "https://host/a\nb", "/data/\ud800"])
def test_a_text_that_is_no_place_is_refused(url: str) -> None:
    with pytest.raises(BadData, match=r"it is no path|characters"):
        places.allowed(url, SITE)


def test_files_lie_below_a_prefix_also_after_dots_and_links(tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "database").mkdir()
    (tmp_path / "data" / "out").symlink_to(tmp_path / "database")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for prefix in (f"{tmp_path}/data", f"{tmp_path}/data/", f"file://{tmp_path}/link", "s3://bucket"):
        site = Site(data_prefixes=("gs://bucket", prefix))
        inside = ("data/a/shard", "link/shard", "data/a/../shard", "data", "database/../data/shard")
        outside = ("database/shard", "data/../shard", "data/out/shard", "link/out/shard", "link/../shard", "")
        for path in outside if not prefix.startswith("s3") else (*outside, *inside):
            with pytest.raises(DataNotAllowed, match=r"outside of gs://bucket, .*\(FEDKEEPER_DATA_PREFIXES\)"):
                places.allowed(f"{tmp_path}/{path}", site)
        for path in inside if not prefix.startswith("s3") else ():
            assert places.allowed(f"{tmp_path}/{path}", site).scheme == "file"


@pytest.mark.parametrize(
    ("prefix", "inside", "outside"),
    [
        (
            "s3://bucket/data/",
            ["s3://bucket/data/a", "s3://bucket/data"],
            ["s3://bucket/database", "s3://bucket2/data/a", "s3://BUCKET/data/a", "gs://bucket/data/a", "s3://bucket"],
        ),
        (
            "https://host/data",
            ["https://host/data/a?b=c", "https://HOST:443/data/a", "https://u:p@host/data/a"],
            [
                "https://host/database",
                "https://host:444/data/a",
                "https://host@evil/data/a",
                "https://host.evil/data/a",
                "https://evil/?https://host/data/a",
                "https://host/data/../a",
                "https://host/data/%2e%2E/a",
                "https://host/data/%2e%2e%2fa",
                "https://host/data/..;/a",
                "https://host/data%2f..%2fa",
                "https://host/x?/data/a",
                "https://host\\@evil/data/a",
                "https://host:x/data/a",
                "https://[/data/a",
                "/data/a",
            ],
        ),
        ("abfs://box@account/data", ["abfs://box@account/data/a"], ["abfs://other@account/data/a"]),
    ],
)
def test_urls_lie_below_a_prefix(prefix: str, inside: list[str], outside: list[str]) -> None:
    site = Site(data_prefixes=(prefix,))
    for url in inside:
        assert places.allowed(url, site).target == url
    for url in outside:
        with pytest.raises(DataNotAllowed, match="FEDKEEPER_DATA_PREFIXES"):
            places.allowed(url, site)


def test_a_message_holds_no_secret_and_no_control_character() -> None:
    site = Site(data_prefixes=("https://me:s3cret@host/a",))
    for url in (
        "nowhere://user:s3cret@host/a?token=s3cret",
        "zip://a::ftp://user:s3cret@host/b",
        "https://user:s3cret@else/b#s3cret",
    ):
        with pytest.raises(DataNotAllowed) as failed:
            places.allowed(url, site)
        assert "s3cret" not in str(failed.value)
        assert "s3cret" not in failed.value.where
    assert places.show("/a\x1b[31m\n" + "b" * 1000) == "/a?[31m?" + "b" * 192


def test_a_refused_url_does_not_even_import_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    from client_fn.data.shard_cache import ShardCache

    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(DataNotAllowed):
        ShardCache(SITE).read("reference://a::data:application/json;base64,e30=")

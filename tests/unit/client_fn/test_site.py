"""A site's settings: from the environment, checked, and passed on to other processes without the secret."""

import os
from pathlib import Path

import pytest

from client_fn import site
from client_fn.errors import BadSettings
from client_fn.site import Site

FULL = Site(
    device="cuda:1",
    allow=("torchvision.models", "mine:Own"),
    code=Path("/code"),
    code_is_allowed=False,
    code_store=Path("/store"),
    python="/other/bin/python",
    memory_mb=512,
    silence_s=2.5,
    variables=("HF_HOME", "HF_*"),
    reveal="text",
    metrics="sum",
    data_schemes=("s3",),
    data_prefixes=("s3://bucket/", "/data"),
    data_max_mb=7,
    together=3,
    graphs=False,
)


def test_nothing_set_means_the_defaults() -> None:
    assert site.read({}) == Site()
    assert (Site().device, Site().allow, Site().code, Site().reveal, Site().metrics) == (
        "",
        (),
        None,
        "class",
        "client",
    )
    assert 0 < Site().memory_mb < site.machine_memory_mb()


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ((f"{512 << 20}\n", None), 512),
        ((None, f"{256 << 20}\n"), 256),
        (("max\n", "9223372036854771712\n"), None),
        ((None, None), None),
    ],
    ids=["cgroup v2", "cgroup v1", "no limit", "no cgroups"],
)
def test_a_container_has_the_memory_that_it_is_limited_to(
    contents: tuple[str | None, str | None], expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = (tmp_path / "v2", tmp_path / "v1")
    for file, content in zip(files, contents, strict=True):
        if content is not None:
            file.write_text(content)
    monkeypatch.setattr(site, "_CONTAINER_LIMITS", files)
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    assert site.machine_memory_mb() == (expected or physical)


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert site.read(dict.fromkeys([*site.to_environ(FULL), "FEDKEEPER_SITE_SECRET_FILE"], "")) == Site()


def test_every_setting_reaches_another_process() -> None:
    assert site.read(site.to_environ(FULL)) == FULL
    assert site.read(site.to_environ(Site())) == Site()


def test_the_secret_is_neither_passed_on_nor_shown() -> None:
    own = site.read({"FEDKEEPER_SITE_SECRET": "s3cret"})
    assert own.secret == b"s3cret"
    assert "s3cret" not in repr(own) + str(site.to_environ(own))


def test_the_secret_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"of the file\n")
    environ = {"FEDKEEPER_SITE_SECRET_FILE": str(file), "FEDKEEPER_SITE_SECRET": "other"}
    assert site.read(environ).secret == b"of the file"
    file.write_bytes(b"\n")
    assert site.read(environ).secret is None


def test_clients_are_trained_together_on_a_gpu_unless_it_is_set() -> None:
    def read(**found: str) -> int:
        return site.read({f"FEDKEEPER_{name.upper()}": value for name, value in found.items()}).most_together

    assert (read(), read(device="cpu"), read(device="cuda:1")) == (1, 1, 64)
    assert (read(together="auto"), read(together="7"), read(device="cuda", together="1")) == (64, 7, 1)


def test_lists_are_separated_by_commas_and_spaces_do_not_count() -> None:
    assert site.read({"FEDKEEPER_ALLOW": " a.b , c:D,,"}).allow == ("a.b", "c:D")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("FEDKEEPER_TRAINER_SILENCE_S", "0", "'0' is no number above 0"),
        ("FEDKEEPER_TRAINER_SILENCE_S", "-1", "no number above 0"),
        ("FEDKEEPER_TRAINER_SILENCE_S", "inf", "no number above 0"),
        ("FEDKEEPER_TRAINER_SILENCE_S", "nan", "no number above 0"),
        ("FEDKEEPER_TRAINER_MEMORY_MB", "a lot", "no number above 0"),
        ("FEDKEEPER_DATA_MAX_MB", "0", "no number above 0"),
        ("FEDKEEPER_TOGETHER", "0", "'0' is neither 'auto' nor a number from 1 to 64"),
        ("FEDKEEPER_TOGETHER", "65", "'65' is neither"),
        ("FEDKEEPER_TOGETHER", "many", "'many' is neither"),
        ("FEDKEEPER_REVEAL", "all", "'all' is none of class, text"),
        ("FEDKEEPER_METRICS", "none", "is none of client, sum"),
        ("FEDKEEPER_CODE_ALLOWED", "no", "is none of 1, 0"),
        ("FEDKEEPER_SITE_SECRET_FILE", "/nowhere/secret", "/nowhere/secret can't be read"),
    ],
)
def test_a_value_that_can_t_be_used_is_named(name: str, value: str, reason: str) -> None:
    with pytest.raises(BadSettings, match=reason) as bad:
        site.read({name: value})
    assert bad.value.name == name
    assert str(bad.value).startswith(f"{name}: ")


def test_another_process_may_run_in_another_folder() -> None:
    assert site.to_environ(Site(code=Path("mine.py")))["FEDKEEPER_CODE"] == str(Path.cwd() / "mine.py")


def test_the_code_of_an_archive_counts_if_no_variable_names_code() -> None:
    assert site.read({}).code is None
    assert site.read({}, code=Path("/packed")).code == Path("/packed")
    assert site.read({"FEDKEEPER_CODE": "/mine"}, code=Path("/packed")).code == Path("/mine")


def test_this_checkout_has_no_packaged_code() -> None:
    assert site.packaged_code() is None

"""A bridge's secrets come from its folder or from the environment, and from nowhere else."""

from pathlib import Path

import pytest

from bridges.errors import SecretMissing
from bridges.secrets import SecretStore, variable

HIDDEN = "s3cret"


def test_a_secret_is_its_file_without_the_last_line_break(tmp_path: Path) -> None:
    for name, content in {"plain": HIDDEN, "line": f"{HIDDEN}\n", "inner": f"{HIDDEN}\n\nmore \n"}.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    secrets = SecretStore(tmp_path)
    assert [secrets.value(name) for name in ("plain", "line", "inner")] == [HIDDEN, HIDDEN, f"{HIDDEN}\n\nmore "]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("key", "FEDKEEPER_SECRET_KEY"),
        ("bridge-key", "FEDKEEPER_SECRET_BRIDGE_KEY"),
        ("a.b c", "FEDKEEPER_SECRET_A_B_C"),
    ],
)
def test_a_secret_may_be_in_the_environment(name: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert variable(name) == expected
    monkeypatch.setenv(expected, HIDDEN)
    assert SecretStore().value(name) == HIDDEN


def test_the_file_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKEEPER_SECRET_KEY", "the environment's")
    (tmp_path / "key").write_text(HIDDEN, encoding="utf-8")
    assert SecretStore(tmp_path).value("key") == HIDDEN
    assert SecretStore(tmp_path / "elsewhere").value("key") == "the environment's"


def test_a_secret_is_read_on_each_use(tmp_path: Path) -> None:
    secrets = SecretStore(tmp_path)
    for content in ("first", "second"):
        (tmp_path / "key").write_text(content, encoding="utf-8")
        assert secrets.value("key") == content


def test_the_error_names_a_missing_secret_and_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(SecretMissing) as missing:
        SecretStore(tmp_path).value("bridge-key")
    assert missing.value.name == "bridge-key"
    assert str(tmp_path / "bridge-key") in str(missing.value)
    assert "FEDKEEPER_SECRET_BRIDGE_KEY" in str(missing.value)
    with pytest.raises(SecretMissing, match="name a folder"):
        SecretStore().value("bridge-key")


@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_secret_is_missing(content: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(content, encoding="utf-8")
    with pytest.raises(SecretMissing):
        SecretStore(tmp_path).value("key")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/b", "..", ".", "", "key\n", "a" * 64])
def test_a_name_leads_nowhere_but_into_the_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text(HIDDEN, encoding="utf-8")
    folder = tmp_path / "secrets"
    (folder / "a").mkdir(parents=True)
    for inside in (folder / "a" / "b", folder / "key"):
        inside.write_text(HIDDEN, encoding="utf-8")
    with pytest.raises(SecretMissing):
        SecretStore(folder).value(name)


def test_the_error_says_that_a_secret_can_t_be_read(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    (tmp_path / "folder").mkdir()
    for name in ("key", "folder"):
        with pytest.raises(SecretMissing, match="can't be read"):
            SecretStore(tmp_path).value(name)

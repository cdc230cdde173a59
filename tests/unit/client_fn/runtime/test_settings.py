"""An instance's settings from its environment."""

from pathlib import Path

import pytest

from client_fn.errors import BadSettings
from client_fn.runtime import settings
from client_fn.runtime.settings import Settings

HIDDEN = "s3cret"


def test_an_empty_environment_means_every_client_and_no_broker() -> None:
    assert settings.read({}) == Settings(url="", client="", key=None)


def test_the_key_is_in_a_file_or_in_the_environment_itself(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{HIDDEN}\n", encoding="utf-8")
    url = "nats://u@host?password_env=PW"
    result = settings.read({"FEDKEEPER_URL": url, "FEDKEEPER_CLIENT": "c1", "FEDKEEPER_KEY_FILE": str(file)})
    assert result == Settings(url, "c1", HIDDEN.encode())
    assert settings.read({"FEDKEEPER_KEY": HIDDEN}).key == HIDDEN.encode()
    assert HIDDEN not in repr(result)


@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_key_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(content, encoding="utf-8")
    for environ in ({"FEDKEEPER_KEY": ""}, {"FEDKEEPER_KEY_FILE": str(file)}):
        with pytest.raises(BadSettings, match="empty") as bad:
            settings.read(environ)
        assert bad.value.name in environ


def test_a_key_file_that_can_t_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("nowhere", "binary"):
        with pytest.raises(BadSettings, match=name):
            settings.read({"FEDKEEPER_KEY_FILE": str(tmp_path / name), "FEDKEEPER_KEY": HIDDEN})

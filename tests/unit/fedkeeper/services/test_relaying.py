"""Reading a relay's configuration file."""

import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bridges.relay import Settings
from fedkeeper.cli import app
from fedkeeper.errors import BadConfigFile
from fedkeeper.services import relaying
from tests.support.paths import REPOSITORY

CONFIG = REPOSITORY / "configs" / "bridges" / "relay.toml"
REQUIRED = {"name": "site-a", "platforms": ("edge-a",), "backbone": "nats://hub", "site": "nats://here"}


def test_the_comments_of_the_shipped_configuration_are_the_defaults() -> None:
    shipped = relaying.read(CONFIG)
    lines = CONFIG.read_text(encoding="utf-8").splitlines()
    defaults = tomllib.loads("\n".join(line[2:] for line in lines if re.match(r"# \w+ = ", line)))
    assert Settings(**{**REQUIRED, **defaults}) == Settings(**REQUIRED)  # type: ignore[arg-type]
    assert {*defaults, *REQUIRED} == set(Settings.__struct_fields__)
    assert shipped.platforms == ("edge-a",)


@pytest.mark.parametrize(
    ("text", "field"), [("updates_at_once = 0", "updates_at_once"), ("sight = 1", "sight"), ("name = 3", "name")]
)
def test_the_error_for_a_wrong_file_names_the_field(text: str, field: str, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    rest = [line for line in CONFIG.read_text(encoding="utf-8").splitlines() if not line.startswith(field)]
    file.write_text("\n".join([*rest, text]), encoding="utf-8")
    with pytest.raises(BadConfigFile) as refused:
        relaying.read(file)
    assert refused.value.field == field


def test_a_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadConfigFile, match=r"relay\.toml"):
        relaying.read(tmp_path / "relay.toml")


def test_the_command_is_one_of_the_bridges() -> None:
    assert "--config" in CliRunner().invoke(app, ["bridge", "relay", "--help"], env={"COLUMNS": "200"}).output

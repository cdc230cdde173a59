"""A relay's file, as a person writes it."""

import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bridges.relay import Settings
from fedkeeper import relaying
from fedkeeper.cli import app
from fedkeeper.errors import BadDeploymentFile
from tests.support.paths import REPOSITORY

CONFIG = REPOSITORY / "configs" / "bridges" / "relay.toml"
NEEDED = {"name": "site-a", "platforms": ("edge-a",), "backbone": "nats://hub", "site": "nats://here"}


def test_the_shipped_configuration_shows_the_defaults() -> None:
    shipped = relaying.read(CONFIG)
    lines = CONFIG.read_text(encoding="utf-8").splitlines()
    shown = tomllib.loads("\n".join(line[2:] for line in lines if re.match(r"# \w+ = ", line)))
    assert Settings(**{**NEEDED, **shown}) == Settings(**NEEDED)  # type: ignore[arg-type]
    assert {*shown, *NEEDED} == set(Settings.__struct_fields__)
    assert shipped.platforms == ("edge-a",)


@pytest.mark.parametrize(
    ("text", "field"), [("updates_at_once = 0", "updates_at_once"), ("sight = 1", "sight"), ("name = 3", "name")]
)
def test_a_file_that_is_wrong_names_the_field(text: str, field: str, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    rest = [line for line in CONFIG.read_text(encoding="utf-8").splitlines() if not line.startswith(field)]
    file.write_text("\n".join([*rest, text]), encoding="utf-8")
    with pytest.raises(BadDeploymentFile) as refused:
        relaying.read(file)
    assert refused.value.field == field


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadDeploymentFile, match=r"relay\.toml"):
        relaying.read(tmp_path / "relay.toml")


def test_the_command_is_one_of_the_bridges() -> None:
    assert "--config" in CliRunner().invoke(app, ["bridge", "relay", "--help"], env={"COLUMNS": "200"}).output

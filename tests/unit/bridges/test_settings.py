"""Every platform's settings have the same bounds. An error has the field, its value, and what is allowed."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridges import platforms
from bridges.platforms import Kind
from bridges.settings import PlatformSettings
from fedkeeper.errors import BadConfigFile
from fedkeeper.services import bridging

every_kind = pytest.mark.parametrize("kind", platforms.KINDS, ids=lambda kind: kind.name)


def file(kind: Kind, folder: Path, **changes: Any) -> Path:
    """Write a bridge's file with the required fields and some changes."""
    fields = msgspec.structs.fields(kind.load().Settings)
    required = {field.encode_name: "needed" for field in fields if field.required}
    path = folder / "bridge.toml"
    path.write_bytes(msgspec.toml.encode({**required, **changes}))
    return path


@every_kind
def test_the_required_fields_are_enough(kind: Kind, tmp_path: Path) -> None:
    settings = bridging.read(kind, file(kind, tmp_path)).platform
    assert isinstance(settings, PlatformSettings)
    assert settings.name == kind.name


@every_kind
@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("concurrency", 0, "expected a whole number >= 1"),
        ("concurrency", -5, "expected a whole number >= 1"),
        ("start_s", 0.0, "expected a number > 0"),
        ("start_s", -1.0, "expected a number > 0"),
        ("start_s", float("nan"), "expected a number > 0"),
        ("start_z", 1.0, "no such key; did you mean 'start_s'?"),
    ],
)
def test_a_bad_value_is_refused_by_every_platform(
    kind: Kind, field: str, value: float, allowed: str, tmp_path: Path
) -> None:
    with pytest.raises(BadConfigFile) as bad:
        bridging.read(kind, file(kind, tmp_path, **{field: value}))
    assert bad.value.field == field
    assert str(bad.value.value) == str(value)
    assert bad.value.reason.startswith(allowed)


@every_kind
@pytest.mark.parametrize("name", ["Not An Id!", "", "a.b", "a" * 41])
def test_a_name_that_is_no_id_is_refused_by_every_platform(kind: Kind, name: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfigFile) as bad:
        bridging.read(kind, file(kind, tmp_path, name=name))
    assert (bad.value.field, bad.value.value) == ("name", name)
    assert "a-z" in bad.value.reason


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("openfaas", "ready_s", 0.0),
        ("openfaas", "run_s", -1.0),
        ("openfaas", "per_minute", -1),
        ("openwhisk", "timeout_s", -1.0),
        ("openwhisk", "settle_s", -1.0),
        ("gcf", "run_s", -1.0),
        ("gcf", "call_s", 0.0),
        ("gcf", "deploy_s", 0.0),
        ("gcf", "poll_s", 0.0),
        ("gcf", "max_bytes", 0),
        ("gcf", "max_bytes", 10_000_001),
        ("local", "workers", 0),
    ],
)
def test_a_platform_s_own_numbers_have_bounds(kind: str, field: str, value: float, tmp_path: Path) -> None:
    row = platforms.find(kind)
    with pytest.raises(BadConfigFile, match=r"expected a (whole )?number [<>]") as bad:
        bridging.read(row, file(row, tmp_path, **{field: value}))
    assert (bad.value.field, bad.value.value) == (field, value)


@pytest.mark.parametrize("field", ["url", "secrets"])
def test_the_fields_of_every_bridge_s_file_are_text(field: str, tmp_path: Path) -> None:
    kind = platforms.find("openfaas")
    with pytest.raises(BadConfigFile) as bad:
        bridging.read(kind, file(kind, tmp_path, **{field: 3}))
    assert (bad.value.field, bad.value.value) == (field, 3)

"""The bounds of a relay's settings."""

from typing import Any

import pytest

from bridges.errors import BadSettings
from bridges.relay import Settings
from broker.errors import BadUrl

REQUIRED = {"name": "site-a", "platforms": ("edge-a",), "backbone": "nats://hub", "site": "nats://here"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Site A"),
        ("platforms", ("edge a",)),
        ("platforms", ()),
        ("platforms", ("a", "a")),
        ("site", "nats://hub"),
        ("site", "nats://here,hub"),
    ],
)
def test_invalid_settings_are_refused(field: str, value: Any) -> None:
    with pytest.raises(BadSettings) as refused:
        Settings(**{**REQUIRED, field: value})
    assert refused.value.field == field


def test_the_error_for_an_invalid_address_does_not_show_its_password() -> None:
    with pytest.raises(BadUrl) as refused:
        Settings(**{**REQUIRED, "site": "http://user:s3cret@here"})  # type: ignore[arg-type]
    assert "s3cret" not in str(refused.value)

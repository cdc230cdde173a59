"""What a relay's settings may be."""

from typing import Any

import pytest

from bridges.errors import BadSettings
from bridges.relay import Settings
from broker.errors import BadUrl

NEEDED = {"name": "site-a", "platforms": ("edge-a",), "backbone": "nats://hub", "site": "nats://here"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Site A"),
        ("platforms", ("edge a",)),
        ("platforms", ()),
        ("platforms", ("a", "a")),
        ("site", "nats://hub"),
    ],
)
def test_settings_that_can_t_be_are_refused(field: str, value: Any) -> None:
    with pytest.raises(BadSettings) as refused:
        Settings(**{**NEEDED, field: value})
    assert refused.value.field == field


def test_an_address_that_is_none_is_refused_without_its_password() -> None:
    with pytest.raises(BadUrl) as refused:
        Settings(**{**NEEDED, "site": "http://user:s3cret@here"})  # type: ignore[arg-type]
    assert "s3cret" not in str(refused.value)

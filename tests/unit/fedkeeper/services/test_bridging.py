"""A bridge: its file, and a platform that refuses its credentials: at the first start an error, later a wait."""

import contextlib
import re
from collections.abc import AsyncIterator

import pytest

from bridges import platforms
from bridges.errors import PlatformDenied
from bridges.platform import ManagedPlatform
from bridges.platforms import Kind
from fedkeeper.services.bridging import enter_platform
from tests.support.fake_platforms import FakeManagedPlatform
from tests.support.paths import REPOSITORY


@pytest.mark.parametrize("kind", [kind for kind in platforms.KINDS if kind.has_functions], ids=lambda kind: kind.name)
def test_the_file_in_configs_names_every_setting(kind: Kind) -> None:
    text = (REPOSITORY / f"configs/bridges/{kind.name}.toml").read_text(encoding="utf-8")
    for name in ("url", "secrets", *kind.load().Settings.__struct_fields__):
        assert re.search(rf"^(# )?{name} = ", text, re.MULTILINE), name


class Denies:
    """A platform that refuses the credentials some times."""

    def __init__(self, times: int) -> None:
        self.times = times

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[ManagedPlatform]:
        self.times -= 1
        if self.times >= 0:
            raise PlatformDenied("fake", "http://here", "check the password")
        yield FakeManagedPlatform()  # type: ignore[misc] # has no platform.functions


async def test_refused_credentials_end_a_bridge_at_its_first_start() -> None:
    async with contextlib.AsyncExitStack() as stack:
        with pytest.raises(PlatformDenied):
            await enter_platform(stack, Denies(1).opened, was_up=False, pause_s=0.0)


async def test_refused_credentials_do_not_end_a_bridge_that_reconnects_to_its_broker() -> None:
    async with contextlib.AsyncExitStack() as stack:
        platform = await enter_platform(stack, Denies(2).opened, was_up=True, pause_s=0.0)
        assert platform.name == "fake"

"""Fixtures of the function's tests."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    # Many tests of this folder need no torch.
    from tests.support.function_site import Site


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "AsyncIterator[Site]":
    """A broker and a client's shard."""
    from tests.support.function_site import open_site

    async with open_site(tmp_path, monkeypatch) as opened:
        yield opened

"""Sites with links that can be broken."""

from collections.abc import AsyncIterator

import pytest

from tests.support.edge import links
from tests.support.edge.links import Backbone, Site


@pytest.fixture
async def backbone() -> AsyncIterator[Backbone]:
    """An address that sites can reach."""
    async with links.backbone() as network:
        yield network


@pytest.fixture
async def site(backbone: Backbone) -> AsyncIterator[Site]:
    """A site without programs."""
    async with backbone.site() as machine:
        yield machine

"""Fixtures that several unit tests share."""

import pytest

from broker.messages.progress import Event
from tests.support.events import EVENTS


@pytest.fixture
def events() -> tuple[Event, ...]:
    """One example of each class of `broker.messages.progress.Event`, in an order in which they may happen."""
    return EVENTS

"""What the jobs of a server have in common: the broker, the views of its values, and the clocks."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from broker.base import Broker
from server.announcer import Announcer
from server.held import Held
from server.learning import Learning
from server.presence import BridgePresence
from server.registry import Registry


@dataclass(frozen=True, slots=True)
class JobContext:
    """What every job of a server uses.

    Attributes:
        broker: keeps records, models and updates.
        announcer: publishes progress events.
        registry: the registered clients.
        presence: the bridges.
        learning: builds and evaluates models.
        clock: seconds since the epoch, for what is written.
        make_secret: returns an unguessable text, for a job without a secret.
        held: gets what the jobs write.
        timer: seconds on a clock that never jumps, for what is decided.
    """

    broker: Broker
    announcer: Announcer
    registry: Registry
    presence: BridgePresence
    learning: Learning
    clock: Callable[[], float]
    make_secret: Callable[[], str]
    held: Held = field(default_factory=Held)
    timer: Callable[[], float] = time.monotonic

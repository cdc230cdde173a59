"""What an operator says of the workers on this machine."""

from bridges.settings import PlatformSettings
from broker.support.validation import AtLeastOne, Positive


class Settings(PlatformSettings, frozen=True, kw_only=True):
    """A bridge to worker processes on its own machine.

    Attributes:
        broker: address of the broker that the workers fetch models from and publish updates to.
        workers: how many processes.
        concurrency: two for each worker are right: one that it trains for, and one that is next.
        device: what they train on, as torch names it.
        run_s: how long a worker may train.
    """

    broker: str
    name: str = "local"
    workers: AtLeastOne = 1
    concurrency: AtLeastOne = 2
    device: str = "cpu"
    run_s: Positive = 600.0

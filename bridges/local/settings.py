"""The settings of the bridge to worker processes on this machine."""

from typing import ClassVar

from msgspec import field

from bridges.settings import PlatformSettings
from broker.support.validation import AtLeastOne, Positive


class Settings(PlatformSettings, frozen=True, kw_only=True):
    """The settings of the local platform.

    Attributes:
        broker: address of the broker, for the workers' models and updates.
        workers: number of worker processes.
        concurrency: how many tasks may be in progress at once. `together` and one more per worker are right: while some
            are trained, one is next.
        together: how many tasks a worker may take at once, to train clients of a round in one program.
        device: the device to train on, as torch names it; empty: as the job says.
        env: further environment variables of the workers.
        run_s: not used for workers, which show that they live: only the round's deadline ends a long training. Seconds.
    """

    is_own: ClassVar[bool] = True

    broker: str
    name: str = "local"
    workers: AtLeastOne = 1
    concurrency: AtLeastOne = 2
    together: AtLeastOne = 1
    device: str = ""
    env: dict[str, str] = field(default_factory=dict)
    run_s: Positive = 600.0

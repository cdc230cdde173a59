"""Messages of the client register: its entries, statistics of each client's invocations, and the bridges' presence."""

from typing import ClassVar, Final

import msgspec

from broker.messages import codec
from broker.messages.invocation import Outcome

CLOCK_SKEW_S: Final = 5.0
"""A clock that differs by more is named to people. Nothing is decided by it."""


MAX_MISSED: Final = 3
"""A bridge is absent after so many missed heartbeats."""

MAX_EVERY_S: Final = 60.0
"""Longest interval of heartbeats that is believed, where only a bridge's word tells when it is absent. Seconds."""


class ClientStats(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge's statistics of a client's invocations.

    Attributes:
        state: the last outcome.
        seen_s: time of the last outcome, in seconds since the epoch.
        invocations: how many runs the platform accepted, or the function reported.
        failures: how many of these runs failed.
        cold: how many of these runs were cold starts.
        activation: the platform's id of the last run.
        run: job, round and attempt of the last counted run.
    """

    client: str
    platform: str
    state: Outcome
    seen_s: float
    invocations: int = 0
    failures: int = 0
    cold: int = 0
    activation: str = ""
    run: str = ""


class Host(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The machine that a bridge runs on, as the bridge sees it. For people, and to tell two machines apart.

    Attributes:
        name: its host name.
        id: the same for all bridges of the machine since it was started, and different on every other machine.
        version: version of FedKeeper.
        broker: address of the broker that the bridge is connected to, without credentials.
        processor: the instruction set that models train with; empty: nothing trains here.
        device: the device that models train on, as torch names it; empty: as the job says, or nothing trains here.
        memory_mb: memory that is free, in MiB; None: not known.
        disk_mb: space that is free in the bridge's folder, in MiB; None: not known.
        problem: what fails, as one sentence; empty: nothing.
    """

    name: str
    id: str = ""
    version: str = ""
    broker: str = ""
    processor: str = ""
    device: str = ""
    memory_mb: int | None = None
    disk_mb: int | None = None
    problem: str = ""


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge's heartbeat.

    Attributes:
        bridge: the bridge's name.
        platform: the platform whose tasks the bridge takes.
        every_s: interval of the heartbeats, in seconds; a bridge is absent after three intervals without one.
        gone: the bridge has stopped, can run no task at all, or the broker has lost its connection.
        clock_s: the bridge's clock when it wrote this, in seconds since the epoch; 0: an older version wrote it.
        is_own: whether the platform is this machine, so that no other machine may have a bridge of this name.
        since_s: of such a platform: when the machine announced itself first, in seconds since the epoch; 0: not known
            yet. Of two machines the first keeps the name.
        host: the bridge's machine; None: an older version wrote it.
        schema: schema number of the message.
    """

    upgrade: ClassVar = "upgrade the server to the version of the bridge"

    bridge: str
    platform: str
    every_s: float
    gone: bool = False
    clock_s: float = 0.0
    is_own: bool = False
    host: Host | None = None
    since_s: float = 0.0
    schema: int = codec.SCHEMA

    def ahead_s(self, time_s: float) -> float:
        """Return the seconds by which the bridge's clock is ahead; 0 if not known or below `CLOCK_SKEW_S`.

        Args:
            time_s: when this was stored, in seconds since the epoch on the clock to compare with.
        """
        ahead_s = self.clock_s - time_s
        return ahead_s if self.clock_s and not self.gone and abs(ahead_s) > CLOCK_SKEW_S else 0.0

    def skew_text(self, ahead_s: float) -> str:
        """Return a sentence about the bridge's clock.

        Args:
            ahead_s: what `ahead_s` returned.
        """
        side = "ahead of" if ahead_s > 0 else "behind"
        return f"the clock of bridge {self.bridge} is {abs(ahead_s):.0f} s {side} the broker's: set it, e.g. with NTP"


class ClientRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the client register (paper, section 3.1). It names secrets and never contains them.

    Attributes:
        id: the client's id.
        platform: name of the platform that hosts the client's function.
        function: name of the function on its platform.
        url: where the platform triggers the function; empty: the platform needs no URL.
        data_loc: fsspec URL of the client's shard.
        labels: labels that cohorts are selected by; `data` is the key of the partition that the shard belongs to.
        samples: number of examples in the shard; 0: not known.
        secret: name of the secret that the bridge needs.
        paused: whether cohorts leave this client out.
        state_loc: fsspec URL of a folder where the client keeps tensors of its own; empty: beside `data_loc`.
    """

    id: str
    platform: str
    function: str = ""
    url: str = ""
    data_loc: str = ""
    labels: dict[str, str] = {}
    samples: int = 0
    secret: str = ""
    paused: bool = False
    state_loc: str = ""

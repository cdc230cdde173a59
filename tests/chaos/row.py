"""The columns of the table of faults."""

import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, Literal

from tests.chaos import brokers
from tests.chaos.actions import Do, nothing
from tests.chaos.system import Setup

Forgotten = Literal["nothing", "events", "job"]
"""What a broker may have forgotten after a fault: nothing; events of the last moment; or the job as a whole."""

PLAIN: Final = Setup()
"""One server, one bridge with two local workers."""


@dataclass(frozen=True)
class Fault:
    """A row of the table. What no column mentions must be true after every fault: see `trial.Result`.

    Attributes:
        name: unique name, which says what is done.
        do: does it.
        on: the brokers that it is tried with.
        setup: what is started, and with which clients.
        phases: in which of these the job may end.
        forgets: what a broker may have forgotten, by broker.
        prepare: what is done before the job is submitted.
        moment: bounds of the moment, as a share of the job's events.
        job: fields of the job that differ, by section.
        stops_reports: a bridge may not get to report that a client trains before that client's update is counted.
        fails_round: a round may fail for good, as documented, so that the next one gives another model.
        kills: processes are killed that can't remove their temporary files.
        needs_root: the trial mounts a file system.
    """

    name: str
    do: Do
    _: KW_ONLY
    on: tuple[str, ...] = brokers.NAMES
    setup: Setup = PLAIN
    phases: tuple[str, ...] = ("completed",)
    forgets: Mapping[str, Forgotten] = field(default_factory=dict)
    prepare: Do = nothing
    moment: tuple[float, float] = (0.0, 0.85)
    job: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    stops_reports: bool = False
    fails_round: bool = False
    kills: bool = False
    needs_root: bool = False

    def may_forget(self, broker: str) -> Forgotten:
        """Return what a broker may have forgotten."""
        return self.forgets.get(broker, "nothing")

    def is_possible(self, broker: str) -> bool:
        """Whether this user can try it with a broker."""
        return broker in self.on and (not self.needs_root or os.getuid() == 0)

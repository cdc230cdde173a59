"""Waits until enough clients can take part in a job's next round, and says which clients are missing."""

import difflib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from broker.messages.job import Job
from broker.messages.job_sections import PIXELS
from broker.messages.progress import JobWaiting
from broker.messages.register import ClientRecord
from broker.support import loggers
from server import cohort, labels
from server.errors import JobCannotContinue
from server.job_events import JobEvents, TimedOut
from server.presence import BridgePresence
from server.registry import Registry

log = loggers.get_logger(__name__)

SETTLE_S: Final = 2.0
"""How long no further client may be registered until the others are not waited for any more. Seconds."""


@dataclass(slots=True)
class Recruiter:
    """Finds the clients that a job can choose its cohorts from.

    Attributes:
        job: says how many clients it needs, which data they must hold, and how long to wait for them.
        registry: the registered clients.
        presence: the bridges.
        clock: seconds since the epoch, for what people read.
        timer: seconds on the clock of the job's events, which never jumps.
    """

    job: Job
    registry: Registry
    presence: BridgePresence
    clock: Callable[[], float]
    timer: Callable[[], float]
    _holders: list[ClientRecord] = field(default_factory=list, init=False)
    _holders_version: int = field(default=-1, init=False)

    async def wait_for_candidates(
        self, events: JobEvents, announce: Callable[[JobWaiting], Awaitable[None]], *, is_first: bool
    ) -> list[ClientRecord]:
        """Wait for enough clients for a cohort, and return them; fewer if the job is cancelled meanwhile.

        Args:
            events: the job's events.
            announce: called once if there are too few clients at first.
            is_first: whether they are for the job's first round: then other holders of the data that are being
                registered are waited for too, at most `SETTLE_S` after the last change of the candidates.

        Raises:
            JobCannotContinue: there are still too few after the job's `cohort.wait_s`.
        """
        need, until_s = self.job.cohort.clients, self.timer() + self.job.cohort.wait_s
        candidates = self.eligible()
        if len(candidates) >= need:
            return await self._wait_until_settled(events, candidates, until_s) if is_first else candidates
        have, reason = len(candidates), self._shortage()
        end_s = self.clock() + self.job.cohort.wait_s
        await announce(JobWaiting(reason=reason, data=self.job.data.key, have=have, need=need, until_s=end_s))
        while len(candidates) < need and not events.cancel_requested:
            is_over = isinstance(await events.next(until_s), TimedOut)
            candidates = self.eligible()
            if is_over and len(candidates) < need:
                raise JobCannotContinue(f"too few clients after {self.job.cohort.wait_s:g} s: {self._shortage()}")
        return await self._wait_until_settled(events, candidates, until_s)

    async def _wait_until_settled(
        self, events: JobEvents, candidates: list[ClientRecord], until_s: float
    ) -> list[ClientRecord]:
        """Wait while the other holders of the data are being registered, which takes moments.

        Otherwise the first draw would depend on how far that has come, and so would the job's model.
        """
        changed_s = max(self.registry.changed_s, self.presence.changed_s)
        settled_s = min(until_s, min(self.timer(), changed_s) + SETTLE_S)
        while len(candidates) < self.job.data.clients and not events.cancel_requested:
            is_over = isinstance(await events.next(settled_s), TimedOut)
            before, candidates = candidates, self.eligible()
            if candidates != before:
                settled_s = min(until_s, self.timer() + SETTLE_S)
            elif is_over:
                break
        return candidates

    def warn_of_draw(self, candidates: int) -> None:
        """Log that the draws of a NumPy program are those of another number of clients, if that is so.

        Args:
            candidates: number of clients that are drawn from.
        """
        if self.job.cohort.draw == "numpy" and candidates != self.job.data.clients:
            facts = {"drawn_from": candidates, "data_clients": self.job.data.clients}
            log.warning('cohort.draw = "numpy": not the cohorts of a program that draws among all clients', **facts)

    def holders(self) -> list[ClientRecord]:
        """Return the clients that hold the job's data, sorted by id, whether or not they can take part now."""
        if self._holders_version != self.registry.version:
            self._holders = cohort.data_holders(self.job, self.registry.clients)
            self._holders_version = self.registry.version
        return self._holders

    def eligible(self) -> list[ClientRecord]:
        """Return the clients that can take part now, sorted by id."""
        return cohort.eligible_clients(self.job, self.holders(), self.presence.is_present)

    def _shortage(self) -> str:
        """Say how many clients are registered, and how many of them have no bridge."""
        registered, present = self.holders(), self.eligible()
        absent = sorted({client.platform for client in registered} - {client.platform for client in present})
        name = self.job.data.key if self.job.data.dataset in PIXELS else self.job.data.dataset
        where = self.job.cohort.where
        labelled = " and have " + ", ".join(f"{key} = {value!r}" for key, value in where.items()) if where else ""
        text = f"{len(registered)} of {self.job.cohort.clients} clients that hold {name!r}{labelled} are registered"
        if without := len(registered) - len(present):
            text += f", {without} of them on {', '.join(absent)}, whose bridge is not there or can run no task"
            text += ": see `fedkeeper sites`"
        if len(registered) >= self.job.cohort.clients:
            return text
        if paused := self._paused():
            return f"{text}; {len(paused)} more are paused: `fedkeeper clients pause --resume {' '.join(paused[:3])}`"
        return f"{text}; {self._unknown_label() or self._remedy()}"

    def _paused(self) -> list[str]:
        """Return the ids of the clients that would hold the job's data, and are paused."""
        paused = [msgspec.structs.replace(client, paused=False) for client in self.registry.clients if client.paused]
        return [client.id for client in cohort.data_holders(self.job, paused)]

    def _unknown_label(self) -> str:
        """Say which label of `cohort.where` no registered client has; empty: each is some client's."""
        clients = [labels.known(client) for client in self.registry.clients]
        for name, value in self.job.cohort.where.items():
            values = {client[name] for client in clients if name in client}
            if clients and value not in values:
                similar = difflib.get_close_matches(value, values, 1)
                hint = f": did you mean {similar[0]!r}?" if similar else ""
                return f"no client with {name} = {value!r} is registered at all{hint}"
        return ""

    def _remedy(self) -> str:
        """Say how clients that hold the job's data are registered, or which data may be meant."""
        data = self.job.data
        if data.dataset in PIXELS:
            return "`fedkeeper bridge local` or `fedkeeper stage JOB --register` does that"
        registered = {client.labels.get(cohort.DATA_LABEL, "") for client in self.registry.clients}
        if similar := difflib.get_close_matches(data.dataset, sorted({*PIXELS, *registered} - {data.dataset}), 1):
            return f"did you mean {similar[0]!r} as data.dataset?"
        return (
            f"register each with `fedkeeper clients add ... --label data={data.dataset}`, or split a file with "
            f"`fedkeeper stage --from FILE --name {data.dataset} --clients {data.clients} --register`, or train "
            "on it with `fedkeeper run JOB --from FILE`"
        )

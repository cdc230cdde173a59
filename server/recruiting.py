"""Waits until enough clients can take part in a job's next round, and says what it waits for."""

from collections.abc import Callable
from dataclasses import dataclass

from broker.messages.job import Job
from broker.messages.progress import JobWaiting
from broker.messages.register import ClientRecord
from server import cohort
from server.errors import JobFailed
from server.job_events import JobEvents, TimeUp
from server.presence import BridgePresence
from server.registry import Registry


@dataclass(frozen=True, slots=True)
class Recruiter:
    """Finds the clients that a job may choose its cohorts from.

    Attributes:
        job: says how many clients it needs, what data they must hold, and how long to wait for them.
        registry: who is registered.
        attendance: whose bridge is there.
        clock: seconds since the epoch.
    """

    job: Job
    registry: Registry
    attendance: BridgePresence
    clock: Callable[[], float]

    async def candidates(self, box: JobEvents, say: Callable[[JobWaiting], None]) -> list[ClientRecord]:
        """Clients enough for a cohort; or fewer, if the job was cancelled meanwhile.

        Args:
            box: what happens to the job meanwhile.
            say: called once, if there are too few at first.

        Raises:
            JobFailed: there still are too few when the job's `cohort.wait_s` is over.
        """
        need, until_s = self.job.cohort.clients, self.clock() + self.job.cohort.wait_s
        found = self._eligible()
        if len(found) < need:
            reason = self._shortage()
            say(JobWaiting(reason=reason, data=self.job.data.key, have=len(found), need=need, until_s=until_s))
        while len(found) < need and not box.cancel_asked:
            if isinstance(await box.next(until_s), TimeUp):
                raise self._too_few()
            found = self._eligible()
        return found

    def _eligible(self) -> list[ClientRecord]:
        return cohort.eligible(self.job, self.registry.clients, self.attendance.is_present)

    def _too_few(self) -> JobFailed:
        return JobFailed(
            f"too few clients after {self.job.cohort.wait_s:g} s: {self._shortage()}; "
            "stage the data and register clients with `fedkeeper stage`, or start `fedkeeper bridge local`"
        )

    def _shortage(self) -> str:
        """How many of the clients are registered, and how many of them have no bridge."""
        registered, present = cohort.holding(self.job, self.registry.clients), self._eligible()
        absent = sorted({client.platform for client in registered} - {client.platform for client in present})
        text = f"{len(registered)} of {self.job.cohort.clients} clients that hold {self.job.data.key!r} are registered"
        without = len(registered) - len(present)
        return text + (f", {without} of them on {', '.join(absent)}, whose bridge is not there" if without else "")

"""A list of jobs' records that a notebook shows as a table."""

from broker.messages.job_record import JobRecord
from broker.support import notebook
from fedkeeper.display import measured


class JobList(list[JobRecord]):
    """The records of jobs."""

    def _repr_html_(self) -> str:
        rows = [
            (each.id, each.phase, f"{each.done}/{each.job.stop.rounds}", measured.headline(each), each.reason)
            for each in self
        ]
        return notebook.listing(("job", "phase", "rounds", "result", "reason"), rows)

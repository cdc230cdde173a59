"""Names in a sweep's jobs that nothing has. A job is refused for them when it begins, a sweep before its first one."""

import difflib
from collections.abc import Iterable, Sequence

from broker.messages import metrics
from broker.messages.job import Job
from broker.support.validation import Mistake
from client_fn.training import installed


def mistakes(jobs: Iterable[Job], *, trains_here: bool) -> list[Mistake]:
    """Return the names of optimizers, schedulers and metrics that are not known, each once.

    Jobs with a learner are left out: it may have optimizers and metrics of its own. So are classes of the user's, which
    only a trainer imports.

    Args:
        jobs: the jobs.
        trains_here: whether this Python trains; otherwise another torch decides, whose classes are not known here.
    """
    optimizers, schedulers = (installed.optimizers(), installed.schedulers()) if trains_here else ((), ())
    found: dict[tuple[str, str], Mistake] = {}
    for job in jobs:
        if job.learner.type:
            continue
        wanted = [("training.optimizer", job.training.optimizer, optimizers)]
        wanted += [("training.scheduler", job.training.scheduler, schedulers)] if job.training.scheduler else []
        for field, name, known in wanted:
            if known and name.lower() not in known:
                found[field, name] = _unknown(field, name, known)
        for name in job.evaluation.metrics:
            if ":" not in name and name not in installed.METRICS and not metrics.is_top_k(name):
                found["evaluation.metrics", name] = _unknown("evaluation.metrics", name, installed.METRICS)
    return list(found.values())


def _unknown(field: str, name: str, known: Sequence[str]) -> Mistake:
    close = difflib.get_close_matches(name.lower(), known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return Mistake(field, name, f"{hint}known are {', '.join(known)}")

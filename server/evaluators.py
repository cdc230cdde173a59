"""Which clients judge a round's model by a task of their own. Pure: entries of the register in, members out."""

import math
import random
from collections.abc import Iterable, Sequence

from broker.messages.job import Job
from broker.messages.job_record import Member
from broker.messages.register import ClientRecord
from broker.messages.round import seed
from server import cohort


def of_round(
    job: Job, candidates: Sequence[ClientRecord], trainers: Iterable[ClientRecord], round_: int, done: int
) -> tuple[Member, ...]:
    """Return the clients that judge a round's model while others train, sorted by id.

    They are drawn without replacement from those that do not train in the round. Which clients train does not depend on
    the draw.

    Args:
        job: says how many, and in which rounds.
        candidates: the clients that can take part, sorted by id.
        trainers: those of them that train.
        round_: number of the round.
        done: number of completed rounds; the initial model is judged only by clients that train with it.
    """
    asked, every = job.evaluation.clients, job.evaluation.every
    if not (job.is_judged_by_clients and asked and every and done) or done % every:
        return ()
    busy = {client.id for client in trainers}
    others = [client for client in candidates if client.id not in busy]
    # Rounded before the ceiling: 0.07 * 100 is slightly more than 7 in binary.
    count = int(asked) if asked > 1 else math.ceil(round(asked * len(candidates), 9))
    draw = random.Random(seed(job.draw_seed, "evaluators", round_))  # noqa: S311 (a draw, not a secret)
    return _members(draw.sample(others, min(count, len(others))))


def of_last_model(job: Job, chosen: Iterable[ClientRecord]) -> tuple[Member, ...]:
    """Return the clients that judge the model of a job's last round, sorted by id; none if no clients judge.

    As in all rounds before, they are those that would train next. Those who have just trained would flatter the model:
    it knows their kind of data best.

    Args:
        job: says whether clients judge.
        chosen: the clients that the next round would have.
    """
    return _members(chosen) if job.is_judged_by_clients else ()


def _members(clients: Iterable[ClientRecord]) -> tuple[Member, ...]:
    return cohort.members(sorted(clients, key=lambda client: client.id), "evaluate")

"""Which clients judge a model by a task of their own."""

from typing import Any

import msgspec
import pytest

from broker.messages.job import Job
from broker.messages.job_sections import Cohort, Evaluation
from server import evaluators
from tests.support import fakes

CANDIDATES = fakes.clients(20)
TRAINERS = CANDIDATES[5:9]


def job(**evaluation: Any) -> Job:
    return Job(seed=7, evaluation=Evaluation(**{"holdout": 0.2, **evaluation}))


def drawn(job: Job, round_: int = 3, done: int = 2) -> list[str]:
    return [member.id for member in evaluators.of_round(job, CANDIDATES, TRAINERS, round_, done)]


@pytest.mark.parametrize(
    ("asked", "expected"), [(0, 0), (2, 2), (5, 5), (16, 16), (100, 16), (0.05, 1), (0.07, 2), (0.5, 10), (1, 16)]
)
def test_a_number_of_clients_or_a_share_of_the_registered_ones_judges(asked: float, expected: int) -> None:
    ids = drawn(job(clients=asked))
    assert len(ids) == expected
    assert ids == sorted(set(ids))
    assert not set(ids) & {client.id for client in TRAINERS}


def test_the_draw_depends_on_the_job_s_seed_and_the_round_alone() -> None:
    assert drawn(job(clients=3)) == drawn(job(clients=3))
    assert len({tuple(drawn(job(clients=3), round_)) for round_ in range(1, 9)}) > 4


def test_a_seed_of_the_cohort_draws_the_same_clients_for_jobs_of_any_seed() -> None:
    own = [msgspec.structs.replace(job(clients=3), seed=seed, cohort=Cohort(seed=7)) for seed in (1, 2)]
    assert [drawn(each) for each in own] == [drawn(job(clients=3))] * 2


def test_they_are_invited_to_judge_with_what_the_register_says_of_them() -> None:
    members = evaluators.of_round(job(clients=1), CANDIDATES, TRAINERS, 3, 2)
    assert {member.purpose for member in members} == {"evaluate"}
    assert {(member.platform, member.samples > 0) for member in members} == {("fake", True)}


def test_they_judge_the_models_that_the_server_would_evaluate() -> None:
    every_third = job(clients=2, every=3)
    assert [done for done in range(8) if drawn(every_third, done + 1, done)] == [3, 6]
    assert not drawn(job(clients=2, every=0))


def test_nobody_is_asked_without_a_hold_out() -> None:
    assert not drawn(job(clients=2, holdout=0.0))
    assert not evaluators.of_last_model(job(holdout=0.0), TRAINERS)


def test_the_last_model_is_judged_by_those_who_would_train_next() -> None:
    members = evaluators.of_last_model(job(), [CANDIDATES[7], CANDIDATES[3]])
    assert [(member.id, member.purpose) for member in members] == [("client-03", "evaluate"), ("client-07", "evaluate")]

"""Schedules of the learning rate over rounds."""

import pytest

from broker.messages import job_file
from broker.messages.schedule import Constant, Cosine, Exponential, Linear, Schedule, Step


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (Constant(), [1, 1, 1, 1]),
        (Constant(warmup=3), [0.25, 0.5, 0.75, 1]),
        (Step(every=2, gamma=0.5), [1, 1, 0.5, 0.5]),
        (Exponential(gamma=0.5), [1, 0.5, 0.25, 0.125]),
        (Cosine(), [1, 0.8535533905932737, 0.5, 0.14644660940672627]),
        (Cosine(floor=0.5, warmup=2), [1 / 3, 2 / 3, 1, 0.75]),
        (Linear(floor=0.2), [1, 0.8, 0.6, 0.4]),
    ],
)
def test_each_round_has_its_factor(schedule: Schedule, factors: list[float]) -> None:
    assert [schedule.factor(round_, 4) for round_ in range(4)] == pytest.approx(factors)


def test_a_round_that_is_repeated_after_the_last_one_has_the_last_factor() -> None:
    assert Linear(floor=0.2).factor(9, 4) == pytest.approx(0.2)


def test_a_job_names_its_schedule() -> None:
    job = job_file.from_text('training.schedule = {name = "cosine", warmup = 2}')
    assert job.training.schedule == Cosine(warmup=2)

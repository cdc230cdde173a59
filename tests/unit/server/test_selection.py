"""Which clients are chosen, and what is known of them."""

import msgspec
import numpy as np

from broker.messages.job import Job
from broker.messages.job_sections import Cohort
from broker.messages.progress import JobWaiting, RoundCompleted, RoundFailed
from broker.messages.register import ClientRecord
from broker.messages.reports import Split
from broker.messages.round import BlobRef
from server import selection
from server.selection import ClientHistory, History

JOB = Job(seed=5, cohort=Cohort(clients=6, over_select=2))
REGISTER = [ClientRecord(id=f"c-{number:02d}", platform="local") for number in range(20)]
MODEL = BlobRef("fl.models.demo.x", "ab" * 32, 5)


def draw(job: Job, round_: int, register: list[ClientRecord] = REGISTER) -> tuple[str, ...]:
    chosen = selection.create(job).choose({}, register, round_)
    return tuple(client.id for client in chosen)


def test_a_cohort_has_those_wanted_and_those_over_selected_once_and_by_id() -> None:
    got = draw(JOB, 1)
    assert len(got) == len(set(got)) == 8
    assert list(got) == sorted(got)
    assert set(got) < {record.id for record in REGISTER}


def test_fewer_candidates_are_all_invited() -> None:
    assert draw(JOB, 1, REGISTER[:3]) == ("c-00", "c-01", "c-02")


def test_another_round_or_another_seed_draws_another_cohort() -> None:
    other = Job(seed=6, cohort=JOB.cohort)
    assert len({draw(JOB, round_) for round_ in range(1, 21)}) > 15
    assert len({draw(other, round_) for round_ in range(1, 21)} & {draw(JOB, round_) for round_ in range(1, 21)}) < 3


def test_a_draw_is_the_same_in_every_process_and_release() -> None:
    assert draw(JOB, 1) == ("c-01", "c-02", "c-03", "c-04", "c-07", "c-14", "c-15", "c-16")


def test_over_many_rounds_everyone_is_drawn_about_as_often() -> None:
    counts = dict.fromkeys((record.id for record in REGISTER), 0)
    for round_ in range(500):
        for name in draw(JOB, round_):
            counts[name] += 1
    # 500 rounds with 8 of 20: 200 each, standard deviation 11.
    assert all(145 < count < 255 for count in counts.values())


def of_numpy(seed: int, clients: int) -> Job:
    return Job(seed=seed, cohort=Cohort(clients=clients, draw="numpy"))


def test_a_stream_of_numpy_draws_what_a_program_with_numpy_draws() -> None:
    register = [ClientRecord(id=f"c-{number:03d}", platform="local") for number in range(100)]
    chosen, stream = selection.create(of_numpy(2, 10)), np.random.RandomState(2)
    for round_ in range(1, 40):
        expected = sorted(stream.choice(np.arange(100), 10, replace=False))
        assert [int(client.id[2:]) for client in chosen.choose({}, register, round_)] == expected


def test_a_server_that_takes_a_job_over_draws_the_same_stream() -> None:
    kept = selection.create(of_numpy(5, 6))
    for round_ in (1, 2, 3, 7, 7, 4, 8):
        drawn = [client.id for client in kept.choose({}, REGISTER, round_)]
        assert tuple(drawn) == draw(of_numpy(5, 6), round_)
    # That clients were away for a while changes no later round.
    kept.choose({}, REGISTER[:9], 9)
    assert tuple(client.id for client in kept.choose({}, REGISTER, 10)) == draw(of_numpy(5, 6), 10)


def test_a_stream_of_numpy_draws_fewer_where_there_are_fewer_and_more_if_more_are_invited() -> None:
    assert draw(of_numpy(5, 6), 3, REGISTER[:3]) == ("c-00", "c-01", "c-02")
    more = Job(seed=5, cohort=Cohort(clients=6, over_select=2, draw="numpy"))
    assert set(draw(of_numpy(5, 6), 3)) < set(draw(more, 3))


def test_the_seed_of_the_cohorts_decides_a_stream_too() -> None:
    job = of_numpy(5, 6)
    other = msgspec.structs.replace(job, seed=9, cohort=msgspec.structs.replace(job.cohort, seed=5))
    assert draw(other, 2) == draw(job, 2) != draw(of_numpy(9, 6), 2)


def completed(round_: int, counted: tuple[str, ...], missing: tuple[str, ...] = ()) -> RoundCompleted:
    return RoundCompleted(
        round=round_,
        counted=counted,
        missing=missing,
        samples=1,
        model=MODEL,
        split=Split(invocation_s=0, clients_start_s=0, training_s=0, aggregation_s=0, round_s=0),
        trained_s=0.0,
        metrics={},
        bytes_in=0,
        bytes_out=0,
    )


def test_the_history_is_a_fold_over_the_ends_of_rounds() -> None:
    history: History = {}
    for event in (
        completed(1, ("a", "b"), ("c",)),
        JobWaiting(reason="", data="", have=0, need=1, until_s=0),
        RoundFailed(round=2, reason="", counted=("a",), missing=("b",), policy="retry"),
        completed(3, ("c",)),
    ):
        history = selection.fold(history, event)
    assert history == {
        "a": ClientHistory(counted=(1, 2)),
        "b": ClientHistory(counted=(1,), missed=(2,)),
        "c": ClientHistory(counted=(3,), missed=(1,)),
    }


def test_an_event_that_the_log_holds_twice_counts_once() -> None:
    event = completed(1, ("a",), ("b",))
    once = selection.fold({}, event)
    assert selection.fold(once, event) == once


def test_a_selection_may_use_the_history() -> None:
    """As a selection of those who were never invited does."""

    class Newcomers:
        needs_history = True

        def choose(self, history: History, candidates: list[ClientRecord], round_: int) -> list[ClientRecord]:  # noqa: ARG002
            return [client for client in candidates if client.id not in history]

    chosen = Newcomers().choose(selection.fold({}, completed(1, ("c-00",), ("c-01",))), REGISTER[:4], 1)
    assert [client.id for client in chosen] == ["c-02", "c-03"]

"""Which clients are invited."""

import numpy as np

from broker.messages.job import Cohort, Data, Job
from broker.messages.job_record import Member
from broker.messages.register import ClientRecord
from server import cohort

JOB = Job(seed=5, data=Data(clients=20), cohort=Cohort(clients=6, over_select=2))


def client(number: int, *, data: str = JOB.data.key, paused: bool = False) -> ClientRecord:
    return ClientRecord(
        id=f"c-{number:02d}",
        platform="local",
        url=f"http://127.0.0.1:{number}",
        data_loc=f"file:///shards/{number}",
        labels={"data": data},
        samples=100 + number,
        paused=paused,
    )


REGISTER = [client(number) for number in range(20)]


def eligible(job: Job, clients: list[ClientRecord]) -> list[ClientRecord]:
    """The eligible clients, if every platform has a bridge."""
    return cohort.eligible_clients(job, clients, lambda _: True)


def draw(job: Job, round_: int, register: list[ClientRecord] = REGISTER) -> tuple[str, ...]:
    return tuple(member.id for member in cohort.choose(job, round_, eligible(job, register)))


def test_paused_foreign_and_unlabelled_clients_are_left_out() -> None:
    others = [client(20, data="mnist-iid-c5-s0"), client(21, paused=True), ClientRecord(id="c-22", platform="local")]
    assert eligible(JOB, [*others, *REGISTER]) == REGISTER


def test_a_label_may_name_the_partition_or_the_whole_dataset() -> None:
    whole = client(30, data=JOB.data.dataset)
    assert eligible(JOB, [whole, client(31, data="digits-iid-c20-s0")]) == [whole]


def test_a_cohort_has_those_wanted_and_those_over_selected_once_and_by_id() -> None:
    got = draw(JOB, 1)
    assert len(got) == len(set(got)) == 8
    assert list(got) == sorted(got)
    assert set(got) < {record.id for record in REGISTER}


def test_fewer_candidates_are_all_invited() -> None:
    assert draw(JOB, 1, REGISTER[:3]) == ("c-00", "c-01", "c-02")


def test_the_same_seed_and_round_draw_the_same_cohort_in_any_order_of_the_register() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        shuffled = [REGISTER[i] for i in rng.permutation(20)]
        assert draw(JOB, 3, shuffled) == draw(JOB, 3)


def test_another_round_or_another_seed_draws_another_cohort() -> None:
    other = Job(seed=6, data=JOB.data, cohort=JOB.cohort)
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


def test_a_member_is_what_the_register_knew() -> None:
    (got,) = cohort.choose(JOB, 1, [client(4)])
    assert got == Member("c-04", "local", "http://127.0.0.1:4", "file:///shards/4", 104)

"""Which clients can take part."""

import msgspec

from broker.messages.job import Job
from broker.messages.job_record import Member
from broker.messages.job_sections import Cohort, Data
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
    return cohort.eligible_clients(job, cohort.data_holders(job, clients), lambda _: True)


def test_paused_foreign_and_unlabelled_clients_are_left_out() -> None:
    others = [client(20, data="mnist-iid-c5-s0"), client(21, paused=True), ClientRecord(id="c-22", platform="local")]
    assert eligible(JOB, [*others, *REGISTER]) == REGISTER


def test_a_label_may_name_the_partition_or_the_whole_dataset() -> None:
    whole = client(30, data=JOB.data.dataset)
    assert eligible(JOB, [whole, client(31, data="digits-iid-c20-s0")]) == [whole]


def test_a_member_is_what_the_register_knew() -> None:
    (got,) = cohort.members([client(4)])
    assert got == Member("c-04", "local", "http://127.0.0.1:4", "file:///shards/4", 104, {"data": JOB.data.key})


def test_a_cohort_has_exactly_the_clients_with_the_labels_that_it_asks_for() -> None:
    north = [client(number) for number in (1, 2)]
    labelled = [msgspec.structs.replace(each, labels={**each.labels, "site": "north"}) for each in north]
    others = [client(3), msgspec.structs.replace(client(4), labels={"site": "north"})]
    job = msgspec.structs.replace(JOB, cohort=Cohort(clients=1, where={"site": "north", "platform": "local"}))
    assert eligible(job, [*others, *labelled]) == labelled
    elsewhere = msgspec.structs.replace(job, cohort=Cohort(where={"platform": "gcf"}))
    assert eligible(elsewhere, labelled) == []


def test_a_job_may_ask_for_the_clients_of_one_board() -> None:
    board = msgspec.structs.replace(client(1), platform="board-7")
    job = msgspec.structs.replace(JOB, cohort=Cohort(clients=1, where={"site": "board-7"}))
    assert eligible(job, [board, client(2)]) == [board]

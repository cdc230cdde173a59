"""The quorum of a job: a number or a share of the clients."""

import msgspec
import pytest

from broker.messages import job_file
from broker.messages.job_sections import Cohort


@pytest.mark.parametrize(("written", "needed"), [("1", 10), ("1.0", 10), ("0.5", 5), ("2", 2), ("2.0", 2), ("10", 10)])
def test_a_quorum_means_the_same_in_toml_and_json(written: str, needed: int) -> None:
    from_text = job_file.from_text(f"cohort.quorum = {written}")
    from_json = job_file.from_json(f'{{"cohort": {{"quorum": {written}}}}}'.encode())
    assert from_text == from_json
    assert from_json.cohort.needed == needed
    again = [job_file.from_text(job_file.to_toml(from_json)), job_file.from_json(msgspec.json.encode(from_json))]
    assert [each.cohort.needed for each in again] == [needed, needed]


def test_a_quorum_of_1_in_json_means_all_clients() -> None:
    """JavaScript and jq write the number 1.0 as 1."""
    assert Cohort(clients=4, quorum=1).needed == 4


@pytest.mark.parametrize(
    ("clients", "quorum", "needed"),
    [
        (10, 8, 8),
        (10, 0.8, 8),
        (10, 0.75, 8),
        (10, 1.0, 10),
        (10, 1, 10),
        (10, 2, 2),
        (100, 0.07, 7),
        (100, 0.071, 8),
        (3, 0.5, 2),
    ],
)
def test_a_quorum_is_a_number_or_a_share(clients: int, quorum: float, needed: int) -> None:
    assert Cohort(clients=clients, quorum=quorum).needed == needed


def test_the_smallest_share_needs_one_update() -> None:
    assert Cohort(clients=10, quorum=1e-12).needed == 1


def test_over_selected_clients_are_invited_and_not_needed() -> None:
    cohort = Cohort(clients=10, over_select=3, quorum=1.0)
    assert (cohort.invited, cohort.needed) == (13, 10)

"""A job with personal layers needs a place for them at each of its clients."""

import pytest

from broker.messages.job import Job
from broker.messages.job_sections import Model
from broker.messages.register import ClientRecord
from server import own_places
from server.errors import JobCannotContinue

PERSONAL = Job(model=Model(personal=("head.*",)))
WEB = "https://user:secret@host/shard"


def clients(*places: tuple[str, str]) -> list[ClientRecord]:
    """Clients at these places: `data_loc` and `state_loc`."""
    return [
        ClientRecord(id=f"c-{number}", platform="local", data_loc=data_loc, state_loc=state_loc)
        for number, (data_loc, state_loc) in enumerate(places)
    ]


def test_clients_that_can_t_keep_personal_layers_are_named() -> None:
    records = clients((WEB, ""), ("/data/shard", ""), ("", ""), (WEB, "/layers"), ("/data/shard", "http://host"))
    with pytest.raises(JobCannotContinue) as caught:
        own_places.check(PERSONAL, records)
    assert str(caught.value) == (
        "model.personal needs a place that each client may write, and there is none for "
        "c-0 (https: can't be written), c-2 (it has no data_loc), c-4 (http: can't be written): "
        "register them with a state_loc, for example by `fedkeeper clients add --state-loc`"
    )


def test_a_long_list_of_them_is_cut() -> None:
    with pytest.raises(JobCannotContinue, match=r"c-4 \(it has no data_loc\) and 3 more: register"):
        own_places.check(PERSONAL, clients(*[("", "")] * 8))


def test_clients_need_no_place_without_personal_layers_or_with_one_of_their_own() -> None:
    own_places.check(Job(), clients((WEB, ""), ("", "")))
    own_places.check(PERSONAL, clients((WEB, "s3://bucket/layers"), ("s3://bucket/shard", "")))

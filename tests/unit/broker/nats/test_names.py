import pytest

from broker import BrokerUrl, topics
from broker.errors import BadTopic
from broker.nats import names

DEFAULT = BrokerUrl.parse("nats://host")
OTHER = BrokerUrl.parse("nats://host?streams=PLANT_2&js=$JS.hub.API")


def test_streams_are_named_by_the_family_behind_the_address_s_prefix() -> None:
    assert names.stream_of(DEFAULT, topics.job_record("job-1")) == "FEDKEEPER_RECORDS"
    assert names.stream_of(OTHER, "fl.tasks.>") == "PLANT_2_TASKS"
    assert names.stream_name(OTHER, "SUBMIT") == "PLANT_2_SUBMIT"
    with pytest.raises(BadTopic):
        names.stream_of(DEFAULT, "plant.1")


def test_calls_go_to_the_api_that_the_address_names() -> None:
    assert names.api_subject(DEFAULT, "STREAM.LIST") == "$JS.API.STREAM.LIST"
    assert names.api_subject(OTHER, "STREAM.LIST") == "$JS.hub.API.STREAM.LIST"

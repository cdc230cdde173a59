import pytest

from broker import BrokerUrl, topics
from broker.errors import BadTopic
from broker.nats import names

DEFAULT = BrokerUrl.parse("nats://host")
OTHER = BrokerUrl.parse("nats://host?streams=PLANT_2&js=$JS.hub.API")


def test_stream_names_are_prefix_and_family() -> None:
    assert names.stream_of(DEFAULT, topics.job_record("job-1")) == "FEDKEEPER_RECORDS"
    assert names.stream_of(OTHER, "fl.tasks.>") == "PLANT_2_TASKS"
    assert names.stream_name(OTHER, "SUBMIT") == "PLANT_2_SUBMIT"
    with pytest.raises(BadTopic):
        names.stream_of(DEFAULT, "plant.1")


def test_calls_use_the_api_prefix_of_the_address() -> None:
    assert names.api_subject(DEFAULT, "STREAM.LIST") == "$JS.API.STREAM.LIST"
    assert names.api_subject(OTHER, "STREAM.LIST") == "$JS.hub.API.STREAM.LIST"

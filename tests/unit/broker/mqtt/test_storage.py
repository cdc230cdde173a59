import pytest

from broker import topics
from broker.deliveries import Deleted, Value
from broker.errors import BadTopic
from broker.mqtt import storage
from broker.mqtt.storage import Name, NameFactory

PROGRESS = topics.progress("job-1", "round", "completed")
UPDATE = topics.update("job-1", 1, "client-1", 1)


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        (PROGRESS, "fl/progress/job-1/round/completed"),
        ("fl.progress.*.job.>", "fl/progress/+/job/#"),
    ],
)
def test_topics(topic: str, expected: str) -> None:
    assert storage.mqtt_topic(topic) == expected


@pytest.mark.parametrize("topic", ["fl.a/b", "fl.+", "fl.#", "fl.\0"])
def test_a_character_with_a_meaning_on_mqtt_is_refused(topic: str) -> None:
    with pytest.raises(BadTopic):
        storage.mqtt_topic(topic)


def test_sequences_increase_even_if_the_clock_does_not() -> None:
    names = NameFactory(iter([2.0, 1.0, 1.0, 3.0]).__next__)
    created = [names.next(), names.next(), names.next(after=2_500_000), names.next()]
    assert [name.sequence for name in created] == [2_000_000, 2_000_001, 2_500_001, 3_000_000]
    assert len({name.id for name in created}) == 4


def test_the_same_dedupe_has_the_same_id() -> None:
    names = NameFactory(lambda: 1.0)
    assert names.next("a").id == names.next("a").id != names.next("b").id


def test_an_entry_comes_back() -> None:
    name = Name(1_700_000_000_000_000, "0123456789abcdef")
    entry = storage.parse_entry(topics.job_progress("job-1"), storage.entry_key(PROGRESS, name), b"{}")
    assert entry is not None
    assert (entry.topic, entry.name, entry.message) == (PROGRESS, name, b"{}")
    assert entry.name.time_s == 1_700_000_000.0


@pytest.mark.parametrize("key", ["fl/progress/job-1", "fl/progress/job-2/round/completed/1-0123456789abcdef", "x"])
def test_other_messages_are_not_parsed_as_entries(key: str) -> None:
    assert storage.parse_entry(topics.job_progress("job-1"), key, b"{}") is None


@pytest.mark.parametrize("payload", [b"{", b"[]", b"\xff", b'{"sequence": "1"}'])
def test_an_unreadable_index_is_not_parsed(payload: bytes) -> None:
    assert storage.parse_entry(topics.job_updates("job-1"), storage.index_key(UPDATE), payload) is None


@pytest.mark.parametrize("payload", [b"", b"fk\n", b"fk\nx", b"x"])
def test_payloads_come_back_and_their_messages_are_never_empty(payload: bytes) -> None:
    assert storage.escape(payload)
    assert storage.unescape(storage.escape(payload)) == payload


def test_a_value_has_a_line_with_its_revision_and_a_plain_value_has_its_digest_as_revision() -> None:
    value, writer = storage.decode_value("fl.rounds.j", storage.encode_value(Name(7, "0123456789abcdef"), b"v\n"))
    assert (value, writer) == (Value("fl.rounds.j", b"v\n", 7), "0123456789abcdef")
    plain, _ = storage.decode_value("fl.rounds.j", b"v")
    assert plain == Value("fl.rounds.j", b"v", plain.revision)
    assert plain.revision == storage.decode_value("fl.rounds.j", b"v")[0].revision > 0
    assert storage.decode_value("fl.rounds.j", b"")[0] == Deleted("fl.rounds.j", 0)

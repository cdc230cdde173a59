"""The documents state the same permissions and names as the table of families."""

import re

import pytest

from broker import BrokerUrl
from broker.errors import BadTopic
from broker.families import FAMILIES, SMALL, Family, Writer, family_of
from broker.nats import names
from broker.nats.old_store import STREAMS
from tests.support.paths import REPOSITORY

DOCUMENTS = {path.name: path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs").glob("*.md")}
ADDRESS = BrokerUrl.parse("nats://host")


def test_functions_may_publish_the_topics_in_the_document() -> None:
    granted = re.findall(r"`(fl\.[^`]*<c>[^`]*)`", DOCUMENTS["edge.md"])
    assert len(granted) >= 3
    for subject in granted:
        assert Writer.FUNCTION in family_of(subject.replace("<c>", "c-1")).writers, subject


def test_every_family_takes_a_small_payload_and_weights_have_no_limit() -> None:
    assert min(family.max_payload for family in FAMILIES if family.max_payload is not None) == SMALL
    unlimited = {family.name for family in FAMILIES if family.max_payload is None}
    assert unlimited == {"UPDATES", "MODELS", "STATE", "CHUNKS", "PACKAGES"}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_topic_is_in_the_family_whose_filter_matches_it(family: Family) -> None:
    for pattern in family.filters:
        for topic in (pattern, pattern.replace("*", "a-1").replace(">", "b.c.d")):
            assert family_of(topic) is family, topic


@pytest.mark.parametrize(
    "topic", ["fl", "flt", "flt.acme", "fl.tasks", "fl.jobs.a.b.submit", "fl.unknown.a", "tasks.a.b"]
)
def test_other_topics_are_in_no_family(topic: str) -> None:
    with pytest.raises(BadTopic):
        family_of(topic)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_the_stream_that_keeps_a_topic(document: str) -> None:
    for stream, subject in re.findall(r"\$JS\.API\.DIRECT\.GET\.([A-Z_]+)\.(fl\.[^`\s]+)", DOCUMENTS[document]):
        assert stream == names.stream_of(ADDRESS, subject.replace("<c>", "c-1"))


def test_the_document_names_only_our_streams_and_all_relaxed_ones() -> None:
    ours = {names.stream_name(ADDRESS, family.name) for family in FAMILIES}
    named = set(re.findall(r"`(FEDKEEPER_[A-Z]+)`", DOCUMENTS["nats.md"]))
    assert named <= ours
    assert {names.stream_name(ADDRESS, family.name) for family in FAMILIES if family.relaxed} <= named


def test_the_document_deletes_all_streams_of_0_1() -> None:
    (line,) = [line for line in DOCUMENTS["nats.md"].splitlines() if line.startswith("for stream in ")]
    assert set(line.split()[3:]) == set(STREAMS)

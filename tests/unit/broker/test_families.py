"""What documents say of rights and names is what the table says."""

import re

import pytest

from broker import BrokerUrl
from broker.families import FAMILIES, Writer, family_of
from broker.nats import names
from broker.nats.old_store import STREAMS
from tests.support.paths import REPOSITORY

DOCUMENTS = {path.name: path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs").glob("*.md")}
ADDRESS = BrokerUrl.parse("nats://host")


def test_the_rights_of_a_function_are_to_what_functions_write() -> None:
    granted = re.findall(r"`(fl\.[^`]*<c>[^`]*)`", DOCUMENTS["edge.md"])
    assert len(granted) >= 3
    for subject in granted:
        assert Writer.FUNCTION in family_of(subject.replace("<c>", "c-1")).writers, subject


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_is_read_is_read_from_the_stream_that_keeps_it(document: str) -> None:
    for stream, subject in re.findall(r"\$JS\.API\.DIRECT\.GET\.([A-Z_]+)\.(fl\.[^`\s]+)", DOCUMENTS[document]):
        assert stream == names.stream_of(ADDRESS, subject.replace("<c>", "c-1"))


def test_the_streams_that_are_named_are_ours_and_the_relaxed_one_is_said_to_be() -> None:
    ours = {names.stream_name(ADDRESS, family.name) for family in FAMILIES}
    named = set(re.findall(r"`(FEDKEEPER_[A-Z]+)`", DOCUMENTS["nats.md"]))
    assert named <= ours
    assert {names.stream_name(ADDRESS, family.name) for family in FAMILIES if family.relaxed} <= named


def test_the_streams_of_0_1_that_are_to_be_deleted_are_all_of_them() -> None:
    (line,) = [line for line in DOCUMENTS["nats.md"].splitlines() if line.startswith("for stream in ")]
    assert set(line.split()[3:]) == set(STREAMS)

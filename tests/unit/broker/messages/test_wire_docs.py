"""docs/wire.md and docs/schemas/ match the messages' types, and the schemas accept the real messages."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from broker.messages import codec, job, progress
from broker.messages.errors import JobError
from broker.messages.progress import Event, Progress
from tests.support import wire_docs
from tests.support.paths import REPOSITORY

JOBS = [path for path in sorted((REPOSITORY / "configs").glob("*.toml")) if not path.stem.startswith("fabric-")]


def committed(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((REPOSITORY / f"docs/schemas/{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


def wrong(schema: dict[str, Any], document: object) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(document)]


@pytest.mark.parametrize("path", wire_docs.files(), ids=lambda path: path.name)
def test_the_committed_files_are_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == wire_docs.files()[path], "run scripts/wire-docs"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_shipped_job_is_valid(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert wrong(committed("job"), tomllib.loads(text)) == []
    assert wrong(committed("job"), json.loads(codec.encode(job.from_toml(text)))) == []


@pytest.mark.parametrize(
    "raw",
    [
        {"epochs": 3},
        {"cohort": {"client": 3}},
        {"cohort": {"clients": 0}},
        {"cohort": {"quorum": 1.5}},
        {"training": {"optimizer": "adamw"}},
        {"stop": {"rounds": "3"}},
        [],
    ],
)
def test_a_job_that_the_server_would_refuse_is_not_valid(raw: Any) -> None:
    with pytest.raises(JobError):
        job.from_dict(raw)
    assert wrong(committed("job"), raw)


def test_every_event_is_valid_and_of_one_kind_only(events: tuple[Event, ...]) -> None:
    for event in events:
        document = json.loads(progress.encode(Progress("demo", event, 1_700_000_000.5, "x")))
        assert wrong(committed("progress"), document) == []
        assert document["dataschema"] in {part.get("$id") for part in committed("progress")["$defs"].values()}


@pytest.mark.parametrize("change", [{"type": "dev.fedkeeper.round.exploded"}, {"data": {"round": 1}}, {"id": 5}])
def test_an_unknown_event_is_not_valid(events: tuple[Event, ...], change: dict[str, Any]) -> None:
    document = json.loads(progress.encode(Progress("demo", events[-3], 1.0, "x")))
    assert wrong(committed("progress"), document | change)


def test_an_event_with_unknown_fields_is_valid(events: tuple[Event, ...]) -> None:
    document = json.loads(progress.encode(Progress("demo", events[-3], 1.0, "x")))
    document["data"]["more"] = 1
    assert wrong(committed("progress"), document) == []

"""docs/wire.md and docs/schemas/ match the messages' types, and the schemas accept the real messages."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from broker.messages import codec, job_file, progress
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
    assert wrong(committed("job"), json.loads(codec.encode(job_file.from_text(text)))) == []


@pytest.mark.parametrize(
    "raw",
    [
        {"epochs": 3},
        {"cohort": {"client": 3}},
        {"cohort": {"clients": 0}},
        {"cohort": {"quorum": 1.5}},
        {"training": {"order": "random"}},
        {"stop": {"rounds": "3"}},
        [],
    ],
)
def test_a_job_that_the_server_would_refuse_is_not_valid(raw: Any) -> None:
    with pytest.raises(JobError):
        job_file.from_dict(raw)
    assert wrong(committed("job"), raw)


STRATEGIES: tuple[Any, ...] = (
    *({"name": name} for name in ("fedavg", "fedprox", "fedavgm", "fedadam", "median", "fedsgd", "", None, 5)),
    *({"name": "fedprox", "mu": mu} for mu in (0, 0.0, 1e9, -0.1, "0.1", None, True)),
    *({"name": "fedavgm", "beta": beta, "rate": rate} for beta in (0, 0.5, 1, -1) for rate in (0, 1e-9, 2)),
    *({"name": "fedadam", name: value} for name in ("rate", "beta1", "beta2", "tau") for value in (0, 0.9, 1, -1)),
    *({"name": name, "mu": 0.1} for name in ("fedavg", "fedavgm", "fedadam", "median")),
    *({}, {"mu": 0.1}, {"nam": "fedavg"}, {"name": "fedprox", "mi": 0.1}, "fedavg", ["fedavg"], None),
)


def is_accepted(raw: Any) -> bool:
    try:
        job_file.from_dict(raw)
    except JobError:
        return False
    return True


def test_schema_and_server_accept_the_same_strategies_and_headroom() -> None:
    headroom: tuple[Any, ...] = (
        {},
        {"*": 0},
        {"a.b": 40},
        {"*": 41},
        {"*": -1},
        {"*": 1.5},
        {"*": "1"},
        {"*": None},
        30,
        [],
        None,
    )
    jobs: list[Any] = [{"strategy": strategy} for strategy in STRATEGIES]
    jobs += [{"training": {"headroom": bits}} for bits in headroom]
    accepted = [is_accepted(raw) for raw in jobs]
    assert [not wrong(committed("job"), raw) for raw in jobs] == accepted
    assert 15 < sum(accepted) < len(jobs) - 15


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

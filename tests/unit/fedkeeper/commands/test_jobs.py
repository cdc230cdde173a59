"""`fedkeeper jobs` and `fedkeeper cancel`: what they say of jobs that wait, run and have ended."""

import time
from typing import Any

import pytest
from typer.testing import Result

from broker import topics
from broker.base import Broker
from broker.messages.job_record import JobRecord
from broker.messages.round import BlobRef
from fedkeeper.commands import jobs
from fedkeeper.display import screen
from fedkeeper.sdk import Client
from tests.support import fakes
from tests.support.command import run_here

NOW_S = 1_790_000_000.0
CAUSE = "BadData: file:///srv/c-0.npz: y has shape (89,): " + "x" * 200 + " set data.target (c-0, c-1)"


def record(job: str, phase: Any, **facts: Any) -> JobRecord:
    model = BlobRef("fl.models.demo.x", "ab" * 32, 5)
    times = {"created_s": NOW_S - 7200.0, "ended_s": NOW_S - 3600.0 if phase in ("completed", "failed") else 0.0}
    return JobRecord(id=job, job=fakes.job(stop={"rounds": 50}), phase=phase, model=model, **{**times, **facts})


RECORDS = [
    record("quickstart-8c8c1d", "completed", done=50, metrics={"accuracy": 0.9583}, reason="50 rounds are done"),
    record("a-job-with-a-name-of-forty-characters123", "failed", reason=CAUSE),
    record("diabetes-1", "running", waiting="0 of 5 clients that hold 'diabetes' are registered"),
    record("mine-2", "running", done=7, metrics={"loss": 0.25}),
    record("old-3", "cancelled", done=3, created_s=0.0, ended_s=0.0),
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The topics to which something was published. The system has RECORDS."""
    published: list[str] = []

    async def found(_: Client) -> list[JobRecord]:
        return RECORDS

    async def one(_: Client, job: str) -> JobRecord:
        return next(each for each in RECORDS if each.id == job)

    async def publish(_: Broker, topic: str, *_payload: object, **__: object) -> None:
        published.append(topic)

    monkeypatch.setattr(time, "time", lambda: NOW_S)
    monkeypatch.setattr(Client, "jobs", found)
    monkeypatch.setattr(Client, "job", one)
    monkeypatch.setattr(Broker, "publish", publish)
    return published


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, width: int, *arguments: str) -> Result:
    monkeypatch.setattr(screen, "list_width", lambda: width)
    return run_here("jobs", "--url", "memory://jobs", *arguments)


@pytest.mark.usefixtures("asked")
def test_eighty_columns_have_a_line_for_each_job_and_a_line_for_what_went_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = on_a_terminal(monkeypatch, 80).output.splitlines()
    assert max(map(len, shown)) <= 80
    assert [line.split()[:3] for line in shown if not line.startswith("  ")] == [
        ["job", "phase", "rounds"],
        ["quickstart-8c8c1d", "completed", "50/50"],
        [shown[2].split()[0], "failed", "0/50"],
        ["diabetes-1", "waiting", "0/50"],
        ["mine-2", "running", "7/50"],
        ["old-3", "cancelled", "3/50"],
    ]
    assert "accuracy 0.9583" in shown[1]
    assert "2 h ago" in shown[1]
    assert shown[2].startswith("a-job-with-a-")
    assert shown[3].startswith("  BadData: file:///srv/c-0.npz: y has")
    assert shown[3].endswith("set data.target (c-0, c-1)")
    assert shown[5] == "  0 of 5 clients that hold 'diabetes' are registered"


@pytest.mark.usefixtures("asked")
def test_wider_screens_show_more(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = {width: on_a_terminal(monkeypatch, width).output.splitlines()[0].split() for width in (40, 80, 100)}
    assert heads[40] == ["job", "phase", "rounds"]
    assert heads[80] == ["job", "phase", "rounds", "result", "submitted", "took"]
    assert heads[100] == ["job", "phase", "rounds", "result", "submitted", "took", "at", "size"]


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("arguments", [(), ("-v",)])
def test_a_pipe_gets_everything(arguments: tuple[str, ...]) -> None:
    output = run_here("jobs", "--url", "memory://jobs", *arguments).output
    assert CAUSE in output
    assert "1 h" in output
    assert output.splitlines()[0].split()[-1] == "reason"
    assert len(output.splitlines()) == 1 + len(RECORDS)


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--phase", "waiting"), ["diabetes-1"]),
        (("--phase", "failed", "--phase", "cancelled"), ["a-job-with-a-name-of-forty-characters123", "old-3"]),
        (("--last", "2"), ["mine-2", "old-3"]),
        (("--phase", "running", "--last", "9"), ["mine-2"]),
    ],
)
def test_jobs_are_chosen_by_their_phase_and_age(arguments: tuple[str, ...], expected: list[str]) -> None:
    output = run_here("jobs", "--url", "memory://jobs", *arguments).output
    assert [line.split()[0] for line in output.splitlines()[1:]] == expected


def test_a_running_job_has_taken_the_time_until_now() -> None:
    cells = dict(zip((each.name for each in jobs.COLUMNS), jobs.row(RECORDS[3], NOW_S), strict=True))
    assert (cells["took"], cells["result"], cells["phase"]) == ("2 h", "loss 0.2500", "running")


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("quickstart-8c8c1d", "completed: 50 rounds are done, test accuracy 0.9583"),
        ("a-job-with-a-name-of-forty-characters123", f"failed: {CAUSE}"),
        ("old-3", "cancelled after 3 rounds"),
    ],
)
def test_an_ended_job_is_not_cancelled_and_it_is_said_how_it_ended(asked: list[str], job: str, said: str) -> None:
    result = run_here("cancel", job, "--url", "memory://jobs")
    assert (result.exit_code, result.output) == (0, f"job {job} has ended already: {said}\n")
    assert asked == []


def test_a_running_job_is_cancelled(asked: list[str]) -> None:
    result = run_here("cancel", "mine-2", "--url", "memory://jobs")
    assert result.exit_code == 0
    assert result.output.startswith(
        "requested the cancellation of mine-2; `fedkeeper watch mine-2 --url memory://jobs`"
    )
    assert asked == [topics.cancellation("mine-2")]

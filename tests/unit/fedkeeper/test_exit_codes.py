"""How commands end, with and without --json: their exit code, and what is on which output."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from broker.errors import ConnectFailed
from broker.messages.job_record import JobRecord, Phase
from broker.messages.progress import JobCancelled, JobCompleted, JobFailed, JobRejected, JobWaiting, Progress
from broker.messages.round import BlobRef
from fedkeeper.display import patience
from fedkeeper.errors import JobRefused, NoSuchJob, NotAnswered
from fedkeeper.exit_codes import ExitCode
from fedkeeper.sdk import Client
from tests.support import fakes
from tests.support.command import run_here

URL: Final = ("--url", "memory://codes")

MODEL: Final = BlobRef("fl.models.demo-1.x", "ab" * 32, 5)

ENDS: Final[dict[str, tuple[Any, Phase, ExitCode]]] = {
    "completed": (JobCompleted("2 rounds are done", 2, None, MODEL), "completed", ExitCode.DONE),
    "failed": (JobFailed("0 of 5 needed updates"), "failed", ExitCode.JOB_FAILED),
    "rejected": (JobRejected("stop.rounds", "0", "expected 1"), "failed", ExitCode.JOB_FAILED),
    "cancelled": (JobCancelled(1, MODEL), "cancelled", ExitCode.JOB_CANCELLED),
}


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submits(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
    async def submit(*_: object, **__: object) -> str:
        if error is not None:
            raise error
        return "demo-1"

    monkeypatch.setattr(Client, "submit", submit)


def ends(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Let the job `demo-1` end, with its last event alone."""
    event, phase, _ = ENDS[how]

    async def watch(*_: object, **__: object) -> AsyncIterator[Progress]:
        yield Progress("demo-1", event, 1.0, "last")

    async def job(*_: object) -> JobRecord:
        return JobRecord(id="demo-1", job=fakes.job(), phase=phase)

    monkeypatch.setattr(Client, "watch", watch)
    monkeypatch.setattr(Client, "job", job)


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_whoever_follows_a_job_ends_as_the_job_does(
    how: str, form: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    submits(monkeypatch)
    ends(monkeypatch, how)
    watched = run_here("watch", "demo-1", *form, *URL)
    submitted = run_here("submit", "quickstart", "--wait", *form, *URL)
    assert (watched.exit_code, submitted.exit_code) == (ENDS[how][2], ENDS[how][2]), submitted.stderr
    if form:
        assert json.loads(watched.stdout)["what"] == f"job.{how}"
        first, *rest = map(json.loads, submitted.stdout.splitlines())
        assert first == {"job": "demo-1", "accepted": True}
        assert [each["phase"] for each in rest] == ([] if how == "rejected" else [ENDS[how][1]])
    else:
        assert (watched.stdout, submitted.stdout.splitlines()[0]) == ("", "demo-1")
    if how != "completed":
        said = {"failed": "failed:", "rejected": "was rejected:", "cancelled": "was cancelled after 1 round\n"}
        assert f"error: job demo-1 {said[how]}" in watched.stderr


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_a_submission_that_is_not_taken_says_so_by_its_code(
    form: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    submits(monkeypatch, JobRefused("demo-1", "id", "another job has this id"))
    refused = run_here("submit", "quickstart", *form, *URL)
    assert (refused.exit_code, refused.stdout) == (ExitCode.JOB_FAILED, "")
    assert refused.stderr == "error: job demo-1 was refused: another job has this id\n"
    submits(monkeypatch, NotAnswered("demo-1", 10))
    kept = run_here("submit", "quickstart", *form, *URL)
    assert kept.exit_code == ExitCode.NOT_ANSWERED
    assert kept.stdout.strip() == ('{"job":"demo-1","accepted":false}' if form else "demo-1")
    assert "no FL server took job demo-1 within 10 s" in kept.stderr


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_other_errors_are_1_and_mistakes_are_2(form: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object) -> JobRecord:
        raise NoSuchJob("demo-9")

    monkeypatch.setattr(Client, "job", unknown)
    submits(monkeypatch, ConnectFailed("nats://127.0.0.1:1", "refused"))
    Path("wrong.toml").write_text("[stop]\nrounds = 0\nround = 1\n")
    for arguments, code, said in (
        (("cancel", "demo-9", *URL), ExitCode.FAILED, "no job has the id 'demo-9'"),
        (("submit", "quickstart", *URL), ExitCode.FAILED, "refused"),
        (("submit", "wrong.toml", *URL), ExitCode.USAGE, "2 mistakes\nwrong.toml:2: stop.rounds = 0: expected a whole"),
        (("submit", "nowhere.toml", *URL), ExitCode.USAGE, "no job file 'nowhere.toml'"),
        (("submit", "quickstart", "--set", "stop.rounds", *URL), ExitCode.USAGE, "section.key=value"),
        (("jobs",), ExitCode.USAGE, "which broker?"),
        (("jobs", "--url", "ftp://x"), ExitCode.USAGE, "ftp"),
        (("jobs", "--phase", "done", *URL), ExitCode.USAGE, "done"),
    ):
        ended = run_here(*arguments, *form, FEDKEEPER_URL="")
        assert (ended.exit_code, ended.stdout) == (code, ""), (arguments, ended.stderr)
        assert said in ended.stderr


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    async def watch(*_: object, **__: object) -> AsyncIterator[Progress]:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)
        yield Progress("demo-1", ENDS["completed"][0], 1.0, "last")

    monkeypatch.setattr(Client, "watch", watch)
    for form in ((), ("--json",)):
        ended = run_here("watch", "demo-1", *form, *URL)
        assert (ended.exit_code, ended.stdout) == (ExitCode.INTERRUPTED, "")
        assert "job demo-1 goes on" in ended.stderr
        assert "fedkeeper fetch demo-1 --url memory://codes" in ended.stderr


def test_whoever_follows_a_job_that_waits_is_told_at_once_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "0 of 10 clients that hold 'mnst' are registered; did you mean 'mnist' as data.dataset?"
    waiting = JobWaiting(reason=reason, data="mnst", have=0, need=10, until_s=600.0)

    async def watch(*_: object, **__: object) -> AsyncIterator[Progress]:
        yield Progress("demo-1", waiting, 1.0, "waiting")
        await asyncio.sleep(0.01)
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)

    submits(monkeypatch)
    monkeypatch.setattr(Client, "watch", watch)
    monkeypatch.setattr(patience, "WAIT_S", 0.0)
    for command in (("submit", "quickstart", "--wait"), ("watch", "demo-1"), ("submit", "quickstart", "--wait", "-v")):
        assert f"waiting: {reason}\n" in run_here(*command, *URL).stderr, command
    assert json.loads(run_here("watch", "demo-1", "--json", *URL).stdout)["event"]["reason"] == reason


@pytest.mark.parametrize(
    "arguments",
    [("run", "--resume", "nowhere"), ("sweep", "--resume", "nowhere"), ("plot", "nowhere"), ("compare", "nowhere")],
)
def test_a_folder_that_is_not_there_is_a_mistake_in_the_arguments(arguments: tuple[str, ...]) -> None:
    done = run_here(*arguments)
    assert (done.exit_code, done.stdout) == (ExitCode.USAGE, "")
    assert "nowhere" in done.stderr


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_a_list_without_jobs_says_so(form: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    async def jobs(*_: object) -> list[JobRecord]:
        return []

    monkeypatch.setattr(Client, "jobs", jobs)
    done = run_here("jobs", *form, *URL)
    assert (done.exit_code, done.stdout) == (ExitCode.DONE, "")
    assert ("there are no jobs yet" in done.stderr) == (form == ())

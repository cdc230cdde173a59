"""A command's end: a user's mistake is one sentence, a bug keeps its traceback."""

import asyncio
import os
import pty
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from bridges.errors import SecretMissing
from broker.errors import BadUrl, Conflict, ConnectFailed
from broker.messages.errors import JobError
from broker.support.validation import Mistake
from fedkeeper import running
from fedkeeper.display import screen
from fedkeeper.errors import BadConfigFile, BadOption, JobFailed, JobRefused, JobStopped, NoSuchJob, NotAnswered
from fedkeeper.exit_codes import ExitCode
from server.errors import IllegalTransition


async def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoSuchJob("demo"), ExitCode.FAILED),
        (SecretMissing("key", "write it into a file"), ExitCode.FAILED),
        (ConnectFailed("nats://127.0.0.1:1", "refused"), ExitCode.FAILED),
        (BadOption("--label xray: write a label as KEY=VALUE"), ExitCode.USAGE),
        (BadUrl("no host in ''"), ExitCode.USAGE),
        (BadConfigFile([Mistake("name", 1, "expected a text")]), ExitCode.USAGE),
        (JobError("cohort.clients", 0, "expected a whole number >= 1"), ExitCode.USAGE),
        (JobRefused("demo", "id", "id = 'demo': another job has this id; choose another"), ExitCode.JOB_FAILED),
        (JobFailed("demo", "failed: 0 of 5 needed updates"), ExitCode.JOB_FAILED),
        (JobStopped("demo", "cancelled after 3 rounds"), ExitCode.JOB_CANCELLED),
        (NotAnswered("demo", 10), ExitCode.NOT_ANSWERED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.name,
)
def test_an_error_that_a_person_can_correct_is_one_sentence_and_an_exit_code(
    error: Exception, code: ExitCode, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        running.run(fail(error))
    assert ended.value.code == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_square_brackets_of_a_message_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        running.run(fail(BadOption("pip install '.[train]'")))
    assert capsys.readouterr().err == "error: pip install '.[train]'\n"


@pytest.mark.parametrize(
    "error",
    [IllegalTransition("completed", "answered"), Conflict("fl.rounds.demo", 3), KeyError("demo")],
    ids=lambda error: type(error).__name__,
)
def test_a_bug_is_not_shown_as_a_mistake_of_a_user(error: Exception) -> None:
    with pytest.raises(type(error)):
        running.run(fail(error))


def test_a_command_takes_its_arguments() -> None:
    calls: list[tuple[str, int]] = []

    @running.command
    async def submit(name: str, *, rounds: int = 1) -> None:
        calls.append((name, rounds))

    submit("demo", rounds=2)
    assert calls == [("demo", 2)]


async def work() -> None:
    pass


def interrupted(coroutine: Coroutine[Any, Any, None]) -> None:
    """Take the place of `asyncio.run`, during which somebody presses Ctrl-C."""
    coroutine.close()
    raise KeyboardInterrupt


def test_a_command_that_started_nothing_does_not_claim_to_have_ended_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "_cancel_on_signal", lambda coroutine, _: coroutine)
    monkeypatch.setattr(asyncio, "run", interrupted)
    with pytest.raises(SystemExit):
        running.command(work)()
    assert capsys.readouterr().err == "stopped; jobs go on\n"
    with pytest.raises(SystemExit):
        running.run(work())
    assert "everything that was started is ended" in capsys.readouterr().err


def test_what_is_said_at_an_interruption_is_what_the_command_said_last_and_comes_after_its_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def follow() -> None:
        running.say_when_stopped("stopped; job demo goes on")
        try:
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            screen.say("ended what it had started")

    with pytest.raises(SystemExit) as ended:
        running.command(follow)()
    assert ended.value.code == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "ended what it had started\nstopped; job demo goes on\n"
    running.say_when_stopped("nobody is stopped now")


async def wait_for_signal(number: int, ended: list[str]) -> None:
    try:
        os.kill(os.getpid(), number)
        await asyncio.sleep(60)
    finally:
        ended.append("clean")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_is_a_clean_end(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "_leave_terminal", lambda: None)
    ended: list[str] = []
    with pytest.raises(SystemExit) as stopped:
        running.run(wait_for_signal(number, ended))
    assert (stopped.value.code, ended) == (ExitCode.INTERRUPTED, ["clean"])
    assert capsys.readouterr().err == f"{running.STOPPED}\n"


def test_a_command_under_nohup_lives_on_when_its_terminal_is_closed() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    done: list[int] = []

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
        done.append(1)

    try:
        running.run(work())
    finally:
        signal.signal(signal.SIGHUP, before)
    assert done == [1]


def test_a_command_may_go_on_in_spite_of_a_signal() -> None:
    heard: list[int] = []

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while not heard:  # noqa: ASYNC110 (a signal)
            await asyncio.sleep(0)

    def on_signal(number: int) -> bool:
        heard.append(number)
        return True

    running.run(work(), on_signal=on_signal)
    assert heard == [signal.SIGINT]


CLOSED_TERMINAL = """
import asyncio, pathlib, sys
from fedkeeper import running
from fedkeeper.display import screen

async def work():
    pathlib.Path(sys.argv[1]).write_text("started")
    try:
        await asyncio.sleep(600)
    finally:
        screen.say("ending")
        pathlib.Path(sys.argv[1]).write_text("clean")

running.run(work())
"""


@pytest.mark.slow
def test_a_closed_terminal_is_a_clean_end(tmp_path: Path) -> None:
    file = tmp_path / "state"
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-c", CLOSED_TERMINAL, str(file)])  # noqa: S606 (our own)
    end_s = time.monotonic() + 120
    while not file.exists() and time.monotonic() < end_s:
        time.sleep(0.05)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == ExitCode.INTERRUPTED
    assert file.read_text() == "clean"

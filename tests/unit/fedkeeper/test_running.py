"""A command's end: a user's mistake is one sentence, a bug keeps its traceback."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from bridges.errors import SecretMissing
from broker.errors import Conflict, ConnectFailed
from broker.messages.errors import JobError
from fedkeeper import running
from fedkeeper.errors import BadOption, JobRefused, NoSuchJob
from server.errors import IllegalTransition


async def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [
        NoSuchJob("demo"),
        JobRefused("demo", "id", "id = 'demo': another job has this id; choose another, or none"),
        BadOption("--label xray: write a label as KEY=VALUE"),
        JobError("cohort.clients", 0, "expected a whole number >= 1"),
        SecretMissing("key", "write it into a file"),
        ConnectFailed("nats://127.0.0.1:1", "refused"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_mistake_of_a_user_is_one_sentence(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        running.run(fail(error))
    assert ended.value.code == running.FAILED
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
    monkeypatch.setattr(running, "_cancel_on_signal", lambda coroutine: coroutine)
    monkeypatch.setattr(asyncio, "run", interrupted)
    with pytest.raises(SystemExit):
        running.command(work)()
    assert capsys.readouterr().err == "stopped; jobs go on\n"
    with pytest.raises(SystemExit):
        running.run(work())
    assert "everything that was started is ended" in capsys.readouterr().err

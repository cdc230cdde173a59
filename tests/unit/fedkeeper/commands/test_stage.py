"""The command `stage`: mistakes in its arguments, and Ctrl-C while it downloads or reads data."""

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from broker.support import files
from fedkeeper import own_data
from fedkeeper.exit_codes import ExitCode
from fedkeeper.services import provision
from tests.support.command import run_here


@pytest.mark.parametrize("arguments", [("quickstart",), ("--from", "mine.csv", "--clients", "2")])
def test_ctrl_c_does_not_wait_for_the_data(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    def download(*_: Any, **__: Any) -> None:
        try:
            loops.append(asyncio.get_running_loop())
        except RuntimeError:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(provision, "stage_dataset", download)
    monkeypatch.setattr(own_data, "stage_file", download)
    monkeypatch.chdir(tmp_path)
    done = run_here("stage", *arguments)
    assert not loops
    assert (done.exit_code, done.stderr) == (ExitCode.INTERRUPTED, "stopped\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("stage --from nofile.csv --clients 1", "no data 'nofile.csv' at .: give the path of a file"),
        ("stage --from mine.csv --clients 1 --target wrong", "wrong"),
        ("stage --from mine.csv --clients 1 --target y --to nowhere://x", "Protocol not known: nowhere"),
        ("stage --from mine.csv --clients 50 --target y", "2 samples can't be split into 50 parts"),
        ("run quickstart --from nofile.csv", "no data 'nofile.csv'"),
        ("run quickstart --from mine.csv --set data.target=wrong", "wrong"),
        ("sweep quickstart --seeds 2 --from nofile.csv", "no data 'nofile.csv'"),
        ("sweep quickstart --seeds 2 --from mine.csv --set data.target=wrong", "wrong"),
    ],
)
def test_mistakes_in_the_arguments_are_2(
    arguments: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("a,y\n1,0\n2,1\n")
    done = run_here(*arguments.split())
    assert said in done.stderr
    assert (done.exit_code, done.stdout) == (ExitCode.USAGE, "")


def test_a_shard_that_can_t_be_written_is_no_mistake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write", write)
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("a,y\n1,0\n2,1\n")
    done = run_here("stage", "--from", "mine.csv", "--clients", "1", "--target", "y")
    assert (done.exit_code, "No space left on device" in done.stderr) == (ExitCode.FAILED, True)

"""The command `stage`: Ctrl-C ends it also while it downloads or reads data."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

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

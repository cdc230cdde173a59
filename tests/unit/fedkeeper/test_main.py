"""What the program does before it imports its command line."""

import sys

import pytest

from client_fn.trainer import fork_server
from fedkeeper import __main__, cli


@pytest.mark.parametrize(
    ("arguments", "is_started"),
    [
        (["run"], True),
        (["run", "quickstart", "--quiet"], True),
        (["up", "--workers", "1"], True),
        (["run", "-h"], False),
        (["up", "--help"], False),
        (["jobs", "run"], False),
        ([], False),
    ],
)
def test_commands_that_train_import_torch_first(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], *, is_started: bool
) -> None:
    done: list[str] = []
    monkeypatch.setattr(sys, "argv", ["fedkeeper", *arguments])
    monkeypatch.setattr(fork_server, "start_early", lambda _: done.append("torch"))
    monkeypatch.setattr(cli, "main", lambda: done.append("command line"))
    __main__.main()
    assert done == [*(["torch"] if is_started else []), "command line"]

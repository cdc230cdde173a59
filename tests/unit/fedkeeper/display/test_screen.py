"""What commands print: lists that fit the screen, and foreign text that changes nothing on the terminal."""

import pytest

from broker.messages.register import ClientRecord
from fedkeeper.commands import clients
from fedkeeper.display import screen


def test_progress_goes_to_standard_error_and_lists_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    screen.console().print("[bold]shown[/]")
    screen.print_table(("x",), [])
    out, err = capsys.readouterr()
    assert (out.split(), err) == (["x"], "shown\n")


HOSTILE = "\x1b[2J\x9b [/b] [red]x[/red]"
SHOWN = "\\u001b[2J\\u009b [/b] [red]x[/red]"


def test_foreign_text_in_a_list_changes_nothing_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    record = ClientRecord(id="c-1", platform="edge", labels={"[/b]": HOSTILE}, data_loc="s3://key:hunter2@bucket/x?s=1")
    screen.print_table(("client",) * 10, [clients.client_row(record, None, 0.0)])
    out = capsys.readouterr().out
    assert f"[/b]={SHOWN}" in out
    assert "s3://bucket/x " in out
    assert "hunter2" not in out
    assert "\x1b" not in out


def test_foreign_text_in_a_line_changes_nothing_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen.echo(HOSTILE)
    screen.console().print(HOSTILE, markup=False)
    assert [text.strip() for text in capsys.readouterr()] == [SHOWN, SHOWN]


def test_a_list_in_a_pipe_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    place = "file:///" + "very/" * 60 + "far"
    screen.print_table(("client", "data"), [("c-1", place), ("c-2", "near")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["client", "data"], ["c-1", place], ["c-2", "near"]]

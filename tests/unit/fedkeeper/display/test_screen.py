"""What commands print: lists that fit the screen, and foreign text that changes nothing on the terminal."""

from collections.abc import Callable

import pytest

from broker.messages.register import ClientRecord
from fedkeeper.commands import clients
from fedkeeper.display import screen
from fedkeeper.display.columns import Column


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
    assert "\ts3://bucket/x\n" in out
    assert "hunter2" not in out
    assert "\x1b" not in out


def test_foreign_text_in_a_line_changes_nothing_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen.echo(HOSTILE)
    screen.console().print(HOSTILE, markup=False)
    assert [text.strip() for text in capsys.readouterr()] == [SHOWN, SHOWN]


FAR = "file:///" + "very/" * 60 + "far"


def print_table() -> None:
    screen.print_table(("client", "data"), [("c-1", FAR), ("c-2", "near by")])


def print_list() -> None:
    screen.print_list((Column("client", is_number=True), Column("data", least=4)), [("c-1", FAR), ("c-2", "near by")])


@pytest.mark.parametrize("show", [print_table, print_list])
def test_a_list_in_a_pipe_is_neither_cut_nor_padded(
    show: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    show()
    assert capsys.readouterr().out == f"client\tdata\nc-1\t{FAR}\nc-2\tnear by\n"


def test_a_cell_in_a_pipe_can_t_be_two(capsys: pytest.CaptureFixture[str]) -> None:
    screen.print_table(("a", "b"), [("x\ty", "\nz")])
    assert capsys.readouterr().out == "a\tb\nx\\u0009y\t\\u000az\n"

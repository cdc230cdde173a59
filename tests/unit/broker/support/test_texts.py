"""Foreign text on its way to a terminal, a log or a message."""

import json

import pytest

from broker.support import texts


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "\\u001b[2J\\u001b]0;title\\u0007"),  # clears the screen, names the window
        ("\x9b2J", "\\u009b2J"),  # the same in C1
        ("a\rb\x08\x7f", "a\\u000db\\u0008\\u007f"),
        ("safe\u202egnp.exe", "safe\\u202egnp.exe"),  # shown from right to left
        ("half\ud800", "half\\ud800"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("größer than 5 µm: 日本 [/b] \\u001b", "größer than 5 µm: 日本 [/b] \\u001b"),
    ],
)
def test_control_characters_are_shown(foreign: str, shown: str) -> None:
    assert texts.cleaned(foreign) == shown
    shown.encode()


def test_a_line_stays_one_line() -> None:
    assert texts.cleaned("ok\n2026 [info] job accepted", keep="") == "ok\\u000a2026 [info] job accepted"


def test_json_means_the_same_afterwards() -> None:
    text = json.dumps({"reason": "\x9b2J\u202e"}, ensure_ascii=False)
    assert json.loads(texts.cleaned(text)) == json.loads(text)


def test_a_long_text_says_how_long_it_was() -> None:
    assert texts.shortened("x" * 50, 50) == "x" * 50
    short = texts.shortened("x" * 900_000, 50)
    assert short == "x" * 27 + "... (900000 characters)"
    assert texts.shortened(short, 50) == short

"""Foreign text: what other programs and people have written, before it reaches a terminal, a log or a message."""

import re
from typing import Final

MAX_TEXT: Final = 4000
"""Longest text of a reason in a message, and of a value in a log. Characters."""

# C0, DEL and C1 control a terminal (ECMA-48); the others change the direction of text (Unicode TR 9) or are halves of a
# character, which can't be encoded.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def cleaned(text: str, *, keep: str = "\n\t") -> str:
    r"""Return a text with each control character written as `\u001b`, as JSON writes it.

    Args:
        text: any text.
        keep: control characters that stay.
    """
    return _CONTROL.sub(lambda match: match[0] if match[0] in keep else f"\\u{ord(match[0]):04x}", text)


def shortened(text: str, most: int = MAX_TEXT) -> str:
    """Return a text that is at most so long; a longer one ends with its length.

    Args:
        text: any text.
        most: the largest number of characters, at least 40.
    """
    if len(text) <= most:
        return text
    end = f"... ({len(text)} characters)"
    return text[: most - len(end)] + end


def abridged(text: str, most: int) -> str:
    """Return a text as one line of at most so many characters; of a longer one without its middle.

    An error begins with what went wrong, and ends with what to do.

    Args:
        text: any text.
        most: the largest number of characters, at least 10.
    """
    line = cleaned(" ".join(text.split()), keep="")
    if len(line) <= most:
        return line
    head = (most - 5) * 2 // 3
    return f"{line[:head]} ... {line[len(line) - (most - 5 - head) :]}"

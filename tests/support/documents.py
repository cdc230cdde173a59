"""The blocks of our documents, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.paths import REPOSITORY

DOCUMENTS: Final = sorted(
    str(path.relative_to(REPOSITORY))
    for path in (
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").glob("*.md"),
        *(REPOSITORY / "examples").glob("*.md"),
        *(REPOSITORY / "benchmarks").glob("*.md"),
        *(REPOSITORY / ".github").rglob("*.md"),
    )
)

_BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_]\w*\+?=")
_REDIRECTIONS: Final = {">", ">>", "<", ">&", "<&", "&>"}
_KEYWORDS: Final = {"do", "then", "else"}
_ENDS: Final = {"done", "fi"}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document.

    Attributes:
        document: path of the document, relative to the repository.
        line: number of the block's first line.
        language: the word behind the fence; empty: none.
        text: the block.
    """

    document: str
    line: int
    language: str
    text: str


def blocks(document: str, *languages: str) -> list[Block]:
    """Return the blocks of a document in these languages, in order; without languages all blocks.

    Args:
        document: path relative to the repository.
        languages: words behind the fence.
    """
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    found = [
        Block(document, text.count("\n", 0, match.start()) + 2, match[1], match[2]) for match in _BLOCK.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]


def block(document: str, language: str, word: str) -> str:
    """Return the text of the one block in a language that contains a word."""
    (found,) = [block.text for block in blocks(document, language) if word in block.text]
    return found


def commands(script: str) -> list[list[str]]:
    """Return the simple commands of a shell script as words, without assignments, redirections, `sudo` and comments."""
    found = []
    for line in script.replace("\\\n", " ").splitlines():
        for words in _simple_commands(line):
            if words[:2] == ["sh", "-c"]:
                found += commands(words[2])
            else:
                found.append(words)
    return found


def _simple_commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    is_target = False
    for word in lexer:
        if set(word) <= set("();<>|&"):
            if word in _REDIRECTIONS:
                is_target = True
                continue
            yield from _without_prefixes(words)
            words = []
        elif is_target:
            is_target = False
        else:
            words.append(word)
    yield from _without_prefixes(words)


def _without_prefixes(words: list[str]) -> Iterator[list[str]]:
    while words and (_ASSIGNMENT.match(words[0]) or words[0] in _KEYWORDS or words[0] == "sudo"):
        if words == ["sudo", "-s"]:
            return
        words = words[1:]
    if words and words[0] not in _ENDS and words[0] != "for":
        yield [Path(words[0]).name if words[0].startswith(".venv/bin/") else words[0], *words[1:]]

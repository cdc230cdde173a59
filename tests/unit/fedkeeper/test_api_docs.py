"""docs/api.md describes every public name of the SDK, and the Python of the documents is Python."""

import builtins
import inspect
import re
from typing import Any

import pytest

import fedkeeper
from fedkeeper import events
from tests.support import api_docs
from tests.support.paths import REPOSITORY

PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "examples" / "README.md"])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = [
    pytest.param(path, code, id=f"{path.stem}-{number}")
    for path in PAGES
    for number, code in enumerate(BLOCK.findall(path.read_text(encoding="utf-8")))
]


def test_the_committed_page_is_up_to_date() -> None:
    assert api_docs.PAGE.read_text(encoding="utf-8") == api_docs.api_md(), "run scripts/wire-docs"


def test_every_public_name_is_described() -> None:
    page = api_docs.api_md()
    missing = [name for name in (*fedkeeper.__all__, *events.__all__) if f"`{name}`" not in page]
    assert missing == ["__version__", "events", "FINAL_EVENTS", "Event"]


def test_every_argument_and_every_error_of_a_public_function_is_described() -> None:
    functions: list[Any] = [fedkeeper.run, fedkeeper.resume, fedkeeper.load_run, fedkeeper.connect, fedkeeper.read_job]
    for kind in (fedkeeper.Client, fedkeeper.Run):
        functions += [member for _, member in api_docs.members(kind) if callable(member)]
    for function in functions:
        _, sections = api_docs.documented(function)
        arguments = [name for name in inspect.signature(function).parameters if name != "self"]
        if len(arguments) > 1:
            assert list(sections["Args"]) == arguments, function
        for error in sections.get("Raises", {}):
            assert error in fedkeeper.__all__ or hasattr(builtins, error), (function, error)


@pytest.mark.parametrize(("path", "code"), CODE)
def test_the_python_of_a_document_is_python(path: object, code: str) -> None:
    compile(code, str(path), "exec")

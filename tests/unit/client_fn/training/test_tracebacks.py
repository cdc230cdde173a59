"""An error of the user's code is named with its line in the user's file, and nothing of ours or of this machine."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from client_fn import strategies
from client_fn.training import models
from client_fn.training.tracebacks import Cause, explain

pytestmark = pytest.mark.torch

MINE = """
import json
from torch import nn

def own(): raise KeyError("Meier, Hans")
def standard(): json.loads("{")
def library(): nn.Linear(2, 3)(nn.Parameter())
def nested():
    try:
        own()
    except KeyError as exc:
        raise ValueError("second") from exc

class Mute(Exception):
    def __str__(self): raise RuntimeError("no text")

def mute(): raise Mute
def long(): raise ValueError("x" * 100_000)
def surrogate(): raise ValueError(chr(0xD800))
def ours(find): find("nowhere:Own")
"""


def load(file: Path) -> ModuleType:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(MINE)
    spec = importlib.util.spec_from_file_location("mine", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cause_of(call: Callable[[], object]) -> Cause:
    with pytest.raises(Exception) as caught:  # noqa: PT011 (any error)
        call()
    # As `explain` sees it: without the frames of this test.
    traceback = caught.value.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return explain(caught.value.with_traceback(traceback))


@pytest.fixture
def mine(tmp_path: Path) -> ModuleType:
    return load(tmp_path / "code" / "mine.py")


@pytest.mark.parametrize(
    ("call", "cause", "where"),
    [
        ("own", "KeyError", "mine.py:5"),
        ("standard", "JSONDecodeError", "mine.py:6"),
        ("library", "RuntimeError", "mine.py:7"),
        ("nested", "ValueError", "mine.py:12"),
    ],
)
def test_the_place_is_the_last_line_of_the_users(mine: ModuleType, call: str, cause: str, where: str) -> None:
    assert cause_of(getattr(mine, call))[:2] == (cause, where)


def test_the_text_is_apart_from_class_and_place(mine: ModuleType) -> None:
    assert cause_of(mine.own) == Cause("KeyError", "mine.py:5", "'Meier, Hans'")


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_a_line_of_an_installed_package_is_named_from_the_package_on(tmp_path: Path, folder: str) -> None:
    module = load(tmp_path / "lib" / folder / "vision" / "nets.py")
    assert cause_of(module.own).where == "vision/nets.py:5"


def test_a_line_of_their_own_file_goes_before_one_of_a_library_that_it_calls(mine: ModuleType, tmp_path: Path) -> None:
    library = load(tmp_path / "lib" / "site-packages" / "vision" / "nets.py")
    assert cause_of(lambda: mine.ours(library.ours))[:2] == ("TypeError", "mine.py:20")


def test_our_own_lines_and_torchs_are_never_the_place(mine: ModuleType) -> None:
    assert cause_of(lambda: mine.ours(models.find)).where == "mine.py:20"
    assert cause_of(lambda: models.find("nowhere:Own")).where == ""
    assert cause_of(lambda: nn.Linear(2, 3)(torch.zeros(5))).where == ""
    assert cause_of(lambda: strategies.make({})).where == ""


def test_the_line_of_a_wrong_syntax_is_named() -> None:
    assert cause_of(lambda: compile("x = (\n", "/home/hans/mine.py", "exec"))[:2] == ("SyntaxError", "mine.py:1")


def test_a_text_that_can_t_be_made_is_no_error(mine: ModuleType) -> None:
    assert cause_of(mine.mute) == Cause("Mute", "mine.py:17", "its text can't be made")


def test_a_long_text_is_cut_and_every_text_can_be_sent(mine: ModuleType) -> None:
    assert len(cause_of(mine.long).text) == 2000
    json.dumps(cause_of(mine.surrogate).text).encode("utf-8")
    assert cause_of(mine.surrogate).text == "?"

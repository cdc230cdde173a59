"""A job may name a class of modules, or a function of the named package; nothing that the package has imported."""

import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from client_fn.errors import BadModel
from client_fn.training import models

pytestmark = pytest.mark.torch

INIT = """
from subprocess import run
from os import system
from torch import nn, relu
from torch.nn import Linear
from own_find.parts import make as imported_from_own

def make(width=3): return nn.Linear(width, 2)
def no_module(): return 5
shortcut = lambda: nn.Linear(1, 1)
instance = nn.Linear(1, 1)
number = 5
class Own(nn.Module): pass
class Plain: pass
class Fails(nn.Module):
    def __init__(self, width=3, names=[1] * 1000, *parts, rate: float, **more): raise KeyError("Meier")
"""
PARTS = """
from torch import nn
def make(): return nn.Linear(1, 1)
"""
LAZY = """
def __getattr__(name): raise ImportError("install more")
"""
RANDOM = """
import random, numpy, torch
from torch import nn
DRAWN = [random.random(), float(numpy.random.random()), float(torch.rand(()))]
class Own(nn.Module): pass
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of the user's, `own_find`."""
    folder = tmp_path / "own_find"
    folder.mkdir()
    for name, text in {"__init__": INIT, "parts": PARTS, "lazy": LAZY, "drawing": RANDOM}.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "broken.py").write_text("x = (\n")
    (folder / "exits.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    forget()


def forget() -> None:
    """Let the package be imported anew."""
    for name in [name for name in sys.modules if name.startswith("own_find")]:
        del sys.modules[name]


def spec(path: str, **args: object) -> SimpleNamespace:
    return SimpleNamespace(type=path, args=args)


@pytest.mark.parametrize(
    "path", ["own_find:make", "own_find:shortcut", "own_find:imported_from_own", "own_find.parts:make", "own_find:Own"]
)
def test_classes_and_functions_of_the_package_make_models(path: str) -> None:
    assert isinstance(models.build(spec(path), seed=1), nn.Module)


def test_an_imported_class_of_modules_is_a_model_too() -> None:
    module = models.build(spec("own_find:Linear", in_features=2, out_features=3), seed=1)
    assert isinstance(module, nn.Linear)


@pytest.mark.parametrize("name", ["run", "system", "relu", "instance", "number", "Plain", "nn"])
def test_what_the_module_has_imported_and_what_is_no_maker_is_refused(name: str) -> None:
    with pytest.raises(BadModel, match=r"neither a class of .* nor a function of that package"):
        models.find(f"own_find:{name}")


def test_functions_of_torch_itself_are_refused_without_an_error_of_ours() -> None:
    """Some have no `__module__`."""
    for name in ("relu", "add", "save"):
        with pytest.raises(BadModel) as bad:
            models.build(spec(f"torch:{name}"), seed=1)
        assert bad.value.sentence.startswith(f"model 'torch:{name}'")


def test_a_function_that_returns_no_module_is_named() -> None:
    with pytest.raises(BadModel, match="it returns a int, and no "):
        models.build(spec("own_find:no_module"), seed=1)


@pytest.mark.parametrize(
    ("path", "sentence", "cause", "where"),
    [
        ("own_nowhere:Own", "own_nowhere can't be imported", "ModuleNotFoundError", ""),
        ("own_find.nowhere:Own", "own_find.nowhere can't be imported", "ModuleNotFoundError", ""),
        ("own_find:Nothing", "own_find has no Nothing", "", ""),
        ("own_find.broken:Own", "own_find.broken can't be imported", "SyntaxError", "broken.py:1"),
        ("own_find.exits:Own", "own_find.exits can't be imported", "SystemExit", "exits.py:2"),
        ("own_find.lazy:Own", "own_find.lazy can't be imported", "ImportError", "lazy.py:2"),
    ],
)
def test_what_can_t_be_imported_is_named(path: str, sentence: str, cause: str, where: str) -> None:
    with pytest.raises(BadModel) as bad:
        models.find(path)
    assert (bad.value.sentence, bad.value.cause, bad.value.where) == (f"model {path!r}: {sentence}", cause, where)


def test_wrong_arguments_are_explained_by_those_that_the_class_takes() -> None:
    """A default may be a long object, and its text may hold data."""
    with pytest.raises(BadModel) as bad:
        models.build(spec("own_find:Fails", rate=0.5), seed=1)
    expected = "it can't be constructed; model.args are those of Fails(width=3, names=..., *parts, rate: float, **more)"
    assert bad.value.sentence == f"model 'own_find:Fails': {expected}"
    assert (bad.value.cause, bad.value.text) == ("KeyError", "'Meier'")
    assert "Meier" not in bad.value.message(reveal=False)


def test_what_a_module_draws_when_it_is_imported_is_the_same_in_every_trainer() -> None:
    drawn = []
    for _ in range(2):
        models.find("own_find.drawing:Own")
        drawn.append(sys.modules["own_find.drawing"].DRAWN)
        forget()
        random.seed()
        torch.seed()
    assert drawn[0] == drawn[1]

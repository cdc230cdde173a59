"""Finds what a job names: classes and functions of the user's code, and names of ours with a hint at a slip."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from client_fn.errors import BadModel
from client_fn.training.randomness import seeded
from client_fn.training.tracebacks import explain

_DEFAULT_CHARACTERS: Final = 30


class Found(NamedTuple):
    """What a path names.

    Attributes:
        value: the class or function.
        is_of_package: whether it is a class or a function of the path's own package, and not one that its module has
            imported.
    """

    value: Any
    is_of_package: bool


def find(path: str, label: str) -> Found:
    """Import the user's module, and return what a path names.

    Args:
        path: `package.module:Name`.
        label: begins the sentence of an error, such as `model 'mine:Net'`.

    Raises:
        BadModel: it can't be imported, or is not there.
    """
    module_name, _, name = path.partition(":")
    try:
        # Seeded, because a module may draw random numbers, and each trainer imports it anew.
        with seeded(0):
            value = getattr(importlib.import_module(module_name), name, None)
    except (Exception, SystemExit) as exc:  # a user's module may raise any error, and may even exit
        raise bad(f"{label}: {module_name} can't be imported", exc) from exc
    if value is None:
        raise BadModel(f"{label}: {module_name} has no {name}")
    is_own = inspect.isclass(value) or inspect.isfunction(value)
    return Found(value, is_own and _package(str(value.__module__)) == _package(module_name))


def construct(
    make: Callable[..., Any], args: Mapping[str, Any], label: str, field: str, shown: Callable[..., Any] | None = None
) -> Any:
    """Call a class or function with the arguments that a job gives.

    Args:
        make: the class or function.
        args: keyword arguments.
        label: begins the sentence of an error.
        field: the job's field that holds the arguments.
        shown: what has the parameters; None: `make`.

    Raises:
        BadModel: the call fails; the sentence shows the parameters.
    """
    try:
        return make(**args)
    except (Exception, SystemExit) as exc:  # a user's class may raise any error, and may even exit
        shown = shown or make
        named = getattr(shown, "__name__", "it")
        raise bad(f"{label}: it can't be constructed; {field} are those of {named}{signature(shown)}", exc) from exc


def unknown(field: str, value: str, known: Iterable[str]) -> BadModel:
    """Return the error for a name that is not known.

    Args:
        field: the job's field, such as `training.loss`.
        value: what it holds.
        known: the names that it may hold.
    """
    names = list(known)
    near = difflib.get_close_matches(value.lower(), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return BadModel(f"{field} is {value!r}: {hint}Known are {', '.join(names)}")


def bad(sentence: str, exc: BaseException) -> BadModel:
    """Return a BadModel with what the user's code has raised."""
    return BadModel(sentence, **explain(exc)._asdict())


def signature(make: Callable[..., Any]) -> str:
    """Return a function's parameters. Only short defaults are shown, and no objects, whose text may hold data."""
    try:
        whole = inspect.signature(make)
    except (TypeError, ValueError):
        return "(...)"
    parameters = whole.parameters.values()
    shown = [each if _is_short(each.default) else each.replace(default=_Rest()) for each in parameters]
    return str(whole.replace(parameters=shown, return_annotation=inspect.Signature.empty))


class _Rest:
    """Stands for a default that is not shown."""

    def __repr__(self) -> str:
        return "..."


def _package(module: str) -> str:
    return module.partition(".")[0]


def _is_short(default: object) -> bool:
    if default is None or default is inspect.Parameter.empty:
        return True
    return type(default) in {bool, int, float, str} and len(repr(default)) <= _DEFAULT_CHARACTERS

"""Decides which code a job may name: its model, learner, loss and metrics. It compares texts and imports nothing.

An import runs the code of the module and of the packages above it. So the decision comes before any import, also before
`importlib.util.find_spec`, which imports the packages above.
"""

import keyword
from collections.abc import Collection, Sequence
from typing import Final

from client_fn.errors import BadSettings, NotAllowed

BUILT_IN: Final = ("nn", "cnn")


class AllowList:
    """The code that jobs may name on this machine.

    Args:
        entries: the operator's entries. `a.b` allows the module and everything below it, `a.b:Name` that one name.
        modules: the names that an import of the site's code can begin with; all of it is allowed.

    Raises:
        BadSettings: an entry is not of one of these forms.
    """

    def __init__(self, entries: Sequence[str], modules: Collection[str]) -> None:
        for entry in entries:
            module, colon, name = entry.partition(":")
            if not _are_names(module) or (colon and not _are_names(name)):
                form = "'package.module' or 'package.module:Name', without names in double underscores"
                raise BadSettings("FEDKEEPER_ALLOW", f"{entry!r}: expected {form}")
        self._entries = tuple(dict.fromkeys(entries))
        self._modules = tuple(sorted(modules))

    def check(self, type_: str) -> None:
        """Return if a job may name this code.

        Args:
            type_: what the job names, such as its `model.type`.

        Raises:
            NotAllowed: the operator did not allow it.
        """
        module, colon, name = type_.partition(":")
        if type_ in BUILT_IN:
            return
        if not (colon and _are_names(module) and _are_names(name)):
            raise NotAllowed(type_, "name a class as 'package.module:Name', without names in double underscores")
        is_ours = module.partition(".")[0] in self._modules
        if not (is_ours or any(_is_below(module, entry) or type_ == entry for entry in self._entries)):
            remedy = (
                f"`--allow {type_}` or FEDKEEPER_ALLOW={type_} where it trains, or `--code DIR` if it is code of yours"
            )
            raise NotAllowed(type_, f"{remedy}. Allowed now: {self.describe()}")

    def describe(self) -> str:
        """Name what is allowed, in one line."""
        modules = [f"{module} (code)" for module in self._modules]
        return ", ".join((*BUILT_IN, *modules, *self._entries))


def _is_below(module: str, entry: str) -> bool:
    return module == entry or module.startswith(f"{entry}.")


def _are_names(path: str) -> bool:
    """Whether a path has only names such as classes and modules have. `a.__main__` runs a program when imported."""
    return all(part.isidentifier() and not keyword.iskeyword(part) and not _is_dunder(part) for part in path.split("."))


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")

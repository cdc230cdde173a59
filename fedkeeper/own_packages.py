"""Finds FedKeeper's packages beside this one, whatever lies in the folder where a program is started.

Our packages have generic names. A user's folder may hold a `server.py` or a `broker/`, and it comes first on the path
of a script and of `python -m`.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Final

NAMES: Final = ("broker", "server", "client_fn", "bridges")

_FOLDER: Final = Path(__file__).resolve().parents[1]


class OwnPackages(MetaPathFinder):
    """Finds our packages, and no other module."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 (the interface's arguments)
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Implements `MetaPathFinder.find_spec`."""
        return PathFinder.find_spec(fullname, [str(_FOLDER)]) if fullname in NAMES else None


def find_first() -> None:
    """Let our packages be found before others of the same names.

    Raises:
        ImportError: another module has taken one of the names already.
    """
    for name in NAMES:
        place = _place(sys.modules.get(name))
        if place is not None and not place.is_relative_to(_FOLDER / name):
            raise ImportError(
                f"FedKeeper has a package {name!r}, and {place} was imported under this name before:"
                " rename that file, or import fedkeeper first if you need only FedKeeper's",
                name=name,
                path=str(place),
            )
    sys.meta_path.insert(0, OwnPackages())


def _place(module: ModuleType | None) -> Path | None:
    """Return where a module comes from; None if it is not imported, or comes from no file."""
    if module is None:
        return None
    places = [module.__file__] if module.__file__ else list(getattr(module, "__path__", ()))
    return Path(places[0]).resolve() if places else None

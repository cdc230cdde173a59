"""The secrets of a bridge: a folder with a file for each, or the environment. They never travel in messages."""

import os
import re
from pathlib import Path

from bridges.errors import SecretMissing


class SecretStore:
    """Secrets by name.

    Args:
        folder: has a file for each secret, named like it; None: the environment alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def value(self, name: str) -> str:
        """The secret itself: its file's content without the last line break, else FEDKEEPER_SECRET_<NAME>.

        Raises:
            SecretMissing: it is in neither place, or empty.
        """
        found = self._from_file(name) or os.environ.get(variable(name), "")
        if not found:
            where = f"put it into {self._folder / name}" if self._folder else "name a folder of secrets"
            raise SecretMissing(name, f"{where}, or into the environment's {variable(name)}")
        return found

    def _from_file(self, name: str) -> str:
        # A name comes with a message: it must not lead out of the folder.
        if self._folder is None or not re.fullmatch(r"[A-Za-z0-9_-]{1,63}", name):
            return ""
        try:
            return (self._folder / name).read_text(encoding="utf-8").rstrip("\n")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as exc:
            raise SecretMissing(name, f"{self._folder / name} can't be read: {exc}") from exc


def variable(name: str) -> str:
    """The environment's name of a secret."""
    return "FEDKEEPER_SECRET_" + re.sub(r"[^A-Z0-9]", "_", name.upper())

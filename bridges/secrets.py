"""The secrets of a bridge: files in a folder, or environment variables. A message names a secret, never holds one."""

import contextlib
import os
import re
from pathlib import Path

from bridges.errors import SecretMissing


class SecretStore:
    """Reads secrets by name.

    Args:
        folder: holds one file per secret, with the secret's name; None: only the environment has secrets.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def value(self, name: str) -> str:
        """The value of a secret: the content of its file without the last line break, or else its variable's value.

        Raises:
            SecretMissing: neither place has it, it is empty, or its file can't be read.
        """
        secret = ""
        # A name may come from a message: it must not lead out of the folder.
        if self._folder is not None and re.fullmatch(r"[A-Za-z0-9_-]{1,63}", name):
            try:
                with contextlib.suppress(FileNotFoundError):
                    secret = (self._folder / name).read_text(encoding="utf-8").rstrip("\n")
            except (OSError, UnicodeDecodeError) as exc:
                raise SecretMissing(name, f"{self._folder / name} can't be read: {exc}") from exc
        secret = secret or os.environ.get(variable(name), "")
        if not secret:
            where = f"put it into {self._folder / name}" if self._folder else "name a folder of secrets"
            raise SecretMissing(name, f"{where}, or into the environment's {variable(name)}")
        return secret


def variable(name: str) -> str:
    """The environment variable of a secret: `FEDKEEPER_SECRET_<NAME>`."""
    return "FEDKEEPER_SECRET_" + re.sub(r"[^A-Z0-9]", "_", name.upper())

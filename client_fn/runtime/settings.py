"""How an instance on a platform is set up: by its environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from client_fn.errors import BadSettings


@dataclass(frozen=True, slots=True)
class Settings:
    """An instance's settings.

    Attributes:
        url: of the broker, FEDKEEPER_URL; empty: there is no route to it, and orders bring their blobs along.
        client: whose function it is, FEDKEEPER_CLIENT; empty: anybody's.
        key: what the bridge signs with, the content of the file FEDKEEPER_KEY_FILE or FEDKEEPER_KEY itself; None:
            calls are not signed.
    """

    url: str = ""
    client: str = ""
    key: bytes | None = field(default=None, repr=False)


def read(environ: Mapping[str, str]) -> Settings:
    """The settings in an environment.

    Raises:
        BadSettings: a key is named that can't be read, or that is empty: everybody could sign with it.
    """
    return Settings(environ.get("FEDKEEPER_URL", ""), environ.get("FEDKEEPER_CLIENT", ""), _key(environ))


def _key(environ: Mapping[str, str]) -> bytes | None:
    file, key = environ.get("FEDKEEPER_KEY_FILE"), environ.get("FEDKEEPER_KEY")
    if file is not None:
        try:
            # A secret's last line break belongs to the file, not to the secret; the bridge reads its own alike.
            key = Path(file).read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as exc:
            raise BadSettings("FEDKEEPER_KEY_FILE", f"{file} can't be read: {exc}") from exc
    if key == "":
        raise BadSettings("FEDKEEPER_KEY" if file is None else "FEDKEEPER_KEY_FILE", "the key is empty")
    return None if key is None else key.encode()

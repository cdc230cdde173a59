"""Reads an instance's settings from its environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from client_fn import site
from client_fn.errors import BadSettings
from client_fn.site import Site


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an instance.

    Attributes:
        url: the broker's address, FEDKEEPER_URL. Empty: there is no route to it, and requests bring their payloads.
        client: the client's id, FEDKEEPER_CLIENT. Empty: the instance serves every client.
        key: the bridge's signing key, FEDKEEPER_KEY or the content of the file FEDKEEPER_KEY_FILE. None: calls are not
            signed.
        site: what this machine allows and sets.
    """

    url: str = ""
    client: str = ""
    key: bytes | None = field(default=None, repr=False)
    site: Site = field(default_factory=Site)


def read(environ: Mapping[str, str], code: Path | None = None) -> Settings:
    """Return the settings in an environment.

    Args:
        environ: the environment.
        code: the user's code if FEDKEEPER_CODE is not set.

    Raises:
        BadSettings: a variable can't be used, or the key is empty; with an empty key everybody could sign.
    """
    file, key = environ.get("FEDKEEPER_KEY_FILE"), environ.get("FEDKEEPER_KEY")
    if file is not None:
        try:
            # The last line break belongs to the file, not to the secret. The bridge reads its key the same way.
            key = Path(file).read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as exc:
            raise BadSettings("FEDKEEPER_KEY_FILE", f"{file} can't be read: {exc}") from exc
    if key == "":
        raise BadSettings("FEDKEEPER_KEY" if file is None else "FEDKEEPER_KEY_FILE", "the key is empty")
    return Settings(
        url=environ.get("FEDKEEPER_URL", ""),
        client=environ.get("FEDKEEPER_CLIENT", ""),
        key=None if key is None else key.encode(),
        site=site.read(environ, code),
    )

"""A broker's address, from which no password gets out."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import ParseResult, parse_qsl, unquote, urlparse

from broker.errors import BadUrl

SCHEMES: Final = ("memory", "nats", "tls", "mqtt", "mqtts")
_PORTS: Final = {"nats": 4222, "tls": 4222, "mqtt": 1883, "mqtts": 8883}
_ENCRYPTED: Final = {"ca_file": ("tls", "mqtts"), "cert_file": ("mqtts",), "key_file": ("mqtts",)}
_OPTIONS: Final = ("ca_file", "cert_file", "key_file", "password_file", "password_env")
_FORMS: Final = (
    "use memory://NAME, nats://user@host:port?password_file=PATH or tls://host:port?ca_file=PATH, "
    "and mqtt:// or mqtts:// likewise"
)


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """A broker's address, checked.

    Attributes:
        scheme: one of SCHEMES.
        host: host name or IP address; for `memory`, the broker's name.
        port: TCP port; 0 for `memory`.
        user: None for a broker without users.
        password: as it stood in the URL; `secret()` is what to send.
        password_file: where to read the password from when connecting.
        password_env: the environment's variable that holds it, where files are hard to come by.
        ca_file: certificates to trust instead of the system's.
        cert_file: our own certificate, for brokers that know their clients by one (mqtts only).
        key_file: its private key.
    """

    scheme: str
    host: str
    port: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    ca_file: Path | None = None
    password_env: str | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @classmethod
    def parse(cls, url: str) -> "BrokerUrl":
        """Read an address; no I/O.

        Raises:
            BadUrl: something in it is wrong; the message never shows the password.
        """
        try:
            parts = urlparse(url)
        except ValueError:
            # Its message may show the password.
            raise BadUrl(f"an unreadable address; {_FORMS}") from None
        if parts.scheme not in SCHEMES:
            allowed = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise BadUrl(f"a broker's address starts with one of {allowed}, not with {parts.scheme or 'nothing'}")
        return _memory(parts) if parts.scheme == "memory" else _network(parts)

    @property
    def address(self) -> str:
        """Where it is, without user and options: for logs and errors."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}" if self.port else f"{self.scheme}://{host}"

    def secret(self) -> str | None:
        """The password to send, read now from its file or the environment if the address says so.

        Raises:
            BadUrl: the file can't be read, or there is nothing in it; the same for the environment.
        """
        if self.password_env is not None:
            return self._from_environment(self.password_env)
        if self.password_file is None:
            return self.password
        try:
            secret = self.password_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise BadUrl(f"{self.address}: can't read the password file {self.password_file}: {exc}") from exc
        if not secret:
            raise BadUrl(f"{self.address}: the password file {self.password_file} is empty")
        return secret

    def _from_environment(self, name: str) -> str:
        secret = os.environ.get(name, "")
        if not secret:
            raise BadUrl(f"{self.address}: there is no password in the environment's {name}")
        return secret

    def __str__(self) -> str:
        user = "" if self.user is None else self.user + ("@" if self.password is None else ":***@")
        options = {name: getattr(self, name) for name in _OPTIONS}
        query = "&".join(f"{name}={value}" for name, value in options.items() if value is not None)
        address = self.address.replace("://", f"://{user}", 1)
        return f"{address}?{query}" if query else address


def _memory(parts: ParseResult) -> BrokerUrl:
    name = parts.netloc + parts.path
    if not name or parts.query or "@" in name:
        raise BadUrl("memory:// takes a name and nothing else: memory://NAME")
    return BrokerUrl("memory", name)


def _network(parts: ParseResult) -> BrokerUrl:
    if not parts.hostname or parts.path.strip("/") or parts.fragment:
        raise BadUrl(f"{parts.scheme}:// needs a host and no path; {_FORMS}")
    options = _options(parts)
    user = unquote(parts.username or "") or None
    password = None if parts.password is None else unquote(parts.password)
    given = (password is not None) + ("password_file" in options) + ("password_env" in options)
    if given > 1:
        raise BadUrl(f"{parts.scheme}://{parts.hostname}: give one of password, password_file and password_env")
    if user is None and given:
        raise BadUrl(f"{parts.scheme}://{parts.hostname}: a password without a user; {_FORMS}")
    if user is not None and not given:
        raise BadUrl(f"{parts.scheme}://{parts.hostname}: a user without a password; {_FORMS}")
    return BrokerUrl(
        parts.scheme,
        parts.hostname,
        _port(parts),
        user,
        password,
        _path(options, "password_file"),
        _path(options, "ca_file"),
        options.get("password_env"),
        _path(options, "cert_file"),
        _path(options, "key_file"),
    )


def _path(options: dict[str, str], name: str) -> Path | None:
    return Path(options[name]).expanduser() if name in options else None


def _options(parts: ParseResult) -> dict[str, str]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    for name, value in pairs:
        if name not in _OPTIONS or not value:
            raise BadUrl(f"{parts.scheme}://{parts.hostname}: unknown or empty option {name!r}; {_FORMS}")
    options = dict(pairs)
    for name in options:
        schemes = _ENCRYPTED.get(name, (parts.scheme,))
        if parts.scheme not in schemes:
            wanted = " or ".join(f"{scheme}://" for scheme in schemes)
            reason = "this connection is not encrypted" if parts.scheme in ("nats", "mqtt") else "NATS takes none"
            raise BadUrl(f"{parts.scheme}://{parts.hostname}: {name} needs {wanted}, {reason}")
    if ("cert_file" in options) != ("key_file" in options):
        raise BadUrl(f"{parts.scheme}://{parts.hostname}: cert_file and key_file go together")
    return options


def _port(parts: ParseResult) -> int:
    try:
        return parts.port or _PORTS[parts.scheme]
    except ValueError:
        # What stands for the port may be a password whose user forgot the host.
        raise BadUrl(f"{parts.scheme}://{parts.hostname}: the port must be a number up to 65535") from None

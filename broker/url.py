"""A broker's address, from which no password gets out."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import ParseResult, parse_qsl, unquote, urlparse

from broker.errors import BadUrl

SCHEMES: Final = ("memory", "nats", "tls", "mqtt", "mqtts")
_PORTS: Final = {"nats": 4222, "tls": 4222, "mqtt": 1883, "mqtts": 8883}
_LOGIN: Final = ("password_file", "password_env")
_JETSTREAM: Final = ("streams", "js")
_OPTIONS: Final = {
    "nats": (*_LOGIN, *_JETSTREAM),
    "tls": ("ca_file", *_LOGIN, *_JETSTREAM),
    "mqtt": _LOGIN,
    "mqtts": ("ca_file", "cert_file", "key_file", *_LOGIN),
}
"""The options that an address may have, by scheme."""

DEFAULT_STREAMS: Final = "FEDKEEPER"
DEFAULT_JS: Final = "$JS.API"
_STREAMS: Final = re.compile(r"[A-Z0-9_-]{1,32}")
_JS: Final = re.compile(r"(?=.{1,128}$)[A-Za-z0-9_$-]+(\.[A-Za-z0-9_$-]+)*")
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
        streams: what the names of our JetStream streams begin with (nats and tls only).
        js: what the subjects of JetStream's API begin with; `$JS.<domain>.API` for a domain, or the subject under which
            an account imports the API of another (nats and tls only).
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
    streams: str = DEFAULT_STREAMS
    js: str = DEFAULT_JS

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
        options = {name: getattr(self, name) for name in _OPTIONS.get(self.scheme, ())}
        query = "&".join(f"{name}={value}" for name, value in options.items() if value not in _DEFAULTS)
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
    where = f"{parts.scheme}://{parts.hostname}"
    options = _options(parts, where)
    user = unquote(parts.username or "") or None
    password = None if parts.password is None else unquote(parts.password)
    _check_login(where, user, passwords=(password is not None) + sum(name in options for name in _LOGIN))
    return BrokerUrl(parts.scheme, parts.hostname, _port(parts), user, password, **options)


def _check_login(where: str, user: str | None, *, passwords: int) -> None:
    if passwords > 1:
        raise BadUrl(f"{where}: give one of password, password_file and password_env")
    if user is None and passwords:
        raise BadUrl(f"{where}: a password without a user; {_FORMS}")
    if user is not None and not passwords:
        raise BadUrl(f"{where}: a user without a password; {_FORMS}")


def _options(parts: ParseResult, where: str) -> dict[str, Any]:
    """The options as BrokerUrl has them."""
    options: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        schemes = [scheme for scheme, names in _OPTIONS.items() if name in names]
        if not schemes or not value:
            raise BadUrl(f"{where}: unknown or empty option {name!r}; {_FORMS}")
        if parts.scheme not in schemes:
            raise BadUrl(f"{where}: {name} needs {' or '.join(f'{scheme}://' for scheme in schemes)}")
        options[name] = _READERS.get(name, str)(value)
    if ("cert_file" in options) != ("key_file" in options):
        raise BadUrl(f"{where}: cert_file and key_file go together")
    return options


def _path(value: str) -> Path:
    return Path(value).expanduser()


def _streams(value: str) -> str:
    if not _STREAMS.fullmatch(value):
        raise BadUrl(f"streams={value}: streams can't be named like that; use 1 to 32 of A-Z, 0-9, '_' and '-'")
    return value


def _js(value: str) -> str:
    if not _JS.fullmatch(value):
        raise BadUrl(
            f"js={value}: not a prefix of JetStream's API; use up to 128 characters such as $JS.hub.API, without "
            "wildcards and without a dot at the end"
        )
    return value


_READERS: Final[dict[str, Callable[[str], object]]] = {
    "password_file": _path,
    "ca_file": _path,
    "cert_file": _path,
    "key_file": _path,
    "streams": _streams,
    "js": _js,
}
_DEFAULTS: Final = (None, DEFAULT_STREAMS, DEFAULT_JS)


def _port(parts: ParseResult) -> int:
    try:
        return parts.port or _PORTS[parts.scheme]
    except ValueError:
        # What stands for the port may be a password whose user forgot the host.
        raise BadUrl(f"{parts.scheme}://{parts.hostname}: the port must be a number up to 65535") from None

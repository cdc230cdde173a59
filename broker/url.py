"""Parses broker URLs; no error and no representation of one shows the password."""

import dataclasses
import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from broker.errors import BadUrl

DEFAULT_STREAMS: Final = "FEDKEEPER"
DEFAULT_JS: Final = "$JS.API"

_SCHEMES: Final = ("memory", "nats", "tls", "mqtt", "mqtts")
_PROTOCOLS: Final = {"tls": "nats", "mqtts": "mqtt"}
"""What is spoken inside TLS."""

_PORTS: Final = {"nats": 4222, "tls": 4222, "mqtt": 1883, "mqtts": 8883}
LAST_PORT: Final = 65_535
LOCALHOST: Final = "localhost"
_URL: Final = re.compile(
    r"(?:(?P<scheme>[^:/?#]+)://)?(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?",
    re.DOTALL,
)
"""RFC 3986, appendix B, with "//" after every scheme. `urllib.parse` refuses an IPv6 address as the second host."""

_HOST: Final = re.compile(r"(?:\[(?P<ip>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:@\s]+))(?::(?P<port>.*))?")


class _Option(NamedTuple):
    """A query parameter of a broker URL.

    Attributes:
        schemes: the schemes that accept it.
        is_path: whether its value is a path.
        is_number: whether its value is a number; its pattern allows nothing else.
        pattern: expression that the value must match; None if any text is valid.
        rule: how the error describes the pattern.
    """

    schemes: tuple[str, ...]
    is_path: bool = False
    is_number: bool = False
    pattern: re.Pattern[str] | None = None
    rule: str = ""

    def read(self, value: str) -> Path | int | str:
        """Return a valid value in the type of its attribute."""
        if self.is_path:
            return Path(value).expanduser()
        return int(value) if self.is_number else value


_OPTIONS: Final = {
    "ca_file": _Option(("tls", "mqtts"), is_path=True),
    "cert_file": _Option(("mqtts",), is_path=True),
    "key_file": _Option(("mqtts",), is_path=True),
    "password_file": _Option(("nats", "tls", "mqtt", "mqtts"), is_path=True),
    "password_env": _Option(("nats", "tls", "mqtt", "mqtts")),
    "version": _Option(
        ("mqtt", "mqtts"), pattern=re.compile(r"5|3\.1\.1"), rule="the versions of MQTT are 5 and 3.1.1"
    ),
    "streams": _Option(
        ("nats", "tls"),
        pattern=re.compile(r"[A-Z0-9_-]{1,32}"),
        rule="streams can't be named like that; use 1 to 32 of A-Z, 0-9, '_' and '-'",
    ),
    "js": _Option(
        ("nats", "tls"),
        pattern=re.compile(r"(?=.{1,128}$)[A-Za-z0-9_$-]+(\.[A-Za-z0-9_$-]+)*"),
        rule="not a prefix of JetStream's API; use up to 128 characters such as $JS.hub.API, without wildcards and "
        "without a dot at the end",
    ),
    "replicas": _Option(
        ("nats", "tls"),
        is_number=True,
        pattern=re.compile(r"[1-5]"),
        rule="JetStream keeps a stream on 1 to 5 nodes; use 3 for a cluster of three",
    ),
}
"""In the order in which a URL shows them."""

_DEFAULTS: Final = (None, DEFAULT_STREAMS, DEFAULT_JS)
_PLAIN: Final = "/:$"
"""Characters that need no encoding in the value of an option, beside letters, digits and "-._~"."""

_ENCODE: Final = (
    "write special characters of a password in percent-encoding (%2F for /, %3F for ?, %23 for #, %40 for @), or put "
    "it into a file: ?password_file=PATH"
)
_FORMS: Final = (
    "use memory://NAME, nats://user@host:port?password_file=PATH or tls://host:port?ca_file=PATH, "
    "and mqtt:// or mqtts:// likewise; for a NATS cluster nats://user@host1:port,host2:port"
)


class Host(NamedTuple):
    """A server's host and port.

    Attributes:
        host: host name or IP address; for `memory`, the broker's name.
        port: TCP port; 0 for `memory`.
    """

    host: str
    port: int = 0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host

    @property
    def is_loopback(self) -> bool:
        """Whether it is an address of this machine only."""
        return self._plain == LOCALHOST

    def is_same(self, other: "Host") -> bool:
        """Whether both are one server: `localhost` and `127.0.0.1` are, also `HOST` and `host.`."""
        return (self._plain, self.port) == (other._plain, other.port)

    @property
    def _plain(self) -> str:
        """The host in one of the ways in which it can be written."""
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return self.host.lower().removesuffix(".")
        return LOCALHOST if address.is_loopback else str(address)


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """A broker's address and options.

    Attributes:
        scheme: `memory`, `nats`, `tls`, `mqtt` or `mqtts`.
        host: host name or IP address; for `memory`, the broker's name.
        port: TCP port; 0 for `memory`.
        user: None for a broker without users.
        password: the password in the URL. `secret()` returns the password to send.
        password_file: file that contains the password; read at connecting.
        ca_file: certificates to trust instead of the system's.
        password_env: environment variable that contains the password, for environments without files.
        cert_file: client certificate, for brokers that identify clients by certificate (mqtts only).
        key_file: private key of the client certificate.
        version: version of MQTT, `5` or `3.1.1`; None: 5, or 3.1.1 if the broker refuses 5 (mqtt and mqtts only).
        streams: prefix of the names of our JetStream streams (nats and tls only).
        js: prefix of the subjects of JetStream's API: `$JS.<domain>.API` for a domain, or the subject under which an
            account imports the API of another account (nats and tls only).
        replicas: number of nodes of a NATS cluster that keep each stream; None leaves it as it is, and is 1 for a new
            stream.
        others: more nodes of the NATS cluster; `hosts` returns all of them.
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
    version: str | None = None
    streams: str = DEFAULT_STREAMS
    js: str = DEFAULT_JS
    replicas: int | None = None
    others: tuple[Host, ...] = ()

    @classmethod
    def parse(cls, url: str) -> "BrokerUrl":
        """Parse a URL, without I/O.

        Raises:
            BadUrl: the URL is not valid; the message never shows the password.
        """
        parts = _split(url)
        # A password that is not percent-encoded may have ended the host's part too early. Then every later part, host
        # and options included, may be a piece of it, and is not shown.
        is_doubtful = "@" in parts.path + parts.query + parts.fragment
        try:
            address = cls._check(parts)
        except BadUrl:
            if not is_doubtful:
                raise
        else:
            if not is_doubtful or address.password is None:
                return address
        raise BadUrl(f"a broker's address that can't be read; {_ENCODE}")

    @classmethod
    def _check(cls, parts: "_Parts") -> "BrokerUrl":
        if parts.scheme not in _SCHEMES:
            allowed = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
            raise BadUrl(f"a broker's address starts with one of {allowed}, not with {parts.scheme or 'nothing'}")
        if parts.scheme != "memory":
            return _parse_network(parts)
        name = parts.authority + parts.path
        if not name or parts.query or parts.fragment or "@" in name:
            raise BadUrl("memory:// takes a name and nothing else: memory://NAME")
        return cls("memory", name)

    @property
    def hosts(self) -> tuple[Host, ...]:
        """All hosts; each of them leads to the same broker."""
        return (Host(self.host, self.port), *self.others)

    @property
    def address(self) -> str:
        """The URL without user and options, for logs and errors."""
        return f"{self.scheme}://{','.join(map(str, self.hosts))}"

    def leads_to(self, other: "BrokerUrl") -> bool:
        """Whether another URL is one of the same broker: they have a host in common, however each of them writes it."""
        if "memory" in (self.scheme, other.scheme):
            return self.address == other.address
        mine, others = (_PROTOCOLS.get(each.scheme, each.scheme) for each in (self, other))
        return mine == others and any(one.is_same(two) for one in self.hosts for two in other.hosts)

    def secret(self) -> str | None:
        """Return the password to send; read its file or environment variable now, if the URL names one.

        Raises:
            BadUrl: the file can't be read, or the file or variable is empty.
        """
        if self.password_env is not None:
            secret = os.environ.get(self.password_env, "")
            if not secret:
                raise BadUrl(f"{self.address}: there is no password in the environment's {self.password_env}")
            return secret
        if self.password_file is None:
            return self.password
        try:
            secret = self.password_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise BadUrl(f"{self.address}: can't read the password file {self.password_file}: {exc}") from exc
        if not secret:
            raise BadUrl(f"{self.address}: the password file {self.password_file} is empty")
        return secret

    def absolute(self) -> "BrokerUrl":
        """Return the same address with absolute paths, so that it means the same in every folder."""
        paths = {name: getattr(self, name) for name, option in _OPTIONS.items() if option.is_path}
        return dataclasses.replace(self, **{name: path and path.absolute() for name, path in paths.items()})

    def __str__(self) -> str:
        user = "" if self.user is None else quote(self.user, safe="") + ("@" if self.password is None else ":***@")
        options = {name: getattr(self, name) for name in _OPTIONS}
        given = {name: quote(str(value), safe=_PLAIN) for name, value in options.items() if value not in _DEFAULTS}
        query = "&".join(f"{name}={value}" for name, value in given.items())
        address = self.address.replace("://", f"://{user}", 1)
        return f"{address}?{query}" if query else address


class _Parts(NamedTuple):
    """The parts of a URL as they are written; all but the scheme may be empty."""

    scheme: str
    authority: str
    path: str
    query: str
    fragment: str


def _split(url: str) -> _Parts:
    # `findall` gives the empty string for a part that is missing; the expression matches every text.
    scheme, *others = _URL.findall(url)[0]
    return _Parts(scheme.lower(), *others)


def _parse_network(parts: _Parts) -> BrokerUrl:
    """Check the URL of a network broker."""
    login, _, servers = parts.authority.rpartition("@")
    if not servers or parts.path.strip("/") or parts.fragment:
        raise BadUrl(f"{parts.scheme}:// needs a host and no path; {_FORMS}")
    first, *others = _parse_hosts(parts.scheme, servers)
    where = f"{parts.scheme}://{first.host}"
    if others and parts.scheme in ("mqtt", "mqtts"):
        raise BadUrl(f"{where}: an MQTT broker has one host; only a NATS cluster may have several")
    options = _parse_options(parts, where)
    user, has_password, password_text = login.partition(":")
    password = unquote(password_text) if has_password else None
    passwords = (password is not None) + ("password_file" in options) + ("password_env" in options)
    if passwords > 1:
        raise BadUrl(f"{where}: give one of password, password_file and password_env")
    if not user and passwords:
        raise BadUrl(f"{where}: a password without a user; {_FORMS}")
    if user and not passwords:
        raise BadUrl(f"{where}: a user without a password; {_FORMS}")
    return BrokerUrl(parts.scheme, *first, unquote(user) or None, password, others=tuple(others), **options)


def _parse_hosts(scheme: str, text: str) -> list[Host]:
    """Return the hosts of a comma-separated list."""
    hosts = list[Host]()
    for part in text.split(","):
        match = _HOST.fullmatch(part)
        # The errors do not show what they refuse: if the host is missing, the password may be in the place of the port.
        if match is None:
            raise BadUrl(f"an unreadable host in a {scheme}:// address; {_FORMS}")
        host, port = (match["ip"] or match["name"]).lower(), match["port"] or str(_PORTS[scheme])
        if not (port.isascii() and port.isdecimal() and int(port) <= LAST_PORT):
            raise BadUrl(f"{scheme}://{hosts[0].host if hosts else host}: a port must be a number up to {LAST_PORT}")
        hosts.append(Host(host, int(port) or _PORTS[scheme]))
    return hosts


def _parse_options(parts: _Parts, where: str) -> dict[str, Any]:
    """Return the query parameters, as keyword arguments of BrokerUrl."""
    options: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        option = _OPTIONS.get(name)
        if option is None or not value:
            raise BadUrl(f"{where}: unknown or empty option {name!r}; {_FORMS}")
        if parts.scheme not in option.schemes:
            raise BadUrl(f"{where}: {name} needs {' or '.join(f'{scheme}://' for scheme in option.schemes)}")
        if option.pattern is not None and not option.pattern.fullmatch(value):
            raise BadUrl(f"{name}={value}: {option.rule}")
        options[name] = option.read(value)
    if ("cert_file" in options) != ("key_file" in options):
        raise BadUrl(f"{where}: cert_file and key_file go together")
    return options

"""Says why no connection could be opened, and what to do about it: the errors of sockets and of TLS, in words."""

import errno
import re
import socket
import ssl
from typing import Final

from broker.url import BrokerUrl, Host

WRONG_LOGIN: Final = "wrong user or password"
NO_LOGIN: Final = "it asks for a user and a password: {scheme}://USER@HOST?password_file=PATH"

_PLAIN: Final = {"tls": "nats", "mqtts": "mqtt"}
"""The scheme without TLS for each with it."""

_SECURE: Final = {plain: secure for secure, plain in _PLAIN.items()}

# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_NAME: Final = (62, 64)

_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")
"""asyncio joins the errors of a name's addresses into one OSError, which has no number of its own."""


def explain(error: Exception, address: BrokerUrl, host: Host, *, within_s: float) -> str:
    """Return why a host can't be connected to, and the remedy, as a sentence.

    Args:
        error: the error of the socket, of the look-up of the name, or of TLS.
        address: the broker's address.
        host: the host that was tried.
        within_s: how long the caller waited, in seconds.
    """
    match error:
        case ssl.SSLCertVerificationError():
            return _certificate(error, address, host)
        case ssl.SSLError():
            return no_tls(address, _words(error)) if address.scheme in _PLAIN else wants_tls(address)
        case ConnectionError(errno=errno.ECONNRESET | errno.EPIPE) if address.scheme in _PLAIN:
            return no_tls(address, "it ended the handshake")
        case socket.gaierror() | UnicodeError():
            return f"the host name {host.host!r} is unknown: check how it is written, and this machine's DNS"
        case TimeoutError():
            return _silence(host, within_s)
        case OSError():
            return _socket(error, host, within_s)
    return str(error) or type(error).__name__


def login(address: BrokerUrl) -> str:
    """Return what is wrong with the login, if the broker refuses it."""
    return WRONG_LOGIN if address.user is not None else NO_LOGIN.format(scheme=address.scheme)


def no_tls(address: BrokerUrl, detail: str = "") -> str:
    """Return that a server has no TLS, although the address asks for it.

    Args:
        address: the broker's address.
        detail: how it showed; empty: it said so.
    """
    return f"no TLS there{detail and f' ({detail})'}: use {_PLAIN[address.scheme]}://, or the port that has TLS"


def wants_tls(address: BrokerUrl) -> str:
    """Return that a server demands TLS, which the address does not ask for."""
    scheme = _SECURE.get(address.scheme, address.scheme)
    return f"it demands TLS: use {scheme}://, with ?ca_file=PATH for an authority of your own"


def _certificate(error: ssl.SSLCertVerificationError, address: BrokerUrl, host: Host) -> str:
    if address.scheme not in _PLAIN:
        return wants_tls(address)
    if error.verify_code in _OTHER_NAME:
        return f"its TLS certificate is not for {host.host!r}: use a name that the certificate has"
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        what = "has expired" if error.verify_code == _EXPIRED else "is not valid yet"
        return f"its TLS certificate {what}: renew it, or set this machine's clock right"
    remedy = (
        "name the authority that signed it with ?ca_file=PATH"
        if address.ca_file is None
        else f"{address.ca_file} is not the authority that signed it"
    )
    return f"its TLS certificate is not trusted ({error.verify_message}): {remedy}"


def _socket(error: OSError, host: Host, within_s: float) -> str:
    codes = [error.errno] if error.errno is not None else [int(code) for code in _ERRNO.findall(str(error))]
    match codes[-1] if codes else None:
        case errno.ECONNREFUSED:
            return f"connection refused: nothing listens on port {host.port} there"
        case errno.ETIMEDOUT:
            return _silence(host, within_s)
        case errno.EHOSTUNREACH | errno.ENETUNREACH:
            return "no route to it: check this machine's network, and the address"
        case errno.ECONNRESET | errno.EPIPE:
            return "it ended the connection at once: check the port"
    return error.strerror or str(error) or type(error).__name__


def _silence(host: Host, within_s: float) -> str:
    return f"no answer within {within_s:g} s: is the host up, and does a firewall let port {host.port} through?"


def _words(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()

"""Errors of sockets and of TLS in words."""

import errno
import socket
import ssl
from typing import Any

import pytest

from broker import BrokerUrl
from broker.connect_errors import explain
from broker.url import Host

UNTRUSTED = "its TLS certificate is not trusted (self-signed certificate)"
BOTH = (
    f"Multiple exceptions: [Errno {errno.ECONNREFUSED}] ('::1', 4222), [Errno {errno.ECONNREFUSED}] ('127.0.0.1', 4222)"
)


def certificate_error(code: int) -> ssl.SSLCertVerificationError:
    error: Any = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "self-signed certificate"
    assert isinstance(error, ssl.SSLCertVerificationError)
    return error


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        (
            "nats://h",
            ConnectionRefusedError(errno.ECONNREFUSED, "no"),
            "connection refused: nothing listens on port 4222 there",
        ),
        ("nats://h", OSError(BOTH), "connection refused: nothing listens on port 4222 there"),
        (
            "nats://h",
            socket.gaierror(socket.EAI_AGAIN, "no"),
            "the host name 'h' is unknown: check how it is written, and this machine's DNS",
        ),
        (
            "mqtt://h",
            TimeoutError(),
            "no answer within 5 s: is the host up, and does a firewall let port 1883 through?",
        ),
        (
            "mqtt://h",
            TimeoutError(errno.ETIMEDOUT, "no"),
            "no answer within 5 s: is the host up, and does a firewall let port 1883 through?",
        ),
        (
            "nats://h",
            OSError(errno.EHOSTUNREACH, "no"),
            "no route to it: check this machine's network, and the address",
        ),
        ("nats://h", ConnectionResetError(errno.ECONNRESET, "no"), "it ended the connection at once: check the port"),
        (
            "mqtts://h",
            ConnectionResetError(errno.ECONNRESET, "no"),
            "no TLS there (it ended the handshake): use mqtt://, or the port that has TLS",
        ),
        ("nats://h", OSError(errno.EMFILE, "too many open files"), "too many open files"),
        ("nats://h", OSError(), "OSError"),
        (
            "tls://h",
            certificate_error(10),
            "its TLS certificate has expired: renew it, or set this machine's clock right",
        ),
        (
            "tls://h",
            certificate_error(9),
            "its TLS certificate is not valid yet: renew it, or set this machine's clock right",
        ),
        ("tls://h", certificate_error(62), "its TLS certificate is not for 'h': use a name that the certificate has"),
        (
            "tls://h",
            certificate_error(18),
            f"{UNTRUSTED}: name the authority that signed it with ?ca_file=PATH",
        ),
        (
            "tls://h?ca_file=my.pem",
            certificate_error(18),
            f"{UNTRUSTED}: my.pem is not the authority that signed it",
        ),
        (
            "nats://h",
            certificate_error(18),
            "it demands TLS: use tls://, with ?ca_file=PATH for an authority of your own",
        ),
    ],
)
def test_an_error_is_a_sentence_with_a_remedy(url: str, error: Exception, text: str) -> None:
    address = BrokerUrl.parse(url)
    assert explain(error, address, Host(address.host, address.port), within_s=5.0) == text

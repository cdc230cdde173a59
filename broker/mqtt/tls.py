"""TLS of a connection: the certificates that an address names."""

import ssl

from broker.mqtt.errors import map_file_errors
from broker.url import BrokerUrl


class _Socket(ssl.SSLSocket):
    """A socket that closes itself if its handshake fails. paho drops it open."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 (ssl's signature)
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def context(address: BrokerUrl) -> ssl.SSLContext:
    """Read the certificates of an address, or the system's, if it names none.

    Raises:
        BadUrl: a file can't be read.
    """
    with map_file_errors(address.address):
        found = ssl.create_default_context(cafile=address.ca_file)
        if address.cert_file is not None:
            found.load_cert_chain(address.cert_file, address.key_file)
    found.sslsocket_class = _Socket
    return found

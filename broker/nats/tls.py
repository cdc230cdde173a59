"""The certificates that a NATS address trusts."""

import ssl

from broker.errors import BadUrl
from broker.url import BrokerUrl


def context(address: BrokerUrl) -> ssl.SSLContext:
    """Read the certificates of an address, or the system's, if it names none.

    Raises:
        BadUrl: the file can't be read.
    """
    try:
        return ssl.create_default_context(cafile=address.ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise BadUrl(f"{address.address}: can't use the certificates in {address.ca_file}: {exc}") from exc

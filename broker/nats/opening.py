"""Opens a nats-py client on one host."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

from nats.aio.client import Client

from broker import connect_errors
from broker.errors import ConnectFailed
from broker.url import BrokerUrl, Host

PING_S: Final = 5
PINGS_UNANSWERED: Final = 2
PENDING_BYTES: Final = 64 << 20
FLUSH_S: Final = 5

Password = Callable[[Client], Callable[[], str]]
"""Returns, for a client, the function from which nats-py gets the password."""


async def password_of(address: BrokerUrl) -> Password | None:
    """Return the password of an address; None: it has none.

    Raises:
        BadUrl: the file can't be read.
    """
    secret = await asyncio.to_thread(address.secret)
    if secret is None:
        return None

    def of(client: Client) -> Callable[[], str]:
        def password() -> str:
            # nats-py calls this after the server's greeting and before it sends the password.
            _check_encrypted(client, address)
            return secret

        return password

    return of


async def open_client(
    client: Client,
    address: BrokerUrl,
    host: Host,
    *,
    name: str,
    password: Password | None,
    context: ssl.SSLContext | None,
    on_error: Callable[[Exception], Awaitable[None]],
    on_closed: Callable[[], Awaitable[None]],
) -> None:
    """Connect a new client to a host. It never reconnects.

    Args:
        client: a client that was not used before.
        address: the broker's address.
        host: one of its hosts.
        name: name of this client in the server's logs.
        password: the address's.
        context: for TLS; None: without.
        on_error: called with each error of the connection; must not raise.
        on_closed: called when the connection has ended.

    Raises:
        ConnectFailed: the server does not encrypt, or is none of NATS. nats-py raises other errors.
    """
    await client.connect(
        servers=[f"{address.scheme}://{host}"],
        name=name,
        user=address.user,
        password=None if password is None else password(client),
        tls=context,
        allow_reconnect=False,
        max_reconnect_attempts=1,
        reconnect_time_wait=0,
        connect_timeout=2,
        ping_interval=PING_S,
        max_outstanding_pings=PINGS_UNANSWERED,
        pending_size=PENDING_BYTES,
        flush_timeout=FLUSH_S,
        error_cb=on_error,
        closed_cb=on_closed,
    )
    _check_encrypted(client, address)
    if not client.is_connected:
        raise ConnectFailed(address.address, "the server's greeting is not understood")


def _check_encrypted(client: Client, address: BrokerUrl) -> None:
    # nats-py encrypts only if the server requires it.
    if address.scheme == "tls" and not client._server_info.get("tls_required"):
        raise ConnectFailed(address.address, connect_errors.no_tls(address))

"""Runs a paho client on the asyncio event loop, so that no thread of paho's ever runs."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from paho.mqtt.client import Client as Paho
from paho.mqtt.enums import MQTTErrorCode

from broker.support import loggers

KEEP_ALIVE_S: Final = 5
"""Keep-alive interval. A frozen broker is noticed after twice this time."""

SEND_BUFFER_BYTES: Final = 1 << 20

_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)

log = loggers.get_logger(__name__)


class PahoLoop:
    """Reads and writes the socket of one paho client, and runs its keep-alive.

    Args:
        paho: the client; this class sets its socket callbacks.
        address: the broker's address, for logs.
        lost: event that is set once the connection has ended.
        on_lost: called with the reason when the connection ends; it may be called more than once.
    """

    def __init__(self, paho: Paho, address: str, *, lost: asyncio.Event, on_lost: Callable[[str], None]) -> None:
        self._paho = paho
        self._address = address
        self._lost = lost
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        # paho connects in another thread, and calls these two there.
        paho.on_socket_open = lambda _c, _d, opened: self._call_in_loop(self._on_open, opened)
        paho.on_socket_register_write = lambda _c, _d, _s: self._call_in_loop(self._watch_writes)
        paho.on_socket_unregister_write = lambda _c, _d, _s: self._unwatch_writes()
        paho.on_socket_close = lambda _c, _d, _s: self._on_close()

    @property
    def is_open(self) -> bool:
        """Whether the client has a socket."""
        return self._socket is not None

    def keep_alive(self) -> None:
        """Let paho check its keep-alive, now and at intervals until the connection ends."""
        self._step(self._paho.loop_misc)
        if not self._lost.is_set():
            self._timer = self._loop.call_later(KEEP_ALIVE_S / 5, self.keep_alive)

    def stop(self) -> None:
        """Stop the keep-alive, and send what paho still has to send."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._paho.loop_write()

    def _call_in_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        # The loop is closed if the caller was cancelled and the program has ended meanwhile.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _on_open(self, opened: socket.socket) -> None:
        if self._lost.is_set() or opened.fileno() < 0:
            return
        with contextlib.suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = opened
        self._loop.add_reader(opened, self._read)
        self._watch_writes()

    def _on_close(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._unwatch_writes()
            self._socket = None

    def _watch_writes(self) -> None:
        if self._socket is not None and self._paho.want_write():
            self._loop.add_writer(self._socket, self._step, self._paho.loop_write)

    def _unwatch_writes(self) -> None:
        if self._socket is not None:
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        self._step(self._paho.loop_read)
        if self._socket is not None and _QUICKACK is not None:
            # Mosquitto uses Nagle's algorithm: without a quick ACK, a reply of two packets takes 40 ms.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        # TLS may have decrypted several packets at once; then the socket is not readable any more.
        while isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            self._step(self._paho.loop_read)

    def _step(self, step: Callable[[], MQTTErrorCode]) -> None:
        """Run one step of paho. A failure ends the connection and nothing else."""
        try:
            code = step()
        except Exception as exc:
            # The outermost handler: paho may raise anything on a malformed packet.
            log.exception("connection given up", address=self._address)
            self._on_lost(f"{type(exc).__name__}: {exc}")
            self._paho._sock_close()
            return
        if code not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_AGAIN):
            self._on_lost(code.name)

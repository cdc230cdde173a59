"""Everything that a NATS server is ever sent, and everything that it stores: for tests of what must not be there."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from broker.nats.server import USER, NatsServer


@dataclass
class Tap:
    """What was found.

    Attributes:
        sent: subject, headers and payload of each message that anybody has sent, also of those deleted since.
        stored: the same of each message that lies in a stream now.
        files: content of each file of the server's store, by path.
    """

    sent: list[tuple[str, bytes]] = field(default_factory=list)
    stored: list[tuple[str, bytes]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def places_of(self, text: bytes, *, but_in: bytes = b"") -> set[str]:
        """Return where a text is found: subjects, and paths of files.

        Args:
            text: the text.
            but_in: a longer text that may hold it.
        """
        everything = [*self.sent, *self.stored, *self.files.items()]
        found = {place: content for place, content in everything if text in content or text in place.encode()}
        return {place for place, content in found.items() if not but_in or text in content.replace(but_in, b"")}


def _whole(subject: str, headers: dict[str, str] | None, payload: bytes | None) -> tuple[str, bytes]:
    return subject, b"\n".join([*(f"{k}: {v}".encode() for k, v in (headers or {}).items()), payload or b""])


@contextlib.asynccontextmanager
async def tapped(server: NatsServer) -> AsyncIterator[Tap]:
    """Record what the server is sent during the block, and what it stores at the end of the block.

    Args:
        server: a server of the test's own.
    """
    password = server.password_file.read_text().strip()
    client = await nats.connect(f"nats://127.0.0.1:{server.port}", user=USER, password=password)
    tap = Tap()

    async def note(message: Msg) -> None:
        tap.sent.append(_whole(message.subject, message.headers, message.data))

    await client.subscribe(">", cb=note, pending_msgs_limit=-1, pending_bytes_limit=-1)
    await client.flush()
    try:
        yield tap
        await client.flush()
        await _read_streams(client, tap)
        files = await asyncio.to_thread(lambda: [path for path in server.folder.rglob("*") if path.is_file()])
        tap.files = {str(path): path.read_bytes() for path in files}
    finally:
        await client.close()


async def _read_streams(client: Client, tap: Tap) -> None:
    """Read each message of each stream by its sequence, without a consumer."""
    stream = client.jetstream()
    for info in await stream.streams_info():
        state = info.state
        for sequence in range(max(1, state.first_seq), state.last_seq + 1):
            with contextlib.suppress(nats.js.errors.NotFoundError):
                found = await stream.get_msg(str(info.config.name), sequence)
                tap.stored.append(_whole(str(found.subject), found.headers, found.data))

"""The least that a round's updates cost: nats-server with raw sockets around it, and nothing of FedKeeper.

Two threads send updates of 2.3 MB, each waits for the acknowledgement (stored and synced) before it sends the next one,
and a third thread reads them from a consumer, into one buffer. No round of the system can take less of a core.

    python -m benchmarks.broker_limit [--clients 100] [--rounds 10]
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks import processes
from broker.nats.server import USER, NatsServer
from broker.support import logs

UPDATE_BYTES: Final = 2_328_104
SENDERS: Final = 2
STREAM: Final = {
    "name": "UPDATES",
    "subjects": ["updates.>"],
    "storage": "file",
    "max_msgs_per_subject": 1,
    "discard": "new",
    "discard_new_per_subject": True,
}
CONSUMER: Final = {"stream_name": "UPDATES", "config": {"name": "c", "deliver_subject": "to.c", "ack_policy": "none"}}


class Connection:
    """A connection to nats-server, with as little between the socket and its user as there can be.

    Args:
        server: the server.
        inbox: the subject to listen to.
    """

    def __init__(self, server: NatsServer, inbox: str) -> None:
        self._socket = socket.create_connection((server.host, server.port))
        self._lines: BufferedReader = self._socket.makefile("rb")
        password = server.password_file.read_text(encoding="utf-8").strip()
        options = json.dumps({"verbose": False, "headers": True, "user": USER, "pass": password})
        self._socket.sendall(f"CONNECT {options}\r\nSUB {inbox} 1\r\n".encode())

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def request(self, subject: str, payload: bytes, reply: str) -> bytes:
        """Send a request and return the answer.

        Args:
            subject: subject of the request.
            payload: its payload.
            reply: subject of the answer; this connection listens to it.
        """
        self._socket.sendall(f"PUB {subject} {reply} {len(payload)}\r\n".encode())
        self._socket.sendall(payload)
        self._socket.sendall(b"\r\n")
        answer = memoryview(bytearray(1 << 16))
        return bytes(answer[: self.receive(answer)])

    def receive(self, buffer: memoryview) -> int:
        """Read the next message into a buffer, and return its length in bytes."""
        while not (line := self._lines.readline()).startswith((b"MSG", b"HMSG")):
            if not line or line.startswith(b"-ERR"):
                raise RuntimeError(f"nats-server: {line.decode()}")
            if line.startswith(b"PING"):
                self._socket.sendall(b"PONG\r\n")
        length, read = int(line.split()[-1]), 0
        while read < length:
            read += self._lines.readinto(buffer[read:length])
        self._lines.readline()
        return length


class Measured(NamedTuple):
    """What a round has taken, in seconds: from its first update to the last one that was read."""

    wall_s: float
    server_s: float
    own_s: float


@contextlib.contextmanager
def connected(server: NatsServer, inbox: str) -> Iterator[Connection]:
    """Connect until the end of the block.

    Args:
        server: the server.
        inbox: the subject to listen to.
    """
    connection = Connection(server, inbox)
    try:
        yield connection
    finally:
        connection.close()


def measure(server: NatsServer, clients: int, rounds: int) -> list[Measured]:
    """Measure rounds of updates through the server.

    Args:
        server: the server.
        clients: number of updates in each round.
        rounds: number of rounds.
    """
    arrived = threading.Semaphore(0)
    with contextlib.ExitStack() as stack:
        inboxes = [f"_INBOX.{number}" for number in range(SENDERS)]
        senders = {inbox: stack.enter_context(connected(server, f"{inbox}.>")) for inbox in inboxes}
        call(senders[inboxes[0]], "STREAM.CREATE.UPDATES", STREAM)
        reader = stack.enter_context(connected(server, "to.c"))
        call(senders[inboxes[0]], "CONSUMER.CREATE.UPDATES", CONSUMER)
        reading = threading.Thread(target=_read, args=(reader, rounds * clients, arrived), name="reader")
        reading.start()
        measured = [_measure_round(senders, clients, round_, arrived) for round_ in range(rounds)]
        reading.join()
    return measured


def _measure_round(
    senders: Mapping[str, Connection], clients: int, round_: int, arrived: threading.Semaphore
) -> Measured:
    begin_s, before = time.perf_counter(), processes.cpu_s()
    threads = []
    for number, (inbox, sender) in enumerate(senders.items()):
        subjects = [f"updates.{round_}.{client}" for client in range(number, clients, SENDERS)]
        threads.append(threading.Thread(target=_send, args=(sender, subjects, inbox), name=inbox))
        threads[-1].start()
    for _ in range(clients):
        arrived.acquire()
    wall_s, after = time.perf_counter() - begin_s, processes.cpu_s()
    for thread in threads:
        thread.join()
    return Measured(wall_s, *(after[role] - before[role] for role in ("nats-server", processes.HERE)))


def _send(sender: Connection, subjects: Sequence[str], inbox: str) -> None:
    payload = os.urandom(UPDATE_BYTES)
    for subject in subjects:
        sender.request(subject, payload, f"{inbox}.{subject}")


def _read(reader: Connection, count: int, arrived: threading.Semaphore) -> None:
    buffer = memoryview(bytearray(UPDATE_BYTES))
    for _ in range(count):
        reader.receive(buffer)
        arrived.release()


def call(connection: Connection, name: str, request: Any) -> None:
    """Call JetStream's API, and raise RuntimeError if it refuses.

    Args:
        connection: the first sender's.
        name: name of the call.
        request: for JSON.
    """
    answer = json.loads(connection.request(f"$JS.API.{name}", json.dumps(request).encode(), "_INBOX.0.api"))
    if "error" in answer:
        raise RuntimeError(f"{name}: {answer['error']}")


async def main(clients: int, rounds: int) -> None:
    """Measure, and print the medians.

    Args:
        clients: number of updates in each round.
        rounds: number of rounds that count, after one that does not.
    """
    with tempfile.TemporaryDirectory(prefix="limit-") as folder:
        async with NatsServer(Path(folder)) as server:
            measured = (await asyncio.to_thread(measure, server, clients, rounds + 1))[1:]
    wall_s, server_s, own_s = (statistics.median(each) for each in zip(*measured, strict=True))
    print(
        f"{clients} updates of 2.3 MB: {wall_s * 1000:.0f} ms; a core was used by nats-server for "
        f"{server_s * 1000:.0f} ms, by the senders and the reader for {own_s * 1000:.0f} ms"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    logs.configure(quiet=True)
    asyncio.run(main(options.clients, options.rounds))

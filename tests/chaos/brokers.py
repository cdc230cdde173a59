"""The two brokers under test, with what a trial does to them: kill, freeze, fill, replace their store, look into it."""

import abc
import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import nats
import nats.aio.client
from paho.mqtt.client import Client as Paho
from paho.mqtt.client import MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from broker.nats.server import USER, NatsServer
from broker.url import BrokerUrl
from tests.support.brokers import STORE_BYTES, Mosquitto

NAMES: Final = ("nats", "mosquitto")

OURS: Final = "chaos-"
"""Beginning of the names of the harness's own durable consumers."""

QUIET_S: Final = 0.5
"""After so long without another retained message, there is none."""

WITHIN_S: Final = 60.0


class TestedBroker(abc.ABC):
    """A broker process of a trial.

    Args:
        folder: its store, configuration and log.

    Attributes:
        folder: see above.
    """

    __test__ = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """Its address, for `broker.connect`."""

    @property
    @abc.abstractmethod
    def pid(self) -> int:
        """Id of its process."""

    @property
    @abc.abstractmethod
    def log_file(self) -> Path:
        """Its log."""

    @abc.abstractmethod
    async def start(self) -> None:
        """Start it with the store that it has, and wait until it listens."""

    @abc.abstractmethod
    async def kill(self) -> None:
        """Kill it, as in a crash."""

    @abc.abstractmethod
    async def stop(self) -> None:
        """End it in order."""

    @abc.abstractmethod
    async def topics(self) -> Counter[str]:
        """Count its messages by topic, as `fl.a.b`."""

    @abc.abstractmethod
    async def consumers(self) -> int:
        """Count what subscribers have left on it, without the harness: consumers, or sessions and subscriptions."""

    @property
    @abc.abstractmethod
    def store(self) -> Path:
        """The file or folder of its store."""

    def freeze(self) -> None:
        """Stop it, as a debugger or a full host does."""
        os.kill(self.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def copy_store(self, to: Path) -> None:
        """Copy its store at one moment.

        Args:
            to: where; an earlier copy is replaced.
        """
        if to.is_dir():
            shutil.rmtree(to)
        self.freeze()
        try:
            if self.store.is_dir():
                shutil.copytree(self.store, to)
            elif self.store.exists():
                shutil.copy2(self.store, to)
        finally:
            self.wake()

    def replace_store(self, by: Path | None) -> None:
        """Replace the store of a broker that does not run.

        Args:
            by: a copy; None: nothing.
        """
        if self.store.is_dir():
            shutil.rmtree(self.store)
        else:
            self.store.unlink(missing_ok=True)
        if by is not None and by.is_dir():
            shutil.copytree(by, self.store)
        elif by is not None and by.exists():
            shutil.copy2(by, self.store)


class Nats(TestedBroker):
    """A nats-server, as `fedkeeper up` starts it.

    Args:
        folder: its store, configuration and log.
        max_file_bytes: size limit of its store.
    """

    def __init__(self, folder: Path, max_file_bytes: int = STORE_BYTES) -> None:
        super().__init__(folder)
        self._server = NatsServer(folder, max_file_bytes=max_file_bytes)

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def log_file(self) -> Path:
        return self._server.log_file

    @property
    def store(self) -> Path:
        return self.folder / "jetstream"

    async def start(self) -> None:
        await self._server.start()

    async def kill(self) -> None:
        await self._server.kill()

    async def stop(self) -> None:
        await self._server.stop()

    async def topics(self) -> Counter[str]:
        found: Counter[str] = Counter()
        async with self._client() as client:
            for stream in await _streams(client):
                info = await _asked(client, f"STREAM.INFO.{stream}", {"subjects_filter": ">"})
                found.update(info["state"].get("subjects") or {})
        return found

    async def consumers(self) -> int:
        async with self._client() as client:
            names = [name for stream in await _streams(client) for name in await _consumers(client, stream)]
        return sum(not name.startswith(OURS) for name in names)

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[nats.aio.client.Client]:
        client = await nats.connect(
            f"nats://127.0.0.1:{self._server.port}", user=USER, password=self._server.password_file.read_text().strip()
        )
        try:
            yield client
        finally:
            await client.close()


async def _streams(client: nats.aio.client.Client) -> list[str]:
    return list((await _asked(client, "STREAM.NAMES", {}))["streams"] or ())


async def _consumers(client: nats.aio.client.Client, stream: str) -> list[str]:
    return list((await _asked(client, f"CONSUMER.NAMES.{stream}", {}))["consumers"] or ())


async def _asked(client: nats.aio.client.Client, what: str, body: dict[str, str]) -> dict[str, Any]:
    answer = await client.request(f"$JS.API.{what}", json.dumps(body).encode(), timeout=WITHIN_S)
    decoded: dict[str, Any] = json.loads(answer.data)
    return decoded


class Mqtt(TestedBroker):
    """A mosquitto, as docs/mqtt.md configures it: it writes its store once a second.

    Args:
        folder: its store, configuration and log.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._server = Mosquitto(folder, settings="sys_interval 1")

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def pid(self) -> int:
        process = self._server._process
        assert process is not None
        return process.pid

    @property
    def log_file(self) -> Path:
        return self.folder / "mosquitto.log"

    @property
    def store(self) -> Path:
        return self.folder / "mosquitto.db"

    async def start(self) -> None:
        await self._server.start()

    async def kill(self) -> None:
        await self._server.kill()

    async def stop(self) -> None:
        process = self._server._process
        if process is not None:
            process.terminate()
            await asyncio.wait_for(process.wait(), WITHIN_S)
        await self._server.kill()

    async def topics(self) -> Counter[str]:
        messages = await self._retained(("fl/#", "fk/#"))
        return Counter(topic.replace("/", ".") for topic in messages)

    async def consumers(self) -> int:
        # The reader itself is one of them each time.
        await asyncio.sleep(2.0)  # it counts once a second
        messages = await self._retained(("$SYS/broker/subscriptions/count", "$SYS/broker/clients/total"))
        return sum(int(value) for value in messages.values())

    async def _retained(self, filters: tuple[str, ...]) -> dict[str, bytes]:
        """Return the retained messages of some topics."""
        messages: dict[str, bytes] = {}
        arrived, loop = asyncio.Event(), asyncio.get_running_loop()

        def on_message(_client: Paho, _data: object, message: MQTTMessage) -> None:
            if message.retain:
                messages[message.topic] = bytes(message.payload)
                loop.call_soon_threadsafe(arrived.set)

        paho = Paho(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        paho.on_message = on_message
        port = BrokerUrl.parse(self.url).port
        await asyncio.to_thread(paho.connect, "127.0.0.1", port)
        paho.loop_start()
        try:
            for each in filters:
                paho.subscribe(each, qos=1)
            while True:
                arrived.clear()
                try:
                    await asyncio.wait_for(arrived.wait(), QUIET_S)
                except TimeoutError:
                    return messages
        finally:
            paho.disconnect()
            await asyncio.to_thread(paho.loop_stop)


def create(name: str, folder: Path, **options: Any) -> TestedBroker:
    """Return a broker of a trial, which does not run yet.

    Args:
        name: one of `NAMES`.
        folder: its store, configuration and log.
        options: options of a nats-server.
    """
    return Nats(folder, **options) if name == "nats" else Mqtt(folder)

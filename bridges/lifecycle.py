"""Creates, deletes and lists a platform's functions, as messages ask for it (the paper's FedKeeper, section 3.2)."""

import contextlib
import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from bridges.errors import BridgeError, PlatformFailed
from bridges.in_flight import InFlight
from bridges.platform import Functions
from broker import topics
from broker.base import Broker, Delivery
from broker.errors import BadTopic, BrokerError, CorruptPayload
from broker.messages import codec
from broker.messages.errors import DecodeError
from broker.messages.function import Change, Function, Reply, Request
from broker.support.tasks import task_group

log = structlog.get_logger(__name__)

AT_ONCE: Final = 4
"""How many functions are created or deleted at the same time."""


class Lifecycle:
    """The functions of one platform.

    Args:
        broker: where requests come from, and where it is kept how each function should be.
        platform: its name.
        functions: creates, deletes and lists them.
        clock: seconds since the epoch.
    """

    def __init__(
        self, broker: Broker, platform: str, functions: Functions, clock: Callable[[], float] = time.time
    ) -> None:
        self._broker = broker
        self._platform = platform
        self._functions = functions
        self._clock = clock
        self._in_flight = InFlight()

    async def serve(self) -> None:
        """Answer requests until cancelled."""
        every, name = topics.fabric(self._platform, topics.ANY), f"fabric-{self._platform}"
        async with task_group() as group:
            group.create_task(self._in_flight.heartbeat(), name=f"{name}.heartbeat")
            async with self._broker.subscribe(every, durable=name, prefetch=AT_ONCE) as deliveries:
                async for delivery in deliveries:
                    group.create_task(self._handle(delivery), name=f"{name}.{delivery.sequence}")

    async def restore(self, client: str) -> Change | None:
        """Make a client's function what it was made last, if it is not; None if it never was.

        Raises:
            BridgeError: it can't be created.
        """
        found = await self._broker.get(topics.function(self._platform, client))
        if found is None:
            return None
        try:
            function = codec.decode(Function, found.payload)
        except DecodeError as exc:
            raise PlatformFailed(self._platform, f"create {client}", str(exc)) from exc
        return (await self._create(function)).change

    async def _handle(self, delivery: Delivery) -> None:
        payload = b""
        try:
            payload = await delivery.read()
            request = codec.decode(Request, payload)
        except (DecodeError, CorruptPayload) as exc:
            await self._refuse(delivery, payload, str(exc))
            return
        if await self._in_flight.adopt_or_ack_duplicate(request.id, delivery):
            return
        with self._in_flight.working(request.id, delivery):
            try:
                await self._answer(request, delivery)
            except BrokerError as exc:
                log.warning("the broker is out of reach; the request will be delivered again", error=str(exc))

    async def _refuse(self, delivery: Delivery, payload: bytes, reason: str) -> None:
        """Answer what can't be read, so that whoever asked need not wait; if it says where."""
        log.warning("no request", topic=delivery.topic, error=reason)
        try:
            # Nobody waits for the answer to an id that no topic can have.
            with contextlib.suppress(BadTopic):
                if asked := codec.decode_partial(_Asked, payload):
                    await self._broker.publish(topics.reply(asked.id), codec.encode(Reply(error=reason)))
            await delivery.ack()
        except BrokerError as exc:
            log.warning("the broker is out of reach; the request will be delivered again", error=str(exc))

    async def _answer(self, request: Request, delivery: Delivery) -> None:
        verb = topics.parse_fabric(delivery.topic).verb
        if self._clock() < request.deadline_s:
            reply = await self._reply(verb, request)
            log.info("asked by message", verb=verb, function=_name(request), change=reply.change, error=reply.error)
            await self._broker.publish(topics.reply(request.id), codec.encode(reply))
        else:
            log.info("a request that nobody waits for any longer", verb=verb, function=_name(request))
        await self._in_flight[request.id].ack()

    async def _reply(self, verb: str, request: Request) -> Reply:
        try:
            match verb, request.function:
                case "create", Function() as function:
                    return await self._create(function)
                case "delete", _ if request.name:
                    return await self._delete(request.name)
                case "list", _:
                    return Reply(functions=tuple(await self._functions.list()))
                case _:
                    return Reply(error=f"no such request: {verb}")
        except (BridgeError, CorruptPayload) as exc:
            return Reply(error=str(exc))

    async def _create(self, function: Function) -> Reply:
        change, deployed = await self._functions.create(function, await self._package(function))
        # Kept after it is made: what is kept here, a bridge may make again without asking.
        await self._broker.put(topics.function(self._platform, function.name), codec.encode(function))
        return Reply(change=change, functions=(deployed,))

    async def _package(self, function: Function) -> bytes | None:
        if function.package is None:
            return None
        found = await self._broker.get(function.package.topic)
        if found is None:
            raise PlatformFailed(self._platform, f"create {function.name}", "its package is not with the broker")
        return found.payload

    async def _delete(self, name: str) -> Reply:
        # Forgotten before it is deleted: a bridge that meets its absence must not create it again.
        await self._broker.delete(topics.function(self._platform, name))
        return Reply(change=await self._functions.delete(name))


class _Asked(msgspec.Struct, frozen=True):
    """Where the answer to a request of any schema goes."""

    id: str


def _name(request: Request) -> str:
    return request.function.name if request.function else request.name

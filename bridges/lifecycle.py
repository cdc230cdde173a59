"""Creates, deletes and lists a platform's functions on request (the paper's FedKeeper, section 3.2).

It also asks the platform to look at a client's data.
"""

import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from bridges.errors import BridgeError, PlatformFailed
from bridges.in_flight import InFlight
from bridges.platform import Functions
from broker import topics
from broker.base import Broker
from broker.deliveries import Delivery
from broker.errors import BadTopic, BrokerError, CorruptPayload, Unsupported
from broker.messages import codec, origin
from broker.messages.data_report import DataCheck, DataReport
from broker.messages.errors import DecodeError
from broker.messages.function import Change, Function, Reply, Request
from broker.messages.round import BlobRef
from broker.support import loggers
from broker.support.tasks import task_group

log = loggers.get_logger(__name__)

AT_ONCE: Final = 4
"""Number of requests that are handled at the same time."""

CHECK_S: Final = 60.0
"""Longest look at a client's data, also where a clock is wrong."""

REPLY_S: Final = 10.0
"""What is left of a requester's time for the way of the reply."""

Check = Callable[[DataCheck], Awaitable[DataReport]]
"""Looks at a client's data: `bridges.platform.ManagedPlatform.check`."""


class Lifecycle:
    """Handles the requests for the functions and the data of one platform.

    Args:
        broker: the connection that requests come from. It also retains how each function should be.
        platform: name of the platform.
        functions: creates, deletes and lists functions on the platform; None: its clients need none.
        check: looks at a client's data; None: nobody can.
        clock: returns the time in seconds since the epoch.
    """

    def __init__(
        self,
        broker: Broker,
        platform: str,
        functions: Functions | None,
        *,
        check: Check | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._broker = broker
        self._platform = platform
        self._functions = functions
        self._check = check
        self._clock = clock
        self._in_flight = InFlight()

    async def serve(self) -> None:
        """Handle requests until cancelled."""
        topic_filter, name = topics.fabric(self._platform, topics.ANY), f"fabric-{self._platform}"
        async with task_group() as group:
            group.create_task(self._in_flight.heartbeat(), name=f"{name}.heartbeat")
            async with self._broker.subscribe(topic_filter, durable=name, prefetch=AT_ONCE) as deliveries:
                async for delivery in deliveries:
                    group.create_task(self._handle(delivery), name=f"{name}.{delivery.sequence}")

    async def restore(self, client: str) -> Change | None:
        """Make a client's function what it was last created as.

        Returns:
            What was changed; None if the function was never created, or was deleted on request.

        Raises:
            BridgeError: it can't be created.
            CorruptPayload: the broker's copy of its package is damaged.
        """
        value = await self._broker.get(topics.function(self._platform, client))
        if value is None:
            return None
        try:
            function = codec.decode(Function, value.payload)
            origin.check_topic(value.topic, topics.function, self._platform, function.name)
        except DecodeError as exc:
            raise PlatformFailed(self._platform, f"create {client}", str(exc)) from exc
        return (await self._create(function)).change

    async def _handle(self, delivery: Delivery) -> None:
        """Decode a request, do what it asks for, reply, and acknowledge it."""
        payload = b""
        try:
            payload = await delivery.read()
            request = codec.decode(Request, payload)
        except (DecodeError, CorruptPayload) as exc:
            await self._refuse(delivery, payload, str(exc))
            return
        if await self._in_flight.adopt_or_ack_duplicate(request.id, delivery):
            return
        async with self._in_flight.track(request.id, delivery):
            try:
                await self._answer(request, topics.parse_fabric(delivery.topic).verb)
                await self._in_flight[request.id].ack()
            except BrokerError as exc:
                log.warning("the broker is out of reach; the request will be delivered again", error=str(exc))

    async def _refuse(self, delivery: Delivery, payload: bytes, reason: str) -> None:
        """Reply to an unreadable request with an error, if its id can be read, so that its sender need not wait."""
        log.warning("unreadable request", topic=delivery.topic, error=reason)
        try:
            # An id that no topic can have belongs to no sender that waits.
            with contextlib.suppress(BadTopic):
                if request := codec.decode_partial(_RequestId, payload):
                    await self._broker.publish(topics.reply(request.id), codec.encode(Reply(error=reason)))
            await delivery.ack()
        except BrokerError as exc:
            log.warning("the broker is out of reach; the request will be delivered again", error=str(exc))

    async def _answer(self, request: Request, verb: str) -> None:
        name = request.function.name if request.function else request.name
        if self._clock() >= request.deadline_s:
            log.info("a request came after its deadline", verb=verb, function=name)
            return
        try:
            reply = await self._do(request, verb)
        except (BridgeError, CorruptPayload, BadTopic, Unsupported) as exc:
            reply = Reply(error=str(exc))
        log.info("a request is done", verb=verb, function=name, change=reply.change, error=reply.error)
        await self._broker.publish(topics.reply(request.id), codec.encode(reply))

    async def _do(self, request: Request, verb: str) -> Reply:
        match verb, request.function:
            case "check", _ if self._check is not None:
                return Reply(report=await self._check(self._question(request)))
            case "create", Function() as function:
                return await self._create(function)
            case "delete", _ if request.name:
                return await self._delete(request.name)
            case "list", _:
                return Reply(functions=tuple(await self._managed.list()))
            case _:
                return Reply(error=f"no such request: {verb}")

    def _question(self, request: Request) -> DataCheck:
        left_s = request.deadline_s - self._clock() - REPLY_S
        return DataCheck(
            id=request.id,
            client=request.name,
            data_loc=request.data_loc,
            state_loc=request.state_loc,
            limit_s=min(CHECK_S, max(1.0, left_s)),
        )

    @property
    def _managed(self) -> Functions:
        if self._functions is None:
            raise PlatformFailed(self._platform, "manage functions", "it has none: its workers serve every client")
        return self._functions

    async def _delete(self, name: str) -> Reply:
        functions = self._managed
        # Its desired state goes first: no bridge may create the function again after it is deleted.
        await self._broker.delete(topics.function(self._platform, name))
        return Reply(change=await functions.delete(name))

    async def _create(self, function: Function) -> Reply:
        package = None if function.package is None else await self._fetch_package(function.name, function.package)
        change, deployed = await self._managed.create(function, package)
        # Retained after it is created: a bridge may create a retained function again without a request.
        await self._broker.put(topics.function(self._platform, function.name), codec.encode(function))
        return Reply(change=change, functions=(deployed,))

    async def _fetch_package(self, function: str, package: BlobRef) -> bytes:
        """Fetch a function's archive. The digest in the request decides, not who wrote to the archive's topic first."""
        value = await self._broker.get(package.topic)
        if value is None:
            raise PlatformFailed(self._platform, f"create {function}", "its package is not with the broker")
        if hashlib.sha256(value.payload).hexdigest() != package.sha256:
            reason = f"{package.topic} holds other bytes than the package: delete them, and deploy again"
            raise PlatformFailed(self._platform, f"create {function}", reason)
        return value.payload


class _RequestId(msgspec.Struct, frozen=True):
    """The part of a request that can be read in every schema: its id, which names the topic of the reply."""

    id: str

"""Google Pub/Sub on a loopback port: real gRPC, messages in memory.

What Google's client library asks of it, the service's refusals, at-least-once delivery in any order, and push, also as
Eventarc does it. Tests make it misbehave through the attributes of `PubSub`.
"""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import aiohttp
import grpc
from google.protobuf.empty_pb2 import Empty
from google.pubsub_v1.types import pubsub

from broker.support.tasks import task_group
from emulators.gcf.push import Pusher
from emulators.gcf.subscription import Message, Refused, Subscription

REQUEST_BYTES: Final = 10_000_000
ACK_LEAST_S: Final = 10
ACK_MOST_S: Final = 600
PULL_S: Final = 10.0
"""How long a pull waits for a first message."""

_ID: Final = r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}"
_NAME: Final = re.compile(rf"projects/[a-z][a-z0-9.:-]*/(topics|subscriptions)/{_ID}")
_PULLED_AT_ONCE: Final = 1000

Code = grpc.StatusCode
Method = tuple[Any, Any, Callable[[Any], Awaitable[Any]]]


class PubSub:
    """The service. Use it as `async with serving() as pubsub`.

    Attributes:
        address: host and port, for PUBSUB_EMULATOR_HOST.
        pusher: see there; has knobs too.
        refusals: what the next calls to the publisher are answered with.
        delay_s: how long the publisher takes to answer.
        twice: so many of the next messages are delivered twice.
        hold: the next so many messages are held until the last of them is there, then delivered in reverse.
        published: every message, with its topic's full name.
    """

    def __init__(self, pusher: Pusher, group: asyncio.TaskGroup) -> None:
        self.address = ""
        self.pusher = pusher
        self.refusals: deque[grpc.StatusCode] = deque()
        self.delay_s = 0.0
        self.twice = 0
        self.hold = 0
        self.published: list[tuple[str, Message]] = []
        self._group = group
        self._topics: dict[str, dict[str, str]] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._pushing: dict[str, asyncio.Task[None]] = {}
        self._held: list[tuple[str, Message]] = []

    def has_topic(self, name: str) -> bool:
        """Whether there is a topic of that full name."""
        return name in self._topics

    def subscribe(self, subscription: Subscription) -> None:
        """Add a subscription; one with an endpoint is pushed from now on.

        Raises:
            Refused: there is no such topic, or there is such a subscription.
        """
        if subscription.topic not in self._topics:
            raise Refused(Code.NOT_FOUND, "Subscription topic does not exist")
        if subscription.name in self._subscriptions:
            raise Refused(Code.ALREADY_EXISTS, "Subscription already exists")
        self._subscriptions[subscription.name] = subscription
        if subscription.endpoint:
            pushing = self._group.create_task(self.pusher.serve(subscription), name=f"push {subscription.name}")
            self._pushing[subscription.name] = pushing

    def unsubscribe(self, name: str) -> None:
        """Delete a subscription and whatever it still holds.

        Raises:
            Refused: there is none.
        """
        self.subscription(name).close()
        del self._subscriptions[name]
        if name in self._pushing:
            self._pushing.pop(name).cancel()

    def subscription(self, name: str) -> Subscription:
        """The subscription of that full name.

        Raises:
            Refused: there is none.
        """
        if name not in self._subscriptions:
            raise Refused(Code.NOT_FOUND, "Subscription does not exist")
        return self._subscriptions[name]

    def close(self) -> None:
        """End every push and every wait."""
        for name in list(self._subscriptions):
            self.unsubscribe(name)

    async def create_topic(self, topic: Any) -> Any:
        """Publisher.CreateTopic: refuses a topic that is there."""
        _checked(topic.name)
        if topic.name in self._topics:
            raise Refused(Code.ALREADY_EXISTS, "Topic already exists")
        self._topics[topic.name] = dict(topic.labels)
        return topic

    async def get_topic(self, request: Any) -> Any:
        """Publisher.GetTopic."""
        return self._topic(request.topic)

    async def list_topics(self, request: Any) -> Any:
        """Publisher.ListTopics: all of a project's, on one page."""
        found = [name for name in self._topics if name.startswith(f"{request.project}/")]
        return pubsub.ListTopicsResponse(topics=[self._topic(name) for name in found])

    async def list_topic_subscriptions(self, request: Any) -> Any:
        """Publisher.ListTopicSubscriptions: all of them, on one page."""
        self._topic(request.topic)
        found = [one.name for one in self._subscriptions.values() if one.topic == request.topic]
        return pubsub.ListTopicSubscriptionsResponse(subscriptions=found)

    async def delete_topic(self, request: Any) -> Any:
        """Its subscriptions stay, and get nothing any more."""
        self._topic(request.topic)
        del self._topics[request.topic]
        for one in self._subscriptions.values():
            if one.topic == request.topic:
                one.topic = "_deleted-topic_"
        return Empty()

    async def publish(self, request: Any) -> Any:
        """Publisher.Publish: refuses empty messages, and requests of more than 10 MB."""
        self._topic(request.topic)
        if not request.messages:
            raise Refused(Code.INVALID_ARGUMENT, "No messages to publish")
        if any(not one.data and not one.attributes for one in request.messages):
            raise Refused(Code.INVALID_ARGUMENT, "Some messages are empty")
        if pubsub.PublishRequest.pb(request).ByteSize() > REQUEST_BYTES:
            raise Refused(Code.INVALID_ARGUMENT, f"Request payload size exceeds the limit: {REQUEST_BYTES} bytes.")
        return pubsub.PublishResponse(message_ids=[self._accept(request.topic, one) for one in request.messages])

    async def create_subscription(self, request: Any) -> Any:
        """Subscriber.CreateSubscription: pulled, or pushed to an endpoint."""
        _checked(request.name)
        endpoint = request.push_config.push_endpoint
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise Refused(Code.INVALID_ARGUMENT, "Unsupported push_endpoint")
        # Zero is the default of 10 s.
        deadline_s = request.ack_deadline_seconds or ACK_LEAST_S
        if not ACK_LEAST_S <= deadline_s <= ACK_MOST_S:
            raise Refused(Code.INVALID_ARGUMENT, "ack_deadline_secs out of bounds")
        self.subscribe(Subscription(request.name, request.topic, ack_deadline_s=deadline_s, endpoint=endpoint))
        return await self.get_subscription(pubsub.GetSubscriptionRequest(subscription=request.name))

    async def get_subscription(self, request: Any) -> Any:
        """Subscriber.GetSubscription."""
        found = self.subscription(request.subscription)
        return pubsub.Subscription(
            name=found.name,
            topic=found.topic,
            ack_deadline_seconds=int(found.ack_deadline_s),
            push_config=pubsub.PushConfig(push_endpoint=found.endpoint),
        )

    async def delete_subscription(self, request: Any) -> Any:
        """Subscriber.DeleteSubscription: what it still held is gone."""
        self.unsubscribe(request.subscription)
        return Empty()

    async def pull(self, request: Any) -> Any:
        """Subscriber.Pull: waits a while for messages; a subscription that is pushed has none."""
        subscription = self.subscription(request.subscription)
        if request.max_messages < 1:
            raise Refused(Code.INVALID_ARGUMENT, "No max_messages specified")
        wait_s = 0.0 if request.return_immediately else PULL_S
        got: list[tuple[str, Message]] = []
        if not subscription.endpoint:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    got = await subscription.next(request.max_messages)
        return pubsub.PullResponse(received_messages=[_received(*one) for one in got])

    async def acknowledge(self, request: Any) -> Any:
        """Subscriber.Acknowledge: an id that is too old is passed over."""
        subscription = self.subscription(request.subscription)
        for ack_id in request.ack_ids:
            subscription.acknowledge(ack_id)
        return Empty()

    async def modify_ack_deadline(self, request: Any) -> Any:
        """Subscriber.ModifyAckDeadline: zero seconds give the message back."""
        subscription = self.subscription(request.subscription)
        for ack_id in request.ack_ids:
            subscription.extend(ack_id, request.ack_deadline_seconds)
        return Empty()

    async def streaming_pull(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Messages as they come, until the caller has enough. It acknowledges with calls of their own."""
        first = await anext(requests)
        try:
            subscription = self.subscription(first.subscription)
            while True:
                got = await subscription.next(_PULLED_AT_ONCE, first.stream_ack_deadline_seconds)
                yield pubsub.StreamingPullResponse(
                    received_messages=[_received(*one) for one in got],
                    subscription_properties=pubsub.StreamingPullResponse.SubscriptionProperties(),
                )
        except Refused as exc:
            await context.abort(exc.code, exc.reason)

    async def answer(self, handle: Callable[[Any], Awaitable[Any]], request: Any, context: Any) -> Any:
        """Answer a call; a refusal ends it with its code."""
        try:
            return await handle(request)
        except Refused as exc:
            return await context.abort(exc.code, exc.reason)

    async def misbehave(self) -> None:
        """What a test wants the publisher to do first."""
        await asyncio.sleep(self.delay_s)
        if self.refusals:
            code = self.refusals.popleft()
            raise Refused(code, f"a test wants {code.name}")

    def _topic(self, name: str) -> Any:
        if name not in self._topics:
            raise Refused(Code.NOT_FOUND, "Topic not found")
        return pubsub.Topic(name=name, labels=self._topics[name])

    def _accept(self, topic: str, one: Any) -> str:
        message = Message(str(len(self.published) + 1), one.data, dict(one.attributes), one.ordering_key)
        self.published.append((topic, message))
        self._held.append((topic, message))
        if len(self._held) >= self.hold:
            released, self._held = self._held[::-1], []
            self.hold = 0
            for held in released:
                self._deliver(*held)
        return message.id

    def _deliver(self, topic: str, message: Message) -> None:
        copies = 2 if self.twice else 1
        self.twice = max(0, self.twice - 1)
        for subscription in self._subscriptions.values():
            if subscription.topic == topic:
                for _ in range(copies):
                    subscription.put(message)


@contextlib.asynccontextmanager
async def serving(*, port: int = 0, retry_first_s: float = 10.0, retry_most_s: float = 600.0) -> AsyncIterator[PubSub]:
    """Pub/Sub on the loopback interface until the end of the block.

    Args:
        port: TCP port; 0: one that is free.
        retry_first_s: before a push is repeated for the first time; Eventarc's own 10 s by default.
        retry_most_s: no wait is longer.
    """
    # Weights never travel here, but a message of 10 MB is legal, and gRPC's own limit is 4 MiB.
    unlimited = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]
    async with aiohttp.ClientSession() as http, task_group() as group:
        service = PubSub(Pusher(http, retry_first_s, retry_most_s), group)
        server = grpc.aio.server(options=unlimited)
        server.add_generic_rpc_handlers((_publisher(service), _subscriber(service)))
        service.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
        await server.start()
        try:
            yield service
        finally:
            service.close()
            await server.stop(grace=None)


def _publisher(service: PubSub) -> grpc.GenericRpcHandler:
    methods: dict[str, Method] = {
        "CreateTopic": (pubsub.Topic, pubsub.Topic, service.create_topic),
        "GetTopic": (pubsub.GetTopicRequest, pubsub.Topic, service.get_topic),
        "ListTopics": (pubsub.ListTopicsRequest, pubsub.ListTopicsResponse, service.list_topics),
        "DeleteTopic": (pubsub.DeleteTopicRequest, None, service.delete_topic),
        "Publish": (pubsub.PublishRequest, pubsub.PublishResponse, service.publish),
        "ListTopicSubscriptions": (
            pubsub.ListTopicSubscriptionsRequest,
            pubsub.ListTopicSubscriptionsResponse,
            service.list_topic_subscriptions,
        ),
    }

    def misbehaving(handle: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def first(request: Any) -> Any:
            await service.misbehave()
            return await handle(request)

        return first

    handlers = {
        name: _unary(service, (request, response, misbehaving(handle)))
        for name, (request, response, handle) in methods.items()
    }
    return grpc.method_handlers_generic_handler("google.pubsub.v1.Publisher", handlers)


def _subscriber(service: PubSub) -> grpc.GenericRpcHandler:
    methods: dict[str, Method] = {
        "CreateSubscription": (pubsub.Subscription, pubsub.Subscription, service.create_subscription),
        "GetSubscription": (pubsub.GetSubscriptionRequest, pubsub.Subscription, service.get_subscription),
        "DeleteSubscription": (pubsub.DeleteSubscriptionRequest, None, service.delete_subscription),
        "Pull": (pubsub.PullRequest, pubsub.PullResponse, service.pull),
        "Acknowledge": (pubsub.AcknowledgeRequest, None, service.acknowledge),
        "ModifyAckDeadline": (pubsub.ModifyAckDeadlineRequest, None, service.modify_ack_deadline),
    }
    handlers = {name: _unary(service, method) for name, method in methods.items()}
    handlers["StreamingPull"] = grpc.stream_stream_rpc_method_handler(
        service.streaming_pull,
        request_deserializer=pubsub.StreamingPullRequest.deserialize,
        response_serializer=pubsub.StreamingPullResponse.serialize,
    )
    return grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", handlers)


def _unary(service: PubSub, method: Method) -> "grpc.RpcMethodHandler[Any, Any]":
    request, response, handle = method

    async def answer(call: Any, context: Any) -> Any:
        return await service.answer(handle, call, context)

    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=request.deserialize,
        response_serializer=response.serialize if response else Empty.SerializeToString,
    )


def _received(ack_id: str, message: Message) -> Any:
    content = pubsub.PubsubMessage(
        data=message.data,
        attributes=message.attributes,
        message_id=message.id,
        publish_time=message.published,
        ordering_key=message.ordering_key,
    )
    return pubsub.ReceivedMessage(ack_id=ack_id, message=content)


def _checked(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Refused(Code.INVALID_ARGUMENT, f"Invalid resource name: (name={name})")

"""Google Pub/Sub on a loopback port, with real gRPC and messages in memory.

It has the methods that Google's client library calls, the service's refusals, at-least-once delivery in any order, and
push (Eventarc's too). Tests cause faults through the attributes of `PubSub`.
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
"""Time that a pull waits for a first message, in seconds."""

_ID: Final = r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}"
_NAME: Final = re.compile(rf"projects/[a-z][a-z0-9.:-]*/(topics|subscriptions)/{_ID}")
_PULLED_AT_ONCE: Final = 1000

Code = grpc.StatusCode
Method = tuple[Any, Any, Callable[[Any], Awaitable[Any]]]


class PubSub:
    """The service. Use it as `async with serving() as pubsub`.

    Args:
        pusher: pushes messages; it has switches too.
        group: runs the background tasks.

    Attributes:
        address: host and port, for PUBSUB_EMULATOR_HOST.
        pusher: pushes messages.
        refusals: status codes of the next responses of the publisher.
        delay_s: additional response time of the publisher, in seconds.
        duplicates: number of further messages that are delivered twice.
        reorder: number of further messages to collect; they are delivered in reverse order.
        published: every message, with the full name of its topic.
    """

    def __init__(self, pusher: Pusher, group: asyncio.TaskGroup) -> None:
        self.address = ""
        self.pusher = pusher
        self.refusals: deque[grpc.StatusCode] = deque()
        self.delay_s = 0.0
        self.duplicates = 0
        self.reorder = 0
        self.published: list[tuple[str, Message]] = []
        self._group = group
        self._topics: dict[str, dict[str, str]] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._pushing: dict[str, asyncio.Task[None]] = {}
        self._collected: list[tuple[str, Message]] = []

    def has_topic(self, name: str) -> bool:
        """Whether a topic exists; `name` is its full name."""
        return name in self._topics

    def subscribe(self, subscription: Subscription) -> None:
        """Add a subscription. If it has an endpoint, start to push.

        Raises:
            Refused: the topic does not exist, or the subscription exists.
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
        """Delete a subscription with its messages.

        Raises:
            Refused: the subscription does not exist.
        """
        self.subscription(name).close()
        del self._subscriptions[name]
        if name in self._pushing:
            self._pushing.pop(name).cancel()

    def subscription(self, name: str) -> Subscription:
        """Return a subscription by its full name.

        Raises:
            Refused: the subscription does not exist.
        """
        if name not in self._subscriptions:
            raise Refused(Code.NOT_FOUND, "Subscription does not exist")
        return self._subscriptions[name]

    def close(self) -> None:
        """End every push and every wait."""
        for name in list(self._subscriptions):
            self.unsubscribe(name)

    async def create_topic(self, topic: Any) -> Any:
        """Handle Publisher.CreateTopic.

        Raises:
            Refused: the topic exists, or its name is not valid.
        """
        _check_name(topic.name)
        if topic.name in self._topics:
            raise Refused(Code.ALREADY_EXISTS, "Topic already exists")
        self._topics[topic.name] = dict(topic.labels)
        return topic

    async def get_topic(self, request: Any) -> Any:
        """Handle Publisher.GetTopic."""
        return self._topic(request.topic)

    async def list_topics(self, request: Any) -> Any:
        """Handle Publisher.ListTopics, with all topics of a project on one page."""
        names = [name for name in self._topics if name.startswith(f"{request.project}/")]
        return pubsub.ListTopicsResponse(topics=[self._topic(name) for name in names])

    async def list_topic_subscriptions(self, request: Any) -> Any:
        """Handle Publisher.ListTopicSubscriptions, with all subscriptions on one page."""
        self._topic(request.topic)
        names = [name for name, each in self._subscriptions.items() if each.topic == request.topic]
        return pubsub.ListTopicSubscriptionsResponse(subscriptions=names)

    async def delete_topic(self, request: Any) -> Any:
        """Handle Publisher.DeleteTopic. The topic's subscriptions stay, without a topic."""
        self._topic(request.topic)
        del self._topics[request.topic]
        for subscription in self._subscriptions.values():
            if subscription.topic == request.topic:
                subscription.topic = "_deleted-topic_"
        return Empty()

    async def publish(self, request: Any) -> Any:
        """Handle Publisher.Publish.

        Raises:
            Refused: there is no message, one is empty, or the request has more than REQUEST_BYTES.
        """
        self._topic(request.topic)
        if not request.messages:
            raise Refused(Code.INVALID_ARGUMENT, "No messages to publish")
        if any(not message.data and not message.attributes for message in request.messages):
            raise Refused(Code.INVALID_ARGUMENT, "Some messages are empty")
        if pubsub.PublishRequest.pb(request).ByteSize() > REQUEST_BYTES:
            raise Refused(Code.INVALID_ARGUMENT, f"Request payload size exceeds the limit: {REQUEST_BYTES} bytes.")
        return pubsub.PublishResponse(
            message_ids=[self._accept(request.topic, message) for message in request.messages]
        )

    async def create_subscription(self, request: Any) -> Any:
        """Handle Subscriber.CreateSubscription, with or without a push endpoint.

        Raises:
            Refused: the name, the endpoint or the deadline is not valid, or the subscription exists.
        """
        _check_name(request.name)
        endpoint = request.push_config.push_endpoint
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise Refused(Code.INVALID_ARGUMENT, "Unsupported push_endpoint")
        # Zero means the default.
        deadline_s = request.ack_deadline_seconds or ACK_LEAST_S
        if not ACK_LEAST_S <= deadline_s <= ACK_MOST_S:
            raise Refused(Code.INVALID_ARGUMENT, "ack_deadline_secs out of bounds")
        self.subscribe(Subscription(request.name, request.topic, ack_deadline_s=deadline_s, endpoint=endpoint))
        return await self.get_subscription(pubsub.GetSubscriptionRequest(subscription=request.name))

    async def get_subscription(self, request: Any) -> Any:
        """Handle Subscriber.GetSubscription."""
        subscription = self.subscription(request.subscription)
        return pubsub.Subscription(
            name=subscription.name,
            topic=subscription.topic,
            ack_deadline_seconds=int(subscription.ack_deadline_s),
            push_config=pubsub.PushConfig(push_endpoint=subscription.endpoint),
        )

    async def delete_subscription(self, request: Any) -> Any:
        """Handle Subscriber.DeleteSubscription."""
        self.unsubscribe(request.subscription)
        return Empty()

    async def pull(self, request: Any) -> Any:
        """Handle Subscriber.Pull: wait up to PULL_S for messages. A push subscription returns none.

        Raises:
            Refused: the subscription does not exist, or the number of messages is not valid.
        """
        subscription = self.subscription(request.subscription)
        if request.max_messages < 1:
            raise Refused(Code.INVALID_ARGUMENT, "No max_messages specified")
        wait_s = 0.0 if request.return_immediately else PULL_S
        messages: list[tuple[str, Message]] = []
        if not subscription.endpoint:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    messages = await subscription.next(request.max_messages)
        return pubsub.PullResponse(received_messages=[_received(*message) for message in messages])

    async def acknowledge(self, request: Any) -> Any:
        """Handle Subscriber.Acknowledge. It ignores ids whose lease has ended."""
        subscription = self.subscription(request.subscription)
        for ack_id in request.ack_ids:
            subscription.acknowledge(ack_id)
        return Empty()

    async def modify_ack_deadline(self, request: Any) -> Any:
        """Handle Subscriber.ModifyAckDeadline. Zero seconds return the message at once."""
        subscription = self.subscription(request.subscription)
        for ack_id in request.ack_ids:
            subscription.extend(ack_id, request.ack_deadline_seconds)
        return Empty()

    async def streaming_pull(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Handle Subscriber.StreamingPull: send messages until the caller stops. Acknowledgements are other calls.

        Args:
            requests: requests of the caller; only the first is read.
            context: context of the gRPC call.
        """
        first = await anext(requests)
        try:
            subscription = self.subscription(first.subscription)
            while True:
                messages = await subscription.next(_PULLED_AT_ONCE, first.stream_ack_deadline_seconds)
                yield pubsub.StreamingPullResponse(
                    received_messages=[_received(*message) for message in messages],
                    subscription_properties=pubsub.StreamingPullResponse.SubscriptionProperties(),
                )
        except Refused as exc:
            await context.abort(exc.code, exc.reason)

    async def answer(self, handle: Callable[[Any], Awaitable[Any]], request: Any, context: Any) -> Any:
        """Run a handler, and turn Refused into the status of the call.

        Args:
            handle: handler of the method.
            request: request of the caller.
            context: context of the gRPC call.
        """
        try:
            return await handle(request)
        except Refused as exc:
            return await context.abort(exc.code, exc.reason)

    async def apply_faults(self) -> None:
        """Delay or refuse a call of the publisher, as a test wants it.

        Raises:
            Refused: a test wants it.
        """
        await asyncio.sleep(self.delay_s)
        if self.refusals:
            code = self.refusals.popleft()
            raise Refused(code, f"a test wants {code.name}")

    def _topic(self, name: str) -> Any:
        if name not in self._topics:
            raise Refused(Code.NOT_FOUND, "Topic not found")
        return pubsub.Topic(name=name, labels=self._topics[name])

    def _accept(self, topic: str, request: Any) -> str:
        """Store a message, deliver it unless `reorder` collects it, and return its id."""
        attributes = dict(request.attributes)
        message = Message(str(len(self.published) + 1), request.data, attributes, request.ordering_key)
        self.published.append((topic, message))
        self._collected.append((topic, message))
        if len(self._collected) >= self.reorder:
            released, self._collected = self._collected[::-1], []
            self.reorder = 0
            for destination, content in released:
                copies = 2 if self.duplicates else 1
                self.duplicates = max(0, self.duplicates - 1)
                for subscription in self._subscriptions.values():
                    if subscription.topic == destination:
                        for _ in range(copies):
                            subscription.put(content)
        return message.id


@contextlib.asynccontextmanager
async def serving(*, port: int = 0, retry_first_s: float = 10.0, retry_most_s: float = 600.0) -> AsyncIterator[PubSub]:
    """Run Pub/Sub on the loopback interface until the end of the block.

    Args:
        port: TCP port; 0 for a free one.
        retry_first_s: delay before the first repetition of a push, in seconds; by default Eventarc's.
        retry_most_s: upper limit of that delay, in seconds.
    """
    # Pub/Sub allows messages of 10 MB, and gRPC's default limit is 4 MiB.
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

    def with_faults(handle: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def faulty(request: Any) -> Any:
            await service.apply_faults()
            return await handle(request)

        return faulty

    handlers = {
        name: _unary(service, (request, response, with_faults(handle)))
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


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Refused(Code.INVALID_ARGUMENT, f"Invalid resource name: (name={name})")

"""Carries model and update inside a call, for a function that can't reach the broker."""

from dataclasses import dataclass

from bridges.errors import InvocationFailed
from broker import topics
from broker.base import Broker
from broker.errors import BadTopic
from broker.messages import bundle, codec
from broker.messages.errors import DecodeError
from broker.messages.invocation import InvocationRequest, Report


@dataclass(frozen=True, slots=True)
class InlineTransfer:
    """Moves models, updates and client states between the broker and the body of a call.

    Attributes:
        broker: stores all of them.
    """

    broker: Broker

    async def pack(self, request: InvocationRequest) -> bytes:
        """Return a bundle of a request, and of the model and everything else that its task names.

        Raises:
            InvocationFailed: the broker does not have one of them.
        """
        blobs = {}
        for ref in request.task.blobs:
            value = await self.broker.get(ref.topic)
            if value is None:
                raise InvocationFailed(f"{ref.topic} is not with the broker")
            blobs[ref.topic] = value.payload
        return bundle.pack(codec.encode(request), blobs)

    async def publish_reply(self, body: bytes, request: InvocationRequest) -> Report:
        """Publish the update and the client states in a function's reply, and return its report.

        Args:
            body: a bundle of the report and the blobs to publish, or the bare report of a failure.
            request: the request that the function replies to. Only its own update and states are accepted.

        Raises:
            InvocationFailed: the reply is not valid. Nothing is published then.
        """
        try:
            message, blobs = bundle.unpack(body)
        except DecodeError:
            message, blobs = body, {}
        report = decode_report(message, request)
        if report.state != "done":
            return report
        task = request.task
        update = topics.update(task.job, task.round, task.client_id, request.attempt)
        for topic, blob in blobs.items():
            if not (topic == update or _is_own_state(topic, request)) or not blob:
                raise InvocationFailed(f"it answers with {len(blob)} bytes for {topic}", retryable=False)
        if update not in blobs:
            raise InvocationFailed("it says that it is done, and sends no update")
        # The states go first: the next task may name them as soon as the update counts.
        for topic, state in blobs.items():
            if topic != update:
                await self.broker.put(topic, state)
        await self.broker.publish(update, blobs[update])
        return report


def _is_own_state(topic: str, request: InvocationRequest) -> bool:
    """Whether a topic is one of a state of the request's client; a function of an older version names none."""
    task = request.task
    unnamed = topics.client_state(task.job, task.client_id, task.round, request.attempt, None)
    if topic == unnamed:
        return True
    try:
        name = topics.checked_id(topic.removeprefix(f"{unnamed}."))
    except BadTopic:
        return False
    return topic == topics.client_state(task.job, task.client_id, task.round, request.attempt, name)


def decode_report(message: bytes, request: InvocationRequest) -> Report:
    """Return the last report of a function.

    Args:
        message: the report in JSON.
        request: the request that the report must answer.

    Raises:
        InvocationFailed: the message is not a report, or it is about another task.
    """
    try:
        report = codec.decode(Report, message)
    except DecodeError as exc:
        raise InvocationFailed(f"its answer is no report: {exc}") from exc
    if report.id != request.task.id:
        raise InvocationFailed("it answers for another task")
    return report

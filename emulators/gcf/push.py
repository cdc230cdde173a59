"""Pushes messages to an HTTP endpoint, like Pub/Sub or like Eventarc."""

import asyncio
import base64
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import structlog

from broker.support.tasks import task_group
from emulators.gcf.subscription import Message, Subscription

log = structlog.get_logger(__name__)

EVENTARC_BYTES: Final = 512_000


@dataclass
class Pusher:
    """Pushes each message until the endpoint accepts it.

    Attributes:
        http: client that calls the endpoints.
        retry_first_s: delay before the first repetition, in seconds; it doubles with each one.
        retry_most_s: upper limit of that delay, in seconds.
        statuses: responses of the endpoints, in order; 0 for no response in time.
        dropped: events that were not delivered: too large for Eventarc, or refused while the subscription never
            retries.
    """

    http: aiohttp.ClientSession
    retry_first_s: float = 10.0
    retry_most_s: float = 600.0
    statuses: list[int] = field(default_factory=list)
    dropped: list[Message] = field(default_factory=list)

    async def serve(self, subscription: Subscription) -> None:
        """Push the messages of a subscription, until cancelled."""
        async with task_group() as group:
            while True:
                for ack_id, message in await subscription.next(100, lease_s=float("inf")):
                    push = self._push(subscription, ack_id, message)
                    group.create_task(push, name=f"push {message.id} to {subscription.name}")

    async def _push(self, subscription: Subscription, ack_id: str, message: Message) -> None:
        body = json.dumps(envelope(subscription, message)).encode()
        if not (subscription.is_eventarc and len(body) > EVENTARC_BYTES):
            wait_s = self.retry_first_s
            while not await self._deliver(subscription, message, body) and subscription.retries:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, self.retry_most_s)
        else:
            log.warning("larger than Eventarc takes", message=message.id, bytes=len(body))
            self.dropped.append(message)
        subscription.acknowledge(ack_id)

    async def _deliver(self, subscription: Subscription, message: Message, body: bytes) -> bool:
        """Push a message once, and return whether the endpoint accepted it."""
        headers = {"Content-Type": "application/json"}
        if subscription.is_eventarc:
            headers |= cloudevent_headers(subscription, message)
        limit = aiohttp.ClientTimeout(total=subscription.ack_deadline_s)
        try:
            async with self.http.post(subscription.endpoint, data=body, headers=headers, timeout=limit) as response:
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as exc:
            log.warning("push failed", endpoint=subscription.endpoint, error=repr(exc))
            status = 0
        self.statuses.append(status)
        is_accepted = HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
        if not is_accepted and not subscription.retries:
            self.dropped.append(message)
        return is_accepted


def envelope(subscription: Subscription, message: Message) -> dict[str, Any]:
    """Return the JSON body of a push. Like protocol buffers, it leaves out empty fields.

    Args:
        subscription: subscription that pushes the message.
        message: message to push.
    """
    published = message.published.isoformat().replace("+00:00", "Z")
    fields: dict[str, Any] = {
        "data": base64.b64encode(message.data).decode(),
        "messageId": message.id,
        "message_id": message.id,
        "publishTime": published,
        "publish_time": published,
        "attributes": message.attributes,
        "orderingKey": message.ordering_key,
    }
    return {"subscription": subscription.name, "message": {key: value for key, value in fields.items() if value}}


def cloudevent_headers(subscription: Subscription, message: Message) -> dict[str, str]:
    """Return the headers that Eventarc adds: CloudEvents 1.0 over HTTP, binary mode.

    Args:
        subscription: subscription that pushes the message.
        message: message to push.
    """
    return {
        "ce-id": message.id,
        "ce-source": f"//pubsub.googleapis.com/{subscription.topic}",
        "ce-specversion": "1.0",
        "ce-type": "google.cloud.pubsub.topic.v1.messagePublished",
        "ce-time": message.published.isoformat().replace("+00:00", "Z"),
    }

"""Between the broker and a function that has no route to it: model and update travel with the call and its answer."""

from dataclasses import dataclass

from bridges.errors import InvocationFailed
from broker import topics
from broker.base import Broker
from broker.messages import bundle, codec
from broker.messages.errors import DecodeError
from broker.messages.invocation import InvocationRequest, Report
from broker.messages.round import BlobRef


@dataclass(frozen=True, slots=True)
class InlineTransfer:
    """Carries models and optimizer states there, and updates and optimizer states back.

    Attributes:
        broker: where all of them are kept.
    """

    broker: Broker

    async def packed(self, request: InvocationRequest) -> bytes:
        """A parcel of the request, the model that it names, and the optimizer state if it names one.

        Raises:
            InvocationFailed: one of them is not with the broker.
        """
        refs = [ref for ref in (request.task.model, request.task.state) if ref is not None]
        blobs = {ref.topic: await self._fetched(ref) for ref in refs}
        return bundle.pack(codec.encode(request), blobs)

    async def unpacked(self, body: bytes, request: InvocationRequest) -> Report:
        """The report in a function's answer; before that, what came with it is put where the function would have.

        Args:
            body: a parcel of the report and the blobs to publish, or the bare report of a failure.
            request: what the function was asked for; only its own update and its own optimizer state are taken.

        Raises:
            InvocationFailed: it is no such answer; nothing was published.
        """
        try:
            message, blobs = bundle.unpack(body)
        except DecodeError:
            message, blobs = body, {}
        report = report_of(message, request)
        if report.state == "done":
            await self._publish(blobs, request)
        return report

    async def _fetched(self, ref: BlobRef) -> bytes:
        value = await self.broker.get(ref.topic)
        if value is None:
            raise InvocationFailed(f"{ref.topic} is not with the broker")
        return value.payload

    async def _publish(self, blobs: dict[str, bytes], request: InvocationRequest) -> None:
        task = request.task
        update = topics.update(task.job, task.round, task.client_id, request.attempt)
        state = topics.optimizer_state(task.job, task.client_id, task.round, request.attempt)
        for topic, blob in blobs.items():
            if topic not in (update, state) or not blob:
                raise InvocationFailed(f"it answers with {len(blob)} bytes for {topic}", retryable=False)
        if update not in blobs:
            raise InvocationFailed("it says that it is done, and sends no update")
        if state in blobs:
            # Before the update: once that counts, the next task names this state.
            await self.broker.put(state, blobs[state])
        await self.broker.publish(update, blobs[update])


def report_of(message: bytes, request: InvocationRequest) -> Report:
    """The last report of a function, as it answers its platform with it.

    Raises:
        InvocationFailed: it is none, or about another task.
    """
    try:
        report = codec.decode(Report, message)
    except DecodeError as exc:
        raise InvocationFailed(f"its answer is no report: {exc}") from exc
    if report.id != request.task.id:
        raise InvocationFailed("it answers for another task")
    return report

"""Splits large payloads into chunks: first the chunks are stored, then a manifest is sent in place of the payload.

The topic of a chunk is write-once and contains the digest of the payload, so storing a chunk twice is harmless and
a reader can't take an incomplete payload for a complete one. The manifest begins with bytes with which neither JSON
nor safetensors can begin; a payload that begins with these bytes is always sent in chunks.
"""

import asyncio
import hashlib
import io
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import msgspec

from broker import topics
from broker.errors import CorruptPayload
from broker.support.decoding import UNREADABLE
from broker.support.tasks import task_group

CHUNK_BYTES: Final = 1 << 20
"""Larger chunks are not faster, and need more memory in the broker (613 MB for a 500 MB payload in 4 MB chunks)."""

MAX_BYTES: Final = 8 << 30
"""A manifest that announces a larger payload is refused before memory is allocated."""

MAX_CHUNKS: Final = MAX_BYTES // CHUNK_BYTES
"""Without this limit, a manifest with tiny chunks would make the reader request billions of them."""

MIN_CHUNK_BYTES: Final = 64 << 10
"""A manifest of several smaller chunks is refused, unless the broker takes only smaller messages."""

STORES_AT_ONCE: Final = 8
LOADS_AT_ONCE: Final = 4
"""Concurrent requests for one payload."""

MAGIC: Final = b"\xffFKCHUNKS1"
"""A manifest begins with this."""

Store = Callable[[str, bytes], Awaitable[None]]
Load = Callable[[str], Awaitable[bytes]]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The message that replaces a payload stored in chunks.

    Attributes:
        sha256: digest of the payload. It becomes part of the chunks' topics, so only hex digits are allowed.
        size: size of the payload in bytes.
        chunk_bytes: size in bytes of each chunk except the last.
    """

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    size: Annotated[int, msgspec.Meta(gt=0)]
    chunk_bytes: Annotated[int, msgspec.Meta(gt=0)]

    @property
    def count(self) -> int:
        """Number of chunks."""
        return -(-self.size // self.chunk_bytes)

    def length(self, index: int) -> int:
        """Return the size in bytes of the chunk at `index`."""
        return min(self.chunk_bytes, self.size - index * self.chunk_bytes)


def is_manifest(message: bytes) -> bool:
    """Return whether a message is a manifest."""
    return message.startswith(MAGIC)


async def store(put: Store, topic: str, payload: bytes, *, chunk_bytes: int = CHUNK_BYTES) -> bytes:
    """Store the chunks of a payload and return the manifest to send in its place.

    Args:
        put: stores a chunk under a topic.
        topic: the topic of the manifest.
        payload: the bytes to split; not empty.
        chunk_bytes: size of each chunk except the last.

    Raises:
        BrokerError: the first error of `put`; some chunks may be stored already.
    """
    # Hashing 200 MB takes 0.1 s; a thread keeps the event loop free for other subscribers.
    digest = await asyncio.to_thread(hashlib.sha256, payload)
    manifest = Manifest(digest.hexdigest(), len(payload), chunk_bytes)
    limit = asyncio.Semaphore(STORES_AT_ONCE)
    view = memoryview(payload)

    async def put_chunk(index: int) -> None:
        async with limit:
            start = index * chunk_bytes
            await put(topics.chunk(topic, manifest.sha256, index), bytes(view[start : start + chunk_bytes]))

    async with task_group() as group:
        for index in range(manifest.count):
            group.create_task(put_chunk(index), name=f"put chunk {index} of {topic}")
    return MAGIC + msgspec.json.encode(manifest)


async def load(
    get: Load, topic: str, message: bytes, *, at_most: int | None = None, least_chunk_bytes: int = MIN_CHUNK_BYTES
) -> bytes:
    """Return the payload of a message; if the message is a manifest, fetch and check the chunks.

    Args:
        get: returns the chunk under a topic, or raises CorruptPayload if there is none.
        topic: the topic of the message.
        message: a payload or a manifest.
        at_most: largest payload to accept, in bytes. A larger one is refused before any chunk is fetched.
        least_chunk_bytes: smallest size of the chunks to accept if there are several, in bytes.

    Raises:
        CorruptPayload: the payload is larger than `at_most`, or the manifest, a chunk or the digest is wrong.
        BrokerError: the first other error of `get`.
    """
    if is_manifest(message):
        manifest = _decode_manifest(topic, message, MAX_BYTES if at_most is None else at_most)
        if manifest.count > 1 and manifest.chunk_bytes < least_chunk_bytes:
            reason = f"it announces {manifest.count} chunks of {manifest.chunk_bytes} bytes, at least "
            raise CorruptPayload(topic, f"{reason}{least_chunk_bytes} bytes are taken")
        return await _fetch(get, topic, manifest)
    if at_most is not None and len(message) > at_most:
        raise CorruptPayload(topic, f"it has {len(message)} bytes, at most {at_most} are taken")
    return message


async def _fetch(get: Load, topic: str, manifest: Manifest) -> bytes:
    """Fetch and check the chunks, a few at a time; fail on the first wrong one."""
    digest = hashlib.sha256()
    payload = io.BytesIO()
    indexes = iter(range(manifest.count))

    async def get_chunk(index: int) -> bytes:
        chunk = await get(topics.chunk(topic, manifest.sha256, index))
        if len(chunk) != manifest.length(index):
            raise CorruptPayload(topic, f"chunk {index} has {len(chunk)} bytes instead of {manifest.length(index)}")
        return chunk

    async with task_group() as group:
        # A manifest may announce thousands of chunks that do not exist: no more tasks than requests at once.
        fetches: deque[asyncio.Task[bytes]] = deque()
        while True:
            for index in itertools.islice(indexes, LOADS_AT_ONCE - len(fetches)):
                fetches.append(group.create_task(get_chunk(index), name=f"get chunk {index} of {topic}"))
            if not fetches:
                break
            chunk = await fetches.popleft()
            digest.update(chunk)
            payload.write(chunk)
    if digest.hexdigest() != manifest.sha256:
        raise CorruptPayload(topic, "its chunks do not have the digest that was announced")
    return payload.getvalue()  # shares the buffer: nothing is copied


def _decode_manifest(topic: str, message: bytes, at_most: int) -> Manifest:
    """Decode a manifest and check its limits, because anyone who may write the topic can forge it."""
    try:
        manifest = msgspec.json.decode(message.removeprefix(MAGIC), type=Manifest)
    except UNREADABLE as exc:
        raise CorruptPayload(topic, f"its manifest is unreadable: {exc}") from exc
    if manifest.size > min(at_most, MAX_BYTES):
        raise CorruptPayload(topic, f"it announces {manifest.size} bytes, at most {at_most} are taken")
    if manifest.count > MAX_CHUNKS:
        raise CorruptPayload(topic, f"it announces {manifest.count} chunks, at most {MAX_CHUNKS} are taken")
    return manifest

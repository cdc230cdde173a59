"""Payloads too large for one message: 1 MB chunks first, then a manifest in the payload's own place.

Chunks lie under write-once topics that carry the payload's digest, so sending one twice is harmless and a
half-sent payload can never be mistaken for a whole one. The manifest starts with bytes that neither JSON nor
safetensors can start with; a payload that happens to start with them is sent in chunks whatever its size.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import msgspec

from broker import topics
from broker.errors import UNREADABLE, CorruptPayload
from broker.support.tasks import task_group

CHUNK_BYTES: Final = 1 << 20
"""Larger chunks cost the broker memory (613 MB at 4 MB each for a 500 MB payload), and are no faster."""

MAX_BYTES: Final = 8 << 30
"""A manifest that announces more is refused before anything is allocated."""

MAX_CHUNKS: Final = MAX_BYTES // CHUNK_BYTES
"""A manifest with tiny chunks would make the reader ask for billions of them."""

STORES_AT_ONCE: Final = 8
LOADS_AT_ONCE: Final = 4

_MAGIC: Final = b"\xffFKCHUNKS1"

Store = Callable[[str, bytes], Awaitable[None]]
Load = Callable[[str], Awaitable[bytes]]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stands for a payload that lies in chunks.

    Attributes:
        sha256: digest of the payload; a part of the chunks' topics, so nothing but hex digits.
        size: bytes of the payload.
        chunk_bytes: bytes of each chunk but the last.
    """

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    size: Annotated[int, msgspec.Meta(gt=0)]
    chunk_bytes: Annotated[int, msgspec.Meta(gt=0)]

    @property
    def count(self) -> int:
        """How many chunks there are."""
        return -(-self.size // self.chunk_bytes)

    def length(self, index: int) -> int:
        """How many bytes the chunk at `index` has."""
        return min(self.chunk_bytes, self.size - index * self.chunk_bytes)


def is_manifest(message: bytes) -> bool:
    """Whether a message stands for chunks."""
    return message.startswith(_MAGIC)


async def store(put: Store, topic: str, payload: bytes, *, chunk_bytes: int = CHUNK_BYTES) -> bytes:
    """Store a payload's chunks; returns the manifest to send in its place.

    Args:
        put: stores a chunk under a topic.
        topic: where the manifest will be sent.
        payload: not empty.
        chunk_bytes: how large each chunk is to be.

    Raises:
        BrokerError: what `put` raised first; some of the chunks may be stored by then.
    """
    # Hashing 200 MB takes 0.1 s, in which the event loop has other subscribers to serve.
    digest = await asyncio.to_thread(hashlib.sha256, payload)
    manifest = Manifest(digest.hexdigest(), len(payload), chunk_bytes)
    gate = asyncio.Semaphore(STORES_AT_ONCE)
    view = memoryview(payload)

    async def put_one(index: int) -> None:
        async with gate:
            start = index * chunk_bytes
            await put(topics.chunk(topic, manifest.sha256, index), bytes(view[start : start + chunk_bytes]))

    async with task_group() as group:
        for index in range(manifest.count):
            group.create_task(put_one(index), name=f"put chunk {index} of {topic}")
    return _MAGIC + msgspec.json.encode(manifest)


async def load(get: Load, topic: str, message: bytes, *, at_most: int | None = None) -> bytes:
    """The payload that a message is, or that it stands for: then its chunks are fetched and checked.

    Args:
        get: returns the chunk under a topic, or raises CorruptPayload if there is none.
        topic: where the message was found.
        message: a payload or a manifest.
        at_most: refuse a payload of more bytes before anything is fetched.

    Raises:
        CorruptPayload: it is larger than that, or the manifest, a chunk or the digest is wrong.
        BrokerError: what else `get` raised first.
    """
    if is_manifest(message):
        return await _fetch(get, topic, _decode(topic, message, MAX_BYTES if at_most is None else at_most))
    if at_most is not None and len(message) > at_most:
        raise CorruptPayload(topic, f"it has {len(message)} bytes, at most {at_most} are taken")
    return message


async def _fetch(get: Load, topic: str, manifest: Manifest) -> bytes:
    gate = asyncio.Semaphore(LOADS_AT_ONCE)
    digest = hashlib.sha256()
    parts: list[bytes] = []

    async def get_one(index: int) -> bytes:
        async with gate:
            part = await get(topics.chunk(topic, manifest.sha256, index))
        if len(part) != manifest.length(index):
            raise CorruptPayload(topic, f"chunk {index} has {len(part)} bytes instead of {manifest.length(index)}")
        return part

    async with task_group() as group:
        fetches = [
            group.create_task(get_one(index), name=f"get chunk {index} of {topic}") for index in range(manifest.count)
        ]
        for fetch in fetches:
            part = await fetch
            digest.update(part)
            parts.append(part)
    if digest.hexdigest() != manifest.sha256:
        raise CorruptPayload(topic, "its chunks do not have the digest that was announced")
    return b"".join(parts)


def _decode(topic: str, message: bytes, at_most: int) -> Manifest:
    try:
        manifest = msgspec.json.decode(message.removeprefix(_MAGIC), type=Manifest)
    except UNREADABLE as exc:
        raise CorruptPayload(topic, f"its manifest is unreadable: {exc}") from exc
    if manifest.size > min(at_most, MAX_BYTES):
        raise CorruptPayload(topic, f"it announces {manifest.size} bytes, at most {at_most} are taken")
    if manifest.count > MAX_CHUNKS:
        raise CorruptPayload(topic, f"it announces {manifest.count} chunks, at most {MAX_CHUNKS} are taken")
    return manifest

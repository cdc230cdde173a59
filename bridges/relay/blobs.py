"""The models, optimizer states and packages that a site has of the backbone's: each crosses the link once."""

import asyncio
import hashlib
from collections import OrderedDict
from typing import Final
from weakref import WeakValueDictionary

import structlog

from bridges.relay.side import Side
from broker import families, topics
from broker.errors import BadTopic
from broker.families import Relayed
from broker.messages.round import BlobRef, RoundTask

log = structlog.get_logger(__name__)

RECHECK_S: Final = 30.0
"""For so long it is believed that the site still has a blob: its broker may have lost its store."""

REMEMBERED: Final = 4096


class Blobs:
    """What the site has, and what of it nobody there needs any more.

    Args:
        backbone: where blobs come from.
        site: where they are kept.
    """

    def __init__(self, backbone: Side, site: Side) -> None:
        self._backbone = backbone
        self._site = site
        self._loop = asyncio.get_running_loop()
        self._seen_s: OrderedDict[str, float] = OrderedDict()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._models: dict[str, dict[str, int]] = {}
        self._states: dict[tuple[str, str], str] = {}
        self._stale: list[tuple[str, str]] = []

    async def for_task(self, task: RoundTask) -> None:
        """Return when the site has what a task names, as far as the backbone has it."""
        named = self._models.setdefault(task.job, {})
        named[task.model.topic] = max(task.round, named.get(task.model.topic, 0))
        await self.bring(task.model)
        if task.state is not None:
            before = self._states.get((task.job, task.client_id), task.state.topic)
            self._states[task.job, task.client_id] = task.state.topic
            if before != task.state.topic:
                self._stale.append((task.job, before))
            await self.bring(task.state)

    async def bring(self, blob: BlobRef) -> None:
        """Return when the site has a blob; whoever asks for it meanwhile waits for the same transfer.

        A blob that the backbone does not have, or has other bytes of, is left out: who needs it will say so.
        """
        if not _is_blob(blob.topic):
            log.warning("this is no place for a blob", topic=blob.topic)
            return
        async with self._turns.setdefault(blob.topic, asyncio.Lock()):
            if self._loop.time() - self._seen_s.get(blob.topic, -RECHECK_S) >= RECHECK_S:
                await self._fetch(blob)

    async def round_over(self, job: str, round_: int) -> None:
        """Drop the models of rounds before that one, which stragglers may need still, and superseded states."""
        models = self._models.get(job, {})
        for topic in [topic for topic, last in models.items() if last < round_]:
            del models[topic]
            await self._forget(topic)
        stale, self._stale = self._stale, [entry for entry in self._stale if entry[0] != job]
        for topic in [topic for owner, topic in stale if owner == job]:
            await self._forget(topic)

    async def job_over(self, job: str) -> None:
        """Drop all of a job's."""
        await self._site.purge(topics.model(job, topics.ANY))
        await self._site.purge(topics.job_states(job))
        for topic in self._models.pop(job, {}):
            self._seen_s.pop(topic, None)
        self._states = {who: topic for who, topic in self._states.items() if who[0] != job}
        self._stale = [entry for entry in self._stale if entry[0] != job]

    async def _fetch(self, blob: BlobRef) -> None:
        if await self._site.get(blob.topic) is None:
            payload = await self._backbone.get(blob.topic)
            if payload is None or await digest(payload) != blob.sha256:
                log.warning("the backbone does not have this blob", topic=blob.topic, other_bytes=payload is not None)
                return
            await self._site.put(blob.topic, payload)
            log.info("blob is at the site", topic=blob.topic, bytes=len(payload))
        self._seen_s[blob.topic] = self._loop.time()
        self._seen_s.move_to_end(blob.topic)
        if len(self._seen_s) > REMEMBERED:
            self._seen_s.popitem(last=False)

    async def _forget(self, topic: str) -> None:
        self._seen_s.pop(topic, None)
        await self._site.delete(topic)


def _is_blob(topic: str) -> bool:
    """Messages come from others: what they name must not make the relay copy, say, the client register."""
    try:
        return families.family_of(topic).relayed is Relayed.BLOB
    except BadTopic:
        return False


async def digest(payload: bytes) -> str:
    """SHA-256 of a payload that may be large, as hexadecimal digits."""
    return (await asyncio.to_thread(hashlib.sha256, payload)).hexdigest()

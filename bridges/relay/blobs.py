"""Copies blobs (models, client states, packages) from the backbone to a site. Each crosses the link once."""

import asyncio
import hashlib
from collections import OrderedDict
from typing import Final
from weakref import WeakValueDictionary

from bridges.relay.side import Side
from broker import families, topics
from broker.errors import BadTopic
from broker.families import Relayed
from broker.messages.round import BlobRef, RoundTask
from broker.support import loggers

log = loggers.get_logger(__name__)

RECHECK_S: Final = 30.0
"""After this time the relay checks again whether the site has a blob: its broker may lose its store. Seconds."""

REMEMBERED: Final = 4096
"""How many of the site's blobs are remembered."""


class Blobs:
    """Brings blobs to the site when they are needed, and drops them when they are not needed any more.

    Args:
        backbone: the broker that blobs come from.
        site: the broker that retains their copies.
    """

    def __init__(self, backbone: Side, site: Side) -> None:
        self._backbone = backbone
        self._site = site
        self._loop = asyncio.get_running_loop()
        self._seen_s: OrderedDict[str, float] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # The topics of each job's models, and of what strategies send along, with the last round that needs them.
        self._models: dict[str, dict[str, int]] = {}
        # The topics of the last states of each job and client.
        self._states: dict[tuple[str, str], set[str]] = {}
        # The job and topic of each state that newer ones have replaced.
        self._stale: list[tuple[str, str]] = []

    async def bring_for_task(self, task: RoundTask) -> None:
        """Bring a task's model and everything else that it names to the site, if the backbone has them."""
        models = self._models.setdefault(task.job, {})
        for ref in filter(None, (task.model, task.along)):
            models[ref.topic] = max(task.round, models.get(ref.topic, 0))
        states = {ref.topic for ref in task.initial_states.values()}
        if states:
            before = self._states.get((task.job, task.client_id), states)
            self._states[task.job, task.client_id] = states
            self._stale += [(task.job, topic) for topic in before - states]
        for ref in task.blobs:
            await self.bring(ref)

    async def bring(self, blob: BlobRef) -> None:
        """Bring a blob to the site, unless the site has it. Concurrent calls for one blob share one transfer.

        A blob that the backbone does not have, or whose bytes have another digest, is left out: its user fails and
        says so.
        """
        topic = blob.topic
        if not _is_blob(topic):
            log.warning("not the topic of a blob", topic=topic)
            return
        async with self._locks.setdefault(topic, asyncio.Lock()):
            if self._loop.time() - self._seen_s.get(topic, -RECHECK_S) < RECHECK_S:
                return
            if await self._site.get(topic) is None:
                payload = await self._backbone.get(topic)
                if payload is None or await digest(payload) != blob.sha256:
                    log.warning("the backbone does not have this blob", topic=topic, other_bytes=payload is not None)
                    return
                await self._site.put(topic, payload)
                log.info("blob is at the site", topic=topic, bytes=len(payload))
            self._seen_s[topic] = self._loop.time()
            self._seen_s.move_to_end(topic)
            if len(self._seen_s) > REMEMBERED:
                self._seen_s.popitem(last=False)

    async def drop_before(self, job: str, round_: int) -> None:
        """Drop the models of a job's rounds before one, and its replaced client states.

        Args:
            job: id of the job.
            round_: number of the round that is over. Its model stays: stragglers may still need it.
        """
        models = self._models.get(job, {})
        for topic in [topic for topic, last_round in models.items() if last_round < round_]:
            del models[topic]
            await self._drop(topic)
        stale, self._stale = self._stale, [entry for entry in self._stale if entry[0] != job]
        for topic in [topic for owner, topic in stale if owner == job]:
            await self._drop(topic)

    async def drop_job(self, job: str) -> None:
        """Drop all models and client states of a job."""
        await self._site.purge(topics.model(job, topics.ANY))
        await self._site.purge(topics.job_states(job))
        for topic in self._models.pop(job, {}):
            self._seen_s.pop(topic, None)
        self._states = {owner: states for owner, states in self._states.items() if owner[0] != job}
        self._stale = [entry for entry in self._stale if entry[0] != job]

    async def _drop(self, topic: str) -> None:
        self._seen_s.pop(topic, None)
        await self._site.delete(topic)


def _is_blob(topic: str) -> bool:
    """Whether a topic belongs to a blob. A message may name any topic: the relay must not copy the client register."""
    try:
        return families.family_of(topic).relayed is Relayed.BLOB
    except BadTopic:
        return False


async def digest(payload: bytes) -> str:
    """SHA-256 of a payload as hexadecimal digits, computed in a thread because the payload may be large."""
    return (await asyncio.to_thread(hashlib.sha256, payload)).hexdigest()

"""Which blobs a relay copies to its site, how often, and when it drops them."""

import asyncio
import hashlib
from typing import Any

import pytest

from bridges.relay.blobs import Blobs
from broker import topics
from broker.base import Broker
from broker.messages.round import BlobRef
from tests.support.relay_side import side
from tests.support.tasks import task

MODEL = b"a model"


def ref(job: str = "job", content: bytes = MODEL) -> BlobRef:
    sha256 = hashlib.sha256(content).hexdigest()
    return BlobRef(topics.model(job, sha256), sha256, len(content))


class Counting:
    """Records the topics of a broker's gets."""

    def __init__(self, bus: Broker) -> None:
        self.gets: list[str] = []
        self._get = bus.get
        bus.get = self.get  # type: ignore[method-assign]

    async def get(self, topic: str) -> Any:
        self.gets.append(topic)
        return await self._get(topic)


@pytest.fixture
async def blobs(backbone: Broker, site: Broker) -> Blobs:
    return Blobs(side(backbone), side(site))


async def payload(bus: Broker, topic: str) -> bytes | None:
    value = await bus.get(topic)
    return None if value is None else value.payload


async def test_concurrent_calls_for_a_blob_share_one_transfer(backbone: Broker, site: Broker, blobs: Blobs) -> None:
    await backbone.put(ref().topic, MODEL)
    counting = Counting(backbone)
    await asyncio.gather(*(blobs.bring(ref()) for _ in range(10)))
    assert counting.gets == [ref().topic]
    assert await payload(site, ref().topic) == MODEL


async def test_a_cancelled_call_leaves_the_transfer_to_the_next_one(
    backbone: Broker, site: Broker, blobs: Blobs
) -> None:
    await backbone.put(ref().topic, MODEL)
    first, second = (asyncio.ensure_future(blobs.bring(ref())) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert await payload(site, ref().topic) == MODEL


async def test_a_blob_with_the_wrong_digest_is_not_copied(backbone: Broker, site: Broker, blobs: Blobs) -> None:
    await backbone.put(ref().topic, b"something else")
    await blobs.bring(ref())
    assert await payload(site, ref().topic) is None


async def test_a_blob_that_the_site_has_does_not_cross(backbone: Broker, site: Broker, blobs: Blobs) -> None:
    await site.put(ref().topic, MODEL)
    counting = Counting(backbone)
    await blobs.bring(ref())
    assert counting.gets == []


async def test_a_site_that_lost_its_store_gets_its_blobs_again(
    backbone: Broker, site: Broker, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backbone.put(ref().topic, MODEL)
    await blobs.bring(ref())
    await site.delete(ref().topic)
    await blobs.bring(ref())
    assert await payload(site, ref().topic) is None, "it was seen a moment ago"
    monkeypatch.setattr("bridges.relay.blobs.RECHECK_S", 0.0)
    await blobs.bring(ref())
    assert await payload(site, ref().topic) == MODEL


async def test_a_model_stays_one_round_longer_than_it_is_needed(backbone: Broker, site: Broker, blobs: Blobs) -> None:
    contents = [b"model %d" % i for i in range(3)]
    for round_, content in enumerate(contents, start=1):
        await backbone.put(ref(content=content).topic, content)
        await blobs.bring_for_task(task(round=round_, model=ref(content=content)))
        await blobs.drop_before("job", round_)
    contents_at_site = [await payload(site, ref(content=content).topic) for content in contents]
    assert contents_at_site == [None, None, contents[2]]


async def test_tensors_that_no_client_trains_cross_once_and_stay_for_all_rounds(
    backbone: Broker, site: Broker, blobs: Blobs
) -> None:
    frozen = ref(content=b"frozen")
    await backbone.put(frozen.topic, b"frozen")
    counting = Counting(backbone)
    for round_ in range(1, 4):
        content = b"model %d" % round_
        await backbone.put(ref(content=content).topic, content)
        await blobs.bring_for_task(task(round=round_, model=ref(content=content), frozen=frozen))
        await blobs.drop_before("job", round_)
    assert counting.gets.count(frozen.topic) == 1
    assert await payload(site, frozen.topic) == b"frozen"


async def test_what_a_strategy_sends_along_is_dropped_with_its_round(
    backbone: Broker, site: Broker, blobs: Blobs
) -> None:
    tensors = [ref(content=content) for content in (b"first", b"second")]
    for content, along in zip((MODEL, b"first", b"second"), (ref(), *tensors), strict=True):
        await backbone.put(along.topic, content)
    for round_, along in enumerate(tensors, start=1):
        await blobs.bring_for_task(task(round=round_, model=ref(), along=along))
    assert [await payload(site, along.topic) for along in tensors] == [b"first", b"second"]
    await blobs.drop_before("job", 2)
    assert [await payload(site, along.topic) for along in tensors] == [None, b"second"]


def state(round_: int, name: str = "opt") -> BlobRef:
    """A state that a client left after a round."""
    return BlobRef(topics.client_state("job", "client-00", round_, 1, name), ref().sha256, len(MODEL))


async def test_states_are_dropped_when_a_task_names_the_client_s_next_ones(
    backbone: Broker, site: Broker, blobs: Blobs
) -> None:
    old = BlobRef(topics.client_state("job", "client-00", 1, 1, None), ref().sha256, len(MODEL))
    await backbone.put(ref().topic, MODEL)
    for each in (old, *(state(round_, name) for round_ in (2, 3) for name in ("opt", "scaffold"))):
        await backbone.put(each.topic, MODEL)
    named = {"opt": state(2), "scaffold": state(2, "scaffold")}
    tasks = (
        task(round=2, model=ref(), state=old),
        task(round=3, model=ref(), states=named, state=state(2)),
        task(round=4, model=ref(), states=named | {"opt": state(3)}, state=state(3)),
    )
    at_site = []
    for work in tasks:
        await blobs.bring_for_task(work)
        await blobs.drop_before("job", work.round)
        topics_ = (old.topic, state(2).topic, state(2, "scaffold").topic, state(3).topic)
        at_site.append([await payload(site, topic) is not None for topic in topics_])
    assert at_site == [[True, False, False, False], [False, True, True, False], [False, False, True, True]]
    await blobs.drop_job("job")
    assert await payload(site, state(3).topic) is None
    assert await payload(site, ref().topic) is None

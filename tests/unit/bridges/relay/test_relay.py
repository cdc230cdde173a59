"""The parts of a relay: its file, what it copies, how often, and what it says of a link that is cut."""

import asyncio
import hashlib
import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

import broker
from bridges.errors import BadSettings
from bridges.relay import Settings
from bridges.relay.blobs import Blobs
from bridges.relay.forwarder import fingerprint
from bridges.relay.side import Side
from bridges.relay.up import state_of
from broker import topics
from broker.base import Broker, Delivery, Receipt
from broker.errors import BadUrl, Disconnected
from broker.messages.round import BlobRef
from fedkeeper import relaying
from fedkeeper.cli import app
from fedkeeper.errors import BadFabric
from tests.support.fakes import header, soon, update
from tests.support.paths import REPOSITORY
from tests.support.tasks import task

CONFIG = REPOSITORY / "configs" / "bridges" / "relay.toml"
NEEDED = {"name": "site-a", "platforms": ("edge-a",), "backbone": "nats://hub", "site": "nats://here"}
MODEL = b"a model"


def ref(job: str = "job", content: bytes = MODEL) -> BlobRef:
    sha256 = hashlib.sha256(content).hexdigest()
    return BlobRef(topics.model(job, sha256), sha256, len(content))


def test_the_shipped_configuration_shows_the_defaults() -> None:
    shipped = relaying.read(CONFIG)
    lines = CONFIG.read_text(encoding="utf-8").splitlines()
    shown = tomllib.loads("\n".join(line[2:] for line in lines if re.match(r"# \w+ = ", line)))
    assert Settings(**{**NEEDED, **shown}) == Settings(**NEEDED)  # type: ignore[arg-type]
    assert {*shown, *NEEDED} == set(Settings.__struct_fields__)
    assert shipped.platforms == ("edge-a",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Site A"),
        ("platforms", ("edge a",)),
        ("platforms", ()),
        ("platforms", ("a", "a")),
        ("site", "nats://hub"),
    ],
)
def test_settings_that_can_t_be_are_refused(field: str, value: Any) -> None:
    with pytest.raises(BadSettings) as refused:
        Settings(**{**NEEDED, field: value})
    assert refused.value.field == field


def test_an_address_that_is_none_is_refused_without_its_password() -> None:
    with pytest.raises(BadUrl) as refused:
        Settings(**{**NEEDED, "site": "http://user:s3cret@here"})  # type: ignore[arg-type]
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "field"), [("updates_at_once = 0", "updates_at_once"), ("sight = 1", "sight"), ("name = 3", "name")]
)
def test_a_file_that_is_wrong_names_the_field(text: str, field: str, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    rest = [line for line in CONFIG.read_text(encoding="utf-8").splitlines() if not line.startswith(field)]
    file.write_text("\n".join([*rest, text]), encoding="utf-8")
    with pytest.raises(BadFabric) as refused:
        relaying.read(file)
    assert refused.value.field == field


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadFabric, match=r"relay\.toml"):
        relaying.read(tmp_path / "relay.toml")


def test_the_command_is_one_of_the_bridges() -> None:
    assert "--config" in CliRunner().invoke(app, ["bridge", "relay", "--help"], env={"COLUMNS": "200"}).output


def test_copies_of_an_event_have_one_id_and_others_have_others() -> None:
    assert fingerprint("fl.a", b"1") == fingerprint("fl.a", b"1")
    assert len({fingerprint("fl.a", b"1"), fingerprint("fl.a", b"2"), fingerprint("fl.b", b"1")}) == 3


STATE = BlobRef(topics.optimizer_state("job", "client-00", 1, 1), "ab" * 32, 7)
UPDATE = topics.update("job", 1, "client-00", 1)


def test_an_update_s_own_state_is_found() -> None:
    assert state_of(UPDATE, update({}, header(task(), state=STATE))) == STATE


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"[]",
        (9).to_bytes(8, "little") + b'{"a": [[[',
        update({}, header(task())),
        update({}, header(task(), state=BlobRef(topics.client("client-00"), "ab" * 32, 7))),
        update({}, header(task(), state=BlobRef(topics.optimizer_state("job", "client-01", 1, 1), "ab" * 32, 7))),
    ],
)
def test_what_is_no_state_of_that_update_is_not_copied(content: bytes) -> None:
    assert state_of(UPDATE, content) is None


@pytest.mark.parametrize(
    "topic",
    [
        "fl.updates.job.2.client-00.1",
        "fl.updates.job.1.client-00",
        "fl.updates.job.x.client-00.1",
        "fl.updates.J!.1.c.1",
    ],
)
def test_an_update_under_a_topic_that_is_not_its_own_has_no_state(topic: str) -> None:
    assert state_of(topic, update({}, header(task(), state=STATE))) is None


class Counting:
    """Counts a broker's gets."""

    def __init__(self, bus: Broker) -> None:
        self.gets: list[str] = []
        self._get = bus.get
        bus.get = self.get  # type: ignore[method-assign]

    async def get(self, topic: str) -> Any:
        self.gets.append(topic)
        return await self._get(topic)


@pytest.fixture
async def backbone() -> AsyncIterator[Broker]:
    async with broker.connect("memory://relay-backbone") as bus:
        yield bus


@pytest.fixture
async def site() -> AsyncIterator[Broker]:
    async with broker.connect("memory://relay-site") as bus:
        yield bus


@pytest.fixture
async def blobs(backbone: Broker, site: Broker) -> Blobs:
    return Blobs(side(backbone), side(site))


def side(bus: Broker) -> Side:
    return Side("backbone", bus, "site-a", lambda: 100.0)


async def payload(bus: Broker, topic: str) -> bytes | None:
    found = await bus.get(topic)
    return None if found is None else found.payload


async def test_a_blob_that_many_ask_for_crosses_once(backbone: Broker, site: Broker, blobs: Blobs) -> None:
    await backbone.put(ref().topic, MODEL)
    counting = Counting(backbone)
    await asyncio.gather(*(blobs.bring(ref()) for _ in range(10)))
    assert counting.gets == [ref().topic]
    assert await payload(site, ref().topic) == MODEL


async def test_who_gives_up_waiting_leaves_the_transfer_to_the_next(
    backbone: Broker, site: Broker, blobs: Blobs
) -> None:
    await backbone.put(ref().topic, MODEL)
    first, second = (asyncio.ensure_future(blobs.bring(ref())) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert await payload(site, ref().topic) == MODEL


async def test_a_blob_with_other_bytes_than_announced_is_not_put_where_the_first_one_stays(
    backbone: Broker, site: Broker, blobs: Blobs
) -> None:
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


async def test_models_stay_one_round_longer_than_they_are_needed(backbone: Broker, site: Broker, blobs: Blobs) -> None:
    contents = [b"model %d" % i for i in range(3)]
    for round_, content in enumerate(contents, start=1):
        await backbone.put(ref(content=content).topic, content)
        await blobs.for_task(task(round=round_, model=ref(content=content)))
        await blobs.round_over("job", round_)
    there = [await payload(site, ref(content=content).topic) for content in contents]
    assert there == [None, None, contents[2]]


async def test_a_state_is_dropped_when_the_client_s_next_one_is_named(
    backbone: Broker, site: Broker, blobs: Blobs
) -> None:
    await backbone.put(ref().topic, MODEL)
    states = [BlobRef(topics.optimizer_state("job", "client-00", n, 1), ref().sha256, len(MODEL)) for n in (1, 2)]
    for round_, state in enumerate(states, start=2):
        await backbone.put(state.topic, MODEL)
        await blobs.for_task(task(round=round_, model=ref(), state=state))
        await blobs.round_over("job", round_)
    assert [await payload(site, state.topic) for state in states] == [None, MODEL]
    await blobs.job_over("job")
    assert await payload(site, states[1].topic) is None
    assert await payload(site, ref().topic) is None


class Away:
    """Fails the first calls of a broker."""

    def __init__(self, bus: Broker, failures: int) -> None:
        self._left = failures
        self._publish = bus.publish
        bus.publish = self.publish  # type: ignore[method-assign]

    async def publish(self, topic: str, payload: bytes, *, dedupe: str | None = None) -> Receipt:
        self._left -= 1
        if self._left >= 0:
            raise Disconnected("no route")
        return await self._publish(topic, payload, dedupe=dedupe)


def waited(time_s: float, topic: str = UPDATE) -> Delivery:
    async def load(_: str, message: bytes, __: int | None) -> bytes:
        return message

    return Delivery(topic, b"x", load, sequence=1, attempt=1, time_s=time_s)


async def test_a_link_that_is_cut_is_told_once_and_so_is_what_came_late(
    backbone: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.relay.side.FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr("bridges.relay.side.QUIET_S", 0.0)
    Away(backbone, 3)
    there = side(backbone)
    with capture_logs() as logs:
        await there.publish(UPDATE, b"x")
        for time_s in (99.0, 100.0, 101.0):
            there.reached_by(waited(time_s))
        there.reached_by(waited(99.0, topics.invocation("edge-a", "client-00")))
        await soon(lambda: any("late" in line for line in logs))
    assert [line["event"] for line in logs] == ["site is cut off", "site is back", "what had waited is delivered"]
    assert logs[-1]["late"] == {"updates": 2, "invocations": 1}
    assert there.sent == 1


async def test_a_small_call_that_takes_long_is_told_before_it_fails(
    backbone: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.relay.side.PATIENCE_S", 0.0)
    there, release = side(backbone), asyncio.Event()

    async def slow(*_: Any, **__: Any) -> Receipt:
        await release.wait()
        return Receipt(1)

    backbone.publish = slow  # type: ignore[method-assign]
    call = asyncio.ensure_future(there.publish(UPDATE, b"x"))
    await soon(lambda: there.away)
    release.set()
    await call
    assert not there.away

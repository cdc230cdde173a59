"""A look at a client's data is asked for and answered over every broker."""

import asyncio

import msgspec
import pytest

import broker
from bridges.errors import InvocationFailed
from bridges.lifecycle import CHECK_S, Lifecycle
from broker import Broker, topics
from broker.messages import codec
from broker.messages.data_report import Column, DataCheck, DataReport, StatePlace
from broker.messages.function import Function, Reply, Request, Verb
from broker.messages.register import ClientRecord, Presence
from fedkeeper.errors import NotChecked
from fedkeeper.sdk import Client
from tests.support.fakes import running

WITHIN_S = 60.0
RECORD = ClientRecord(id="ward-7", platform="board", data_loc="/srv/a.csv", state_loc="/srv/state")
REPORT = DataReport(
    client="ward-7",
    path="/srv/a.csv",
    kind="csv",
    samples=3,
    columns=(Column(name="age", dtype="int64", missing=1),),
    column_count=1,
    state=StatePlace(path="/srv/state", is_writable=True),
)


async def present(bus: Broker, *, gone: bool = False, clock_s: float = 0.0) -> None:
    presence = Presence(bridge="board", platform="board", every_s=5.0, gone=gone, clock_s=clock_s)
    await bus.put(topics.presence("board", "board"), codec.encode(presence))


async def test_a_bridge_without_functions_answers_with_what_its_platform_sees(bus: Broker, url: str) -> None:
    asked: list[DataCheck] = []

    async def check(question: DataCheck) -> DataReport:
        asked.append(question)
        return REPORT

    async with asyncio.timeout(WITHIN_S), broker.connect(url) as other:
        sdk = Client(other)
        await sdk.register([RECORD])
        await present(bus)
        async with running(Lifecycle(bus, "board", None, check=check).serve()):
            assert await sdk.check("ward-7") == REPORT
    assert [(each.client, each.data_loc, each.state_loc) for each in asked] == [("ward-7", "/srv/a.csv", "/srv/state")]
    assert 0 < asked[0].limit_s <= CHECK_S


async def test_what_a_platform_can_not_look_at_is_a_sentence(bus: Broker) -> None:
    async def check(_: DataCheck) -> DataReport:
        raise InvocationFailed("worker can't start: it ended with code 3")

    sdk = Client(bus)
    await sdk.register([RECORD])
    await present(bus)
    async with asyncio.timeout(WITHIN_S), running(Lifecycle(bus, "board", None, check=check).serve()):
        with pytest.raises(NotChecked, match=r"ward-7 was not checked: worker can't start: it ended with code 3"):
            await sdk.check("ward-7")


async def test_a_bridge_that_can_run_no_task_says_why(bus: Broker) -> None:
    async def check(_: DataCheck) -> DataReport:
        raise InvocationFailed("worker can't start: no GPU")

    sdk = Client(bus)
    await sdk.register([RECORD])
    await present(bus, gone=True, clock_s=1.0)
    async with asyncio.timeout(WITHIN_S), running(Lifecycle(bus, "board", None, check=check).serve()):
        with pytest.raises(NotChecked, match="worker can't start: no GPU"):
            await sdk.check("ward-7")


async def test_numbers_that_no_data_has_are_not_believed(bus: Broker) -> None:
    async def check(_: DataCheck) -> DataReport:
        return msgspec.structs.replace(REPORT, samples=-5, bytes=10**30, classes=2)

    sdk = Client(bus)
    await sdk.register([RECORD])
    await present(bus)
    async with asyncio.timeout(WITHIN_S), running(Lifecycle(bus, "board", None, check=check).serve()):
        assert await sdk.check("ward-7") == msgspec.structs.replace(REPORT, samples=None, classes=2)


async def test_an_answer_that_can_not_be_read_is_one_client_s_fault(bus: Broker) -> None:
    sdk = Client(bus)
    await sdk.register([RECORD])
    await present(bus)

    async def answer() -> None:
        async with bus.subscribe(topics.fabric("board", "check"), durable="fabric-board") as requests:
            async for delivery in requests:
                request = codec.decode(Request, await delivery.read())
                await bus.publish(topics.reply(request.id), b'{"report": 1}')

    async with asyncio.timeout(WITHIN_S), running(answer()):
        with pytest.raises(NotChecked, match="its site's answer can't be read"):
            await sdk.check("ward-7", timeout_s=WITHIN_S)


async def test_an_older_bridge_is_to_be_upgraded(bus: Broker) -> None:
    sdk = Client(bus)
    await sdk.register([RECORD])
    await present(bus)
    async with asyncio.timeout(WITHIN_S), running(Lifecycle(bus, "board", None).serve()):
        with pytest.raises(NotChecked, match="has no bridge that answers: start or upgrade it"):
            await sdk.check("ward-7")


@pytest.mark.parametrize("state", ["gone", "never there"])
async def test_nobody_waits_for_a_bridge_that_is_not_there(bus: Broker, state: str) -> None:
    sdk = Client(bus)
    await sdk.register([RECORD])
    if state == "gone":
        await present(bus, gone=True)
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(NotChecked, match="has no bridge that answers"):
            await sdk.check("ward-7", timeout_s=3600.0)


async def test_a_client_that_is_not_registered_is_not_asked_for(bus: Broker) -> None:
    with pytest.raises(NotChecked, match="it is not registered"):
        await Client(bus).check("nobody")


@pytest.mark.parametrize(
    ("verb", "what"),
    [("list", {}), ("delete", {"name": "a"}), ("create", {"function": Function(name="a", fabric="f")})],
)
async def test_a_platform_without_functions_says_that_it_has_none(
    bus: Broker, verb: Verb, what: dict[str, object]
) -> None:
    request = Request(id=f"request-{verb}", deadline_s=4e9, **what)  # type: ignore[arg-type]
    async with (
        asyncio.timeout(WITHIN_S),
        running(Lifecycle(bus, "board", None).serve()),
        bus.subscribe(topics.reply(request.id)) as replies,
    ):
        await bus.publish(topics.fabric("board", verb), codec.encode(request))
        reply = codec.decode(Reply, await (await anext(aiter(replies))).read())
    assert "board could not" in reply.error
    assert "its workers serve every client" in reply.error

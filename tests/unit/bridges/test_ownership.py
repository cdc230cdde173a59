"""Which machine keeps the name of a platform that is a machine of its own."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

import broker
from bridges import presence
from bridges.machine import Machine
from bridges.ownership import Claim, Ownership, Rivals, rival_that_stays
from bridges.presence import Bridge
from broker.base import Broker
from broker.messages import codec
from broker.messages.register import MAX_EVERY_S, MAX_MISSED, Presence
from tests.support.boards import Board
from tests.support.fakes import running, soon

FOREVER = 1e9
WITHIN_S = 60.0


def claim(id_: str, since_s: float, until_s: float = FOREVER) -> Claim:
    return Claim(id_, f"host-{id_}", f"edge-{id_}", since_s, until_s)


@pytest.mark.parametrize(
    ("own", "others", "stays"),
    [
        (claim("a", 5.0), [], None),
        (claim("a", 5.0), [claim("b", 6.0)], None),
        (claim("a", 5.0), [claim("b", 4.0)], "b"),
        (claim("a", 5.0), [claim("b", 4.0), claim("c", 3.0)], "c"),
        (claim("a", 5.0), [claim("b", 5.0)], None),
        (claim("b", 5.0), [claim("a", 5.0)], "a"),
        (claim("a", 5.0), [claim("b", 4.0, until_s=9.0)], None),  # silent for too long
        (claim("b", 5.0), [claim("a", 0.0)], None),  # it has not learned yet when it announced itself
        (claim("b", 0.0), [claim("a", 5.0)], "a"),
        (claim("b", 0.0), [claim("a", 0.0)], "a"),
    ],
)
def test_the_first_that_announced_itself_stays(own: Claim, others: list[Claim], stays: str | None) -> None:
    found = rival_that_stays(own, others, now_s=10.0)
    assert (found and found.id) == stays


def test_of_two_exactly_one_stays_whatever_they_have_announced() -> None:
    times = (0.0, 1.0, 2.0)
    for first in times:
        for second in times:
            a, b = claim("a", first), claim("b", second)
            assert (rival_that_stays(a, [b], 0.0) is None) != (rival_that_stays(b, [a], 0.0) is None)


def announced(id_: str = "b", *, since_s: float = 0.0, gone: bool = False, is_own: bool = True) -> Presence:
    bridge = Bridge("edge", is_own=is_own, machine=Machine(f"host-{id_}", id_))
    return msgspec.structs.replace(bridge.presence(), gone=gone, since_s=since_s)


def test_only_other_machines_of_platforms_that_are_machines_are_rivals() -> None:
    rivals = Rivals("a")
    old = Presence(bridge="edge-1", platform="edge", every_s=5.0)
    for other in (announced("a"), announced("b", is_own=False), old):
        assert not rivals.note(other, 1.0, 0.0, is_live=True)
    assert rivals.present(0.0) == []


def test_a_rival_is_there_for_three_intervals_or_until_it_says_goodbye() -> None:
    rivals = Rivals("a")
    assert rivals.note(announced("b"), 7.0, 100.0, is_live=True)
    assert [(each.id, each.since_s) for each in rivals.present(114.9)] == [("b", 7.0)]
    assert rivals.present(115.0) == []
    rivals.note(announced("b", gone=True), 8.0, 101.0, is_live=True)
    assert rivals.present(101.0) == []


@pytest.mark.parametrize("every_s", [1e9, 1e300])
def test_a_rival_that_says_it_is_seldom_heard_is_not_believed_for_long(every_s: float) -> None:
    rivals = Rivals("a")
    rivals.note(msgspec.structs.replace(announced("b"), every_s=every_s), 7.0, 0.0, is_live=True)
    assert rivals.present(0.0)
    assert rivals.present(MAX_MISSED * MAX_EVERY_S) == []


def test_no_machine_has_announced_itself_before_the_epoch() -> None:
    rivals = Rivals("a")
    rivals.note(announced("b", since_s=-1.0), 7.0, 0.0, is_live=True)
    assert [each.since_s for each in rivals.present(0.0)] == [7.0]


def test_machines_that_are_silent_for_long_are_forgotten() -> None:
    rivals = Rivals("a")
    for number in range(5):
        rivals.note(announced(f"b{number}"), 7.0, number * 1000.0, is_live=True)
    assert list(rivals.heard) == ["b4"]


def test_a_rival_s_name_is_shortened_before_it_is_told() -> None:
    rivals = Rivals("a")
    rivals.note(announced("b" * 100_000), 7.0, 0.0, is_live=True)
    (claim_,) = rivals.present(0.0)
    assert len(claim_.name) <= 100


def test_what_the_broker_knew_before_is_no_sign_of_life() -> None:
    rivals = Rivals("a")
    rivals.note(announced("b"), 7.0, 0.0, is_live=False)
    assert (rivals.present(0.0), list(rivals.left_over)) == ([], ["b"])
    rivals.note(announced("b"), 8.0, 1.0, is_live=True)
    assert ([each.id for each in rivals.present(1.0)], list(rivals.left_over)) == (["b"], [])


@pytest.fixture
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    async with broker.connect(f"memory://{request.node.name[:40]}") as connection:
        yield connection


async def test_a_second_machine_is_refused_with_the_name_of_the_first(bus: Broker) -> None:
    first, second = Board(bus, "a", "jetson-12"), Board(bus, "b", "jetson-13")
    async with asyncio.timeout(WITHIN_S), running(first.serve()):
        await first.is_up.wait()
        await second.serve()
        assert str(second.ended) == (
            "platform 'edge' is served by the machine 'jetson-12' already: give this one another name "
            "(--platform, or install.sh --name)"
        )
        assert not second.is_up.is_set()
        assert await bus.get(second.bridge.topic) is None
        assert first.ended is None


async def test_a_second_machine_of_the_same_host_name_is_refused_and_leaves_the_first_one_s_presence(
    bus: Broker,
) -> None:
    first, second = Board(bus, "a", "jetson"), Board(bus, "b", "jetson")
    assert first.bridge.topic == second.bridge.topic
    async with asyncio.timeout(WITHIN_S), running(first.serve()):
        await first.is_up.wait()
        await second.serve()
        assert "by another machine of the host name 'jetson' already" in str(second.ended)
        held = await first.retained()
        assert (held.gone, held.host and held.host.id) == (False, "a")


async def test_a_goodbye_of_a_namesake_on_the_shared_topic_is_corrected_at_once(bus: Broker) -> None:
    first, second = Board(bus, "a", "jetson", every_s=3600.0), Board(bus, "b", "jetson")
    async with asyncio.timeout(WITHIN_S), running(first.serve()):
        await first.is_up.wait()
        gone = presence.will(second.bridge)
        await bus.put(gone.topic, gone.payload)
        await first.wait_until(gone=False)
        assert first.ended is None


@pytest.mark.parametrize("hosts", [("jetson-1", "jetson-2"), ("jetson", "jetson")])
async def test_of_two_that_start_at_the_same_moment_exactly_one_stays(bus: Broker, hosts: tuple[str, str]) -> None:
    boards = [Board(bus, name, host) for name, host in zip("ab", hosts, strict=True)]
    async with asyncio.timeout(WITHIN_S), running(*(board.serve() for board in boards)):
        await soon(lambda: any(board.ended for board in boards))
        (stays,) = [board for board in boards if board.ended is None]
        await stays.is_up.wait()
        stays.is_up.clear()
        await stays.is_up.wait()
        assert stays.ended is None
        assert not (await stays.retained()).gone


async def test_two_bridges_of_one_machine_share_its_name(bus: Broker) -> None:
    boards = [Board(bus, "a", "jetson"), Board(bus, "a", "jetson")]
    async with asyncio.timeout(WITHIN_S), running(*(board.serve() for board in boards)):
        for board in boards:
            await board.is_up.wait()
        assert [board.ended for board in boards] == [None, None]


async def test_a_machine_that_went_silently_is_waited_for_and_followed(bus: Broker) -> None:
    before, after = Board(bus, "boot-1", "jetson"), Board(bus, "boot-2", "jetson")
    await bus.put(before.bridge.topic, codec.encode(before.bridge.presence()))
    async with asyncio.timeout(WITHIN_S), running(after.serve()):
        await after.is_up.wait()
        held = await after.retained()
        assert (held.gone, held.host and held.host.id) == (False, "boot-2")


@pytest.mark.parametrize("is_gone", [True, False])
async def test_a_machine_that_has_gone_or_is_long_silent_is_not_waited_for(bus: Broker, *, is_gone: bool) -> None:
    before, after = Board(bus, "a", every_s=3600.0), Board(bus, "b")
    left = msgspec.structs.replace(before.bridge.presence(), gone=is_gone)
    await bus.put(before.bridge.topic, codec.encode(left))
    async with bus.watch(before.bridge.topic) as values:
        ownership = Ownership("edge", after.bridge.id, after.bridge.machine, values, clock=lambda: FOREVER * 10)
        async with asyncio.timeout(WITHIN_S), running(ownership.listen()):
            await ownership.claim()


async def test_a_machine_on_which_nothing_can_run_is_as_good_as_gone_and_leaves_the_name(bus: Broker) -> None:
    first, second = Board(bus, "a"), Board(bus, "b")
    async with asyncio.timeout(WITHIN_S), running(first.serve()):
        await first.is_up.wait()
        first.is_able = False
        await first.wait_until(gone=True)
        async with running(second.serve()):
            await second.is_up.wait()
            first.is_able = True
            await soon(lambda: first.ended is not None)
            assert second.ended is None


async def test_a_machine_on_which_nothing_can_run_ends_when_another_one_has_its_name(bus: Broker) -> None:
    first, second = Board(bus, "a"), Board(bus, "b")
    async with asyncio.timeout(WITHIN_S), running(first.serve()):
        await first.is_up.wait()
        first.is_able = False
        await first.wait_until(gone=True)
        async with running(second.serve()):
            await second.is_up.wait()
            # Else it would go on taking the tasks of the other one.
            await soon(lambda: first.ended is not None)
            assert second.ended is None


async def test_a_shared_platform_has_bridges_on_several_machines(bus: Broker) -> None:
    bridges = [Bridge("cluster", machine=Machine(f"host-{id_}", id_)) for id_ in "ab"]
    announced_ = [asyncio.Event(), asyncio.Event()]
    work = (
        presence.announce(bus, bridge, on_announced=event.set)
        for bridge, event in zip(bridges, announced_, strict=True)
    )
    async with asyncio.timeout(WITHIN_S), running(*work):
        for event in announced_:
            await event.wait()

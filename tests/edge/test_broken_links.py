"""Sites whose links, broker or power fail in the middle of a round: nothing is lost, nothing is counted twice.

FEDKEEPER_LONG=1 makes outages last 30 s instead of 8: longer than it takes to notice that a connection is dead, and as
long as the broker's client goes on trying before it gives up a call.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from broker.messages.progress import (
    JobAccepted,
    JobCompleted,
    JobStarted,
    RoundCompleted,
    RoundFailed,
    RoundOpened,
    UpdateCounted,
    UpdateRefused,
)
from tests.support.edge import links
from tests.support.edge.links import Backbone
from tests.support.edge.site_programs import UPLINKS, Station
from tests.support.edge.two_sites import CLIENTS, EACH, ROUNDS, Course, Spread, spread

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.torch]

OUTAGE_S: Final = 30.0 if os.environ.get("FEDKEEPER_LONG") else 8.0
GRACE_S: Final = 20.0
"""Two sites whose programs are warm are never so far apart."""

LASTING: Final = (JobAccepted, JobStarted, RoundOpened, UpdateCounted, RoundCompleted, JobCompleted)
"""What a run without faults says, whatever its pace."""


@pytest.fixture
async def fabric(backbone: Backbone, tmp_path: Path) -> AsyncIterator[Spread]:
    """Two sites, one client program each, joined to the broker itself."""
    async with spread(backbone, UPLINKS["nats"], tmp_path) as found:
        yield found


@pytest.fixture(params=list(UPLINKS))
async def any_fabric(request: pytest.FixtureRequest, backbone: Backbone, tmp_path: Path) -> AsyncIterator[Spread]:
    """Two sites, joined in each of the ways that there are."""
    async with spread(backbone, UPLINKS[request.param], tmp_path) as found:
        yield found


def gist(course: Course) -> Counter[tuple[str, int, str]]:
    """What was said, but for times and attempts."""
    lasting = [one.event for one in course.said if isinstance(one.event, LASTING)]
    return Counter((event.what, getattr(event, "round", 0), getattr(event, "client", "")) for event in lasting)


def assert_flawless(course: Course, undisturbed: Course) -> None:
    """The same model, every client counted exactly once in every round, no event missing, none doubled."""
    assert undisturbed.counted.total() == ROUNDS * CLIENTS
    assert set(undisturbed.counted.values()) == {1}
    assert course.counted == undisturbed.counted
    assert course.cohorts == undisturbed.cohorts
    assert gist(course) == gist(undisturbed)
    assert not course.all(RoundFailed)
    for one in (course, undisturbed):
        assert max(Counter(said.id for said in one.said).values()) == 1
    assert course.digest == undisturbed.digest


async def disturbed(fabric: Spread, disturb: Callable[[Station], Awaitable[None]], **cohort: Any) -> Course:
    """A job that is disturbed while a site trains for its second round; the disturbance opens the site's gate."""
    far = fabric.stations[1]
    far.gate.hold_after(EACH)
    async with fabric.training(**cohort) as course:
        await far.gate.held()
        await disturb(far)
    return course


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "down"])
async def test_a_site_that_is_cut_off_in_a_round(any_fabric: Spread, silent: bool) -> None:  # noqa: FBT001 (a parameter)
    """It trains on meanwhile, and the round waits for it."""

    async def outage(far: Station) -> None:
        await far.site.cut(silent=silent)
        far.gate.open()
        await asyncio.sleep(OUTAGE_S)
        await far.site.restore()

    undisturbed = await any_fabric.trained()
    course = await disturbed(any_fabric, outage)
    assert_flawless(course, undisturbed)
    (waited,) = course.all(RoundCompleted, round=2)
    assert waited.split.round_s > OUTAGE_S


@pytest.mark.parametrize("by", ["netem" if links.netem() else "wire"])
async def test_a_link_that_is_slow_and_loses_packets(fabric: Spread, by: str) -> None:
    """200 ms each way and 2 % loss, in both directions, through a whole job."""
    undisturbed = await fabric.trained()
    async with fabric.stations[1].site.degraded(delay_ms=200, loss=0.02):
        course = await fabric.trained()
    assert_flawless(course, undisturbed)
    assert min(event.split.round_s for event in course.all(RoundCompleted)) > 0.4, by


async def test_a_broker_that_crashes_in_a_round_and_is_started_again(fabric: Spread) -> None:
    async def crash(far: Station) -> None:
        await fabric.nats.kill()
        far.gate.open()
        await fabric.nats.start()

    undisturbed = await fabric.trained()
    assert_flawless(await disturbed(fabric, crash), undisturbed)


async def test_a_site_whose_power_fails_in_a_round(any_fabric: Spread) -> None:
    """What it was training is lost, and trained again when its power is back."""

    async def power_cut(far: Station) -> None:
        await far.power_cut()
        far.gate.open()
        await far.site.power_on()
        await far.boot()

    undisturbed = await any_fabric.trained()
    assert_flawless(await disturbed(any_fabric, power_cut), undisturbed)
    assert any_fabric.stations[1].gate.passed == 2 * ROUNDS * EACH + 1


async def test_an_update_that_comes_after_its_round_is_refused_with_an_event(fabric: Spread) -> None:
    """The round closes at its quorum, as it does without those who are slow, and the next one counts everybody."""
    await fabric.trained(rounds=1)
    course, reference = [await missing_a_round(fabric, cut=cut) for cut in (True, False)]
    everybody = course.cohorts[0]
    (closed,) = course.all(RoundCompleted, round=2)
    assert len(everybody) == CLIENTS
    assert len(closed.missing) == EACH
    assert course.cohorts == [everybody, closed.counted, everybody]
    assert set(course.counted.values()) == {1}
    assert {event.topic.split(".")[3] for event in course.all(UpdateRefused, code="late")} == {"2"}
    assert gist(course) == gist(reference)
    assert course.digest == reference.digest


async def missing_a_round(fabric: Spread, *, cut: bool) -> Course:
    """A job in whose second round a site answers too late: its link is cut, or it is only slow."""
    near, far = fabric.stations
    near.gate.hold_after(2 * EACH)
    far.gate.hold_after(EACH)
    async with fabric.training(quorum=EACH, grace_s=GRACE_S, presence="ignored") as course:
        await far.gate.held()
        if cut:
            await far.site.cut(silent=True)
            far.gate.open()
        await course.reaches(RoundCompleted, round=2)
        await near.gate.held()
        if cut:
            await far.site.restore()
        far.gate.open()
        await course.reaches(UpdateRefused, code="late")
        near.gate.open()
    return course


async def test_a_task_that_expired_while_its_site_was_away_is_not_started(fabric: Spread) -> None:
    far = fabric.stations[1]
    before = await fabric.trained(rounds=1)
    trainings = far.gate.passed
    await far.site.cut(silent=True)
    late = {"grace_s": 0.5, "deadline_s": 20.0, "presence": "ignored"}
    async with fabric.training(rounds=1, quorum=EACH, **late) as course:
        opened = await course.reaches(RoundOpened)
    (closed,) = course.all(RoundCompleted)
    assert len(closed.missing) == EACH
    await asyncio.sleep(opened.deadline_s - time.time())
    await far.site.restore()
    for client in closed.missing:
        assert {one.outcome for one in await fabric.invocations(course.job, client, until="expired")} == {"expired"}
    assert far.gate.passed == trainings
    assert (await fabric.trained(rounds=1)).digest == before.digest

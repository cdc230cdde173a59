"""Sites whose links, broker or power fail in the middle of a round: nothing is lost and nothing is counted twice.

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
from tests.support.edge.two_sites import CLIENTS, EACH, ROUNDS, JobHistory, TwoSites, two_sites

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.torch]

OUTAGE_S: Final = 30.0 if os.environ.get("FEDKEEPER_LONG") else 8.0
GRACE_S: Final = 20.0
"""More than the time difference of two sites whose programs are warm."""

STABLE: Final = (JobAccepted, JobStarted, RoundOpened, UpdateCounted, RoundCompleted, JobCompleted)
"""The events that every run without faults publishes, however fast it is."""


@pytest.fixture
async def system(backbone: Backbone, tmp_path: Path) -> AsyncIterator[TwoSites]:
    """Two sites whose bridges connect to the broker directly."""
    async with two_sites(backbone, UPLINKS["nats"], tmp_path) as system:
        yield system


@pytest.fixture(params=list(UPLINKS))
async def any_system(request: pytest.FixtureRequest, backbone: Backbone, tmp_path: Path) -> AsyncIterator[TwoSites]:
    """Two sites, with each kind of uplink in turn."""
    async with two_sites(backbone, UPLINKS[request.param], tmp_path) as system:
        yield system


def event_counts(history: JobHistory) -> Counter[tuple[str, int, str]]:
    """Count the events of a job by class, round and client."""
    events = [message.event for message in history.messages if isinstance(message.event, STABLE)]
    return Counter((event.what, getattr(event, "round", 0), getattr(event, "client", "")) for event in events)


def assert_same_result(disturbed: JobHistory, undisturbed: JobHistory) -> None:
    """Assert the same model, one counted update of each client in each round, and each event exactly once."""
    assert undisturbed.counted.total() == ROUNDS * CLIENTS
    assert set(undisturbed.counted.values()) == {1}
    assert disturbed.counted == undisturbed.counted
    assert disturbed.cohorts == undisturbed.cohorts
    assert event_counts(disturbed) == event_counts(undisturbed)
    assert not disturbed.all(RoundFailed)
    for history in (disturbed, undisturbed):
        assert max(Counter(message.id for message in history.messages).values()) == 1
    assert disturbed.digest == undisturbed.digest


async def train_disturbed(system: TwoSites, disturb: Callable[[Station], Awaitable[None]], **cohort: Any) -> JobHistory:
    """Run a job and disturb it while a site trains in its second round. The disturbance must open the site's gate."""
    far = system.stations[1]
    far.gate.hold_after(EACH)
    async with system.training(**cohort) as history:
        await far.gate.wait_until_held()
        await disturb(far)
    return history


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "down"])
async def test_a_site_that_is_cut_off_in_a_round(any_system: TwoSites, silent: bool) -> None:  # noqa: FBT001 (a parameter)
    """The site continues its training, and the round waits for the site."""

    async def outage(far: Station) -> None:
        await far.site.cut(silent=silent)
        far.gate.open()
        await asyncio.sleep(OUTAGE_S)
        await far.site.restore()

    undisturbed = await any_system.train()
    history = await train_disturbed(any_system, outage)
    assert_same_result(history, undisturbed)
    (waited,) = history.all(RoundCompleted, round=2)
    assert waited.split.round_s > OUTAGE_S


@pytest.mark.parametrize("by", ["netem" if links.netem() else "wire"])
async def test_a_link_that_is_slow_and_loses_packets(system: TwoSites, by: str) -> None:
    """200 ms each way and 2 % loss, in both directions, through a whole job."""
    undisturbed = await system.train()
    async with system.stations[1].site.degraded(delay_ms=200, loss=0.02):
        history = await system.train()
    assert_same_result(history, undisturbed)
    assert min(event.split.round_s for event in history.all(RoundCompleted)) > 0.4, by


async def test_a_broker_that_crashes_in_a_round_and_is_started_again(system: TwoSites) -> None:
    async def crash(far: Station) -> None:
        await system.nats.kill()
        far.gate.open()
        await system.nats.start()

    undisturbed = await system.train()
    assert_same_result(await train_disturbed(system, crash), undisturbed)


async def test_a_site_whose_power_fails_in_a_round(any_system: TwoSites) -> None:
    """The running training is lost. It is repeated when the power is back."""

    async def power_cut(far: Station) -> None:
        await far.power_cut()
        far.gate.open()
        await far.site.power_on()
        await far.boot()

    undisturbed = await any_system.train()
    assert_same_result(await train_disturbed(any_system, power_cut), undisturbed)
    assert any_system.stations[1].gate.passed == 2 * ROUNDS * EACH + 1


async def test_an_update_that_comes_after_its_round_is_refused_with_an_event(system: TwoSites) -> None:
    """The round closes at its quorum, as it does when a client is slow. The next round counts all clients."""
    await system.train(rounds=1)
    history, reference = [await train_with_late_site(system, cut=cut) for cut in (True, False)]
    all_clients = history.cohorts[0]
    (closed,) = history.all(RoundCompleted, round=2)
    assert len(all_clients) == CLIENTS
    assert len(closed.missing) == EACH
    assert history.cohorts == [all_clients, closed.counted, all_clients]
    assert set(history.counted.values()) == {1}
    assert {event.topic.split(".")[3] for event in history.all(UpdateRefused, code="late")} == {"2"}
    assert event_counts(history) == event_counts(reference)
    assert history.digest == reference.digest


async def train_with_late_site(system: TwoSites, *, cut: bool) -> JobHistory:
    """Run a job in whose second round a site sends its updates too late: its link is cut, or it is slow."""
    near, far = system.stations
    near.gate.hold_after(2 * EACH)
    far.gate.hold_after(EACH)
    async with system.training(quorum=EACH, grace_s=GRACE_S, presence="ignored") as history:
        await far.gate.wait_until_held()
        if cut:
            await far.site.cut(silent=True)
            far.gate.open()
        await history.wait_for(RoundCompleted, round=2)
        await near.gate.wait_until_held()
        if cut:
            await far.site.restore()
        far.gate.open()
        await history.wait_for(UpdateRefused, code="late")
        near.gate.open()
    return history


async def test_a_task_that_expired_while_its_site_was_away_is_not_started(system: TwoSites) -> None:
    far = system.stations[1]
    before = await system.train(rounds=1)
    trainings = far.gate.passed
    await far.site.cut(silent=True)
    late = {"grace_s": 0.5, "deadline_s": 20.0, "presence": "ignored"}
    async with system.training(rounds=1, quorum=EACH, **late) as history:
        opened = await history.wait_for(RoundOpened)
    (closed,) = history.all(RoundCompleted)
    assert len(closed.missing) == EACH
    await asyncio.sleep(opened.deadline_s - time.time())
    await far.site.restore()
    for client in closed.missing:
        assert {record.outcome for record in await system.invocations(history.job, client, until="expired")} == {
            "expired"
        }
    assert far.gate.passed == trainings
    assert (await system.train(rounds=1)).digest == before.digest

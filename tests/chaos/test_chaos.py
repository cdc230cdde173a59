"""A fixed seed of each fault that is over soon. `make chaos` draws at random among all of them.

The faults of a group share a system, one after the other: to start it takes longer than most of them.
"""

from pathlib import Path
from typing import Final

import pytest

from tests.chaos import faults, judge

pytestmark = [pytest.mark.slow, pytest.mark.torch]

SEED: Final = 1

GROUPS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("nats", ("kill server", "kill trainer", "kill broker", "freeze bridge", "restart bridge", "freeze worker")),
    ("nats", ("garbage tasks", "garbage reports", "garbage register", "updates as another client's", "same id twice")),
    ("nats", ("training segfaults", "constructor segfaults", "flood of another job's progress", "store emptied")),
    ("mosquitto", ("kill worker", "kill server and bridge", "freeze server", "freeze broker", "kill broker thrice")),
    ("mosquitto", ("garbage updates", "garbage jobs", "garbage records", "garbage presence", "garbage progress")),
    ("mosquitto", ("training ends its process", "judgement segfaults", "updates published again", "cancel")),
    ("mosquitto", ("restart broker", "freeze trainer", "store older than the job")),
    ("nats", ("kill one of two servers", "freeze one of two servers")),
    ("nats", ("restart one of two bridges", "kill one of two bridges")),
    ("nats", ("server cut off", "all cut off five times")),
    ("mosquitto", ("bridge cut off", "slow link")),
    ("nats", ("OpenFaaS: function killed", "OpenFaaS: gateway away", "OpenFaaS: kill server")),
    ("mosquitto", ("server's clock behind",)),
    ("nats", ("bridge's clock ahead",)),
)

SEE_CONSUMERS: Final = (GROUPS[0], GROUPS[3])
"""One group of each broker waits until the consumers of killed parts are forgotten."""


@pytest.mark.parametrize(
    ("broker", "names"), [pytest.param(*group, id=f"{group[0]}: {', '.join(group[1])}") for group in GROUPS]
)
async def test_nothing_is_lost(broker: str, names: tuple[str, ...], tmp_path: Path) -> None:
    trials = [(faults.named(name), SEED) for name in names]
    results = await judge.run(trials, broker, tmp_path / "trial", sees_consumers=(broker, names) in SEE_CONSUMERS)
    failed = [(result.repeat, result.problems, result.notes) for result in results if result.problems]
    assert not failed
    assert len(results) == len(names)


def test_the_groups_share_their_setup() -> None:
    assert {broker for broker, _ in SEE_CONSUMERS} == {broker for broker, _ in GROUPS}
    for broker, names in GROUPS:
        chosen = [faults.named(name) for name in names]
        assert all(fault.is_possible(broker) for fault in chosen)
        assert len({repr((fault.setup, fault.job)) for fault in chosen}) == 1


def test_the_table_has_unique_names() -> None:
    names = [fault.name for fault in faults.FAULTS]
    assert len(names) == len(set(names)) >= 30

"""`make chaos N=200`: draws faults at random, tries each in a real system, and says what was found.

One line per trial, a table at the end, exit code 1 if a trial failed. The logs of failed trials stay; the folder is
printed.
"""

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from broker.support import logs
from tests.chaos import brokers, faults, judge
from tests.chaos.row import Fault
from tests.chaos.trial import Result


class Planned(NamedTuple):
    """A trial to run."""

    fault: Fault
    broker: str
    seed: int


HEADER = f"{'seed':>10}  {'broker':<9}  {'fault':<31}  {'s':>5}  {'back s':>6}  lost  twice  digest  events  result"


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def line(result: Result) -> str:
    """Return one line about a trial."""
    digest = {True: "same", False: "OTHER", None: "-"}[result.has_same_digest]
    back = "-" if result.recovered_s is None else f"{result.recovered_s:.1f}"
    verdict = "; ".join(result.problems)[:300] if result.problems else f"ok ({result.end[:100]})"
    return (
        f"{result.seed:>10}  {result.broker:<9}  {result.fault:<31}  {result.took_s:>5.0f}  {back:>6}  "
        f"{result.lost:>4}  {result.twice:>5}  {digest:<6}  {'all' if result.has_all_events else 'NOT':<6}  "
        f"{'FAILED: ' if result.problems else ''}{verdict}"
    )


def table(results: Sequence[Result]) -> Iterable[str]:
    """Yield a line for each fault and broker that was tried."""
    yield f"\n{'fault':<31}  {'broker':<9}  trials  failed  back s (most)  lost  twice  same digest  all events"
    for key in sorted({(result.fault, result.broker) for result in results}):
        group = [result for result in results if (result.fault, result.broker) == key]
        back = max((result.recovered_s for result in group if result.recovered_s is not None), default=0.0)
        compared = [result for result in group if result.has_same_digest is not None]
        same, events = sum(result.has_same_digest is True for result in compared), sum(r.has_all_events for r in group)
        yield (
            f"{key[0]:<31}  {key[1]:<9}  {len(group):>6}  {sum(bool(r.problems) for r in group):>6}  {back:>13.1f}  "
            f"{sum(r.lost for r in group):>4}  {sum(r.twice for r in group):>5}  {same:>5}/{len(compared):<5}  "
            f"{events:>4}/{len(group)}"
        )


async def run(plan: Sequence[Planned], folder: Path, at_once: int, together: int) -> list[Result]:
    """Run trials, some at once, and print a line after each.

    Args:
        plan: the trials.
        folder: for the logs of trials that fail.
        at_once: how many systems run at the same time.
        together: how many trials with the same setup share a system, one after the other.
    """
    results: list[Result] = []
    waiting = list(plan)
    numbers = itertools.count(1)

    async def work() -> None:
        while waiting:
            batch = take_batch(waiting, together)
            trials = [(planned.fault, planned.seed) for planned in batch]
            name = f"{next(numbers)}-{batch[0].broker}"
            found = await judge.run(trials, batch[0].broker, folder / name, lambda result: _print(line(result)))
            waiting[:0] = batch[len(found) :]  # those after one that failed
            results.extend(found)

    async with asyncio.TaskGroup() as group:
        for number in range(at_once):
            group.create_task(work(), name=f"system {number}")
    return results


def take_batch(waiting: list[Planned], most: int) -> list[Planned]:
    """Remove from a list the first trial, and others that can share its system; return them.

    Args:
        waiting: trials, the next one first.
        most: how many.
    """

    def needs(planned: Planned) -> str:
        return repr((planned.broker, planned.fault.setup, planned.fault.job))

    batch = [planned for planned in waiting if needs(planned) == needs(waiting[0])][:most]
    for planned in batch:
        waiting.remove(planned)
    return batch


def draw(count: int, broker: str, seed: int, fault: str) -> list[Planned]:
    """Draw trials.

    Args:
        count: number of trials.
        broker: the only broker; empty: any.
        seed: seed of the draw, and of the first trial.
        fault: name of the only fault; empty: any.
    """
    rng = random.Random(seed)  # noqa: S311 (to be repeated)
    plan = []
    for number in range(count):
        name = broker or rng.choice(brokers.NAMES)
        chosen = faults.named(fault) if fault else rng.choice(faults.possible(name))
        plan.append(Planned(chosen, name, seed + number))
    return plan


def main() -> None:
    """Run trials with the options of the command line."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("-n", type=int, default=20, help="number of trials")
    parser.add_argument("--broker", choices=("", *brokers.NAMES), default="", help="the only broker")
    parser.add_argument("--seed", type=int, default=0, help="seed; 0: a new one")
    parser.add_argument("--fault", default="", help="the only fault, by its name")
    parser.add_argument("--at-once", type=int, default=1, help="systems at the same time")
    parser.add_argument("--together", type=int, default=5, help="trials that share a system, one after the other")
    parser.add_argument("--each", action="store_true", help="each fault once, in the order of the table")
    options = parser.parse_args()
    logs.configure(quiet=True)
    seed = options.seed or random.SystemRandom().randrange(1, 1_000_000_000)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    if options.each:
        names = [options.broker] if options.broker else brokers.NAMES
        plan = [Planned(fault, name, seed) for name in names for fault in faults.possible(name)]
    else:
        plan = draw(options.n, options.broker, seed, options.fault)
    _print(f"seed {seed}; logs of trials that fail: {folder}\n{HEADER}")
    started_s = time.monotonic()
    results = asyncio.run(run(plan, folder, options.at_once, options.together))
    _print("\n".join(table(results)))
    failed = [result for result in results if result.problems]
    _print(f"\n{len(results)} trials in {time.monotonic() - started_s:.0f} s, {len(failed)} failed")
    for result in failed:
        _print(f"  {result.repeat}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

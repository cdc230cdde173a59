"""Measures bars one after the other, keeps rows, and prints the table."""

import contextlib
import os
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.bars import bar as bars
from benchmarks.bars import plan, store
from benchmarks.bars.bar import Bar, Found, NotMeasured, Row
from benchmarks.bars.plan import Derived, Measurement
from benchmarks.bars.session import Session

BUSY: Final = 0.5
"""Above this load, others use the machine too."""


@dataclass(frozen=True)
class Options:
    """What to measure, and how.

    Attributes:
        names: of measurements or bars; none: all.
        file: of the rows.
        rounds: number of rounds that count.
        is_small: whether all is tried in the least size.
        with_peers: whether peers are measured.
        own: whether each of Flower's clients sends bytes of its own.
        again: whether what is in the file is measured again.
    """

    names: tuple[str, ...] = ()
    file: Path = store.FILE
    rounds: int = 10
    is_small: bool = False
    with_peers: bool = True
    own: bool = False
    again: bool = False


async def run(options: Options) -> tuple[dict[str, Row], dict[str, str]]:
    """Measure what has no row yet, and print what is found on the way.

    Args:
        options: what to measure.

    Returns:
        The rows by bar, and why others have none.
    """
    measurements, derived = plan.chosen(options.names)
    common = store.facts(rounds=options.rounds, is_small=options.is_small, own=options.own)
    known = {} if options.again else store.reusable(options.file, common, with_peers=options.with_peers)
    found, missing = dict[str, Row](), dict[str, str]()
    if (load := os.getloadavg()[0]) > BUSY and not options.is_small:
        print(f"the machine is not idle: its load is {load:.1f}", flush=True)
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bars-", ignore_cleanup_errors=True)))
        session = Session(folder, stack, options.rounds, options.is_small, options.with_peers, options.own)
        for measurement in measurements:
            names = [each.name for each in measurement.bars]
            if known.keys() >= set(names):
                found |= {name: known[name] for name in names}
                print(f"{measurement.name}: from {options.file.name}", flush=True)
                continue
            reason = await _measure(measurement, session, options, common, found)
            missing |= dict.fromkeys(names, reason) if reason else {}
    _derive([each for each in derived if not _is_known(each, known, found)], options, common, found, missing)
    return found, missing


def _is_known(derived: Derived, known: dict[str, Row], found: dict[str, Row]) -> bool:
    """Take a derived number's row from the file if all that it follows from was there too; return whether it was."""
    name = derived.bar.name
    if name not in known or any(each not in known or found.get(each) is not known[each] for each in derived.of):
        return False
    found[name] = known[name]
    return True


async def _measure(
    measurement: Measurement, session: Session, options: Options, common: Row, found: dict[str, Row]
) -> str:
    """Measure, and add the rows; return why it was not possible, or nothing."""
    begin_s = time.monotonic()
    try:
        results = await measurement.measure(session)
    except NotMeasured as exc:
        print(f"{measurement.name}: {exc}", flush=True)
        return str(exc)
    except Exception as exc:  # noqa: BLE001 (the other bars are measured all the same)
        traceback.print_exception(exc)
        return f"it failed: {type(exc).__name__}: {exc}"
    for bar in measurement.bars:
        found[bar.name] = _keep(bar, results[bar.name], options, common)
    print(f"{measurement.name}: {time.monotonic() - begin_s:.0f} s", flush=True)
    return ""


def _derive(
    derived: list[Derived], options: Options, common: Row, found: dict[str, Row], missing: dict[str, str]
) -> None:
    for each in derived:
        if absent := [name for name in each.of if name not in found]:
            missing[each.bar.name] = f"needs {', '.join(absent)}"
            continue
        results = each.derive({name: found[name] for name in each.of})
        found[each.bar.name] = _keep(each.bar, results, options, common)


def _keep(bar: Bar, found: Found, options: Options, common: Row) -> Row:
    row = bars.row(bar, found)
    if options.is_small:
        row["met"] = None  # such numbers meet nothing
    return store.add(options.file, row, common, with_peers=options.with_peers)


def table(found: dict[str, Row], missing: dict[str, str]) -> str:
    """Return all as text.

    Args:
        found: the rows by bar.
        missing: why others have none.
    """
    lines = [bars.line(bar, found[name]) for name, bar in plan.BARS.items() if name in found]
    notes = [f"{name}: not measured: {reason}" for name, reason in missing.items()]
    return "\n".join([bars.as_table(lines), *notes])

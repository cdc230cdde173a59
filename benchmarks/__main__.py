"""All bars of speed and memory: measured, compared with the peers in the same run, and judged.

    python -m benchmarks [--only noop-100 worker] [--rounds 10] [--no-peer] [--again]
    python -m benchmarks --small --no-peer
    python -m benchmarks --plot costs.png
    python -m benchmarks --list

`benchmarks/README.md` explains each number. The rows are in `benchmarks/results/bars.jsonl`. A row of the same commit,
processor and settings is not measured again; code that is not committed is measured each time. `--small` tries all in
the least size, to see whether it works, and its numbers mean nothing. `--plot` measures nothing: it draws the newest
rows.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from benchmarks.bars import plan, plots, run, store
from benchmarks.bars.bar import NotMeasured
from benchmarks.bars.run import Options
from broker.support import heap, logs


def main(arguments: list[str] | None = None) -> None:
    """Measure, or plot.

    Args:
        arguments: of the command line; None: this program's.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="bars, or what their names begin with")
    parser.add_argument("--rounds", type=int, default=10, help="rounds that count, for each number")
    parser.add_argument("--small", action="store_true", help="the least size of everything")
    parser.add_argument("--no-peer", action="store_true", help="do not measure Flower")
    parser.add_argument("--own", action="store_true", help="Flower's clients send bytes of their own, not the model")
    parser.add_argument("--again", action="store_true", help="measure also what is in the file")
    parser.add_argument("--file", type=Path, default=store.FILE, help="of the rows")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw cost against clients and parameters")
    parser.add_argument("--list", action="store_true", help="print the bars")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"{bar.name:<17} {bar.describe():<13} {bar.what}" for bar in plan.BARS.values()))
        return
    if options.plot:
        plots.draw(store.read(options.file), options.plot)
        return
    logs.configure(quiet=True)
    heap.keep_large_blocks()
    try:
        found, missing = asyncio.run(run.run(_options(options)))
    except NotMeasured as exc:
        sys.exit(str(exc))
    print(run.table(found, missing))
    if any(reason.startswith("it failed") for reason in missing.values()):
        sys.exit(1)


def _options(options: argparse.Namespace) -> Options:
    return Options(
        names=tuple(options.only),
        file=options.file,
        rounds=1 if options.small else options.rounds,
        is_small=options.small,
        with_peers=not options.no_peer,
        own=options.own,
        again=options.again or options.small,
    )


if __name__ == "__main__":
    main()

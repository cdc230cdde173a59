"""Flower's rounds without training in its in-process simulation (Ray), one for each line on standard input.

    echo '1' | benchmarks/flower/.venv/bin/python benchmarks/flower/simulate.py --clients 10 --shapes '[[1000, 10]]'

The process prints a line of JSON when it is ready, and one with its seconds after each round. Between two rounds it
waits for a line, so that what is compared with it can run meanwhile. It ends when its input ends.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Final

# No word of a benchmark leaves this machine.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
sys.path.insert(0, str(Path(__file__).parent / "app"))

import noop_app
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

ENDLESS: Final = 1_000_000


class _Over(Exception):
    """Raised when no more rounds are wanted."""


def wait_and_tell(round_: int, seconds: float) -> None:
    """Tell how long a round took, and wait until the next one is wanted.

    Args:
        round_: number of the round; 0: none has been.
        seconds: of the round.
    """
    if round_ == 0:
        noop_app.say(ready=True, flwr=version("flwr"), ray=version("ray"), python=sys.version.split()[0])
    else:
        noop_app.say(round=round_, seconds=seconds)
    if not sys.stdin.readline():
        raise _Over


def main() -> None:
    """Read the arguments and run rounds until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--shapes", default="[[1000, 10]]", help="shapes of the model's tensors, in JSON")
    parser.add_argument("--own", action="store_true", help="each client's update has bytes of its own")
    parser.add_argument("--cpus", type=float, default=1.0, help="cores of each of Ray's processes")
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    server = ServerApp()

    def serve(grid: Grid, context: Context) -> None:  # noqa: ARG001 (Flower's arguments)
        shapes = json.loads(options.shapes)
        with contextlib.suppress(_Over):
            noop_app.run_rounds(grid, shapes, options.clients, ENDLESS, wait_and_tell, own=options.own)

    server.main()(serve)
    run_simulation(
        server_app=server,
        client_app=noop_app.client,
        num_supernodes=options.clients,
        backend_config={"client_resources": {"num_cpus": options.cpus, "num_gpus": 0.0}},
    )


if __name__ == "__main__":
    main()

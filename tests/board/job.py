"""A job of two rounds over four clients: two on the board, two on this machine."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.board.host import PLATFORM, Host
from tests.board.machine import Board, StepFailed

CLIENTS: Final = 4
ROUNDS: Final = 2
LIMIT_S: Final = 1800.0
"""An emulated worker takes a minute until it has imported torch, many on a loaded machine. Seconds."""

_SETTINGS: Final = (
    *("--set", "data.partition=iid", "--set", f"data.clients={CLIENTS}"),
    *("--set", f"cohort.clients={CLIENTS}", "--set", "cohort.quorum=1.0", "--set", f"cohort.deadline_s={LIMIT_S:g}"),
    *("--set", f"stop.rounds={ROUNDS}", "--set", "training.local_epochs=1", "--set", "seed=7", "--set", "id=board"),
)


class Shard(NamedTuple):
    """A client's data, as `fedkeeper stage` prints it."""

    client: str
    samples: str
    place: str


async def register(host: Host, board: Board, platform: str) -> list[str]:
    """Split the digits among the clients, copy half of the shards to the board, register all; return who is on it.

    Args:
        host: this machine.
        board: the board.
        platform: the board's name as a platform.
    """
    printed = await host.fedkeeper("stage", "quickstart", *_SETTINGS, "--to", str(host.folder / "shards"))
    shards = [Shard(*line.split("\t")) for line in printed.splitlines() if line.count("\t") == 2]
    for shard in shards[: CLIENTS // 2]:
        await _add(host, shard, PLATFORM, shard.place)
    for shard in shards[CLIENTS // 2 :]:
        source = Path(shard.place.removeprefix("file://"))
        target = f"/srv/fedkeeper/{shard.client}/{source.name}"
        board.at(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, board.at(target))
        await _add(host, shard, platform, target, "--no-check", "--samples", shard.samples)
    return [shard.client for shard in shards[CLIENTS // 2 :]]


async def train(host: Host) -> list[str]:
    """Run the job, and return what is to be said about it.

    Args:
        host: this machine.

    Raises:
        StepFailed: the job failed, or not all clients were counted in all rounds.
    """
    out = host.folder / "runs"
    printed = await host.fedkeeper("submit", "quickstart", *_SETTINGS, "--wait", "--out", str(out), timeout_s=LIMIT_S)
    rows = [json.loads(line) for line in (out / "latest" / "metrics.jsonl").read_text().splitlines()]
    if problem := missing(rows):
        raise StepFailed(problem, host.folder / "logs" / "commands.log")
    lines = [f"round {row['round']}: {row['round_s']:.1f} s, model {row['model'][:12]}" for row in rows]
    # What a person reads at the end of a job.
    return [*lines, *printed.rpartition("\n\n")[2].partition("written to ")[0].splitlines()]


def missing(rows: Sequence[dict[str, Any]]) -> str:
    """Say what a job lacks; empty if all clients were counted in all rounds.

    Args:
        rows: its metrics.jsonl.
    """
    if len(rows) != ROUNDS:
        return f"{len(rows)} of {ROUNDS} rounds are done"
    counted = [len(row["clients"]) for row in rows]
    return "" if counted == [CLIENTS] * ROUNDS else f"counted in the rounds: {counted} of {CLIENTS}"


async def _add(host: Host, shard: Shard, platform: str, place: str, *options: str) -> None:
    data = shard.client.rpartition("-")[0]
    location = f"file://{place}" if place.startswith("/") else place
    what = ("--platform", platform, "--data-loc", location, "--label", f"data={data}")
    await host.fedkeeper("clients", "add", shard.client, *what, *options)

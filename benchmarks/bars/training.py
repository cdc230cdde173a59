"""How much of a round is training, and how quickly the clients train."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Final

from benchmarks import noop_round
from benchmarks.bars.bar import Found, NotMeasured
from benchmarks.bars.session import Session
from broker.messages.job import Job
from fedkeeper import configs
from fedkeeper.services import system

Measure = Callable[[Session], Awaitable[dict[str, Found]]]

DATA: Final = "FEDKEEPER_DATA"

LOOP_S: Final = 900.0


def share(name: str, optimizer_state: str) -> Measure:
    """Return what measures which share of a round is not the clients' training loops, in percent of all cores.

    Args:
        name: name of the bar.
        optimizer_state: the job's `training.optimizer_state`.
    """

    async def measure(session: Session) -> dict[str, Found]:
        job = _job(session, optimizer_state)
        async with session.system() as sdk:
            rounds = await noop_round.measure(sdk, job)
        workers = system.cores()
        shares = [
            100 * (1 - completed.trained_s / (workers * period))
            for completed, period in zip(rounds.completed, rounds.periods_s, strict=True)
        ]
        facts = {
            "workers": workers,
            "round_s": [round(period, 3) for period in rounds.periods_s],
            "phases_ms": {name: round(1000 * rounds.phase_s(name), 1) for name in noop_round.PHASES},
            "cpu_ms": {role: round(1000 * used, 1) for role, used in rounds.cpu_s.items()},
        }
        return {name: Found(shares, facts=facts)}

    return measure


def _job(session: Session, optimizer_state: str) -> Job:
    sets = (f"training.optimizer_state={optimizer_state}", f"stop.rounds={noop_round.WARM_UP + session.rounds}")
    if session.is_small:
        return configs.read_job("quickstart", (*sets, "data.clients=3", "cohort.clients=3"))
    if not os.environ.get(DATA):
        raise NotMeasured(f"{DATA} is not set: the folder with MNIST's files")
    return configs.read_job("mnist-nn", (*sets, "stop.target_accuracy=1.0"))


def loop(name: str, model: str) -> Measure:
    """Return what measures our training loop beside the best plain one, in steps per second.

    Args:
        name: name of the bar.
        model: `nn` or `cnn`.
    """

    async def measure(session: Session) -> dict[str, Found]:
        rounds, epochs, warm_up = (1, 1, 0) if session.is_small else (session.rounds, 5, 2)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.training_loop", "--model", model),
            *("--rounds", str(rounds), "--epochs", str(epochs), "--warm-up", str(warm_up)),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(LOOP_S):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise RuntimeError(f"benchmarks.training_loop has ended with {process.returncode}")
        found = json.loads(out)
        return {name: Found(found["ours"], found["plain"], f"plain torch, Adam {found['fastest']}")}

    return measure

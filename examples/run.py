"""Runs examples on a whole system on this machine: a broker, the server and two workers, all of them processes.

    python -m examples.run [NAME ...]

An example is a folder here. It passes if its model has made at least nine tenths of the way from what the trivial
predictor reaches to what the same training reaches on one machine that holds all of the data.
"""

import asyncio
import importlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from broker.messages.job import Job
from broker.messages.progress import JobCompleted, RoundCompleted
from broker.messages.register import ClientRecord
from broker.support import logs
from client_fn.code import named
from fedkeeper import configs, connect
from fedkeeper.display.sentences import sentence
from fedkeeper.options import Reveal
from fedkeeper.services import site_settings, system
from fedkeeper.services.system import Settings

LIGHT: Final = ("diabetes", "tags", "texts", "scanners", "shapes", "linear")
"""They need only what FedKeeper's own tests need."""

HEAVY: Final = ("speech", "finetune", "lora", "trainer", "lightning")
"""They need libraries of `requirements-examples.lock`."""

_HERE: Final = Path(__file__).parent
_DATA: Final = "/data/"
"""Stands in the job files for the folder that `make_data.py` writes."""

_ENOUGH: Final = 0.9
_WORKERS: Final = 2
_SMOKE_ROUNDS: Final = 3


@dataclass(frozen=True)
class Outcome:
    """What an example has reached.

    Attributes:
        name: the example's name.
        lines: lines of the user's code.
        seconds: time of the whole federated run, with the start of the system.
        metric: name of the metric.
        reached: its value for the federated model.
        centralised: its value for the model that was trained on one machine.
        trivial: its value for the trivial predictor.
        update: bytes of an update, as a share of the model's.
        largest_update: the largest that `update` may be.
    """

    name: str
    lines: int
    seconds: float
    metric: str
    reached: float
    centralised: float
    trivial: float
    update: float
    largest_update: float

    @property
    def passes(self) -> bool:
        """Whether the example has learned enough, by updates that are small enough."""
        way = (self.reached - self.trivial) / (self.centralised - self.trivial)
        return way >= _ENOUGH and self.update <= self.largest_update

    def __str__(self) -> str:
        values = f"{self.metric:9} {self.reached:9.3f} {self.centralised:12.3f} {self.trivial:8.3f} {self.update:7.1%}"
        return f"{self.name:10} {self.lines:5} {self.seconds:8.1f}  {values}  {'' if self.passes else 'FAILS'}"


HEADER: Final = "example    lines  seconds  metric    federated  centralised  trivial  update"


async def run(name: str, folder: Path) -> Outcome:
    """Make an example's data, train on it, and compare.

    Args:
        name: the example's name.
        folder: an empty folder.
    """
    plain = _prepare(name, folder)
    started_s = time.monotonic()
    completed, last, size = await _train(name, folder)
    return Outcome(
        name,
        _lines(_HERE / name / "learn.py"),
        time.monotonic() - started_s,
        plain.METRIC,
        completed.metrics[plain.METRIC],
        plain.centralised(folder / "data"),
        plain.trivial(folder / "data"),
        last.bytes_in / len(last.counted) / size,
        getattr(plain, "LARGEST_UPDATE", float("inf")),
    )


async def smoke(name: str, folder: Path) -> tuple[float, float]:
    """Train on an example for few rounds; return what the model has reached, and what the trivial predictor reaches.

    Args:
        name: the example's name.
        folder: an empty folder.
    """
    plain = _prepare(name, folder)
    completed, _, _ = await _train(name, folder, f"stop.rounds={_SMOKE_ROUNDS}")
    return completed.metrics[plain.METRIC], plain.trivial(folder / "data")


def _prepare(name: str, folder: Path) -> Any:
    """Make an example's data, and return what it is compared with."""
    data = folder / "data"
    data.mkdir()
    if (_HERE / name / "make_data.py").exists():
        importlib.import_module(f"examples.{name}.make_data").make(data)
    return importlib.import_module(f"examples.{name}.plain")


async def _train(name: str, folder: Path, *overrides: str) -> tuple[JobCompleted, RoundCompleted, int]:
    """Return the last events of an example's job and of its rounds, and the bytes of its model."""
    job = _read(name, folder / "data", *overrides)
    site = site_settings.with_own_code(
        site_settings.read(os.environ, reveal=Reveal.TEXT), named.of_job(job).types, _HERE / name
    )
    site = site_settings.prepare(site, folder, trainers=_WORKERS + 1, environ=os.environ)
    async with (
        system.whole_system(Settings(folder, _WORKERS, site=site), store=folder / "broker") as url,
        connect(url) as sdk,
    ):
        await sdk.register(_clients(job, folder / "data"))
        job_id = await sdk.submit(job, timeout_s=60)
        async for progress in sdk.watch(job_id):
            match progress.event:
                case RoundCompleted():
                    last_round = progress.event
                case JobCompleted():
                    return progress.event, last_round, len(await sdk.model(job_id))
    raise RuntimeError(f"{name}: {sentence(progress.event)}")


def _read(name: str, data: Path, *overrides: str) -> Job:
    """Return an example's job, with the paths of its files in the folder of the data."""
    file = _HERE / name / "job.toml"
    job = configs.read_job(str(file))
    files = {"evaluation.data": job.evaluation.data, "model.from": job.model.start}
    paths = [f"{field}={value.replace(_DATA, f'{data}/')}" for field, value in files.items() if value]
    return configs.read_job(str(file), (*paths, *overrides))


def _clients(job: Job, data: Path) -> list[ClientRecord]:
    """Return the register's entries of the shards in a folder."""
    files = [file for file in sorted(data.iterdir()) if file.is_file() and file.stem != "test"]
    labels = {"data": job.data.dataset}
    return [ClientRecord(id=file.stem, platform="local", data_loc=str(file), labels=labels) for file in files]


def _lines(file: Path) -> int:
    """Return how many lines of code a file has, without empty ones, comments and docstrings; 0: there is no file."""
    lines = file.read_text().split("\n") if file.exists() else []
    return sum(bool(line.strip()) and not line.lstrip().startswith(("#", '"""')) for line in lines)


def main() -> None:
    """Run the named examples, or all, and print a table. Exit with 1 if one fails."""
    logs.configure(quiet=True)
    print(HEADER, flush=True)
    has_failed = False
    for name in sys.argv[1:] or (*LIGHT, *HEAVY):
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
            outcome = asyncio.run(run(name, Path(folder)))
        print(outcome, flush=True)
        has_failed |= not outcome.passes
    sys.exit(has_failed)


if __name__ == "__main__":
    main()

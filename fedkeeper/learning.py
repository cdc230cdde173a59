"""Builds and evaluates models for the server, in trainers: the user's code never runs in the server's process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import structlog
from msgspec import Meta

from broker.messages import metrics, tensors
from broker.messages.errors import BadTensors
from broker.messages.job import Job
from broker.messages.job_sections import PIXELS
from broker.messages.round import seed
from client_fn.data import datasets, places, sources
from client_fn.data.shard_cache import ShardCache
from client_fn.errors import ClientError, DataMissing, LimitExceeded, TrainerDied
from client_fn.site import Site
from client_fn.trainer.shared import SharedBytes
from client_fn.trainer.trainers import Trainers, open_trainers
from client_fn.training import orders
from server.errors import LearningDied, LearningFailed
from server.learning import EvaluationResult, InitialModel

log = structlog.get_logger(__name__)

MetricName = Annotated[str, Meta(pattern=f"^{metrics.NAME.pattern}$")]


class _BuildFacts(msgspec.Struct, frozen=True):
    """A trainer's facts about a model. The user's code may have made anything of them, so they are checked."""

    frozen: tuple[str, ...]
    buffers: tuple[str, ...]


class _EvaluationFacts(msgspec.Struct, frozen=True):
    """A trainer's facts about an evaluation, which are checked for the same reason."""

    samples: Annotated[int, Meta(ge=1)]
    accuracy: Annotated[float, Meta(ge=0, le=1)] | None = None
    loss: float | None = None
    metrics: Annotated[dict[MetricName, float], Meta(max_length=100)] = {}


class TrainerLearning:
    """Implements `server.learning.Learning` with trainers, the built-in datasets and test sets at any place.

    Args:
        site: the server's own settings.
        trainers: build and evaluate.
        data_dir: folder of the datasets' files; None: the default of `client_fn.data.datasets`.
    """

    def __init__(self, site: Site, trainers: Trainers, data_dir: Path | None) -> None:
        self._site = site
        self._trainers = trainers
        self._data_dir = data_dir
        self._test_sets: dict[str, asyncio.Task[SharedBytes]] = {}
        self._shards = ShardCache(site)

    async def initial_model(self, job: Job) -> InitialModel:
        """Implements `Learning.initial_model`. Also loads the test set, so that a missing one fails the job at once."""
        with self._mapped_errors(job):
            code = await self._trainers.current_code(job.model)
            if job.test_data:
                await self._test_set(job)
            model = msgspec.structs.replace(job.model, code=code)
            order = orders.Build(orders.Model(model.type, model.args), seed(job.seed, "model"))
            answer = await self._trainers.do(model, order, {})
            weights, _ = tensors.decode(answer.files.get("weights", b""))
            facts = msgspec.convert(answer.facts, _BuildFacts)
        return InitialModel(weights, facts.frozen, facts.buffers, code)

    async def evaluate(self, job: Job, weights: bytes) -> EvaluationResult:
        """Implements `Learning.evaluate`: all that the job measures, on its test set."""
        with self._mapped_errors(job):
            inputs = {"weights": SharedBytes(weights), "samples": await self._test_set(job)}
            order = orders.Evaluate(orders.Model(job.model.type, job.model.args), job.evaluation.batch_size)
            answer = await self._trainers.do(job.model, order, inputs)
            facts = msgspec.convert(answer.facts, _EvaluationFacts)
        return EvaluationResult(facts.accuracy, facts.loss, facts.samples, facts.metrics)

    async def read_model(self, url: str) -> bytes:
        """Implements `Learning.read_model`."""
        with self._named_errors("model.from", url):
            return await asyncio.to_thread(_read, url, self._site)

    async def _test_set(self, job: Job) -> SharedBytes:
        name = job.test_data
        if name not in PIXELS:
            with self._named_errors("evaluation.data", name):
                return (await asyncio.to_thread(self._shards.read, name)).memory
        if name not in self._test_sets:
            loading = asyncio.to_thread(_load_test_set, name, self._data_dir)
            self._test_sets[name] = asyncio.create_task(loading, name=f"test set {name}")
        try:
            return await asyncio.shield(self._test_sets[name])
        except ClientError:
            # The data may be there when the next job asks.
            self._test_sets.pop(name, None)
            raise

    @contextlib.contextmanager
    def _named_errors(self, field: str, url: str) -> Iterator[None]:
        """Name the field of the job in errors about the file that it names."""
        try:
            yield
        except ClientError as exc:
            reveal = self._site.reveal == "text"
            reason = "no file lies there" if isinstance(exc, DataMissing) else exc.message(reveal=reveal)
            raise LearningFailed(f"{field} = {places.show(url)!r}: {reason}, as the server sees it") from exc

    @contextlib.contextmanager
    def _mapped_errors(self, job: Job) -> Iterator[None]:
        try:
            yield
        except LimitExceeded as exc:
            raise LearningFailed(self._message(exc, job)) from exc
        except TrainerDied as exc:
            raise LearningDied(self._message(exc, job)) from exc
        except ClientError as exc:
            raise LearningFailed(self._message(exc, job)) from exc
        except (BadTensors, msgspec.ValidationError) as exc:
            raise LearningFailed(f"model {job.model.type!r}: {exc}") from exc

    def _message(self, exc: ClientError, job: Job) -> str:
        log.warning("the model can't be used", model=job.model.type, error=str(exc))
        return exc.message(reveal=self._site.reveal == "text")


@contextlib.asynccontextmanager
async def open_learning(site: Site, data_dir: Path | None) -> AsyncIterator[TrainerLearning]:
    """Open what builds and evaluates the server's models; its processes end with the block.

    Args:
        site: the server's own settings.
        data_dir: folder of the datasets' files; None: the default of `client_fn.data.datasets`.
    """
    async with open_trainers(site, to_train=False) as trainers:
        yield TrainerLearning(site, trainers, data_dir)


def _read(url: str, site: Site) -> bytes:
    place = places.allowed(url, site)
    with sources.map_errors(place):
        content, _ = sources.fetch(sources.at(place, site), place, site)
    return bytes(content)


def _load_test_set(name: str, data_dir: Path | None) -> SharedBytes:
    x, y = datasets.load_test(name, data_dir=data_dir)
    return SharedBytes(tensors.encode({"x": x, "y": y}))

"""Builds and evaluates models for the server, in trainers: the user's code never runs in the server's process."""

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncIterator, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from broker.messages import metrics, tensors
from broker.messages.errors import BadTensors
from broker.messages.job import Job
from broker.messages.job_sections import PIXELS
from broker.messages.round import seed
from broker.messages.tensors import Tensors
from broker.support import loggers
from client_fn.code import named
from client_fn.data import datasets, places, sources
from client_fn.data.shard_cache import ShardCache
from client_fn.errors import ClientError, DataMissing, LimitExceeded, TrainerDied
from client_fn.site import Site
from client_fn.trainer import settings, shared
from client_fn.trainer.shared import SharedBytes
from client_fn.trainer.trainers import Trainers, open_trainers
from client_fn.training import orders
from server.errors import LearningDied, LearningFailed
from server.learning import EvaluationResult, InitialModel

log = loggers.get_logger(__name__)

_MetricName = Annotated[str, Meta(pattern=f"^{metrics.NAME.pattern}$")]
_Metrics = Annotated[dict[_MetricName, float], Meta(max_length=100)]


class _BuildFacts(msgspec.Struct, frozen=True):
    """A trainer's facts about a model. The user's code may have made anything of them, so they are checked."""

    frozen: tuple[str, ...]
    buffers: tuple[str, ...]
    personal: tuple[str, ...] = ()


class _EvaluateFacts(msgspec.Struct, frozen=True):
    """A trainer's facts about an evaluation, which are checked too."""

    samples: Annotated[int, Meta(ge=1)]
    metrics: _Metrics


class _ScoreFacts(msgspec.Struct, frozen=True):
    """A trainer's facts about metrics of sums, which are checked too."""

    metrics: _Metrics


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
            names = named.of_job(job)
            code = await self._trainers.current_code(names)
            inputs, source = await self._test_set(job) if job.test_data else ({}, orders.Source())
            order = orders.Build(
                settings.model(job.model),
                seed(job.seed, "model"),
                settings.learner(job.learner),
                settings.training(job.training),
                settings.evaluation(job.evaluation),
                job.model.personal,
                source,
            )
            answer = await self._trainers.do(names._replace(code=code), order, inputs)
            weights, _ = tensors.decode(answer.files.get("weights", b""))
            facts = msgspec.convert(answer.facts, _BuildFacts)
            _check_personal(job, facts, weights)
        return InitialModel(weights, facts.frozen, facts.buffers, code, facts.personal)

    async def evaluate(self, job: Job, weights: bytes) -> EvaluationResult:
        """Implements `Learning.evaluate`: the loss and the job's metrics on its test set."""
        with self._mapped_errors(job):
            inputs, source = await self._test_set(job)
            order = orders.Evaluate(
                settings.model(job.model),
                settings.evaluation(job.evaluation),
                settings.learner(job.learner),
                settings.training(job.training),
                self._site.device or "cpu",
                source=source,
            )
            inputs["weights"] = SharedBytes(weights)
            answer = await self._trainers.do(named.of_job(job), order, inputs)
            facts = msgspec.convert(answer.facts, _EvaluateFacts)
            found = facts.metrics
            return EvaluationResult(found.get("accuracy"), found.get("loss"), facts.samples, found)

    async def score(self, job: Job, sums: Tensors) -> dict[str, float]:
        """Implements `Learning.score`."""
        with self._mapped_errors(job):
            order = orders.Score(
                settings.model(job.model),
                settings.evaluation(job.evaluation),
                settings.learner(job.learner),
                settings.training(job.training),
            )
            answer = await self._trainers.do(named.of_job(job), order, {"sums": SharedBytes(tensors.encode(sums))})
            facts = msgspec.convert(answer.facts, _ScoreFacts)
            return {name: value for name, value in facts.metrics.items() if math.isfinite(value)}

    async def export(self, job: Job, weights: bytes, form: Literal["onnx", "state_dict"], frozen_digest: str) -> bytes:
        """Return a model in a form for other programs.

        Args:
            job: names the model, and for ONNX the test set with an example of its input.
            weights: the model, a safetensors file.
            form: ONNX, or a `state_dict` as `torch.save` writes it.
            frozen_digest: digest of the tensors that each site makes itself; empty: there are none.

        Raises:
            LearningFailed: the model's class or the data can't be used, or ONNX can't express the model.
            LearningDied: the process ended.
        """
        with self._mapped_errors(job, is_logged=False):
            has_data = form == "onnx" and job.test_data
            inputs, source = await self._test_set(job) if has_data else ({}, orders.Source())
            order = orders.Export(
                settings.model(job.model),
                form,
                settings.learner(job.learner),
                settings.training(job.training),
                settings.evaluation(job.evaluation),
                source,
                model_seed=seed(job.seed, "model"),
                personal=job.model.personal,
                frozen_digest=frozen_digest,
            )
            inputs["weights"] = SharedBytes(weights)
            answer = await self._trainers.do(named.of_job(job), order, inputs)
            return answer.files.get("export", b"")

    async def read_model(self, url: str) -> bytes:
        """Implements `Learning.read_model`."""
        with self._named_errors("model.from", url):
            return await asyncio.to_thread(_read, url, self._site)

    async def _test_set(self, job: Job) -> tuple[dict[str, SharedBytes], orders.Source]:
        """Return the job's test set as an order's input and source."""
        name = job.test_data
        if name in PIXELS:
            return {orders.SHARD: await self._built_in(name)}, orders.Source()
        with self._named_errors("evaluation.data", name):
            shard = await asyncio.to_thread(self._shards.read, name, job.data.format)
        inputs = {} if shard.memory is None else {orders.SHARD: shard.memory}
        return inputs, settings.source(job.data, shard)

    async def _built_in(self, name: str) -> SharedBytes:
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
            message = exc.message(reveal=self._site.reveal == "text")
            # The message names the path that the server has found.
            reason = "no file lies there" if isinstance(exc, DataMissing) else re.sub(r"^shard .*?: ", "", message)
            raise LearningFailed(f"{field} = {places.show(url)!r}, read by the server: {reason}") from exc

    @contextlib.contextmanager
    def _mapped_errors(self, job: Job, *, is_logged: bool = True) -> Iterator[None]:
        """Raise errors of trainers as errors of the server's.

        Args:
            job: the job.
            is_logged: whether they are logged: others than the operator may be told less.
        """
        try:
            yield
        except ClientError as exc:
            if is_logged:
                log.warning("the model can't be used", model=job.model.type, error=str(exc))
            has_died = isinstance(exc, TrainerDied) and not isinstance(exc, LimitExceeded)
            kind = LearningDied if has_died else LearningFailed
            raise kind(exc.message(reveal=self._site.reveal == "text")) from exc
        except (BadTensors, msgspec.ValidationError) as exc:
            raise LearningFailed(f"model {job.model.type!r}: {exc}") from exc


@contextlib.asynccontextmanager
async def open_learning(site: Site, data_dir: Path | None) -> AsyncIterator[TrainerLearning]:
    """Open what builds and evaluates the server's models; its processes end with the block.

    Args:
        site: the server's own settings.
        data_dir: folder of the datasets' files; None: the default of `client_fn.data.datasets`.
    """
    async with open_trainers(site) as trainers:
        yield TrainerLearning(site, trainers, data_dir)


def _read(url: str, site: Site) -> bytes:
    place = places.allowed(url, site)
    with sources.map_errors(place):
        fetched = sources.fetch(sources.at(place, site), place, site, b"")
    return shared.read(fetched.memory.descriptor, fetched.memory.size)


def _check_personal(job: Job, facts: _BuildFacts, weights: Tensors) -> None:
    """Check that the initial model holds no personal tensor.

    Raises:
        BadTensors: it does, or the trainer has not told which ones there are.
    """
    patterns = job.model.personal
    if [name for name in weights if any(fnmatchcase(name, pattern) for pattern in patterns)]:
        raise BadTensors("the trainer's answer holds tensors that model.personal keeps at the clients")
    if bool(patterns) != bool(facts.personal):
        raise BadTensors("the trainer's answer names other personal tensors than model.personal asks for")


def _load_test_set(name: str, data_dir: Path | None) -> SharedBytes:
    x, y = datasets.load_test(name, data_dir=data_dir)
    return SharedBytes(tensors.encode({"x": x, "y": y}))

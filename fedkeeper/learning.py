"""Builds and evaluates models for the server, in trainers: the user's code never runs in the server's process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import structlog

from broker.messages import tensors
from broker.messages.errors import BadTensors
from broker.messages.job import Job
from broker.messages.round import seed
from client_fn.data import datasets
from client_fn.errors import ClientError, LimitExceeded, TrainerDied
from client_fn.site import Site
from client_fn.trainer.shared import SharedBytes
from client_fn.trainer.trainers import Trainers, open_trainers
from client_fn.training import orders
from server.errors import LearningDied, LearningFailed
from server.learning import EvaluationResult, InitialModel

log = structlog.get_logger(__name__)


class _BuildFacts(msgspec.Struct, frozen=True):
    """A trainer's facts about a model. The user's code may have made anything of them, so they are checked."""

    frozen: tuple[str, ...]
    buffers: tuple[str, ...]


class TrainerLearning:
    """Implements `server.learning.Learning` with trainers and the built-in datasets.

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

    async def initial_model(self, job: Job) -> InitialModel:
        """Implements `Learning.initial_model`. Also loads the test set, so that a missing dataset fails the job."""
        with self._mapped_errors(job):
            code = await self._trainers.current_code(job.model)
            if job.evaluation.every:
                await self._test_set(job.data.dataset)
            model = msgspec.structs.replace(job.model, code=code)
            order = orders.Build(orders.Model(model.type, model.args), seed(job.seed, "model"))
            answer = await self._trainers.do(model, order, {})
            weights, _ = tensors.decode(answer.files.get("weights", b""))
            facts = msgspec.convert(answer.facts, _BuildFacts)
        return InitialModel(weights, facts.frozen, facts.buffers, code)

    async def evaluate(self, job: Job, weights: bytes) -> EvaluationResult:
        """Implements `Learning.evaluate`: accuracy and loss on the dataset's test set."""
        with self._mapped_errors(job):
            inputs = {"weights": SharedBytes(weights), "samples": await self._test_set(job.data.dataset)}
            order = orders.Evaluate(orders.Model(job.model.type, job.model.args), job.evaluation.batch_size)
            answer = await self._trainers.do(job.model, order, inputs)
            return msgspec.convert(answer.facts, EvaluationResult)

    async def _test_set(self, name: str) -> SharedBytes:
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


def _load_test_set(name: str, data_dir: Path | None) -> SharedBytes:
    x, y = datasets.load_test(name, data_dir=data_dir)
    return SharedBytes(tensors.encode({"x": x, "y": y}))

"""What a learner's `fit` and `evaluate` are told about the round, and what they get help with."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from client_fn.errors import LeaseOver, TrainingFailed
from client_fn.training import batches, optimizer_states, optimizers
from client_fn.training.batches import Batch, Data, Samples
from client_fn.training.optimizer_states import NotStorable
from client_fn.training.orders import OPTIMIZER, Training
from client_fn.training.packets import Content

if TYPE_CHECKING:
    from client_fn.training.learner import Learner

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Context:
    """A round's facts for a learner, and help with its loop.

    Attributes:
        epochs: how often the data is to be used.
        batch_size: samples per step.
        learning_rate: the round's, as the job's schedule says.
        seed: for this client's random numbers in this round, below 2^32. torch, numpy and `random` are seeded already.
        device: where the model is. `batches` puts its batches there.
        round: number of the round, from 1.
        training: the job's settings.
        reported: what `report` was told.
        batch: the last one of `batches`.
        size: number of samples in it.
        seen: number of samples that the present or last epoch has yielded.
    """

    def __init__(
        self,
        learner: "Learner",
        model: Any,
        training: Training,
        *,
        seed: int = 0,
        device: str = "cpu",
        round_: int = 1,
        end_s: float | None = None,
        say: Callable[[str], None] | None = None,
        states: Mapping[str, Content] | None = None,
    ) -> None:
        """Make a context. The trainer does that.

        Args:
            learner: makes the optimizer.
            model: what it trains.
            training: the job's settings.
            seed: for the order of the samples.
            device: torch's name of the device.
            round_: number of the round.
            end_s: the task's deadline, by `time.monotonic`; None: there is none.
            say: told `alive` before each batch; an error that it raises ends the training.
            states: stored states of the client's optimizers, by the files' names.
        """
        self.epochs = training.local_epochs
        self.batch_size = training.batch_size
        # The most that numpy, scikit-learn and Hugging Face take.
        self.seed = seed % 2**32
        self.device = torch.device(device)
        self.round = round_
        self.training = training
        self.reported: dict[str, float] = {}
        self.batch: Batch = None
        self.size = 0
        self.seen = 0
        self._learner = learner
        self._model = model
        self._end_s = end_s
        self._say = say
        self._states = (states or {}) if training.optimizer_state == "carry" else {}
        self._optimizers: list[Optimizer] = []
        self._shuffle = torch.Generator().manual_seed(seed)
        self._path: Path | None = None
        self._labels: tuple[Samples, Tensor] | None = None
        self._dtype = _dtype(model)

    @property
    def learning_rate(self) -> float:
        """The learning rate that the job asks for in this round."""
        rate = self.training.rate
        return optimizers.default_rate(optimizers.find(self.training.optimizer)) if rate is None else rate

    @property
    def deadline_s(self) -> float:
        """Seconds that are left until the round is over."""
        return float("inf") if self._end_s is None else max(0.0, self._end_s - time.monotonic())

    @property
    def path(self) -> Path:
        """A folder for files that are not needed after this task, such as a library's checkpoints."""
        if self._path is None:
            self._path = Path(tempfile.mkdtemp(prefix=_scratch(os.getpid())))
        return self._path

    def report(self, **numbers: float) -> None:
        """Say how far the training is. The last value of each name becomes a metric of the client's.

        A loop that does not use `batches` calls this, or `before_batch`, often: after a long silence it is ended.

        Args:
            numbers: finite numbers by name.
        """
        self.before_batch()
        self.reported.update({name: float(value) for name, value in numbers.items()})

    def before_batch(self) -> None:
        """Say that the training goes on. It ends here if the round is over.

        Raises:
            LeaseOver: the round is over.
        """
        if self._end_s is not None and time.monotonic() > self._end_s:
            raise LeaseOver("", 0.0)
        if self._say is not None:
            self._say("alive")

    def batches(self, data: Any) -> Iterator[Batch]:
        """Yield the batches of one epoch in the job's order, on the device, inputs in the model's dtype.

        Args:
            data: what the learner's `data` has returned.

        Raises:
            TrainingFailed: there are no samples.
        """
        samples = batches.of(data, self._learner.collate)
        is_placed = batches.are_placed(samples, self.device, self._dtype)
        self.seen = 0
        for batch, count in self._drawn(samples):
            self.batch = batch if is_placed else batches.place(batch, self.device, self._dtype)
            self.size = count or batches.size(self.batch)
            self.seen += self.size
            yield self.batch
        if not self.seen:
            raise TrainingFailed("there are no samples")

    def optimizer(
        self, of: nn.Module | Iterable[Any], cls: Callable[..., Optimizer] | None = None, **args: Any
    ) -> Optimizer:
        """Return an optimizer that continues from the client's last counted round, as the job says.

        Args:
            of: the model, parameters, or groups of parameters as torch's optimizers take them.
            cls: its class; None: the learner's `optimizer`, which is the job's by default.
            args: further arguments.

        Raises:
            TrainingFailed: there is nothing to train, or the stored state does not fit.
        """
        made = self._make_optimizer(of, cls, args)
        state = self._states.get(self._state_name(len(self._optimizers)))
        if state is not None:
            optimizer_states.load(made, state)
        self._optimizers.append(made)
        return made

    def optimizer_files(self) -> tuple[dict[str, bytes], bool]:
        """Return the optimizers' states as files by name, and whether the next round starts with a fresh optimizer."""
        if self.training.optimizer_state != "carry":
            return {}, False
        try:
            states = {self._state_name(i): optimizer_states.to_bytes(o) for i, o in enumerate(self._optimizers)}
        except NotStorable:
            return {}, True
        return {name: state for name, state in states.items() if state is not None}, not self._optimizers

    def steps(self, data: Data) -> int | None:
        """Return the number of optimizer steps of this round; None: it is not known.

        Args:
            data: the samples.
        """
        each = batches.steps(data, self.batch_size, drop_last=self.training.drop_last)
        return None if each is None else each * self.epochs

    @contextlib.contextmanager
    def scratch(self) -> Iterator[None]:
        """Delete the folder `path` at the end of a block."""
        try:
            yield
        finally:
            if self._path is not None:
                shutil.rmtree(self._path, ignore_errors=True)

    def _drawn(self, samples: Data) -> Iterator[tuple[Batch, int]]:
        """Yield each batch, and its number of samples where that is known; else 0."""
        if isinstance(samples, batches.Ready):
            for batch in samples.batches:
                self.before_batch()
                yield batch, 0
            return
        is_counted = isinstance(samples, batches.TensorSamples)
        for part in self.parts(samples):
            self.before_batch()
            yield samples.batch(part), len(part) if is_counted else 0

    def parts(self, samples: Samples) -> tuple[Tensor, ...]:
        """Return the numbers of the samples of each batch of one epoch. `batches` makes these batches.

        Args:
            samples: the samples.
        """
        if not len(samples):
            return ()
        training = self.training
        order = batches.indices(len(samples), training.order, self._shuffle, lambda: self._labels_of(samples))
        # One sample has no variance to normalise by.
        skip_single = isinstance(self._model, nn.Module) and any(
            isinstance(part, _BATCH_NORMS) and part.training for part in self._model.modules()
        )
        return batches.split(order, self.batch_size, drop_last=training.drop_last, skip_single=skip_single)

    def _labels_of(self, samples: Samples) -> Tensor:
        """Return the samples' labels, which are looked up once for all epochs."""
        if self._labels is None or self._labels[0] is not samples:
            self._labels = samples, batches.labels_of(samples)
        return self._labels[1]

    def _make_optimizer(self, of: Any, cls: Callable[..., Optimizer] | None, args: Mapping[str, Any]) -> Optimizer:
        if isinstance(of, nn.Module):
            if cls is None and not args:
                return self._learner.optimizer(of)
            of = of.parameters()
        trained = [part for part in of if isinstance(part, dict) or part.requires_grad]
        if not trained:
            raise TrainingFailed("the model has no parameter to train: all are frozen, or there is none")
        if cls is not None:
            return cls(trained, **args)
        training = self.training
        class_ = optimizers.find(training.optimizer)
        return optimizers.construct(class_, trained, training.rate, {**training.optimizer_args, **args})

    @staticmethod
    def _state_name(index: int) -> str:
        return f"{OPTIMIZER}{index + 1}" if index else OPTIMIZER


def delete_scratch(pid: int) -> None:
    """Delete what a process has left of its contexts' folders.

    Args:
        pid: the process, which has ended.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_scratch(pid)}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _scratch(pid: int) -> str:
    return f"fedkeeper-{pid}-"


def _dtype(model: Any) -> torch.dtype | None:
    parameters: Iterable[Tensor] = model.parameters() if isinstance(model, nn.Module) else ()
    return next((parameter.dtype for parameter in parameters if parameter.is_floating_point()), None)

"""The rules of a job about what and how it learns: learner, model, loss, optimizer, overrides."""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Final

from broker.errors import BadTopic
from broker.messages.errors import JobError
from broker.messages.job import Job
from broker.messages.schedule import Constant
from broker.topics import checked_id

LOSSES: Final = ("cross_entropy", "bce_with_logits", "mse", "l1", "huber")
"""The losses that need no function of the user's."""

CLASS: Final = "a class as 'package.module:Name'"
START: Final = "a URL such as 'file:///models/base.safetensors', 'job:<id>' or 'job:<id>@<round>'"

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_TORCH_DEVICE: Final = re.compile(r"[a-z]+(:[0-9]+)?")


def is_path(path: str) -> bool:
    """Whether a text has the form `package.module:name`."""
    module, _, name = path.partition(":")
    return name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def guess(name: str, known: tuple[str, ...]) -> str:
    """Return `did you mean ...? ` for a misspelt name; empty if it is not like any known one.

    Args:
        name: the name.
        known: the names that it could be.
    """
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]!r}? " if close else ""


def _check_model(job: Job) -> None:
    model = job.model
    if not (model.type in ("nn", "cnn") or is_path(model.type)):
        raise JobError("model.type", model.type, "'nn', 'cnn' or a class as 'package.module:Class'")


def _check_code(job: Job) -> None:
    model = job.model
    if model.code and not _DIGEST.fullmatch(model.code):
        raise JobError("model.code", model.code, "a SHA-256 digest: 64 hexadecimal digits")


def _check_pixels(job: Job) -> None:
    model = job.model
    if model.type == "cnn" and job.data.dataset == "digits" and not job.learner.type:
        raise JobError("model.type", "cnn", "'nn' or a class of yours: the digits' 8x8 pixels are too few for 'cnn'")


def _check_start(job: Job) -> None:
    model = job.model
    if model.start and not _is_start(model.start):
        raise JobError("model.from", model.start, START)


def _check_personal(job: Job) -> None:
    model = job.model
    if not all(model.personal):
        raise JobError("model.personal", model.personal, "names of tensors, with * for any text; none is empty")
    if model.personal and job.evaluation.data:
        remedy = "set evaluation.holdout instead: a job with model.personal is judged by its clients"
        raise JobError("evaluation.data", job.evaluation.data, remedy)


def _is_start(text: str) -> bool:
    if not text.startswith("job:"):
        scheme, separator, rest = text.partition("://")
        return bool(separator and scheme.isalnum() and rest)
    job, at, round_ = text.removeprefix("job:").partition("@")
    try:
        checked_id(job)
    except BadTopic:
        return False
    return round_.isdecimal() if at else True


def _check_optimizer(job: Job) -> None:
    training = job.training
    if not training.optimizer.isidentifier():
        raise JobError("training.optimizer", training.optimizer, "the name of a class of torch.optim, such as 'adamw'")


def _check_scheduler(job: Job) -> None:
    training = job.training
    if training.scheduler and not training.scheduler.isidentifier():
        allowed = "the name of a class of torch.optim.lr_scheduler, such as 'OneCycleLR'"
        raise JobError("training.scheduler", training.scheduler, allowed)
    if training.scheduler_args and not training.scheduler:
        raise JobError("training.scheduler_args", training.scheduler_args, "needs training.scheduler")


def _check_loss(job: Job) -> None:
    training = job.training
    if training.loss not in LOSSES and not is_path(training.loss):
        choices = f"one of {', '.join(LOSSES)}, or a function of yours as 'package.module:function'"
        raise JobError("training.loss", training.loss, f"{guess(training.loss, LOSSES)}expected {choices}")


def _check_schedule(job: Job) -> None:
    training = job.training
    if training.schedule != Constant() and training.rate is None:
        raise JobError("training.schedule", type(training.schedule).__name__.lower(), "needs training.learning_rate")


def _check_training_device(job: Job) -> None:
    _check_device("training.device", job.training.device)


def _check_learner(job: Job) -> None:
    if job.learner.type and not is_path(job.learner.type):
        raise JobError("learner.type", job.learner.type, CLASS)


def _check_where(job: Job) -> None:
    _check_labels("cohort.where", job.cohort.where)


def _check_overrides(job: Job) -> None:
    for i, override in enumerate(job.override):
        _check_labels(f"override[{i}].where", override.where)
        _check_device(f"override[{i}].device", override.device or "")
        changed = override.batch_size, override.local_epochs, override.learning_rate, override.device
        if all(value is None for value in changed):
            raise JobError(
                f"override[{i}]", None, "changes nothing: set batch_size, local_epochs, learning_rate or device"
            )


def _check_device(field: str, device: str) -> None:
    if device and not _TORCH_DEVICE.fullmatch(device):
        raise JobError(field, device, "a device as torch names it, such as 'cuda' or 'cuda:1'")


def _check_labels(field: str, where: Mapping[str, str]) -> None:
    if "" in where:
        raise JobError(field, dict(where), "labels by name, as the register has them, such as {site = 'north'}")


RULES: Final[tuple[Callable[[Job], None], ...]] = (
    _check_model,
    _check_code,
    _check_pixels,
    _check_start,
    _check_personal,
    _check_learner,
    _check_optimizer,
    _check_scheduler,
    _check_loss,
    _check_schedule,
    _check_training_device,
    _check_where,
    _check_overrides,
)
"""Functions that raise `JobError` if a job breaks a rule."""

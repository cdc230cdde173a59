"""How a member of a cohort trains: the job's settings, those of the client's overrides, and the round's rate. Pure."""

from typing import Any, Final

import msgspec

from broker.messages.job import Job
from broker.messages.job_record import JobRecord, Member
from broker.messages.job_sections import Training
from server import labels

_OVERRIDDEN: Final = ("batch_size", "local_epochs", "learning_rate", "device")


def training_of(member: Member, record: JobRecord) -> Training:
    """Return how a member of the open round trains; the job's own settings where nothing changes them.

    Args:
        member: the member of the cohort.
        record: the job's record.
    """
    training = msgspec.structs.replace(record.job.training, **_overrides(member, record.job))
    factor = training.schedule.factor(record.done, record.job.stop.rounds)
    if factor == 1.0 or training.rate is None:
        return training
    return msgspec.structs.replace(training, learning_rate=training.rate * factor)


def _overrides(member: Member, job: Job) -> dict[str, Any]:
    matching = [override for override in job.override if labels.matches(override.where, member)]
    settings = ((name, getattr(override, name)) for override in matching for name in _OVERRIDDEN)
    return {name: value for name, value in settings if value is not None}

"""A round's task as tests need it."""

from typing import Any, Final

from broker.messages.job_sections import Model, Training
from broker.messages.round import BlobRef, RoundTask

FAR: Final = 4e9
"""A deadline that no test sees, in seconds since the epoch."""


def task(
    client: str = "client-00", platform: str = "fake", *, args: dict[str, Any] | None = None, **changes: Any
) -> RoundTask:
    """A task that nobody trains for; `args` are those of its model, which tell a scripted function what to do."""
    facts: dict[str, Any] = {
        "client_id": client,
        "client_type": platform,
        "url": "",
        "model_configuration": Model(args=args or {}),
        "data_loc": "",
        "training_hyperparameters": Training(),
        "job": "job",
        "round": 1,
        "model": BlobRef(f"fl.models.job.{'ab' * 32}", "ab" * 32, 5),
        "token": "secret-token-of-this-task",
        "seed": 1,
        "deadline_s": FAR,
        "max_attempts": 3,
    }
    return RoundTask(**{**facts, **changes})

"""What a person reads when a job has ended."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from broker.messages.job_record import JobRecord
from fedkeeper.display import measured, processors

WIDTH: Final = 80

_INDENT: Final = " " * len("written to    ")

UNJUDGED = "nobody judged the model: evaluation.data or evaluation.holdout would"
FRESH = (
    "the training made an optimizer of its own in each round, so no optimizer state was carried on: "
    "take it from context.optimizer, or set training.optimizer_state = 'reset'"
)
TOGETHER = (
    "clients were trained together, and an update's bits depend on who was trained beside the client: the same job "
    "may give another digest"
)


def lines(record: JobRecord, rounds: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines about an ended job.

    Args:
        record: the job's record; it has a model.
        rounds: the rows of its metrics.jsonl, at least one.
    """
    last: dict[str, float] = rounds[-1]["client_metrics"]
    trained = measured.training(last)
    found = measured.result(record)
    if not found:
        found = f"training {trained[0]} {measured.format_value(trained[1])}; {UNJUDGED}" if trained else UNJUDGED
    elif record.last is not None and 0 < record.evaluated < record.last.round:
        found += f" in round {record.evaluated}"
    text = ["", f"{record.id}: {record.done} rounds, {found}{_at_clients(record, rounds[-1])}"]
    if last.get(measured.FRESH_OPTIMIZER):
        text.append(f"note: {FRESH}")
    if record.frozen_digest:
        text.append(f"note: {len(record.frozen)} tensors that each site makes itself are not in the model's file")
    model = "" if record.model is None else record.model.sha256
    return [*text, f"model digest  {model}", *_trained_on(record, rounds)]


def written(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the lines about the files that were written, which break only between two names.

    Args:
        folder: the run folder.
        names: the files' names.
    """
    text = [f"written to    {folder}/"]
    line = ""
    for name in names:
        if line and len(f"{line}  {name}") > WIDTH:
            text.append(line)
            line = ""
        line = f"{line}  {name}" if line else _INDENT + name
    return [*text, line] if line else text


def _trained_on(record: JobRecord, rounds: Sequence[dict[str, Any]]) -> list[str]:
    """Say which kinds of processor have trained, and what that means for the digest; nothing if none is known."""
    kinds = processors.describe(record.processors)
    # The digest of a job that was stopped is that of a round which another run need not stop after.
    follows = processors.what_follows(record.processors)
    if any(row["client_metrics"].get(measured.TOGETHER) for row in rounds):
        follows = TOGETHER
    note = [f"note: {follows}"] if record.phase == "completed" else []
    return [f"trained on    {kinds}", *note] if kinds else []


def _at_clients(record: JobRecord, last: dict[str, Any]) -> str:
    """Say how the last model is judged at the clients; empty if it is not."""
    judged = last.get("evaluation_clients")
    if judged is None:
        return ""
    names = (*measured.names(record.job, judged["metrics"]), "loss")
    name = next((name for name in names if name in judged["spread"]), None)
    if name is None:
        return ""
    mean, worst = (measured.format_value(judged["spread"][name][part]) for part in ("mean", "worst_decile"))
    return f"; at {judged['clients']} clients: mean {name} {mean}, worst tenth {worst}"

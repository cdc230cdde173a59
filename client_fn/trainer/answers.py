"""What a trainer answers to an order. It ran the user's code, so nothing of it is believed here."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from client_fn import errors
from client_fn.errors import BadData, BadSettings, LeaseOver, TrainerDied, UserCodeFailed
from client_fn.trainer import shared
from client_fn.trainer.child import close

TEXT_CHARACTERS: Final = 4000

_FAILURES: Final = {"BadModel": errors.BadModel, "TrainingFailed": errors.TrainingFailed}


class Answer(NamedTuple):
    """A child's answer to an order.

    Attributes:
        facts: as `client_fn.training.work` returns them; nothing of them is checked.
        files: safetensors files by name.
    """

    facts: dict[str, Any]
    files: dict[str, bytes]


async def read(files: Mapping[str, int], at_most: int) -> dict[str, bytes]:
    """Return the contents of an answer's files, and close them.

    Args:
        files: descriptors by name.
        at_most: largest accepted size of each in bytes.

    Raises:
        TrainerDied: one can't be read, or is too large.
    """
    if shared.is_quick(files.values()):
        return _read(files, at_most)
    return await asyncio.to_thread(_read, files, at_most)


def facts_of(text: Any) -> dict[str, Any] | None:
    """Return the facts in an answer's text; None: there are none."""
    try:
        facts = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None


def failure_of(facts: Mapping[str, object]) -> errors.ClientError:
    """Return the error in the facts of an answer."""
    texts = {name: str(facts.get(name, ""))[:TEXT_CHARACTERS] for name in ("sentence", "cause", "where", "text")}
    match facts.get("error"):
        case "BadSettings":
            return BadSettings("FEDKEEPER_DEVICE", texts["sentence"].removeprefix("FEDKEEPER_DEVICE: "))
        case "BadData":
            return BadData(texts["sentence"], where=texts["where"], content=texts["text"])
        case "LeaseOver":
            return LeaseOver("", 0.0)
        case error:
            return _FAILURES.get(str(error), UserCodeFailed)(**texts)


def _read(files: Mapping[str, int], at_most: int) -> dict[str, bytes]:
    try:
        return {name: shared.read(descriptor, at_most) for name, descriptor in files.items()}
    except (ValueError, OSError) as exc:
        raise TrainerDied(f"the trainer's answer can't be read: {exc}") from exc
    finally:
        close(files)

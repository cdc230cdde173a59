"""A model's file: the broker's tensors, and beside them, as safetensors metadata, which model it is."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from broker.messages import codec, tensor_header
from broker.messages.errors import BadTensors
from broker.messages.job_record import JobRecord
from fedkeeper.display.units import short_digest
from fedkeeper.errors import FedKeeperError, Missing
from server import models
from server.models import Which

NAME: Final = "model.safetensors"
BEST: Final = "best.safetensors"


def name_of(which: Which) -> str:
    """Return the name of the file of one of a job's models."""
    return {"last": NAME, "best": BEST}.get(str(which), f"round-{which}.safetensors")


def described(model: bytes, record: JobRecord, which: Which = "last") -> bytes:
    """Return a model's file with metadata: job, round, digest, model, data, and the version that wrote it.

    Args:
        model: the safetensors file, as `Client.model` returns it.
        record: the job's record.
        which: which of its models it is.

    Raises:
        NoSuchModel: the job has no such model.
        BadTensors: the file can't be read.
    """
    from fedkeeper import __version__

    job = record.job
    table = {
        "format": "pt",
        "fedkeeper": __version__,
        "job": record.id,
        "round": str(round_of(record, which)),
        "sha256": models.find(record, which).sha256,
        "model": _text({"type": job.model.type, "args": job.model.args}),
        "learner": _text({"type": job.learner.type, "args": job.learner.args}) if job.learner.type else "",
        "data": _text({"dataset": job.data.dataset, "partition": job.data.partition}),
        # The digest is that of the round's tensors, without those that no client trains and which are joined to them.
        "frozen_digest": record.frozen_digest,
        "frozen": _text(list(record.frozen)) if record.frozen_model is not None else "",
    }
    return tensor_header.with_metadata(model, {key: value for key, value in table.items() if value})


def round_of(record: JobRecord, which: Which) -> int:
    """Return the round of one of a job's models; 0: the initial one."""
    if isinstance(which, int):
        return which
    if which == "best":
        return 0 if record.best is None else record.best.round
    return 0 if record.last is None else record.last.round


def verified(path: Path) -> Mapping[str, str]:
    """Return the metadata of a model's file whose tensors have the digest that it names.

    Raises:
        Missing: there is no such file.
        FedKeeperError: it is no file of ours, or its tensors are others.
    """
    # Imported here because it needs numpy, and most commands do not.
    from broker.messages import tensors

    try:
        named, table = tensors.decode(path.read_bytes())
        frozen = set(json.loads(table.get("frozen", "[]")))
    except OSError as exc:
        raise Missing(f"{path} can't be read: {exc.strerror}") from exc
    except (BadTensors, ValueError, TypeError) as exc:
        raise _not_verified(path, f"it is no model's file: {exc}") from exc
    if "sha256" not in table:
        raise _not_verified(path, "it names no digest; FedKeeper has written its files with one since 0.2")
    if not table.get("job") or not table.get("round", "").isdecimal():
        raise _not_verified(path, "it does not name the job and the round that it is of")
    trained = {name: array for name, array in named.items() if name not in frozen}
    digest = hashlib.sha256(tensors.encode(trained)).hexdigest()
    if digest != table["sha256"]:
        expected = short_digest(table["sha256"])
        raise _not_verified(path, f"its tensors have the digest {short_digest(digest)}, and it names {expected}")
    return table


def _not_verified(path: Path, reason: str) -> FedKeeperError:
    return FedKeeperError(f"{path} is not the model that it should be: {reason}")


def _text(value: object) -> str:
    return codec.encode(msgspec.to_builtins(value)).decode()

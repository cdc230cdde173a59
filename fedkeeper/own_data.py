"""The user's own data, split among clients: files, folders and arrays."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from broker.messages.job import Job
from broker.messages.job_sections import PIXELS, Data
from broker.messages.register import ClientRecord
from client_fn.errors import BadData, DataMissing
from fedkeeper.errors import BadOption, NoSuchFile

# Imported where they are used: most commands need no numpy.
if TYPE_CHECKING:
    from client_fn.data.staging import Staged


def name_of(place: Path) -> str:
    """Return a name for data, from that of its file or folder."""
    return re.sub("[^a-z0-9]+", "-", place.resolve().stem.lower()).strip("-")[:32].strip("-") or "data"


@contextlib.contextmanager
def mistakes_of_options() -> Iterator[None]:
    """Raise errors about the data that a command's options name as mistakes in these options.

    Raises:
        NoSuchFile: nothing lies there.
        BadOption: the data can't be read or split in this way, or its shards can't lie there.
        BadData: a shard can't be written now, such as on a full disk.
    """
    try:
        yield
    except DataMissing as exc:
        raise NoSuchFile(str(exc)) from exc
    except BadData as exc:
        if isinstance(exc.__cause__, OSError):
            raise
        raise BadOption(str(exc)) from exc


def stage_file(place: Path, data: Data, to: str, *, platform: str, by: str = "", test: float = 0.0) -> "Staged":
    """Split the data in a file or folder among clients, and write their shards.

    Args:
        place: the file or folder.
        data: how to read and split it; the name of the dataset names the clients too.
        to: folder or fsspec URL for the shards.
        platform: the platform that hosts the clients.
        by: column whose values each make a client; empty: as the data section says.
        test: share of the samples for a test set.

    Raises:
        ClientError: the data can't be read or split, or a shard can't be written.
        BadTopic: the dataset's name can't be a client's.
    """
    from client_fn.data import own, staging

    samples = own.read(place, target=data.target, drop=data.drop, labels=data.labels, by=by, form=data.format)
    return staging.stage(samples, data, to, platform=platform, by=by, test=test)


def stage_arrays(x: Any, y: Any, data: Data, to: str, *, platform: str, test: float) -> "Staged":
    """Split arrays among clients, and write their shards.

    Args:
        x: the samples (N, ...), whatever numpy makes an array of; or several such by name.
        y: labels or targets (N, ...); labels may be texts. None: there are none, or `x` has them.
        data: how to split them; the name of the dataset names the clients too.
        to: folder or fsspec URL for the shards.
        platform: the platform that hosts the clients.
        test: share of the samples for a test set.

    Raises:
        BadData: the arrays can't be used or split, or a shard can't be written.
        BadTopic: the dataset's name can't be a client's.
    """
    import numpy as np

    from client_fn.data import own, staging

    named = {key: np.asarray(part) for key, part in (x if isinstance(x, Mapping) else {"x": x}).items()}
    samples = own.of_arrays(named if y is None else {**named, "y": np.asarray(y)}, labels=data.labels)
    return staging.stage(samples, data, to, platform=platform, test=test)


def prepare_file(job: Job, place: Path, folder: Path, *, test: float) -> tuple[Job, list[ClientRecord]]:
    """Split the data in a file or folder as a job says, and return the job for these shards and their clients.

    Args:
        job: its data section says how to read and split the data; a built-in dataset's name is replaced by the file's.
        place: the file or folder.
        folder: the shards' folder.
        test: share of the samples for a test set, unless the job names one or is not evaluated by the server.

    Raises:
        ClientError: the data can't be read or split, or a shard can't be written.
        BadTopic: the dataset's name can't be a client's.
    """
    data, share = _named(job, name_of(place)), _test_share(job, test)
    return _for_shards(job, stage_file(place, data, str(folder), platform="local", test=share))


def prepare_arrays(job: Job, x: Any, y: Any, folder: Path, *, test: float) -> tuple[Job, list[ClientRecord]]:
    """Split arrays as a job says, and return the job for these shards and their clients.

    Args:
        job: its data section says how to split them; a built-in dataset's name is replaced by `own`.
        x: as in `stage_arrays`.
        y: as in `stage_arrays`.
        folder: the shards' folder.
        test: share of the samples for a test set, unless the job names one or is not evaluated by the server.

    Raises:
        BadData: the arrays can't be used or split, or a shard can't be written.
        BadTopic: the dataset's name can't be a client's.
    """
    data, share = _named(job, "own"), _test_share(job, test)
    return _for_shards(job, stage_arrays(x, y, data, str(folder), platform="local", test=share))


def _named(job: Job, name: str) -> Data:
    """Return a job's data section. Its own data can't have the name of a built-in dataset."""
    return msgspec.structs.replace(job.data, dataset=name) if job.data.dataset in PIXELS else job.data


def _test_share(job: Job, test: float) -> float:
    return test if job.evaluation.every and not job.evaluation.data else 0.0


def _for_shards(job: Job, staged: "Staged") -> tuple[Job, list[ClientRecord]]:
    evaluation = msgspec.structs.replace(job.evaluation, data=staged.test or job.evaluation.data)
    return msgspec.structs.replace(job, data=staged.data, evaluation=evaluation), staged.clients

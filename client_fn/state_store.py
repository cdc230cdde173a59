"""Keeps a client's personal layers at its site: one file for each attempt, below its `state_loc` or beside its data.

A file is `<state_loc>/<job>/<client>/<round>.<attempt>.<digest>.safetensors`, with the first digits of its SHA-256. So
two attempts, or two runs of one, never overwrite each other. A task names the file of the last counted update; whatever
else is of an earlier round will never be named again, and is deleted.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Protocol

from broker.messages import personal, tensor_header
from broker.messages.errors import BadTensors
from broker.messages.round import PersonalRef, RoundTask
from broker.support import files
from broker.topics import checked_id
from client_fn.data import places, sources
from client_fn.data.places import Place
from client_fn.errors import (
    BadData,
    ClientError,
    DataMissing,
    DataNotAllowed,
    DataUnreadable,
    PersonalMissing,
    PersonalNotKept,
    TrainerDied,
)
from client_fn.site import Site
from client_fn.trainer import shared
from client_fn.trainer.answers import Answer
from client_fn.training import orders
from client_fn.training.orders import AUX

UNCOUNTED_KEPT: Final = 4
"""How many files a client keeps of which no update was counted yet, beside those of the current round."""

REMEDY: Final = "register the client with a state_loc, a folder or URL that it may write"

_LOST: Final = "put it back, or register the client under another id, which begins with the initial ones"

_MODE: Final = 0o600
"""Nobody else on the machine needs them."""

_PROBE: Final = "probe"
_DIGITS: Final = 12
_NAME: Final = re.compile(r"\.?(\d+)\.(\d+)\.[0-9a-f]{12}\.safetensors.*")
"""A file's name, or what an interrupted write has left of it."""


class StateStore:
    """The files of one client's personal layers in one job.

    Args:
        task: names the job, the client and the place.
        site: says which places are allowed.

    Raises:
        PersonalNotKept: the site does not allow the place, or there is none that can be written.
    """

    def __init__(self, task: RoundTask, site: Site) -> None:
        self._task = task
        self._site = site
        parent = personal.folder_of(task.data_loc, task.state_loc)
        if not parent:
            loc = task.state_loc or task.data_loc
            reason = "its scheme can't be written" if loc else "the client has no data_loc and no state_loc"
            raise PersonalNotKept(places.show(loc), f"{reason}: {REMEDY}")
        self._url = f"{parent}/{checked_id(task.job)}/{checked_id(task.client_id)}"
        self._place = self._allowed(self._url)

    def check_writable(self) -> None:
        """Write a small file and delete it.

        Raises:
            PersonalNotKept: that is not possible.
        """
        with self._writing(retryable=False):
            folder = _folder_at(self._place)
            folder.write(_PROBE, b"probe")
            folder.delete(_PROBE)

    def read(self) -> bytes:
        """Return the file that the task names, and delete the older ones; empty: the task names none.

        Raises:
            PersonalMissing: it is not there, can't be read, or has another digest.
            PersonalNotKept: the site does not allow the place.
        """
        ref = self._task.personal
        content = b"" if ref is None else self._read(ref)
        self._delete_old(ref)
        return content

    def keep(self, answer: Answer, attempt: int) -> str:
        """Write the personal layers of a trainer's answer, and return their SHA-256 digest.

        Args:
            answer: the answer. It may hold anything, since the user's code ran there.
            attempt: number of the attempt.

        Returns:
            64 hexadecimal digits; empty for a task that does not train.

        Raises:
            TrainerDied: the answer would send a personal tensor, or lacks the file that stays here.
            PersonalNotKept: the file can't be written.
        """
        if self._task.purpose != "train":
            return ""
        _check_answer(self._task.model_configuration.personal, answer)
        content = answer.files[orders.PERSONAL]
        digest = hashlib.sha256(content).hexdigest()
        with self._writing(retryable=True):
            _folder_at(self._place).write(_name(self._task.round, attempt, digest), content)
        return digest

    def _read(self, ref: PersonalRef) -> bytes:
        place = self._allowed(f"{self._url}/{_name(ref.round, ref.attempt, ref.sha256)}")
        try:
            with sources.map_errors(place):
                memory = sources.fetch(sources.at(place, self._site), place, self._site, b"").memory
                content = shared.read(memory.descriptor, memory.size)
        except DataMissing as exc:
            raise PersonalMissing(place.shown, f"the file is not there: {_LOST}", retryable=True) from exc
        except (BadData, DataNotAllowed, DataUnreadable) as exc:
            raise PersonalMissing(place.shown, exc.reason, retryable=exc.retryable) from exc
        digest = hashlib.sha256(content).hexdigest()
        if digest != ref.sha256:
            reason = f"its SHA-256 begins with {digest[:_DIGITS]}, that of the counted one with {ref.sha256[:_DIGITS]}"
            raise PersonalMissing(place.shown, f"{reason}: {_LOST}", retryable=False)
        return content

    def _delete_old(self, named: PersonalRef | None) -> None:
        """Delete the files of earlier rounds that no task will name. If that fails, the next task tries again.

        Without a named one, no update was counted yet: as a precaution, only the oldest are deleted.
        """
        kept = "" if named is None else _name(named.round, named.attempt, named.sha256)
        try:
            with self._writing(retryable=True):
                folder = _folder_at(self._place)
                matches = [match for match in map(_NAME.fullmatch, folder.names()) if match is not None]
                earlier = [match for match in matches if int(match[1]) < self._task.round and match[0] != kept]
                earlier.sort(key=lambda match: (int(match[1]), int(match[2])))
                for match in earlier if named is not None else earlier[:-UNCOUNTED_KEPT]:
                    folder.delete(match[0])
        except PersonalNotKept as exc:
            # Imported here because every cold start would pay for it.
            from broker.support import loggers

            loggers.get_logger(__name__).warning("old personal layers can't be deleted", error=str(exc))

    def _allowed(self, url: str) -> Place:
        try:
            return places.allowed(url, self._site)
        except (DataNotAllowed, BadData) as exc:
            raise PersonalNotKept(exc.where, f"{exc.reason}; {REMEDY}") from exc

    @contextlib.contextmanager
    def _writing(self, *, retryable: bool) -> Iterator[None]:
        """Turn what file systems, fsspec and its backends raise into one error that holds nothing that a peer says."""
        shown = self._place.shown
        try:
            yield
        except ClientError:
            raise
        except ImportError as exc:
            package = sources.PACKAGES.get(self._place.scheme, "the package that fsspec needs for it")
            raise PersonalNotKept(shown, f"this Python can't write there: install {package}") from exc
        except Exception as exc:
            # Backends raise what their libraries raise (botocore, aiohttp ...), often without a common class.
            words = getattr(exc, "strerror", None) if self._place.scheme == "file" else None
            reason = f"this place can't be written ({words or type(exc).__name__}): {REMEDY}"
            raise PersonalNotKept(shown, reason, retryable=retryable) from exc


def prepare(task: RoundTask, site: Site) -> StateStore | None:
    """Return the store of a task whose job has personal layers, before anything is trained; None: the job has none.

    Args:
        task: a task that trains must be able to write there.
        site: says which places are allowed.

    Raises:
        PersonalNotKept: no place can be written.
    """
    if not task.model_configuration.personal:
        return None
    store = StateStore(task, site)
    if task.purpose == "train":
        store.check_writable()
    return store


def _check_answer(patterns: tuple[str, ...], answer: Answer) -> None:
    """Check that a trainer's answer sends no personal tensor. It may hold anything, since the user's code ran there."""
    if not answer.files.get(orders.PERSONAL):
        raise TrainerDied("the trainer's answer holds no personal layers")
    if any(file.startswith(orders.OPTIMIZER) for file in answer.files):
        raise TrainerDied("the trainer's answer would send the state of an optimizer that has seen personal layers")
    for file, content in answer.files.items():
        if file == orders.PERSONAL:
            continue
        try:
            names = tensor_header.read(content, expected=tensor_header.MAX_TENSORS)[0]
        except BadTensors as exc:
            raise TrainerDied(f"the trainer's answer holds no tensors in its file {file!r}: {exc}") from exc
        # `eval.` names numbers of a metric; the strategy's tensors are named after those of the model.
        bare = [name.removeprefix(AUX) for name in names if not name.startswith(("__metadata__", "eval."))]
        if sent := [name for name in bare if any(fnmatchcase(name, pattern) for pattern in patterns)]:
            raise TrainerDied(f"the trainer's answer would send the personal tensors {', '.join(sorted(sent)[:5])}")


class _Folder(Protocol):
    """A folder of small files."""

    def write(self, name: str, content: bytes) -> None: ...

    def delete(self, name: str) -> None: ...

    def names(self) -> list[str]: ...


class _Local:
    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def write(self, name: str, content: bytes) -> None:
        files.write(self._path / name, content, mode=_MODE, durable=True)

    def delete(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        return [path.name for path in self._path.iterdir()] if self._path.is_dir() else []


class _Objects:
    """What fsspec finds below a URL. An object store shows an object only when it is complete."""

    def __init__(self, url: str) -> None:
        # The import takes 0.1 s.
        import fsspec

        system, path = fsspec.core.url_to_fs(url)
        self._system: Any = system
        self._path = str(path)

    def write(self, name: str, content: bytes) -> None:
        self._system.pipe_file(f"{self._path}/{name}", content)

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._system.rm_file(f"{self._path}/{name}")

    def names(self) -> list[str]:
        # Some backends answer from listings that they keep.
        self._system.invalidate_cache()
        try:
            return [str(name).rpartition("/")[2] for name in self._system.ls(self._path, detail=False)]
        except FileNotFoundError:
            return []


def _folder_at(place: Place) -> _Folder:
    return _Local(place.target) if place.scheme == "file" else _Objects(place.target)


def _name(round_: int, attempt: int, digest: str) -> str:
    return f"{round_}.{attempt}.{digest[:_DIGITS]}.safetensors"

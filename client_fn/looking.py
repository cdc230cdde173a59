"""Looks at a client's data on request, before any round, and reports what it is without a value of it.

The worker looks at the place as it does for a task; what must be parsed is looked at by the trainer.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from broker.messages import personal
from broker.messages.data_report import COLUMNS, NAME_CHARACTERS, Column, DataCheck, DataReport, StatePlace
from broker.support import texts
from client_fn.code.named import Names
from client_fn.data import folders, formats, places, rights, sources
from client_fn.data.places import Place
from client_fn.data.rights import Blocked
from client_fn.data.shard_cache import Shard
from client_fn.data.sources import MAX_MB
from client_fn.errors import BadData, ClientError, DataMissing, DataNotAllowed
from client_fn.function import WarmState
from client_fn.site import Site
from client_fn.training import orders

_REGISTER: Final = "put the data there, or register its place: fedkeeper clients add"

_OWN: Final = "only a learner's own data(source) can read it, so its samples are not counted"
_BUSY: Final = "the worker had other work all the time, so the content was not looked at: try again later"
_UNNAMED: Final = "its first line may hold values, so no column is named"
_MOST: Final = 500
"""Longest problem, remedy or note. Characters."""

_REMEDIES: Final = {
    places.SCHEMES: "change it in the environment of the site's bridge, or register another place",
    places.PREFIXES: "move the data below one of them, or change it in the environment of the site's bridge",
    MAX_MB: "raise it in the environment of the site's bridge, or use fewer samples",
}
_WRITE: Final = (
    "make the folder, give it to the service's user and name it in ReadWritePaths= of a systemd unit, or register a "
    "state_loc that it may write"
)


class _Found(msgspec.Struct, frozen=True):
    """What the trainer says: `client_fn.training.look.Found`. Its process is not believed, so it is checked."""

    samples: int
    columns: list[Column]
    column_count: int
    classes: int | None = None
    named: bool = True


async def look(check: DataCheck, warm: WarmState) -> DataReport:
    """Return what a client's data is. What keeps a job from using it is part of the report, not an error.

    Args:
        check: names the places.
        warm: the worker's state. A training goes on; a look at the content waits for it until the check's time is over.
    """
    looking = _Look(check, warm)
    try:
        async with asyncio.timeout(check.limit_s):
            await looking.run()
    except TimeoutError:
        looking.set(note=looking.step)
    except ClientError as exc:
        looking.fail(exc)
    return looking.report


class _Look:
    """A look at a client's data.

    Attributes:
        report: what is known so far.
        step: what is not known if the time is over now, as a sentence.
    """

    def __init__(self, check: DataCheck, warm: WarmState) -> None:
        self._check = check
        self._warm = warm
        self._obstacle: Blocked | None = None
        self.report = DataReport(client=check.client, path=places.show(check.data_loc), service=rights.service_user())
        self.step = f"reading it takes longer than {check.limit_s:.0f} s"

    def set(self, **facts: Any) -> None:
        """Add facts to the report."""
        self.report = msgspec.structs.replace(self.report, **facts)

    async def run(self) -> None:
        """Look at everything, as far as a job would get.

        Raises:
            ClientError: a job could not use the data.
        """
        check, warm = self._check, self._warm
        self.set(state=await asyncio.to_thread(_state, check, warm.site))
        if not check.data_loc:
            raise DataMissing("shard", "no place", "")
        place = places.allowed(check.data_loc, warm.site)
        if place.scheme == "file":
            await asyncio.to_thread(self._look_at_rights, place)
        shard = await asyncio.to_thread(warm.shards.read, check.data_loc)
        self.set(kind=shard.format, samples=shard.samples, is_readable=True)
        if shard.memory is not None:
            self.set(bytes=shard.memory.size)
        if shard.format == formats.FILE:
            self.set(note=f"its format is not known: {_OWN}")
            return
        try:
            self._add(await self._ask_trainer(shard))
        except BadData as exc:
            if shard.format != formats.FOLDER:
                raise
            self.set(note=_short(f"{exc.message(reveal=False).removeprefix(_prefix(exc))}; else {_OWN}"))

    def fail(self, exc: ClientError) -> None:
        """Add an error and what to do. Its text holds none of the data, unless the site allows that."""
        reveal, remedy = self._warm.site.reveal == "text", ""
        problem = exc.message(reveal=reveal).removeprefix(_prefix(exc))
        if self._obstacle is not None:
            problem, remedy = self._obstacle
        elif isinstance(exc, DataMissing):
            loc = self._check.data_loc
            problem = "nothing lies there" if loc else "the client is registered without a place of data"
            remedy = rights.remedy_if_hidden(loc) or _REGISTER
        elif isinstance(exc, DataNotAllowed):
            remedy = _REMEDIES.get(exc.setting, "")
        self.set(error=type(exc).__name__, problem=_short(problem), remedy=_short(remedy))

    def _look_at_rights(self, place: Place) -> None:
        """Add what is known of a file or folder of this machine before it is opened."""
        path = Path(place.target)
        self._obstacle = rights.blocked(path)
        if (found := rights.of(path)) is not None:
            self.set(**found._asdict(), is_readable=self._obstacle is None)
        if found is not None and self._obstacle is None and path.is_dir():
            with sources.map_errors(place):
                self.set(bytes=folders.look(place, self._warm.site).version.size)

    async def _ask_trainer(self, shard: Shard) -> Mapping[str, Any]:
        """Let the trainer look at the content, when it has nothing else to do."""
        self.step = _BUSY

        def begin() -> None:
            self.step = f"a look at the content takes longer than {self._check.limit_s:.0f} s"

        inputs = {} if shard.memory is None else {orders.SHARD: shard.memory}
        order = orders.Look(orders.Source(shard.format, shard.path, shard.where))
        return (await self._warm.trainers.do(Names(()), order, inputs, on_training=begin)).facts

    def _add(self, facts: Mapping[str, Any]) -> None:
        try:
            found = msgspec.convert(facts, _Found)
        except msgspec.ValidationError:
            self.set(note="what the trainer says of the content can't be read")
            return
        is_named = found.named or self._warm.site.reveal == "text"
        self.set(
            samples=found.samples,
            columns=tuple(_checked(column, is_named=is_named) for column in found.columns[:COLUMNS]),
            column_count=found.column_count,
            classes=found.classes,
            note="" if is_named else _UNNAMED,
        )


def _state(check: DataCheck, site: Site) -> StatePlace | None:
    """Return where the client keeps its personal layers, and whether it may write there. Nothing is written."""
    folder = personal.folder_of(check.data_loc, check.state_loc)
    if not folder:
        return None
    shown = places.show(folder)
    try:
        place = places.allowed(folder, site)
    except (BadData, DataNotAllowed) as exc:
        return StatePlace(path=shown, problem=_short(exc.reason), remedy=_WRITE)
    if place.scheme != "file":
        return StatePlace(path=shown)
    nearest = rights.nearest(Path(place.target))
    found = rights.of(nearest)
    is_writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    state = StatePlace(path=shown, is_writable=is_writable, **({} if found is None else found._asdict()))
    if is_writable:
        return state
    problem = f"{rights.service_user()} can't write to {nearest}"
    return msgspec.structs.replace(state, problem=_short(problem), remedy=_WRITE)


def _checked(column: Column, *, is_named: bool) -> Column:
    name = texts.shortened(texts.cleaned(column.name, keep=""), NAME_CHARACTERS) if is_named else ""
    return msgspec.structs.replace(column, name=name, dtype=column.dtype[:NAME_CHARACTERS], shape=column.shape[:8])


def _prefix(exc: ClientError) -> str:
    """Return how the message of an error about data begins. The report has the place already."""
    return f"shard {getattr(exc, 'where', '')}: "


def _short(text: str) -> str:
    return texts.shortened(texts.cleaned(text, keep=""), _MOST)

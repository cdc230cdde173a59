"""A site's trainers: one warm process for each version of the user's code, and one for our own models."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from client_fn.cache import keep
from client_fn.code import requirements
from client_fn.code.allow import AllowList
from client_fn.code.named import Names
from client_fn.code.store import CodeStore, CodeVersion
from client_fn.errors import (
    BadSettings,
    ClientError,
    CodeDiffers,
    RequirementsMissing,
    TrainerDied,
    TrainingFailed,
    UserCodeFailed,
)
from client_fn.site import Site
from client_fn.trainer.answers import Answer
from client_fn.trainer.launch import launch
from client_fn.trainer.process import Trainer
from client_fn.trainer.running import Launcher
from client_fn.trainer.shared import SharedBytes
from client_fn.training.orders import Look, Order, Together

KEPT: Final = 2
"""How many trainers stay warm: one has 300 MB."""

_DEVICE: Final = "FEDKEEPER_DEVICE"

_OURS: Final = "built in"
_INSTALLED: Final = "installed"


class Trainers:
    """The trainers of a site. Use it as `async with open_trainers(site) as trainers`.

    Args:
        site: the site's settings.
        store: the versions of the user's code.
        launch: starts a trainer.
    """

    def __init__(self, site: Site, store: CodeStore, launch: Launcher = launch) -> None:
        self._site = site
        self._store = store
        self._launch = launch
        self._trainers: dict[str, Trainer] = {}
        self._complete: set[str] = set()

    async def current_code(self, names: Names) -> str:
        """Return the digest of the code that a new job gets; empty if the job names nothing of this code.

        Args:
            names: the code that the job names. A digest in it must be that of the code here.

        Raises:
            NotAllowed: the operator did not allow it.
            CodeDiffers: the job names another code.
            BadCode: the code can't be packed.
        """
        if not names.types:
            return ""
        code = await asyncio.to_thread(self._find_code, names.code)
        self._check_allowed(names, code)
        return code.digest if code is not None and _is_of(names, code) else ""

    async def do(
        self,
        names: Names,
        order: Order | Look | Together,
        inputs: Mapping[str, SharedBytes],
        *,
        on_training: Callable[[], None] | None = None,
        limit_s: float | None = None,
    ) -> Answer:
        """Let the right trainer do an order, after all that must be checked before anything is imported.

        Args:
            names: the code that the order's job names.
            order: the order.
            inputs: safetensors files by name.
            on_training: called when the training begins.
            limit_s: the order is ended after this time. Seconds.

        Raises:
            ClientError: the code is not allowed, it is not here or lacks a library, or `Trainer.do` raises.
        """
        code = await self.admit(names)
        async with self._use(_key(names, code), code) as trainer:
            if code is not None and code.digest not in self._complete:
                await self._check_requirements(trainer, code)
            try:
                return await trainer.do(order, inputs, on_training=on_training, limit_s=limit_s)
            except (BadSettings, UserCodeFailed, TrainerDied) as exc:
                await self._look_for_the_cause(trainer, exc)
                raise

    async def check(self) -> str:
        """Check what no task could do without: the site's Python, its code and its device.

        Returns:
            The kind of processor that trains.

        Raises:
            BadSettings: the Python can't be started, the device can't be used, or code can't be copied.
            BadCode: the code can't be packed.
            TrainerDied: the trainer can't start.
        """
        async with self._use(_OURS, None) as trainer:
            await trainer.start()
            processor = await self._try_device(trainer, anew=False)
        await asyncio.to_thread(self._store.current)
        return processor

    async def admit(self, names: Names) -> CodeVersion | None:
        """Return the code that a task names; None: all that it names is ours, or of installed packages.

        Raises:
            NotAllowed: the operator did not allow it.
            CodeDiffers: the server holds other code than this site.
            BadCode: the code can't be packed.
        """
        if not names.types:
            return None
        code = await asyncio.to_thread(self._find_code, names.code)
        self._check_allowed(names, code)
        if code is None or not _is_of(names, code):
            return None
        if code.digest != names.code:
            raise CodeDiffers(names.code[:8], code.digest[:8])
        return code

    async def warm(self) -> None:
        """Start the trainer of our own models, so that the first task does not wait for torch.

        Raises:
            TrainerDied: it can't start.
            BadSettings: the site's Python can't be started.
        """
        async with self._use(_OURS, None) as trainer:
            await trainer.start()

    async def end(self) -> None:
        """End all trainers."""
        for trainer in list(self._trainers.values()):
            await trainer.end()

    async def _try_device(self, trainer: Trainer, *, anew: bool) -> str:
        """Try the site's device, and return the kind of its processor. A driver that crashes or hangs is its fault."""
        device = self._site.device or "cpu"
        try:
            return await trainer.try_device(device, anew=anew)
        except TrainerDied as exc:
            reason = f"{device!r} can't be used here: {exc.message(reveal=False)}; give 'cpu', or mend the driver"
            raise BadSettings(_DEVICE, reason) from exc

    async def _look_for_the_cause(self, trainer: Trainer, error: ClientError) -> None:
        """Raise another error if the site's device works no longer, or if it works in spite of what the trainer says.

        Args:
            trainer: has done the order.
            error: of the order.

        Raises:
            BadSettings: the site's device works no longer.
            TrainingFailed: the job asks for a device that is not here, or its model does not fit into the device.
        """
        device = self._site.device
        if device not in ("", "cpu"):
            await self._try_device(trainer, anew=True)
        if isinstance(error, BadSettings) and error.name == _DEVICE:
            raise TrainingFailed(f"{'the device' if device else 'training.device'} {error.reason}") from error

    def _find_code(self, digest: str) -> CodeVersion | None:
        return self._store.get(digest) if digest else self._store.current()

    def _check_allowed(self, names: Names, code: CodeVersion | None) -> None:
        modules = code.modules if code is not None and self._site.code_is_allowed else frozenset()
        allowed = AllowList(self._site.allow, modules)
        for type_ in names.types:
            allowed.check(type_)

    async def _check_requirements(self, trainer: Trainer, code: CodeVersion) -> None:
        if code.requirements:
            installed, python = await trainer.installed()
            if missing := requirements.missing(code.requirements, installed, python):
                raise RequirementsMissing(tuple(missing))
        self._complete.add(code.digest)

    @contextlib.asynccontextmanager
    async def _use(self, key: str, code: CodeVersion | None) -> AsyncIterator[Trainer]:
        """Use a trainer, which nobody ends during the block. Before and after it, end those that are too many."""
        trainer = self._trainers.get(key) or Trainer(self._site, [] if code is None else [code.folder], self._launch)
        keep(self._trainers, key, trainer, limit=len(self._trainers) + 1)
        try:
            with trainer.use():
                await self._end_old()
                yield trainer
        finally:
            await self._end_old()

    async def _end_old(self) -> None:
        while unused := [old for old in list(self._trainers)[:-KEPT] if not self._trainers[old].is_used]:
            await self._trainers.pop(unused[0]).end()


@contextlib.asynccontextmanager
async def open_trainers(site: Site, launch: Launcher = launch) -> AsyncIterator[Trainers]:
    """Open a site's trainers. That of our own models is started at once, the others when they are needed.

    All are ended with the block.

    Args:
        site: the site's settings.
        launch: starts a trainer.
    """
    with CodeStore(site.code, site.code_store) as store:
        trainers = Trainers(site, store, launch)
        warming = asyncio.create_task(_warm(trainers), name="start of the trainer")
        try:
            yield trainers
        finally:
            warming.cancel()
            await asyncio.wait({warming})
            await trainers.end()


async def _warm(trainers: Trainers) -> None:
    """Start a trainer before the first task. If that fails, each task will say why."""
    try:
        await trainers.warm()
    except ClientError as exc:
        # Imported here because every cold start would pay for it.
        from broker.support import loggers

        log = loggers.get_logger(__name__)
        log.error("the trainer can't start", error=str(exc))  # noqa: TRY400 (a traceback would tell no more)


def _is_of(names: Names, code: CodeVersion) -> bool:
    return any(type_.partition(":")[0].partition(".")[0] in code.modules for type_ in names.types)


def _key(names: Names, code: CodeVersion | None) -> str:
    if not names.types:
        return _OURS
    return _INSTALLED if code is None else code.digest

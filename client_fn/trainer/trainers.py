"""A site's trainers: one warm process for each version of the user's code, and one for our own models."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final, Protocol

from client_fn.cache import keep
from client_fn.code import requirements
from client_fn.code.allow import BUILT_IN, AllowList
from client_fn.code.store import CodeStore, CodeVersion
from client_fn.errors import ClientError, CodeDiffers, RequirementsMissing
from client_fn.site import Site
from client_fn.trainer.launch import Launcher, launch
from client_fn.trainer.process import Answer, Trainer
from client_fn.trainer.shared import SharedBytes
from client_fn.training.orders import Order

KEPT: Final = 2
"""How many trainers stay warm: one has 300 MB."""

_OURS: Final = "built in"
_INSTALLED: Final = "installed"


class Named(Protocol):
    """A job's model section, or what is like it."""

    @property
    def type(self) -> str:
        """`nn`, `cnn` or `package.module:Name`."""

    @property
    def code(self) -> str:
        """Digest of the user's code that the job was accepted with; empty: none."""


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

    async def current_code(self, model: Named) -> str:
        """Return the digest of the code that a new job of this model gets; empty if the model is not of this code.

        Args:
            model: a job's model. A digest in it must be that of the code here.

        Raises:
            NotAllowed: the operator did not allow the model.
            CodeDiffers: the job names another code.
            BadCode: the code can't be packed.
        """
        if model.type in BUILT_IN:
            return ""
        code = await asyncio.to_thread(self._find_code, model.code)
        self._check_allowed(model, code)
        return code.digest if code is not None and _is_of(model, code) else ""

    async def do(
        self,
        model: Named,
        order: Order,
        inputs: Mapping[str, SharedBytes],
        *,
        on_training: Callable[[], None] | None = None,
        limit_s: float | None = None,
    ) -> Answer:
        """Let the right trainer do an order, after all that must be checked before anything is imported.

        Args:
            model: the model, and the code that it is of.
            order: the order.
            inputs: safetensors files by name.
            on_training: called when the training begins.
            limit_s: the order is ended after this time. Seconds.

        Raises:
            ClientError: the model is not allowed, its code is not here or lacks a library, or `Trainer.do` raises.
        """
        code = await self.admit(model)
        async with self._use(_key(model, code), code) as trainer:
            if code is not None and code.digest not in self._complete:
                await self._check_requirements(trainer, code)
            return await trainer.do(order, inputs, on_training=on_training, limit_s=limit_s)

    async def admit(self, model: Named) -> CodeVersion | None:
        """Return the code that a task's model is of; None: it is ours, or an installed package.

        Raises:
            NotAllowed: the operator did not allow the model.
            CodeDiffers: the server holds other code than this site.
            BadCode: the code can't be packed.
        """
        if model.type in BUILT_IN:
            return None
        code = await asyncio.to_thread(self._find_code, model.code)
        self._check_allowed(model, code)
        if code is None or not _is_of(model, code):
            return None
        if code.digest != model.code:
            raise CodeDiffers(model.code[:8], code.digest[:8])
        return code

    async def warm(self, *, to_train: bool = True) -> None:
        """Start the trainer of our own models, so that the first task does not wait for torch.

        Args:
            to_train: whether it will train; a server only builds and evaluates.

        Raises:
            TrainerDied: it can't start.
            BadSettings: the site's Python can't be started.
        """
        async with self._use(_OURS, None) as trainer:
            await (trainer.prepare() if to_train else trainer.start())

    async def end(self) -> None:
        """End all trainers."""
        for trainer in list(self._trainers.values()):
            await trainer.end()

    def _find_code(self, digest: str) -> CodeVersion | None:
        return self._store.get(digest) if digest else self._store.current()

    def _check_allowed(self, model: Named, code: CodeVersion | None) -> None:
        modules = code.modules if code is not None and self._site.code_is_allowed else frozenset()
        AllowList(self._site.allow, modules).check(model.type)

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
async def open_trainers(site: Site, launch: Launcher = launch, *, to_train: bool = True) -> AsyncIterator[Trainers]:
    """Open a site's trainers. That of our own models is started at once, the others when they are needed.

    All are ended with the block.

    Args:
        site: the site's settings.
        launch: starts a trainer.
        to_train: whether they will train; a server's only build and evaluate.
    """
    with CodeStore(site.code, site.code_store) as store:
        trainers = Trainers(site, store, launch)
        warming = asyncio.create_task(_warm(trainers, to_train=to_train), name="start of the trainer")
        try:
            yield trainers
        finally:
            warming.cancel()
            await asyncio.wait({warming})
            await trainers.end()


async def _warm(trainers: Trainers, *, to_train: bool) -> None:
    """Start a trainer before the first task. If that fails, each task will say why."""
    try:
        await trainers.warm(to_train=to_train)
    except ClientError as exc:
        # Imported here because every cold start would pay for it.
        import structlog

        log = structlog.get_logger(__name__)
        log.error("the trainer can't start", error=str(exc))  # noqa: TRY400 (a traceback would tell no more)


def _is_of(model: Named, code: CodeVersion) -> bool:
    return model.type.partition(":")[0].partition(".")[0] in code.modules


def _key(model: Named, code: CodeVersion | None) -> str:
    if model.type in BUILT_IN:
        return _OURS
    return _INSTALLED if code is None else code.digest

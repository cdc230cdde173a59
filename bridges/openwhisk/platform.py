"""OpenWhisk: fires a client's trigger or invokes its action, and follows the activation to its record.

A trigger's 202 does not say that the action was taken: only the record of the fire does, and it comes later.
"""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import msgspec
import structlog

from bridges.errors import InvocationFailed, OutcomeUnknown, PlatformAway, PlatformFailed
from bridges.openwhisk import activations
from bridges.openwhisk.activations import Record
from bridges.openwhisk.api import Api, connected, quoted
from bridges.openwhisk.functions import Functions, trigger_of
from bridges.openwhisk.settings import Settings
from bridges.platform import Activation, BasePlatform
from bridges.secrets import SecretStore
from broker.base import Broker
from broker.errors import UNREADABLE
from broker.messages import codec
from broker.messages.invocation import InvocationRequest
from broker.messages.round import RoundTask
from broker.support import backoff

log = structlog.get_logger(__name__)

BODY_BYTES: Final = 1 << 20
"""The largest trigger that a controller takes."""


class _Limits(msgspec.Struct, frozen=True, rename="camel"):
    """Of a namespace. Which of them are told depends on the installation, and one that is not set may be null."""

    concurrent_invocations: int | None = None
    invocations_per_minute: int | None = None
    fires_per_minute: int | None = None


class OpenWhiskPlatform(BasePlatform[Settings, Functions]):
    """The functions of one namespace. Use it as `async with opened(...) as platform`.

    Args:
        settings: of the bridge.
        functions: creates, deletes and lists them.
        api: of the namespace.
        rng: for the jitter between two looks at a record.
    """

    def __init__(self, settings: Settings, functions: Functions, api: Api, *, rng: random.Random | None = None) -> None:
        super().__init__(settings, functions)
        self.api = api
        self._limits: _Limits | None = None
        self._rng = rng or random.Random()  # noqa: S311 (jitter)

    @property
    def concurrency(self) -> int:
        """See `bridges.platform.ManagedPlatform`."""
        limit = self._limits.concurrent_invocations if self._limits else None
        return min(self.settings.concurrency, limit or self.settings.concurrency)

    @property
    def per_minute(self) -> int:
        """Calls per minute: a fire counts as one, and the invocation that it leads to as another."""
        limits = self._limits or _Limits()
        fires = limits.fires_per_minute if self.settings.triggered else None
        return min([rate for rate in (limits.invocations_per_minute, fires) if rate], default=0)

    @property
    def run_s(self) -> float:
        """Twice the time limit: a run may have had to wait for one that takes as long. Seconds."""
        return 2 * self.settings.timeout_s + self.settings.settle_s

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """Trigger the function and follow the run to its record; see `Platform.invoke`."""
        body = codec.encode({"order": InvocationRequest(task, attempt)})
        if len(body) > BODY_BYTES:
            reason = f"a task of {len(body)} bytes is more than OpenWhisk takes ({BODY_BYTES})"
            raise InvocationFailed(reason, retryable=False)
        if self._limits is None:
            await self.learn_limits()
        activation = await self._accepted(task, body)
        yield Activation(activation, "accepted")
        record = await self._record(activation, self.run_s)
        activations.raise_for_failure(record, task, activation)
        yield Activation(activation, "succeeded", record.cold)

    async def _accepted(self, task: RoundTask, body: bytes) -> str:
        """Have the action run; the id of its activation."""
        if not self.settings.triggered:
            return await self.api.start(f"actions/{quoted(task.url or task.client_id)}?blocking=false", body)
        fire = await self.api.start(f"triggers/{quoted(task.url or trigger_of(task.client_id))}", body)
        record = await self._record(fire, self.settings.settle_s)
        return activations.run_of(record, task.client_id, fire)

    async def _record(self, activation: str, within_s: float) -> Record:
        """The record of an activation, which is there some time after its end.

        Raises:
            OutcomeUnknown: it was not there in time.
        """
        try:
            async with asyncio.timeout(within_s):
                for look in itertools.count():
                    first_s, most_s = self.settings.poll_first_s, self.settings.poll_most_s
                    await asyncio.sleep(backoff.delay_s(look, self._rng.uniform, first_s=first_s, most_s=most_s))
                    record = await self._stored(activation)
                    if record is not None:
                        return record
        except TimeoutError:
            pass
        raise OutcomeUnknown(f"no record of activation {activation} after {within_s:g} s", activation=activation)

    async def _stored(self, activation: str) -> Record | None:
        """The record as it is now; None: not stored yet, or the platform is away for the moment."""
        try:
            content = await self.api.call("GET", f"activations/{quoted(activation)}", f"tell of {activation}")
        except PlatformAway as exc:
            log.warning("can't look at an activation now", activation=activation, error=str(exc))
            return None
        except PlatformFailed as exc:
            raise OutcomeUnknown(str(exc), activation=activation) from exc
        return None if content is None else activations.decoded(content, activation)

    async def learn_limits(self) -> None:
        """Ask for the namespace's limits. A platform that does not tell has none; one that is away is asked again.

        Raises:
            PlatformDenied: the namespace's key is refused.
        """
        try:
            content = await self.api.call("GET", "limits", "tell its limits")
            self._limits = msgspec.json.decode(content or b"{}", type=_Limits)
        except PlatformAway as exc:
            log.warning("the namespace's limits are not known yet", host=self.settings.host, error=str(exc))
        except (PlatformFailed, *UNREADABLE) as exc:
            self._limits = _Limits()
            log.warning("the namespace's limits are not known", host=self.settings.host, error=str(exc))


@contextlib.asynccontextmanager
async def opened(settings: Settings, vault: SecretStore, broker: Broker) -> AsyncIterator[OpenWhiskPlatform]:  # noqa: ARG001 (every platform's)
    """A namespace whose functions can be invoked; see `bridges.platform.PlatformModule`."""
    async with connected(settings, vault) as api:
        platform = OpenWhiskPlatform(settings, Functions(settings, api, vault), api)
        await platform.learn_limits()
        yield platform

"""Runs tasks on the functions of an OpenWhisk namespace.

It fires a client's trigger or invokes its action, and then polls for the record of the activation. The 202 for a
trigger does not mean that the action started; only the trigger's own record shows that, and it appears later.
"""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import msgspec

from bridges.errors import InvocationFailed, OutcomeUnknown, PlatformAway, PlatformFailed
from bridges.openwhisk import activations
from bridges.openwhisk.activations import Record
from bridges.openwhisk.api import Api, connected, quoted
from bridges.openwhisk.functions import Functions, trigger_name
from bridges.openwhisk.settings import Settings
from bridges.platform import Activation, BasePlatform
from bridges.secrets import SecretStore
from broker.base import Broker
from broker.messages import codec
from broker.messages.invocation import OPENWHISK_ARGUMENT, InvocationRequest
from broker.messages.round import RoundTask
from broker.support import backoff, loggers
from broker.support.decoding import UNREADABLE

log = loggers.get_logger(__name__)

BODY_BYTES: Final = 1 << 20
"""Size limit of a controller for the arguments of a trigger or action."""


class _Limits(msgspec.Struct, frozen=True, rename="camel"):
    """Limits of a namespace. Installations show different ones; a limit that is not set may be null."""

    concurrent_invocations: int | None = None
    invocations_per_minute: int | None = None
    fires_per_minute: int | None = None


class OpenWhiskPlatform(BasePlatform[Settings, Functions]):
    """Runs tasks on the functions of one namespace. Use it as `async with opened(...) as platform`.

    Args:
        settings: settings of the bridge.
        functions: creates, deletes and lists the functions.
        api: API of the namespace.
        rng: source of the jitter between two polls.
    """

    def __init__(self, settings: Settings, functions: Functions, api: Api, *, rng: random.Random | None = None) -> None:
        super().__init__(settings, functions)
        self.api = api
        self._limits: _Limits | None = None
        self._rng = rng or random.Random()  # noqa: S311 (jitter)

    @property
    def concurrency(self) -> int:
        """Implements `Platform.concurrency`: the lower of the setting and the namespace's limit."""
        limit = self._limits.concurrent_invocations if self._limits else None
        return min(self.settings.concurrency, limit or self.settings.concurrency)

    @property
    def per_minute(self) -> int:
        """Implements `ManagedPlatform.per_minute`. OpenWhisk counts a fire and the invocation that it starts apart."""
        limits = self._limits or _Limits()
        fires = limits.fires_per_minute if self.settings.uses_triggers else None
        return min([rate for rate in (limits.invocations_per_minute, fires) if rate], default=0)

    @property
    def run_s(self) -> float:
        """Implements `ManagedPlatform.run_s`: two time limits, since a run may wait for another one of full length."""
        return 2 * self.settings.timeout_s + self.settings.settle_s

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """Implements `Platform.invoke`: start the function and wait for the record of its run."""
        body = codec.encode({OPENWHISK_ARGUMENT: InvocationRequest(task, attempt)})
        if len(body) > BODY_BYTES:
            reason = f"a task of {len(body)} bytes is more than OpenWhisk takes ({BODY_BYTES})"
            raise InvocationFailed(reason, retryable=False)
        if self._limits is None:
            await self.read_limits()
        if self.settings.uses_triggers:
            fire = await self.api.start(f"triggers/{quoted(task.url or trigger_name(task.client_id))}", body)
            record = await self._wait_for_record(fire, self.settings.settle_s)
            activation = activations.action_activation(record, task.client_id, fire)
        else:
            activation = await self.api.start(f"actions/{quoted(task.url or task.client_id)}?blocking=false", body)
        yield Activation(activation, "accepted")
        record = await self._wait_for_record(activation, self.run_s)
        activations.raise_for_failure(record, task, activation)
        yield Activation(activation, "succeeded", record.cold)

    async def read_limits(self) -> None:
        """Read the namespace's limits.

        A platform that does not show them counts as one without limits. If it is not reachable, the next invocation
        reads them.

        Raises:
            PlatformDenied: the platform refuses the namespace's key.
        """
        try:
            content = await self.api.call("GET", "limits", "tell its limits")
            self._limits = msgspec.json.decode(content or b"{}", type=_Limits)
        except PlatformAway as exc:
            log.warning("the namespace's limits are not known yet", host=self.settings.host, error=str(exc))
        except (PlatformFailed, *UNREADABLE) as exc:
            self._limits = _Limits()
            log.warning("the namespace's limits are not known", host=self.settings.host, error=str(exc))

    async def _wait_for_record(self, activation: str, timeout_s: float) -> Record:
        """Poll for the record of an activation. OpenWhisk stores it some time after the end of the run.

        Raises:
            OutcomeUnknown: the record does not appear in time.
        """
        first_s, most_s = self.settings.poll_first_s, self.settings.poll_most_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for polls in itertools.count():
                    await asyncio.sleep(backoff.delay_s(polls, self._rng.uniform, first_s=first_s, most_s=most_s))
                    record = await self._read_record(activation)
                    if record is not None:
                        return record
        raise OutcomeUnknown(f"no record of activation {activation} after {timeout_s:g} s", activation=activation)

    async def _read_record(self, activation: str) -> Record | None:
        """Return a record; None if it is not stored yet or the platform is not reachable now."""
        try:
            content = await self.api.call("GET", f"activations/{quoted(activation)}", f"tell of {activation}")
        except PlatformAway as exc:
            log.warning("can't look at an activation now", activation=activation, error=str(exc))
            return None
        except PlatformFailed as exc:
            raise OutcomeUnknown(str(exc), activation=activation) from exc
        return None if content is None else activations.decode_record(content, activation)


@contextlib.asynccontextmanager
async def opened(settings: Settings, secrets: SecretStore, broker: Broker) -> AsyncIterator[OpenWhiskPlatform]:  # noqa: ARG001 (every platform's)
    """Implements `bridges.platform.PlatformModule.opened` for a namespace."""
    async with connected(settings, secrets) as api:
        platform = OpenWhiskPlatform(settings, Functions(settings, api, secrets), api)
        await platform.read_limits()
        yield platform

"""What a fault does to a running system. Each function returns a `Do`, which the table of faults names."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Literal

from broker import topics
from broker.errors import StorageFull
from fedkeeper.errors import JobRefused
from fedkeeper.sdk import Client
from tests.chaos import usercode
from tests.chaos.usercode import Place

if TYPE_CHECKING:
    from tests.chaos.trial import Trial

Do = Callable[["Trial"], Awaitable[None]]
"""Does something to a trial's system. It returns when the fault is over: what is left to do is the system's."""

JUNK_BYTES: Final = 1 << 20


async def nothing(trial: "Trial") -> None:
    """Do nothing."""
    del trial


def kill(*names: str, back_s: tuple[float, float] = (0.0, 3.0), times: int = 1) -> Do:
    """Kill processes, all at once, and start them again after a random pause.

    Args:
        names: `broker`, names of parts, `a server` or `a bridge` (one of them), `worker` or `trainer` (one of them,
            which its bridge replaces).
        back_s: bounds of the pause, in seconds.
        times: how often.
    """

    async def do(trial: "Trial") -> None:
        chosen = _chosen(trial, names)
        for _ in range(times):
            for name in chosen:
                await _kill(trial, name)
            await trial.pause(*back_s)
            await _start_again(trial, chosen)
            if times > 1:
                await trial.pause(0.2, 1.0)

    return do


def freeze(*names: str, for_s: tuple[float, float]) -> Do:
    """Stop processes with SIGSTOP, and let them go on after a random pause.

    Args:
        names: as for `kill`.
        for_s: bounds of the pause, in seconds.
    """

    async def do(trial: "Trial") -> None:
        pids = [pid for name in _chosen(trial, names) if (pid := _pid(trial, name))]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        await trial.pause(*for_s)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    return do


def restart(*names: str, back_s: tuple[float, float] = (0.0, 3.0)) -> Do:
    """End processes in order, and start them again after a random pause.

    Args:
        names: `broker`, or names of parts.
        back_s: bounds of the pause, in seconds.
    """

    async def do(trial: "Trial") -> None:
        chosen = _chosen(trial, names)
        for name in chosen:
            if name == "broker":
                await trial.system.broker.stop()
            else:
                await trial.system.part(name).terminate()
        await trial.pause(*back_s)
        await _start_again(trial, chosen)

    return do


def _chosen(trial: "Trial", names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names with one part's name in place of `a server` and `a bridge`."""

    def chosen(name: str) -> str:
        kind = name.removeprefix("a ")
        return trial.rng.choice([part for part in trial.system.parts if part.startswith(kind)])

    found = tuple(chosen(name) if name.startswith("a ") else name for name in names)
    trial.note(", ".join(found))
    return found


async def _kill(trial: "Trial", name: str) -> None:
    if name == "broker":
        await trial.system.broker.kill()
    elif name in trial.system.parts:
        trial.system.part(name).kill()
        await trial.system.part(name).wait()
    elif pid := _pid(trial, name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def _start_again(trial: "Trial", names: tuple[str, ...]) -> None:
    if "broker" in names:
        await trial.system.broker.start()
    for name in names:
        if name in trial.system.parts:
            await trial.system.part(name).start()


def _pid(trial: "Trial", name: str) -> int | None:
    """Return the id of a process: of the broker, a part, or of any worker or trainer there is at the moment."""
    if name == "broker":
        return trial.system.broker.pid
    if name in trial.system.parts:
        return trial.system.part(name).pid
    found = trial.system.workers() if name == "worker" else trial.system.trainers()
    trial.note(f"{name}s: {found}")
    return trial.rng.choice(found) if found else None


async def copy_store(trial: "Trial") -> None:
    """Copy the broker's store."""
    trial.system.broker.copy_store(trial.system.folder / "copy")


def store_restored(*, age_s: tuple[float, float] | None) -> Do:
    """Kill the broker, and start it with an older copy of its store.

    Args:
        age_s: bounds of the copy's age, in seconds; None: `copy_store` made it before the job.
    """

    async def do(trial: "Trial") -> None:
        if age_s is not None:
            await copy_store(trial)
            await trial.pause(*age_s)
        server = trial.system.broker
        await server.kill()
        server.replace_store(trial.system.folder / "copy")
        await server.start()

    return do


async def store_emptied(trial: "Trial") -> None:
    """Kill the broker, and start it with an empty store."""
    server = trial.system.broker
    await server.kill()
    server.replace_store(None)
    await server.start()


async def fill_quota(trial: "Trial") -> None:
    """Fill the broker's store to its limit with other people's models, and delete them after some seconds."""
    async with trial.connect() as bus:
        count = 0
        with contextlib.suppress(StorageFull):
            while count < 500:
                await bus.put(topics.model("junk", f"{count:064x}"), os.urandom(JUNK_BYTES))
                count += 1
        trial.note(f"full after {count} MB")
        await trial.pause(2.0, 6.0)
        await bus.purge(topics.model("junk", topics.ANY))
    trial.note("there is room again")


async def fill_disk(trial: "Trial") -> None:
    """Fill the broker's disk, and free it after some seconds. Its operator restarts the broker, as its log asks for."""
    file = trial.system.broker.folder / "junk"
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as junk:
        while True:
            junk.write(bytes(JUNK_BYTES))
    await trial.pause(2.0, 6.0)
    file.unlink()
    trial.note("there is room again")
    await trial.pause(1.0, 2.0)
    await trial.system.broker.stop()
    await trial.system.broker.start()


def cut(*names: str, for_s: tuple[float, float] = (0.0, 4.0), times: int = 1) -> Do:
    """Cut the connections of parts to the broker, and refuse new ones for a while.

    Args:
        names: names of parts that have a proxy.
        for_s: bounds of that time, in seconds.
        times: how often.
    """

    async def do(trial: "Trial") -> None:
        for _ in range(times):
            for name in names:
                trial.system.proxies[name].cut()
            await trial.pause(*for_s)
            for name in names:
                trial.system.proxies[name].mend()
            await trial.pause(0.1, 0.5)

    return do


def silence(*names: str, for_s: tuple[float, float]) -> Do:
    """Let nothing through between parts and the broker, without ending a connection.

    Args:
        names: names of parts that have a proxy.
        for_s: bounds of that time, in seconds.
    """

    async def do(trial: "Trial") -> None:
        for name in names:
            trial.system.proxies[name].silence()
        await trial.pause(*for_s)
        for name in names:
            trial.system.proxies[name].mend()

    return do


def slow_down(*names: str, bytes_per_s: float, for_s: tuple[float, float]) -> Do:
    """Let only little through between parts and the broker.

    Args:
        names: names of parts that have a proxy.
        bytes_per_s: so much in each direction of each connection.
        for_s: bounds of that time, in seconds.
    """

    async def do(trial: "Trial") -> None:
        for name in names:
            trial.system.proxies[name].slow_down(bytes_per_s)
        await trial.pause(*for_s)
        for name in names:
            trial.system.proxies[name].mend()

    return do


def misbehave(place: Place, action: str) -> Do:
    """Let the user's code misbehave once.

    Args:
        place: where.
        action: one of `usercode.ACTIONS`.
    """

    async def do(trial: "Trial") -> None:
        usercode.misbehave(trial.system.wishes, place, action)
        wish = trial.system.wishes / place
        async with asyncio.timeout(60.0):
            while wish.exists() and not trial.has_ended:  # noqa: ASYNC110 (a file tells nobody)
                await asyncio.sleep(0.02)
        trial.note("the model has " + ("not been there any more" if wish.exists() else "misbehaved"))
        wish.unlink(missing_ok=True)

    return do


def misbehave_at_import(action: str) -> Do:
    """Kill all trainers at the clients, and let the user's code misbehave when the next one imports it.

    Args:
        action: one of `usercode.ACTIONS`.
    """

    async def do(trial: "Trial") -> None:
        usercode.misbehave(trial.system.wishes, "import", action)
        for pid in trial.system.trainers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await trial.pause(1.0, 2.0)

    return do


async def cancel(trial: "Trial") -> None:
    """Cancel the job."""
    async with trial.connect() as bus:
        await Client(bus).cancel(trial.job)


async def submit_twice(trial: "Trial") -> None:
    """Submit another job under the job's id, which must be refused, and the job itself once more, which must not."""
    other: dict[str, Any] = trial.system.job(trial.job) | {"seed": 2}
    async with trial.connect() as bus:
        await Client(bus).submit(trial.system.job(trial.job), timeout_s=60.0)
        try:
            await Client(bus).submit(other, timeout_s=60.0)
        except JobRefused as exc:
            trial.note(f"refused: {exc}")
        else:
            raise AssertionError("another job under the same id was accepted")


def function(action: Literal["kill", "refuse", "hang", "vanish"], calls: tuple[int, int] = (1, 3)) -> Do:
    """Do something to one client's function on the emulated OpenFaaS.

    Args:
        action: kill its process, answer its next calls with 429, lose their answers, or delete it.
        calls: bounds of the number of calls.
    """

    async def do(trial: "Trial") -> None:
        gateway = trial.system.gateway
        assert gateway is not None
        name, count = trial.rng.choice(sorted(gateway.provider.functions)), trial.rng.randint(*calls)
        match action:
            case "kill":
                await gateway.watchdog(name).stop()
            case "refuse":
                gateway.refuse(name, count)
            case "hang":
                gateway.hang(name, count)
            case "vanish":
                await gateway.vanish(name)
        trial.note(f"{action} {name} ({count} calls)")

    return do


async def gateway_away(trial: "Trial") -> None:
    """Take the gateway away for some seconds; the functions go on."""
    gateway = trial.system.gateway
    assert gateway is not None
    await gateway.down()
    await trial.pause(1.0, 5.0)
    await gateway.up()

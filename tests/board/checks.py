"""The kinds of installation that `make board` tries, and what each must do after it."""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from paho.mqtt.client import Client as Paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.board import job, services
from tests.board.host import Host, started, wait_for
from tests.board.machine import Board, StepFailed
from tests.board.report import Installation
from tests.chaos.parts import Part
from tests.support.ports import free_port

PLATFORM: Final = "board-1"
BRIDGE: Final = "fedkeeper-bridge.service"
RELAY: Final = "fedkeeper-relay.service"
MOSQUITTO: Final = "mosquitto.service"

READY_S: Final = 600.0
"""How long an emulated program may take until it is ready on a loaded machine. Seconds."""

_SECRETS: Final = "/etc/fedkeeper/secrets"
_PASSWORDS: Final = "/etc/mosquitto/fedkeeper.passwd"
_SITE_PASSWORD: Final = "of the board's broker"  # noqa: S105 (of an emulated board)
_MQTT_S: Final = 60.0

_NEWER: Final = ("RestartSteps", "RestartMaxDelaySec")
"""Keys of systemd 254 that an older one passes over, as the units say."""

Check = Callable[[Host, Board, Installation, list[str]], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of installation.

    Attributes:
        name: for people.
        options: of install.sh.
        units: the units that it installs.
        check: starts them, and adds to a list what is to be said.
        packages: Debian packages that the board must have before.
    """

    name: str
    options: tuple[str, ...]
    units: tuple[str, ...]
    check: Check
    packages: tuple[str, ...] = ()


def verify_units(board: Board, units: tuple[str, ...], log: Path) -> str:
    """Let the board's systemd verify units, and return a sentence about it.

    Args:
        board: the board.
        units: names of the units.
        log: what systemd says.

    Raises:
        StepFailed: it has found something.
    """
    command = board.command("systemd-analyze", "verify", "--man=no", *units)
    done = subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=READY_S
    )
    log.write_text(done.stdout + done.stderr)
    wrong = complaints(done.stderr)
    if done.returncode != 0 or wrong:
        raise StepFailed(f"systemd-analyze verify ended with {done.returncode}: {'; '.join(wrong)[:200]}", log)
    version = board.output("systemctl", "--version").split()[1]
    return f"systemd {version} finds no fault in {', '.join(unit.removesuffix('.service') for unit in units)}"


def complaints(text: str) -> list[str]:
    """Return the lines about our units in what systemd-analyze writes; not those about keys that it is too old for."""
    ours = ("fedkeeper", "mosquitto")
    lines = [line for line in text.splitlines() if any(name in line for name in ours)]
    return [line for line in lines if not any(key in line for key in _NEWER)]


async def _openfaas(host: Host, board: Board, found: Installation, facts: list[str]) -> None:
    """Start the bridge without a gateway: it must be up, and say what it lacks."""
    address = host.url(f"/run/credentials/{BRIDGE}/broker-password")
    board.edit("/etc/fedkeeper/bridge.toml", r'^url = ".*"', f'url = "{address}"')
    secrets = {"broker-password": host.password, "openfaas-password": "gateway", "openfaas-key": "0" * 64}
    _write_secrets(board, secrets)
    async with _started(host, board, BRIDGE, "the bridge is up") as bridge:
        await wait_for(bridge, "the gateway is out of reach", READY_S)
        found.memory_mb = services.memory_mb(bridge)
        facts.append("the bridge is up, and says that its gateway is out of reach")


async def _local(host: Host, board: Board, found: Installation, facts: list[str]) -> None:
    """Start the bridge, and train with clients on both machines."""
    address = host.url(f"/run/credentials/{BRIDGE}/broker-password")
    board.edit("/etc/fedkeeper/local.env", "^FEDKEEPER_URL=.*", f"FEDKEEPER_URL={address}")
    _write_secrets(board, {"broker-password": host.password})
    async with _started(host, board, BRIDGE, "the bridge is up") as bridge:
        there = await job.register(host, board, PLATFORM)
        facts.append(f"{' and '.join(there)} are on the board")
        # The board looks at its data, before any round.
        limit = ("--timeout", f"{READY_S:g}")
        looked = await host.fedkeeper("clients", "check", *there, *limit, timeout_s=2 * READY_S)
        facts += [line for line in looked.splitlines() if not line.startswith(" ")]
        facts += await job.train(host)
        facts += (await host.fedkeeper("sites")).splitlines()
        found.memory_mb = services.memory_mb(bridge)


async def _mosquitto(host: Host, board: Board, found: Installation, facts: list[str]) -> None:
    """Start Mosquitto and the relay: nobody gets in without a password."""
    port = free_port()  # this machine may have a Mosquitto of its own
    board.edit("/etc/fedkeeper/mosquitto.conf", r"^listener \d+", f"listener {port}")
    await asyncio.to_thread(board.output, "mosquitto_passwd", "-c", "-b", _PASSWORDS, "edge", _SITE_PASSWORD)
    address = host.url(f"/run/credentials/{RELAY}/backbone-password")
    board.edit("/etc/fedkeeper/relay.toml", r'^backbone = ".*"', f'backbone = "{address}"')
    board.edit(
        "/etc/fedkeeper/relay.toml", r'^site = "mqtt://edge@127\.0\.0\.1:\d+', f'site = "mqtt://edge@127.0.0.1:{port}'
    )
    _write_secrets(board, {"broker-password": _SITE_PASSWORD, "backbone-password": host.password})
    async with _started(host, board, MOSQUITTO, "") as mosquitto:
        await _listens(mosquitto, port)
        anonymous = await asyncio.to_thread(_connect, port, None)
        edge = await asyncio.to_thread(_connect, port, _SITE_PASSWORD)
        if (anonymous, edge) != ("Not authorized", "Success"):
            raise StepFailed(f"Mosquitto answers {anonymous!r} without a password, {edge!r} with it", mosquitto.log)
        facts.append("Mosquitto refuses who has no password, and serves the user edge")
        found.memory_mb["mosquitto"] = services.memory_mb(mosquitto)["main"]
        async with _started(host, board, RELAY, "the relay is up") as relay:
            found.memory_mb["relay"] = services.memory_mb(relay)["main"]
            facts.append("the relay is up")


def _started(host: Host, board: Board, unit: str, ready: str) -> contextlib.AbstractAsyncContextManager[Part]:
    return started(services.part(board, unit, ready=ready, folder=host.folder), READY_S)


def _write_secrets(board: Board, secrets: dict[str, str]) -> None:
    """Write the files that install.sh leaves to the operator."""
    for name, value in secrets.items():
        board.write(f"{_SECRETS}/{name}", value, mode=0o600)


async def _listens(service: Part, port: int) -> None:
    """Wait until a service listens, which writes nothing about that."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READY_S):
            while service.is_running:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(0.2)
    raise StepFailed(f"{service.name} does not listen on port {port}", service.log)


def _connect(port: int, password: str | None) -> str:
    """Connect to a Mosquitto as an MQTT client does, and return the name of its answer."""
    answers: list[str] = []
    paho = Paho(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    paho.on_connect = lambda _client, _data, _flags, reason, _properties: answers.append(str(reason))
    if password is not None:
        paho.username_pw_set("edge", password)
    paho.connect("127.0.0.1", port)
    end_s = time.monotonic() + _MQTT_S
    while not answers and time.monotonic() < end_s:
        paho.loop(timeout=0.5)
    paho.disconnect()
    return answers[0] if answers else "nothing"


KINDS: Final = (
    Kind(name="openfaas", options=("--bridge", "openfaas"), units=(BRIDGE,), check=_openfaas),
    Kind(name="local", options=("--bridge", "local", "--torch", "cpu"), units=(BRIDGE,), check=_local),
    Kind(
        name="mosquitto",
        options=("--broker", "mosquitto"),
        units=(MOSQUITTO, RELAY, BRIDGE),
        check=_mosquitto,
        packages=("mosquitto",),
    ),
)

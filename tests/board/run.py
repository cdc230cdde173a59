"""`make board`: the edge kit on an emulated arm64 Debian, which then takes part in a job with this machine.

It runs as root, in a mount namespace and a pid namespace of its own (`unshare`): nothing stays mounted and no process
stays behind, however it ends. Exit code 1 if a step failed.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from broker.support import logs
from tests.board import checks, machine, report
from tests.board.host import Host, running
from tests.board.machine import Board, StepFailed
from tests.board.report import Installation
from tests.support.paths import REPOSITORY

QEMU_CPU: Final = "cortex-a76"
"""The processor of a Raspberry Pi 5. qemu's own default has SVE, which few boards have."""


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@dataclass
class Trial:
    """A run of `make board`.

    Attributes:
        folder: everything that it makes.
        installations: what was installed.
        failures: the steps that failed.
    """

    folder: Path
    installations: list[Installation] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def log(self, name: str) -> Path:
        """Return the file for a log."""
        return self.folder / "logs" / f"{name}.log"

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Print a line about a step after it, with the facts that it adds to the list; let its failure pass."""
        facts: list[str] = []
        started_s = time.monotonic()
        try:
            yield facts
        except StepFailed as exc:
            more = f"; see {exc.log}" if exc.log else ""
            self.failures.append(f"{name}: {exc}{more}")
            say(f"{time.monotonic() - started_s:>5.0f} s  {name}: FAILED: {exc}{more}")
            raise
        first, *others = facts or ["done"]
        say(f"{time.monotonic() - started_s:>5.0f} s  {name}: {first}")
        for fact in others:
            say(f"         {fact}")


def build_wheel(trial: Trial) -> Path:
    """Build the wheel of this checkout, and return it."""
    folder = trial.folder / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    with trial.step("wheel") as facts:
        command = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, REPOSITORY)
        machine.run(*command, log=trial.log("wheel"), timeout_s=600)
        (wheel,) = folder.glob("*.whl")
        facts.append(wheel.name)
    return wheel


def make_base(trial: Trial) -> Path:
    """Install the Debian that all boards are copies of, and return its folder."""
    base = trial.folder / f"{machine.SUITE}-arm64"
    with trial.step("Debian for arm64") as facts:
        is_new = machine.make_base(base, trial.log("debootstrap"))
        facts.append(f"{machine.SUITE}, {machine.disk_mb(base):.0f} MB{'' if is_new else ', from a former run'}")
    return base


def install(trial: Trial, kind: checks.Kind, board: Board, wheel: Path) -> Installation:
    """Install the kit on a board with install.sh, and let its systemd verify the units.

    Args:
        trial: the run.
        kind: what is installed.
        board: where.
        wheel: the wheel.
    """
    log = trial.log(f"install-{kind.name}")
    found = Installation(kind=" ".join(kind.options))
    with trial.step(f"{kind.name}: install.sh") as facts:
        if kind.packages:
            board.install(kind.packages, log)
        script = REPOSITORY / "configs" / "edge" / "install.sh"
        options = ("--wheel", str(wheel), "--name", checks.PLATFORM, *kind.options)
        # The board is the image of a whole system.
        image = {"DESTDIR": str(board.root)}
        found.seconds = machine.run(script, *options, log=log, timeout_s=machine.INSTALL_S, env=image)
        found.pip_mb = report.downloaded_mb(log.read_text(errors="replace"))
        found.disk_mb = machine.disk_mb(board.at("/opt/fedkeeper"))
        facts.append(f"{found.pip_mb:.0f} MB from pip, {found.disk_mb:.0f} MB in /opt/fedkeeper")
    trial.installations.append(found)
    with trial.step(f"{kind.name}: units") as facts:
        facts.append(checks.verify_units(board, kind.units, trial.log(f"units-{kind.name}")))
    return found


async def try_kind(trial: Trial, kind: checks.Kind, host: Host, base: Path, wheel: Path) -> None:
    """Install a kind on a board of its own, or update the board of a former run, and check that it works.

    Args:
        trial: the run.
        kind: what is installed.
        host: this machine.
        base: the installed Debian.
        wheel: the wheel.
    """
    root = trial.folder / kind.name
    with contextlib.suppress(StepFailed):
        with trial.step(f"{kind.name}: board") as facts:
            facts.append("of a former run" if root.exists() else "new")
            board = await asyncio.to_thread(machine.make_board, base, root)
        with board.mounted():
            found = await asyncio.to_thread(install, trial, kind, board, wheel)
            with trial.step(f"{kind.name}: services") as facts:
                await kind.check(host, board, found, facts)


async def run(trial: Trial, kinds: Sequence[checks.Kind]) -> None:
    """Run all steps.

    Args:
        trial: the run.
        kinds: what is installed.
    """
    for name in ("logs", "host"):
        shutil.rmtree(trial.folder / name, ignore_errors=True)
    (trial.folder / "logs").mkdir(parents=True)
    async with contextlib.AsyncExitStack() as stack:
        with contextlib.suppress(StepFailed):
            with trial.step("emulator"):
                stack.enter_context(machine.Emulator())
            base, wheel = make_base(trial), build_wheel(trial)
            with trial.step("broker, FL server and bridge of this machine"):
                host = await stack.enter_async_context(running(trial.folder / "host"))
            for kind in kinds:
                await try_kind(trial, kind, host, base, wheel)


def main() -> None:
    """Run `make board` with the options of the command line."""
    parser = argparse.ArgumentParser(prog="make board", description=__doc__)
    parser.add_argument("--folder", type=Path, help="a folder that is kept: a further run updates its boards")
    parser.add_argument("--kinds", default="", help="what is installed, such as `openfaas local`; by default all")
    options = parser.parse_args()
    named: Path | None = options.folder
    kinds = [kind for kind in checks.KINDS if not options.kinds or kind.name in options.kinds.split()]
    if os.geteuid() != 0:
        sys.exit("make board needs root: it mounts file systems, and runs programs by chroot")
    logs.configure(quiet=True)
    os.environ.setdefault("QEMU_CPU", QEMU_CPU)
    # The first process of a pid namespace gets no signal that it has no handler for (pid_namespaces(7)).
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    trial = Trial(named.resolve() if named else Path(tempfile.mkdtemp(prefix="board-")))
    say(f"folder {trial.folder}; arm64 by qemu as {os.environ['QEMU_CPU']}")
    asyncio.run(run(trial, kinds))
    say("")
    for line in report.table(trial.installations):
        say(line)
    say("Seconds are emulated ones; memory is the highest, and contains the emulator's own.")
    for failure in trial.failures:
        say(f"FAILED: {failure}")
    if not named and not trial.failures:
        shutil.rmtree(trial.folder)
    sys.exit(1 if trial.failures else 0)


if __name__ == "__main__":
    main()

"""Starts a board's services by their own units, with what systemd would hand them."""

import os
from pathlib import Path
from typing import Final

from tests.board import report, units
from tests.board.machine import USER, Board
from tests.chaos.parts import Part

_UNITS: Final = ("/etc/systemd/system", "/lib/systemd/system")
"""Where systemd looks for units, the operator's first (systemd.unit(5))."""

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def part(board: Board, unit: str, *, ready: str, folder: Path) -> Part:
    """Return a service that does not run yet. Its credentials are laid out.

    Args:
        board: where it is installed.
        unit: its unit, such as `fedkeeper-bridge.service`.
        ready: text of the log line that says that it is ready.
        folder: a folder of this machine for its log.
    """
    service = units.read(*(file.read_text() for file in _files(board, unit)), host="board")
    user = USER if service.is_dynamic else 0
    name = unit.removesuffix(".service")
    # As systemd does (systemd.exec(5)); torch asks for the user's name, which is in no /etc/passwd.
    person = {"USER": name, "LOGNAME": name, "HOME": "/"} if service.is_dynamic else {}
    environment = {"PATH": _PATH, "QEMU_CPU": os.environ["QEMU_CPU"], **person, **service.environment}
    for file in service.environment_files:
        environment |= units.read_environment(board.at(file.removeprefix("-")).read_text())
    for credential, source in service.credentials.items():
        board.write(f"/run/credentials/{unit}/{credential}", board.at(source).read_text(), mode=0o400, owner=user)
    if service.state:
        board.at(service.state).mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chown(board.at(service.state), user, user)
    program = board.command(*units.expand(service.command, environment), user=user, folder=service.state or "/")
    return Part(name, ready=ready, folder=folder, environment=environment, program=program)


def _files(board: Board, unit: str) -> list[Path]:
    """Return a unit's file and its drop-ins."""
    (place, *_) = (file for folder in _UNITS if (file := board.at(f"{folder}/{unit}")).exists())
    return [place, *sorted(board.at(f"{_UNITS[0]}/{unit}.d").glob("*.conf"))]


def memory_mb(service: Part) -> dict[str, float]:
    """Return the most memory that a service's processes have taken, in MB, with that of the emulator."""
    found = {"main": _peak_mb(service.pid)}
    for name, command in {"worker": "client_fn.handlers.local", "trainer": "client_fn/training"}.items():
        sizes = [_peak_mb(pid) for pid in service.descendants(command)]
        if sizes:
            found[name] = max(sizes)
    return found


def _peak_mb(pid: int) -> float:
    try:
        return report.peak_memory_mb(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0  # ended in the meantime

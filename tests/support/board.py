"""A board that is played by a folder, and programs that only write down that they were called."""

import copy
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, Self

from tests.support.paths import REPOSITORY

EDGE: Final = REPOSITORY / "configs" / "edge"
SCRIPT: Final = EDGE / "install.sh"

PYTHON: Final = """
# Python as far as the script knows it: new enough, with torch $TORCH, and able to make an environment. pip does not
# repair what it has half installed.
venv=${0%/bin/python}
case "$*" in
    *'version("torch")'*) [ -n "${TORCH-2.10.0}" ] && echo "${TORCH-2.10.0}" ;;
    *client_fn.training.device*) echo "a sentence about $DEVICE"; echo "$DEVICE" ;;
    *'-m pip --version'*) [ -e "$venv/pip" ] ;;
    *'-m pip'*) [ ! -e "$venv/half" ] || exit 2; touch "$venv/half"; tick; rm -f "$venv/half"; touch "$venv/program" ;;
    *'-m venv'*) for target; do :; done
        mkdir -p "$target/bin" && cp "$STUBS/python" "$target/bin/python" && tick && touch "$target/pip" ;;
esac
"""

STUBS: Final = {
    "python": PYTHON,
    "systemctl": 'case "$*" in --version) echo "systemd ${SYSTEMD:-252} (252.1)" ;; "${FAILING:-none}") exit 1 ;; esac',
    "apt-get": "",
    "systemd-sysusers": "",
    "sync": "",
}
"""Programs of the system, as shell text. Each call is written down."""

FACTS: Final = {
    "dpkg": "echo ${ARCH:-arm64}",
    "id": "echo ${ROOT:-0}",
    "uname": 'echo "${HOST-board-1}"',
    "df": 'printf "x\\n/dev/x 9 9 %s 1%% /\\n" "${FREE:-9000000}"',
}
"""Programs that only say something about the board."""

TICK: Final = """
n=$(($(cat "$STUBS/ticks" 2> /dev/null || echo 0) + 1))
echo "$n" > "$STUBS/ticks"
[ "$n" != "${KILL_AT:-none}" ] || kill -9 0
"""
"""Counts a step, and kills the script and all that it has started at one of them."""

CHANGING: Final = ("install", "mv", "chmod", "touch", "rm", "sed", "cp")
"""Programs that change files, before each of which a script can be killed."""


class Board:
    """A board as the script sees it.

    Attributes:
        folder: holds all of it.
        root: plays the root of the file system.
        script: what `run` runs.
    """

    script = SCRIPT

    def __init__(self, folder: Path, *, can_be_killed: bool = False) -> None:
        """Make a bare board.

        Args:
            folder: for its files; made if it is missing.
            can_be_killed: whether KILL_AT can name a step at which the script is killed; this takes time.
        """
        self._find(folder)
        (folder / "stubs").mkdir(parents=True)
        (self.root / "run/systemd/system").mkdir(parents=True)
        (folder / "os-release").write_text("ID=ubuntu\nID_LIKE=debian\n")
        self.wheel.touch()
        tick = "tick\n" if can_be_killed else ""
        self.stub("tick", TICK if can_be_killed else "")
        for name, text in STUBS.items():
            self.stub(name, f'{tick}echo "{name} $*" >> "$STUBS/calls"\n{text}')
        for name, text in FACTS.items():
            self.stub(name, text)
        for name in CHANGING if can_be_killed else ():
            self.stub(name, f'tick\nexec {shutil.which(name)} "$@"')

    def _find(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "root"
        self.home, self.etc = self.root / "opt/fedkeeper", self.root / "etc/fedkeeper"
        self.units, self.wheel = self.root / "etc/systemd/system", folder / "fk.whl"

    def copy(self, folder: Path) -> Self:
        """Return another board that is as this one is now."""
        shutil.copytree(self.folder, folder)
        other = copy.copy(self)
        other._find(folder)
        return other

    def stub(self, name: str, text: str) -> None:
        """Give the board a program.

        Args:
            name: how it is called.
            text: the shell script without its first line.
        """
        path = self.folder / "stubs" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the script on the board as a running system.

        Args:
            *arguments: of the script.
            **environment: in addition to what makes the folder a board.
        """
        (self.folder / "stubs" / "ticks").unlink(missing_ok=True)
        env = {
            "PATH": f"{self.folder / 'stubs'}:{os.environ['PATH']}",
            "STUBS": str(self.folder / "stubs"),
            "OS_RELEASE": str(self.folder / "os-release"),
            "DESTDIR": str(self.root),
            "DEVICE": "cpu",
            "FEDKEEPER_TEST_LIVE": "yes",
            **environment,
        }
        command = (shutil.which("dash") or "/bin/sh", str(self.script), *arguments)
        # A group of its own: the steps kill theirs.
        return subprocess.run(
            command, check=False, env=env, capture_output=True, text=True, timeout=300, start_new_session=True
        )

    def install(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Install with the board's wheel and Python.

        Args:
            *options: more options of the script.
            **environment: see `run`.
        """
        given = ("--wheel", str(self.wheel), "--python", str(self.folder / "stubs" / "python"))
        return self.run(*given, *options, **environment)

    def image(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Install into the folder as into an image.

        Args:
            *options: see `install`.
            **environment: see `run`.
        """
        return self.install(*options, FEDKEEPER_TEST_LIVE="", **environment)

    def configure(self, *options: str) -> None:
        """Install, write all that an operator writes, and forget the calls.

        Args:
            *options: see `install`.
        """
        done = self.install(*options)
        assert done.returncode == 0, done.stderr
        for file in self.etc.glob("*.*"):
            file.write_text(file.read_text().replace("backbone.example.org", "10.0.0.7"))
        self.write_secrets()
        (self.etc / "nats-leaf.secret").write_text("BACKBONE: hunter2\n")
        (self.root / "etc/mosquitto").mkdir()
        (self.root / "etc/mosquitto/fedkeeper.passwd").write_text("edge:hunter2\n")
        (self.folder / "stubs" / "calls").unlink()

    def write_secrets(self) -> None:
        """Write the secrets that only an operator knows."""
        for name in ("broker-password", "openfaas-password", "backbone-password"):
            (self.etc / "secrets" / name).write_text("hunter2")

    def calls(self) -> list[str]:
        """Return the calls of programs in their order."""
        return (self.folder / "stubs" / "calls").read_text().splitlines()

    def tree(self) -> dict[str, tuple[int, str]]:
        """Return mode and text of each file; of a secret that is drawn by chance, the length."""
        files = [path for path in sorted(self.root.rglob("*")) if path.is_file()]
        texts = {path: path.read_text().replace(str(self.folder), "") for path in files}
        drawn = self.etc / "secrets/openfaas-key"
        if drawn in texts:
            texts[drawn] = str(len(texts[drawn]))
        return {str(path.relative_to(self.root)): (path.stat().st_mode, text) for path, text in texts.items()}

"""An arm64 Debian in a folder, whose programs qemu runs. Needs root, and a mount namespace that ends with us."""

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

SUITE: Final = "bookworm"
PACKAGES: Final = ("python3", "python3-venv", "ca-certificates", "procps", "systemd", "systemd-sysv")
"""What a board has before install.sh, apart from the essential packages."""

INSTALL_S: Final = 7200.0
"""How long an emulated installation may take on a loaded machine: three minutes on an idle one. Seconds."""

USER: Final = 61184
"""The first id that systemd gives to `DynamicUser=yes`, of user and group."""

_COMMAND_S: Final = 600.0
_BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")
_QEMU: Final = "qemu-aarch64"
_HOST_FILES: Final = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")
"""What the board takes over to reach the same package registries as this machine."""


class StepFailed(Exception):
    """A step failed.

    Args:
        why: what happened.
        log: the file that says more; None: none.

    Attributes:
        log: as in Args.
    """

    def __init__(self, why: str, log: Path | None = None) -> None:
        super().__init__(why)
        self.log = log


def run(*command: str | Path, log: Path, timeout_s: float, env: Mapping[str, str] | None = None) -> float:
    """Run a program, append what it writes to a log, and return how many seconds it took.

    Args:
        command: program and arguments.
        log: the log.
        timeout_s: it is killed after so many seconds.
        env: additional variables.

    Raises:
        StepFailed: it failed, or it took too long.
    """
    started_s = time.monotonic()
    with log.open("ab") as out:
        out.write(f"+ {' '.join(map(str, command))}\n".encode())
        out.flush()
        try:
            done = subprocess.run(
                command,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=timeout_s,
                env={**os.environ, **(env or {})},
            )
        except subprocess.TimeoutExpired as exc:
            raise StepFailed(f"{command[0]} took more than {timeout_s:g} s", log) from exc
    if done.returncode != 0:
        raise StepFailed(f"{command[0]} ended with {done.returncode}", log)
    return time.monotonic() - started_s


class Emulator:
    """Lets the kernel run arm64 programs by qemu during a `with` block; one that is enabled already stays so."""

    def __init__(self) -> None:
        self._is_ours = False

    def __enter__(self) -> Self:
        if not (_BINFMT / "register").exists():
            _output("mount", "-t", "binfmt_misc", "binfmt_misc", _BINFMT)
        if not (_BINFMT / _QEMU).exists():
            _output("update-binfmts", "--enable", _QEMU)
            self._is_ours = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_ours:
            _output("update-binfmts", "--disable", _QEMU)


class Board:
    """A board's root file system.

    Args:
        root: its folder.

    Attributes:
        root: as in Args.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def at(self, path: str) -> Path:
        """Return where a file of the board lies on this machine."""
        return self.root / path.lstrip("/")

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """Give the board's programs /proc during the block."""
        _output("mount", "-t", "proc", "proc", self.at("/proc"))
        try:
            yield
        finally:
            _output("umount", "--lazy", self.at("/proc"))

    def install(self, packages: Sequence[str], log: Path) -> None:
        """Install Debian packages.

        Args:
            packages: names of the packages.
            log: what apt-get says.

        Raises:
            StepFailed: it failed.
        """
        options = ("install", "-y", "--no-install-recommends")
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run(*self.command("apt-get", "update"), log=log, timeout_s=INSTALL_S)
        run(*self.command("apt-get", *options, *packages), log=log, timeout_s=INSTALL_S, env=quiet)

    def output(self, *command: str) -> str:
        """Return what a program of the board prints.

        Args:
            command: program and arguments.
        """
        return _output(*self.command(*command))

    def edit(self, path: str, pattern: str, text: str) -> None:
        """Replace what matches in a file of the board, as its operator would.

        Args:
            path: the file.
            pattern: a regular expression; ^ and $ match at each line.
            text: what is put in its place.

        Raises:
            StepFailed: nothing matches.
        """
        file = self.at(path)
        edited, count = re.subn(pattern, lambda _: text, file.read_text(), flags=re.MULTILINE)
        if not count:
            raise StepFailed(f"{path} has no line like {pattern}", file)
        file.write_text(edited)

    def command(self, *command: str, user: int = 0, folder: str = "/") -> tuple[str, ...]:
        """Return the command that runs a program of the board here.

        Args:
            command: program and arguments.
            user: id of its user and group.
            folder: its working directory.
        """
        who = (f"--userspec={user}:{user}", "--groups=") if user else ()
        return ("chroot", *who, str(self.root), "/usr/bin/env", f"--chdir={folder}", *command)

    def write(self, path: str, text: str, *, mode: int = 0o644, owner: int = 0) -> None:
        """Write a file of the board.

        Args:
            path: where.
            text: its content.
            mode: its mode.
            owner: id of its user and group.
        """
        file = self.at(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=mode)
        file.write_text(text)
        file.chmod(mode)
        os.chown(file, owner, owner)


def make_base(folder: Path, log: Path) -> bool:
    """Install a Debian for arm64; return whether it was made now. An interrupted one is made anew.

    Args:
        folder: where.
        log: what debootstrap says.

    Raises:
        StepFailed: debootstrap failed.
    """
    if folder.exists():
        return False
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    options = ("--arch=arm64", "--variant=minbase", f"--include={','.join(PACKAGES)}")
    run("debootstrap", *options, SUITE, unfinished, *_mirror(), log=log, timeout_s=INSTALL_S)
    unfinished.rename(folder)
    return True


def make_board(base: Path, root: Path) -> Board:
    """Return a board with a copy of an installed Debian, which reaches what this machine reaches.

    Args:
        base: the installed Debian.
        root: the board's folder; one that exists stays.
    """
    if not root.exists():
        unfinished = root.with_name(f"{root.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        _output("cp", "-a", "--reflink=auto", base, unfinished)
        unfinished.rename(root)
    board = Board(root)
    home = pwd.getpwuid(0).pw_dir
    for name in (*_HOST_FILES, f"{home}/.config/pip/pip.conf", f"{home}/.pip/pip.conf"):
        if Path(name).is_file():
            board.write(name, Path(name).read_text())
    acquire = _output("apt-config", "dump", "Acquire")
    board.write("/etc/apt/apt.conf.d/99host", acquire)
    return board


def _mirror() -> Sequence[str]:
    """Return the mirror from which this machine installs the same Debian; empty: debootstrap has a default."""
    options = ("--format", "$(REPO_URI)", f"Release: {SUITE}", "Created-By: Packages")
    return _output("apt-get", "indextargets", *options).split()[:1]


def disk_mb(folder: Path) -> float:
    """Return the size of a folder on the disk, in MB."""
    return int(_output("du", "-sx", "--block-size=1000", str(folder)).split()[0]) / 1000


def _output(*command: str | Path) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_COMMAND_S)
    except subprocess.TimeoutExpired as exc:
        raise StepFailed(f"{command[0]} took more than {_COMMAND_S:g} s") from exc
    if done.returncode != 0:
        raise StepFailed(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr.strip()[:300]}")
    return done.stdout

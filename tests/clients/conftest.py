"""Clients that are not ours, installed by npm once into a cache folder. Without npm, only Python's is tested."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

HERE: Final = Path(__file__).parent
INSTALL_S: Final = 600

OLDEST_NODE: Final = 20


def has_npm() -> bool:
    """Whether npm is here, and a Node that its packages run on."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return False
    version = subprocess.run((node, "--version"), capture_output=True, text=True, check=False).stdout
    return version.startswith("v") and int(version[1:].partition(".")[0]) >= OLDEST_NODE


collect_ignore_glob = [] if has_npm() else ["test_node*.py"]


@pytest.fixture(scope="session")
def installed() -> Path:
    """The folder of npm's packages, which all processes and later runs of the tests share."""
    wanted = (HERE / "package.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "fedkeeper-tests" / f"clients-{hashlib.sha256(wanted).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            (folder / "package.json").write_bytes(wanted)
            command = ("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts")
            run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            if run.returncode:
                pytest.fail(f"npm can't install the packages of tests/clients: {run.stderr[-2000:]}")
            (folder / "complete").touch()
    return folder / "node_modules"


@pytest.fixture
def scripts(installed: Path, tmp_path: Path) -> Path:
    """A folder with our scripts, which find npm's packages there."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "node_modules").symlink_to(installed)
    for script in HERE.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder

"""The edge kit, copied alone, installs the real program into an image, with paths that are right on the board."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

LIMIT_S = 900.0
"""pip downloads 30 packages."""

TARGETS = ("basic", "multi-user", "network-online", "shutdown", "sysinit", "time-sync")
"""Units of every system to which ours refer."""

NEWER = re.compile(r"Unknown key '?Restart(Steps|MaxDelaySec)'? ")
"""What a systemd older than 254 passes over, as the units say."""


def completed(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    done = subprocess.run(
        words, check=False, capture_output=True, text=True, timeout=LIMIT_S, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def check_units(root: Path) -> None:
    """Let systemd check the units in the image."""
    system = root / "usr/lib/systemd/system"
    system.mkdir(parents=True)
    for name in TARGETS:
        (system / f"{name}.target").write_text("[Unit]\nDescription=of the system\n")
    (root / "bin").mkdir()
    shutil.copy("/bin/kill", root / "bin/kill")
    for name in ("fedkeeper-bridge.service", "fedkeeper-nats.service"):
        assert (root / f"etc/systemd/system/multi-user.target.wants/{name}").readlink() == Path(
            "/etc/systemd/system", name
        )
        done = completed("systemd-analyze", "verify", f"--root={root}", name)
        assert [line for line in done.stderr.splitlines() if not NEWER.search(line)] == []


@pytest.mark.slow
def test_the_kit_installs_a_wheel_into_an_image(tmp_path: Path) -> None:
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "wheel", REPOSITORY)
    completed(*build)
    (wheel,) = (tmp_path / "wheel").iterdir()
    shutil.copytree(REPOSITORY / "configs" / "edge", tmp_path / "kit")
    (tmp_path / "os-release").write_text("ID=debian\n")
    root = tmp_path / "image"
    options = ("--wheel", wheel, "--broker", "nats", "--name", "ridge", "--python", sys.executable)
    facts = {"DESTDIR": str(root), "OS_RELEASE": str(tmp_path / "os-release")}
    done = completed("sh", tmp_path / "kit" / "install.sh", *options, **facts)
    assert "The platform's name is ridge." in done.stdout

    bin_ = root / "opt/fedkeeper/bin"
    assert (bin_ / "fedkeeper").read_text().splitlines()[0] == "#!/opt/fedkeeper/bin/python"
    wrong = [path for path in root.rglob("*") if path.is_file() and bytes(root) in path.read_bytes()]
    assert wrong == []
    links = [path for path in root.rglob("*") if path.is_symlink()]
    assert [link for link in links if str(root) in str(link.readlink())] == []
    secrets = root / "etc/fedkeeper/secrets"
    assert (secrets.stat().st_mode & 0o777, [*secrets.iterdir()]) == (0o700, [])
    assert 'name = "ridge"' in (root / "etc/fedkeeper/bridge.toml").read_text()

    # Where the program lies now, it runs as well.
    version = completed(bin_ / "python", "-P", bin_ / "fedkeeper", "--version").stdout
    assert version.startswith("fedkeeper ")
    assert completed(bin_ / "nats-server", "--version").stdout.startswith("nats-server: ")
    check_units(root)

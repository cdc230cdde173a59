"""The install script: what it would do, what it does below a folder, what it refuses. This machine stays as it is."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

SCRIPT = REPOSITORY / "configs" / "edge" / "install.sh"

PYTHON = """#!/bin/sh
# Python as far as the script knows it: new enough, and able to make an environment.
echo "python $*" >> "$STUBS/calls"
[ "$1" != -m ] || { mkdir -p "$3/bin" && cp "$STUBS/python" "$3/bin/python" && cp "$STUBS/pip" "$3/bin/pip"; }
"""


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A bare board: a folder in place of /, and programs that only note down that they were called."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    (stubs / "python").write_text(PYTHON)
    for name in ("pip", "systemctl", "apt-get", "useradd"):
        (stubs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "$STUBS/calls"\n')
    (stubs / "dpkg").write_text("#!/bin/sh\necho ${ARCH:-arm64}\n")
    for stub in stubs.iterdir():
        stub.chmod(0o755)
    (tmp_path / "os-release").write_text("ID=ubuntu\nID_LIKE=debian\n")
    (tmp_path / "fk.whl").touch()
    (tmp_path / "root/etc/systemd/system").mkdir(parents=True)
    return tmp_path


def install(board: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": f"{board / 'stubs'}:{os.environ['PATH']}",
        "STUBS": str(board / "stubs"),
        "OS_RELEASE": str(board / "os-release"),
        "DESTDIR": str(board / "root"),
        **environment,
    }
    shell = shutil.which("dash") or "/bin/sh"
    wheel = ("--wheel", str(board / "fk.whl"), "--python", str(board / "stubs" / "python"))
    command = (shell, str(SCRIPT), *wheel, *options)
    return subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=300)


def calls(board: Path) -> list[str]:
    return (board / "stubs" / "calls").read_text().splitlines()


def test_the_shell_takes_it() -> None:
    for shell in ("sh", "dash", "bash"):
        program = shutil.which(shell)
        if program is not None:
            subprocess.run([program, "-n", SCRIPT], check=True, timeout=10)


def test_a_dry_run_prints_the_steps_and_changes_nothing(board: Path) -> None:
    before = sorted(board.rglob("*"))
    done = install(board, "--dry-run", "--broker", "nats", DESTDIR="")
    assert done.returncode == 0, done.stderr
    for step in (
        "-m venv /opt/fedkeeper",
        f"+ /opt/fedkeeper/bin/pip install --disable-pip-version-check --upgrade {board / 'fk.whl'}[openfaas,embedded]",
        f"+ install -m 644 {SCRIPT.parent / 'bridge.toml'} /etc/fedkeeper/bridge.toml",
        "+ systemctl enable fedkeeper-bridge.service",
    ):
        assert step in done.stdout
    assert [path for path in sorted(board.rglob("*")) if path.name != "calls"] == before


def test_a_bare_board_gets_all_of_it_and_starts_when_the_operator_has_written_his_part(board: Path) -> None:
    first = install(board)
    assert first.returncode == 0, first.stderr
    etc, units = board / "root/etc/fedkeeper", board / "root/etc/systemd/system"
    assert (units / "fedkeeper-bridge.service").read_text() == (SCRIPT.parent / "fedkeeper-bridge.service").read_text()
    assert (etc / "secrets").stat().st_mode & 0o777 == 0o700
    key = (etc / "secrets/openfaas-key").read_text()
    assert len(key) == 64
    assert (etc / "secrets/openfaas-key").stat().st_mode & 0o777 == 0o600
    # Not with the address that we ship, and not without the secrets.
    assert "systemctl restart fedkeeper-bridge.service" not in calls(board)
    assert f"{etc}/bridge.toml" in first.stdout
    assert f"{etc}/secrets/broker-password" in first.stdout

    (etc / "bridge.toml").write_text('url = "nats://127.0.0.1:4222"\n')
    for name in ("broker-password", "openfaas-password"):
        (etc / "secrets" / name).write_text("hunter2")
    second = install(board)
    assert (etc / "bridge.toml").read_text() == 'url = "nats://127.0.0.1:4222"\n'
    assert (etc / "secrets/openfaas-key").read_text() == key
    assert calls(board)[-1] == "systemctl restart fedkeeper-bridge.service"
    assert len([call for call in calls(board) if "-m venv" in call]) == 1
    assert "hunter2" not in second.stdout + second.stderr + "".join(calls(board))
    assert key not in second.stdout + first.stdout


def test_the_host_service_comes_with_torch_and_goes_again(board: Path) -> None:
    dropin = board / "root/etc/systemd/system/fedkeeper-bridge.service.d/local.conf"
    assert install(board, "--bridge", "local").returncode == 0
    assert any(call.endswith("fk.whl[train]") for call in calls(board))
    assert dropin.exists()
    assert install(board).returncode == 0
    assert not dropin.exists()


def test_mosquitto_is_installed_and_reads_our_file(board: Path) -> None:
    done = install(board, "--broker", "mosquitto")
    assert done.returncode == 0, done.stderr
    assert any(call.startswith("apt-get install") and call.endswith("mosquitto") for call in calls(board))
    dropin = board / "root/etc/systemd/system/mosquitto.service.d/fedkeeper.conf"
    assert "-c /etc/fedkeeper/mosquitto.conf" in dropin.read_text()
    assert "systemctl restart mosquitto.service" not in calls(board)
    assert (board / "root/etc/fedkeeper/relay.toml").exists()
    assert "systemctl enable fedkeeper-relay.service" in calls(board)


@pytest.mark.parametrize(
    ("options", "environment", "sentence"),
    [
        ((), {"OS_RELEASE": "/dev/null"}, "this is made for Debian and Ubuntu, not for"),
        ((), {"ARCH": "armhf"}, "arm64 or amd64 is needed (this is armhf)"),
        (("--broker", "kafka"), {}, "--broker is none, nats or mosquitto, not kafka"),
        (("--bridge", "gcf"), {}, "--bridge is openfaas or local, not gcf"),
        (("--password", "x"), {}, "no such option: --password"),
        (("--wheel",), {}, "--wheel wants a value"),
        (("--wheel", "nowhere.whl"), {}, "there is no nowhere.whl"),
        (("--python", "/bin/false"), {}, "/bin/false is not Python 3.11 or newer"),
    ],
)
def test_an_impossible_installation_is_an_error_and_changes_nothing(
    options: tuple[str, ...], environment: dict[str, str], sentence: str, board: Path
) -> None:
    done = install(board, *options, **environment)
    assert done.returncode == 1
    assert f"install.sh: {sentence}" in done.stderr
    assert not (board / "root/opt").exists()


def test_the_error_for_an_older_python_says_where_to_get_a_newer_one(board: Path) -> None:
    stubs = board / "stubs"
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        (stubs / name).write_text("#!/bin/sh\nexit 1\n")
        (stubs / name).chmod(0o755)
    done = install(board, "--python", "")
    assert done.returncode == 1
    assert "Ubuntu 22.04 has 3.10" in done.stderr
    assert "deadsnakes" in done.stderr

"""The install script on a board that is played by a folder: what it does, what it says. This machine stays as it is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.board import EDGE, SCRIPT, Board

CHOICES = "# What install.sh installed.\nbridge={}\nbroker={}\ntorch={}\nindex=\n"


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_the_shell_takes_it() -> None:
    for shell in ("sh", "dash", "bash"):
        program = shutil.which(shell)
        if program is not None:
            for script in (SCRIPT, *sorted((EDGE / "lib").glob("*.sh"))):
                subprocess.run([program, "-n", script], check=True, timeout=10)


def test_a_dry_run_prints_the_steps_and_changes_nothing(board: Board) -> None:
    before = sorted(board.folder.rglob("*"))
    done = board.install("--dry-run", "--broker", "nats", DESTDIR="", FEDKEEPER_TEST_LIVE="")
    assert done.returncode == 0, done.stderr
    for step in (
        "-m venv /opt/fedkeeper",
        f"install --upgrade {board.wheel}[openfaas,embedded]",
        "+ write /etc/fedkeeper/bridge.toml",
        "+ systemctl enable fedkeeper-bridge.service",
    ):
        assert step in done.stdout
    assert [path for path in sorted(board.folder.rglob("*")) if path.name != "calls"] == before


def test_a_bare_board_gets_all_of_it_and_starts_when_the_operator_has_written_his_part(board: Board) -> None:
    first = board.install("--name", "site-1")
    assert first.returncode == 0, first.stderr
    assert (board.units / "fedkeeper-bridge.service").read_text() == (EDGE / "fedkeeper-bridge.service").read_text()
    assert (board.etc / "secrets").stat().st_mode & 0o777 == 0o700
    key = (board.etc / "secrets/openfaas-key").read_text()
    assert len(key) == 64
    assert (board.etc / "secrets/openfaas-key").stat().st_mode & 0o777 == 0o600
    # Not with the address that we ship, and not without the secrets.
    assert "systemctl restart fedkeeper-bridge.service" not in board.calls()
    assert f"{board.etc}/bridge.toml" in first.stdout
    assert f"{board.etc}/secrets/broker-password" in first.stdout
    assert "then: sudo systemctl restart fedkeeper-bridge.service" in first.stdout

    text = 'url = "nats://127.0.0.1:4222"\nname = "site-1"\n'
    (board.etc / "bridge.toml").write_text(text)
    board.write_secrets()
    second = board.install()
    assert (board.etc / "bridge.toml").read_text() == text
    assert (board.etc / "secrets/openfaas-key").read_text() == key
    assert board.calls()[-1] == "systemctl restart fedkeeper-bridge.service"
    assert len([call for call in board.calls() if "-m venv" in call]) == 1
    assert "hunter2" not in second.stdout + second.stderr + "".join(board.calls())
    assert key not in second.stdout + first.stdout


def test_an_update_without_options_keeps_bridge_broker_torch_and_name(board: Board) -> None:
    options = ("--bridge", "local", "--broker", "nats", "--torch", "cuda", "--name", "ridge-7")
    assert board.install(*options).returncode == 0
    before = board.tree()
    assert board.install().returncode == 0
    assert board.tree() == before
    assert (board.etc / "choices").read_text() == CHOICES.format("local", "nats", "cuda")


@pytest.mark.parametrize("option", ["--bridge", "--broker"])
def test_what_an_earlier_version_installed_stays(option: str, board: Board) -> None:
    value = {"--bridge": "local", "--broker": "mosquitto"}[option]
    assert board.install(option, value).returncode == 0
    (board.etc / "choices").unlink()
    assert board.install().returncode == 0
    assert f"\n{option.removeprefix('--')}={value}\n" in (board.etc / "choices").read_text()


def test_a_change_of_the_bridge_takes_the_drop_in_of_the_former_one(board: Board) -> None:
    dropin = board.units / "fedkeeper-bridge.service.d/local.conf"
    assert board.install("--bridge", "local", "--name", "ridge").returncode == 0
    assert any(call.endswith("fk.whl[train]") for call in board.calls())
    assert dropin.exists()
    assert board.install("--bridge", "openfaas").returncode == 0
    assert not dropin.exists()
    assert 'name = "ridge"' in (board.etc / "bridge.toml").read_text()
    assert (board.etc / "local.env").exists()


def test_a_restart_that_fails_is_said_and_the_rest_is_done(board: Board) -> None:
    board.configure("--bridge", "local", "--broker", "nats")
    done = board.install(FAILING="restart fedkeeper-nats.service")
    assert done.returncode == 1
    assert "fedkeeper-nats.service did not start; journalctl -u fedkeeper-nats.service says why" in done.stderr
    assert board.calls()[-1] == "systemctl restart fedkeeper-bridge.service"


def test_the_bridge_is_not_restarted_before_its_broker_has_its_files(board: Board) -> None:
    board.configure("--bridge", "local")
    (board.etc / "nats-leaf.secret").unlink()
    done = board.install("--broker", "nats")
    assert done.returncode == 0, done.stderr
    assert not any(call.startswith("systemctl restart") for call in board.calls())
    assert "then: sudo systemctl restart fedkeeper-nats.service fedkeeper-bridge.service" in done.stdout
    assert done.stdout.count("nats-leaf.secret") == 1


# Brokers.


@pytest.mark.parametrize(
    ("broker", "url"), [("nats", "nats://edge@127.0.0.1:4222?"), ("mosquitto", "mqtt://edge@127.0.0.1:1883?")]
)
@pytest.mark.parametrize(("bridge", "file"), [("local", "local.env"), ("openfaas", "bridge.toml")])
def test_the_bridge_of_a_board_with_a_broker_connects_to_it(
    bridge: str, file: str, broker: str, url: str, board: Board
) -> None:
    assert board.install("--bridge", bridge, "--broker", broker).returncode == 0
    assert url in (board.etc / file).read_text()


def test_mosquitto_never_runs_without_its_passwords(board: Board) -> None:
    done = board.install("--broker", "mosquitto", "--name", "ridge")
    assert done.returncode == 0, done.stderr
    dropin = (board.units / "mosquitto.service.d/fedkeeper.conf").read_text()
    assert "ExecStart=/usr/sbin/mosquitto -c /etc/fedkeeper/mosquitto.conf" in dropin
    assert "AssertPathExists=/etc/mosquitto/fedkeeper.passwd" in dropin
    # The installation of the package starts it: by then systemd knows the drop-in.
    steps = re.findall(r"^\+ (.*)$", done.stdout, re.MULTILINE)
    order = [
        steps.index(step)
        for step in (
            f"write {board.units}/mosquitto.service.d/fedkeeper.conf",
            "systemctl daemon-reload",
            "systemctl stop mosquitto.service",
            "apt-get update",
        )
    ]
    assert order == sorted(order)
    assert "systemctl restart mosquitto.service" not in board.calls()
    told = "then: sudo systemctl restart mosquitto.service fedkeeper-relay.service fedkeeper-bridge.service"
    assert told in done.stdout
    assert 'platforms = ["ridge"]' in (board.etc / "relay.toml").read_text()


def test_mosquitto_is_restarted_with_its_passwords(board: Board) -> None:
    board.configure("--broker", "mosquitto")
    done = board.install()
    assert done.returncode == 0, done.stderr
    assert "systemctl stop mosquitto.service" not in board.calls()
    restarted = [call.split()[-1] for call in board.calls() if call.startswith("systemctl restart")]
    assert restarted == ["mosquitto.service", "fedkeeper-relay.service", "fedkeeper-bridge.service"]


@pytest.mark.parametrize(
    ("former", "unit", "kept"),
    [
        ("nats", "fedkeeper-nats.service", "nats-leaf.conf"),
        ("mosquitto", "fedkeeper-relay.service", "relay.toml"),
        ("mosquitto", "mosquitto.service", "mosquitto.conf"),
    ],
)
def test_another_broker_disables_and_removes_the_former_one(former: str, unit: str, kept: str, board: Board) -> None:
    board.configure("--broker", former)
    done = board.install("--broker", "none")
    assert done.returncode == 0, done.stderr
    assert f"systemctl disable --now {unit}" in board.calls()
    assert not (board.units / unit).exists()
    assert not (board.units / f"{unit}.d" / "fedkeeper.conf").exists()
    assert (board.etc / kept).exists()


# The board's name.


def test_a_board_is_called_as_its_host_if_nothing_else_is_said(board: Board) -> None:
    done = board.install("--bridge", "local", HOST="Ridge_7.example.org")
    assert "FEDKEEPER_PLATFORM=ridge-7" in (board.etc / "local.env").read_text().splitlines()
    assert "The platform's name is ridge-7, of this host's name. No other board may have it." in done.stdout
    dropin = (board.units / "fedkeeper-bridge.service.d/local.conf").read_text()
    assert "--platform ${FEDKEEPER_PLATFORM} " in dropin


@pytest.mark.parametrize(("bridge", "file"), [("local", "local.env"), ("openfaas", "bridge.toml")])
def test_a_name_stays_and_another_one_is_refused(bridge: str, file: str, board: Board) -> None:
    assert board.install("--bridge", bridge, "--name", "ridge-7").returncode == 0
    text = (board.etc / file).read_text()
    assert "ridge-7" in text
    done = board.install("--name", "valley", HOST="else")
    assert done.returncode == 1
    assert f"this board's name is ridge-7, in {board.etc}/{file}; change it there" in done.stderr
    assert board.install(HOST="else").returncode == 0
    assert (board.etc / file).read_text() == text


def test_a_board_of_an_earlier_version_keeps_its_name(board: Board) -> None:
    (board.units / "fedkeeper-bridge.service.d").mkdir(parents=True)
    unit = "ExecStart=/opt/fedkeeper/bin/fedkeeper bridge local --platform edge --no-provision\n"
    (board.units / "fedkeeper-bridge.service.d/local.conf").write_text(unit)
    board.etc.mkdir(parents=True)
    settings = "FEDKEEPER_URL=nats://10.0.0.7:4222\nFEDKEEPER_DEVICE=cpu\n"
    (board.etc / "local.env").write_text(settings)
    done = board.install()
    assert done.returncode == 0, done.stderr
    assert (board.etc / "local.env").read_text() == settings + "FEDKEEPER_PLATFORM=edge\n"


# Removing, repeating, refusing.


def test_remove_leaves_configuration_and_secrets(board: Board) -> None:
    board.configure("--bridge", "local", "--broker", "mosquitto")
    state = board.root / "var/lib/fedkeeper"
    state.mkdir(parents=True)
    own = board.units / "fedkeeper-bridge.service.d/override.conf"
    own.write_text("[Service]\nMemoryMax=50%\n")
    done = board.run("--remove")
    assert done.returncode == 0, done.stderr
    for unit in ("fedkeeper-bridge.service", "fedkeeper-relay.service", "mosquitto.service"):
        assert f"systemctl disable --now {unit}" in board.calls()
    assert [path for path in board.units.rglob("*") if path.is_file()] == [own]
    assert not (board.units / "mosquitto.service.d").exists()
    assert not board.home.exists()
    assert (board.etc / "secrets/broker-password").exists()
    assert state.exists()
    assert f"Kept: {board.etc} with its secrets" in done.stdout
    assert board.run("--remove").returncode == 0


@pytest.mark.slow
def test_a_run_that_was_killed_at_any_step_is_repeated(tmp_path: Path) -> None:
    """On one board: it is killed at its first step, the next run at its second step, and so on, until one ends."""
    board = Board(tmp_path / "killed", can_be_killed=True)
    board.configure("--bridge", "openfaas", "--broker", "nats")
    options = ("--bridge", "local", "--broker", "mosquitto")
    whole = board.copy(tmp_path / "whole")
    assert whole.install(*options).returncode == 0
    step = 1
    while (done := board.install(*options, KILL_AT=str(step))).returncode == -9:
        step += 1
    assert done.returncode == 0, (step, done.stderr)
    assert step > 50
    assert board.tree() == whole.tree()


@pytest.mark.parametrize(
    ("options", "environment", "sentence"),
    [
        ((), {"OS_RELEASE": "/dev/null"}, "this is made for Debian and Ubuntu, not for"),
        ((), {"ARCH": "armhf"}, "arm64 or amd64 is needed (this is armhf)"),
        ((), {"SYSTEMD": "245"}, "systemd 247 or newer is needed, and this is 245 (Ubuntu 20.04 and JetPack 5"),
        ((), {"ROOT": "1000"}, "run it as root"),
        ((), {"HOST": "localhost"}, "give --name: the name of this host, 'localhost', is no name for a board"),
        (("--name", "Ridge"), {}, "--name 'Ridge': only a-z, 0-9 and - are possible, at most 40 of them"),
        (("--name", "a|b\nc"), {}, "--name 'a|b\nc': only a-z"),
        (("--name", 41 * "a"), {}, f"--name '{41 * 'a'}': only a-z, 0-9 and - are possible, at most 40"),
        (("--name", ""), {}, "--name wants a value"),
        (("--broker", "kafka"), {}, "--broker is none, nats or mosquitto, not kafka"),
        (("--bridge", "gcf"), {}, "--bridge is openfaas or local, not gcf"),
        (("--torch", "cpu"), {}, "--torch and --index are for --bridge local"),
        (("--bridge", "local", "--torch", "./no.whl"), {}, "there is no ./no.whl"),
        (("--bridge", "local", "--torch", "--pre"), {}, "--torch '--pre': cpu, cuda, none, a requirement"),
        (("--password", "x"), {}, "no such option: --password"),
        (("--wheel",), {}, "--wheel wants a value"),
        (("--wheel", "nowhere.whl"), {}, "there is no nowhere.whl"),
        (("--python", "/bin/false"), {}, "/bin/false is not Python 3.11 or newer"),
    ],
)
def test_an_impossible_installation_is_an_error_and_changes_nothing(
    options: tuple[str, ...], environment: dict[str, str], sentence: str, board: Board
) -> None:
    done = board.install(*options, **environment)
    assert done.returncode == 1
    assert f"install.sh: {sentence}" in done.stderr
    assert not board.home.parent.exists()
    assert not board.etc.exists()


def test_the_error_for_an_older_python_says_where_to_get_a_newer_one(board: Board) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        board.stub(name, "exit 1")
    done = board.run("--wheel", str(board.wheel))
    assert done.returncode == 1
    assert "Ubuntu 22.04 has 3.10" in done.stderr
    assert "deadsnakes" in done.stderr

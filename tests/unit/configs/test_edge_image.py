"""The install script with DESTDIR: an image gets right paths, and the building machine stays as it is."""

from pathlib import Path

import pytest

from tests.support.board import Board

CHROOT = """
# Runs the programs of this machine, with the program and its files below the folder.
echo "chroot $*" >> "$STUBS/calls"
root=$1
shift
number=$#
for word; do
    case $word in /opt/fedkeeper*) word=$root$word ;; TMPDIR=/*) word=TMPDIR=$root${word#TMPDIR=} ;; esac
    set -- "$@" "$word"
done
shift "$number"
exec "$@"
"""


@pytest.fixture
def board(tmp_path: Path) -> Board:
    board = Board(tmp_path)
    board.stub("chroot", CHROOT)
    return board


def make_whole(board: Board) -> None:
    """Make the folder a whole system."""
    (board.root / "usr/bin").mkdir(parents=True)
    (board.root / "usr/bin/python3").touch()
    (board.root / "etc").mkdir()
    (board.root / "etc/os-release").write_text("ID=debian\n")


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("bridge", ["openfaas", "local"])
def test_an_image_starts_its_services_later_and_the_building_machine_stays_as_it_is(
    bridge: str, board: Board, *, is_whole: bool
) -> None:
    if is_whole:
        make_whole(board)
    secret = board.root / "var/lib/faasd/secrets/basic-auth-password"
    secret.parent.mkdir(parents=True)
    secret.write_text("hunter2")
    done = board.image("--bridge", bridge, "--broker", "nats", "--name", "ridge", DEVICE="cuda")
    assert done.returncode == 0, done.stderr
    own = [call for call in board.calls() if call.startswith(("apt-get", "systemctl", "systemd-sysusers"))]
    assert f"systemctl --root={board.root} enable fedkeeper-bridge.service" in own
    assert all(f"--root={board.root} " in call for call in own if call != "systemctl --version")
    assert (f"systemd-sysusers --root={board.root} fedkeeper.conf" in own) == is_whole
    assert [path.name for path in (board.etc / "secrets").iterdir()] == []
    if bridge == "local":
        # The GPU of the building machine says nothing about the board's.
        assert "FEDKEEPER_DEVICE=cpu" in (board.etc / "local.env").read_text().splitlines()
        assert not any("client_fn.training.device" in call for call in board.calls())


def test_a_whole_system_runs_its_own_python_with_its_own_paths(board: Board) -> None:
    make_whole(board)
    assert board.image("--bridge", "local").returncode == 0
    python = f"chroot {board.root} {board.folder}/stubs/python"
    assert f"{python} -m venv /opt/fedkeeper" in board.calls()
    pip = f"chroot {board.root} env TMPDIR=/opt/fedkeeper/download /opt/fedkeeper/bin/python -m pip --no-cache-dir"
    installed = [call for call in board.calls() if call.startswith(pip)]
    assert installed[1].endswith("-c /opt/fedkeeper/constraints.txt /opt/fedkeeper/download/fk.whl[train]")
    assert not (board.home / "download").exists()


def test_each_board_that_is_written_from_an_image_has_the_name_of_its_host(board: Board) -> None:
    done = board.image("--bridge", "local", HOST="builder")
    assert done.returncode == 0, done.stderr
    assert "builder" not in (board.etc / "local.env").read_text()
    unit = (board.units / "fedkeeper-bridge.service.d/local.conf").read_text().splitlines()
    # A name in the file wins.
    assert unit.index("Environment=FEDKEEPER_PLATFORM=%l") < unit.index("EnvironmentFile=/etc/fedkeeper/local.env")
    assert "The platform's name will be that of the board's host." in done.stdout


@pytest.mark.parametrize(
    ("options", "environment", "sentence"),
    [
        ((), {"DESTDIR": "image"}, "DESTDIR is an absolute path, not image"),
        ((), {"ROOT": "1000"}, "is a whole system, and its programs are run by chroot"),
        ((), {"SYSTEMD": "245"}, "systemd 247 or newer is needed"),
        (("--bridge", "openfaas"), {}, "give --name: for an image, only --bridge local without Mosquitto can take"),
        (("--bridge", "local", "--broker", "mosquitto"), {"MOSQUITTO": "yes"}, "give --name: for an image"),
        (("--broker", "mosquitto"), {}, "install the package mosquitto in the image first"),
    ],
)
def test_an_image_that_would_not_be_right_is_refused(
    options: tuple[str, ...], environment: dict[str, str], sentence: str, board: Board
) -> None:
    make_whole(board)
    if "MOSQUITTO" in environment:
        (board.root / "usr/sbin").mkdir()
        (board.root / "usr/sbin/mosquitto").touch()
    done = board.image(*options, **environment)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert not board.etc.exists()


def test_a_system_of_another_architecture_needs_an_emulator(board: Board) -> None:
    make_whole(board)
    board.stub("chroot", "exit 126")
    done = board.image()
    assert done.returncode == 1
    assert f"the programs of {board.root} do not run here" in done.stderr
    assert "qemu-user-static" in done.stderr


def test_in_a_chroot_the_image_is_the_root_itself(board: Board) -> None:
    done = board.image("--dry-run", "--name", "ridge", DESTDIR="/")
    assert done.returncode == 0, done.stderr
    assert "+ systemctl --root=/ enable fedkeeper-bridge.service" in done.stdout
    assert "+ write /etc/fedkeeper/bridge.toml" in done.stdout
    assert "daemon-reload" not in done.stdout

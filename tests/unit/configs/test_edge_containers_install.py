"""The install script of a board's containers, on a board that is played by a folder and by programs that do nothing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.board import EDGE, Board

SCRIPT = EDGE / "containers" / "install.sh"
DOCKER = r"""case "$*" in info*) echo "{\"${RUNTIME-nvidia}\": {}}" ;; esac"""
UNIT = "etc/systemd/system/fedkeeper-bridge@.service"


@pytest.fixture
def board(tmp_path: Path) -> Board:
    board = Board(tmp_path)
    board.script = SCRIPT
    board.wheel = board.wheel.rename(tmp_path / "fedkeeper-0.2.0-py3-none-any.whl")
    board.stub("docker", f'echo "docker $*" >> "$STUBS/calls"\n{DOCKER}')
    return board


def install(board: Board, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return board.run("--wheel", str(board.wheel), *options, **environment)


def write_all(board: Board) -> None:
    """Write what an operator writes, and forget the calls."""
    values = board.etc / "containers/bridge.env"
    values.write_text(values.read_text().replace("backbone.example.org", "10.0.0.7"))
    (board.etc / "secrets/broker-password").write_text("hunter2")
    (board.folder / "stubs/calls").unlink()


def test_the_shell_takes_it() -> None:
    assert os.access(SCRIPT, os.X_OK)
    subprocess.run([shutil.which("dash") or "/bin/sh", "-n", SCRIPT], check=True, timeout=10)


@pytest.mark.parametrize(("image", "other"), [("cpu", "jetpack6"), ("jetpack6", "cpu")])
def test_a_board_gets_an_image_and_a_service_that_starts_when_all_is_written(
    board: Board, image: str, other: str
) -> None:
    first = install(board, "--name", "orin-3", image)
    assert first.returncode == 0, first.stderr
    ours = board.etc / "containers"
    assert (ours / board.wheel.name).is_file()
    assert "FEDKEEPER_PLATFORM=orin-3\n" in (ours / "bridge.env").read_text()
    assert (board.root / UNIT).read_text() == (EDGE / "containers/fedkeeper-bridge@.service").read_text()
    assert (board.etc / "secrets").stat().st_mode & 0o777 == 0o700
    build = f"docker build --pull --tag fedkeeper-bridge:{image} --file {ours}/{image}.Dockerfile {ours}"
    enable = f"systemctl enable fedkeeper-bridge@{image}.service"
    calls = board.calls()
    assert calls.index(build) < calls.index(f"systemctl disable --now fedkeeper-bridge@{other}.service")
    assert calls[-1] == enable
    assert f"then: sudo systemctl restart fedkeeper-bridge@{image}" in first.stdout

    write_all(board)
    second = install(board, image)
    assert second.returncode == 0, second.stderr
    assert board.calls()[-2:] == [enable, f"systemctl restart fedkeeper-bridge@{image}.service"]
    assert "10.0.0.7" in (ours / "bridge.env").read_text()


def test_a_new_wheel_takes_the_place_of_the_former(board: Board) -> None:
    install(board, "cpu")
    board.wheel = board.wheel.rename(board.folder / "fedkeeper-0.3.0-py3-none-any.whl")
    install(board, "cpu")
    assert [file.name for file in (board.etc / "containers").glob("*.whl")] == [board.wheel.name]


def test_the_wheel_of_a_former_run_can_be_given_again(board: Board) -> None:
    install(board, "cpu")
    board.wheel = board.etc / "containers" / board.wheel.name
    board.wheel.write_text("the wheel")
    done = install(board, "cpu")
    assert done.returncode == 0, done.stderr
    assert board.wheel.read_text() == "the wheel"


def test_the_name_of_the_host_is_the_default_and_a_name_stays(board: Board) -> None:
    assert "The platform's name is orin-7." in install(board, "cpu", HOST="Orin-7.local").stdout
    assert "The platform's name is orin-7." in install(board, "cpu", HOST="other").stdout
    done = install(board, "--name", "other", "cpu")
    assert done.returncode == 1
    assert "this board's name is orin-7" in done.stderr


@pytest.mark.parametrize(
    ("options", "environment", "said"),
    [
        (("--name", "Orin 3", "cpu"), {}, "--name 'Orin 3': only a-z"),
        (("cpu",), {"HOST": "localhost"}, "give --name"),
        ((), {}, "which image? cpu or jetpack6"),
        (("jetpack7",), {}, "no such image or option: jetpack7"),
        (("jetpack6",), {"RUNTIME": "runc"}, "Docker has no runtime 'nvidia'"),
        (("cpu",), {"ROOT": "1000"}, "run it as root"),
    ],
)
def test_what_can_t_work_is_refused_before_anything_changes(
    board: Board, options: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    done = install(board, *options, **environment)
    assert done.returncode == 1
    assert said in done.stderr
    assert not board.etc.exists()


def test_without_docker_it_says_what_to_install(board: Board) -> None:
    board.stub("docker", "exit 1")
    assert "apt-get install docker.io docker-compose-v2" in install(board, "cpu").stderr


def test_a_removal_keeps_what_the_operator_has_written(board: Board) -> None:
    install(board, "cpu")
    write_all(board)
    done = board.run("--remove")
    assert done.returncode == 0, done.stderr
    assert not (board.root / UNIT).exists()
    assert (board.etc / "secrets/broker-password").read_text() == "hunter2"
    assert "docker image rm --force fedkeeper-bridge:cpu" in board.calls()
    assert board.run("--remove").returncode == 0


def test_a_dry_run_changes_nothing(board: Board) -> None:
    done = install(board, "--dry-run", "cpu")
    assert done.returncode == 0, done.stderr
    assert "+ docker build" in done.stdout
    assert not board.etc.exists()

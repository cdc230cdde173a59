"""Which torch the install script installs for a board that trains by itself, and on which device it works."""

import re
from pathlib import Path

import pytest

from tests.support.board import Board


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


@pytest.mark.parametrize(
    ("arch", "options", "expected"),
    [
        ("arm64", (), "install torch>=2.6,<2.11"),
        ("arm64", ("--index", "https://example.org/cpu"), "install --index-url https://example.org/cpu torch>=2.6"),
        ("amd64", (), "install --index-url https://download.pytorch.org/whl/cpu torch>=2.6"),
        ("arm64", ("--torch", "cuda"), "install torch>=2.6"),
        ("amd64", ("--torch", "cuda"), "install torch>=2.6"),
        ("arm64", ("--torch", "torch==2.9.1"), "install torch==2.9.1"),
        ("arm64", ("--torch", "https://example.org/torch.whl"), "install https://example.org/torch.whl"),
    ],
)
def test_torch_comes_without_cuda_unless_it_is_asked_for(
    arch: str, options: tuple[str, ...], expected: str, board: Board
) -> None:
    assert board.install("--bridge", "local", *options, ARCH=arch).returncode == 0
    installed = [call for call in board.calls() if "-m pip" in call and "install" in call]
    assert installed[0].endswith(expected)
    # What comes after it takes no other torch.
    assert (board.home / "constraints.txt").read_text() == "torch==2.10.0\n"
    assert f"-c {board.home}/constraints.txt" in installed[1]


def test_a_torch_that_is_there_is_used_and_one_that_is_not_is_an_error(board: Board) -> None:
    done = board.install("--bridge", "local", "--torch", "none", TORCH="")
    assert done.returncode == 1
    assert "--torch none: no torch is installed in /opt/fedkeeper or for" in done.stderr
    assert not board.home.exists()
    done = board.install("--bridge", "local", "--torch", "none")
    assert done.returncode == 0, done.stderr
    assert not any("install torch" in call for call in board.calls())
    assert (board.home / "constraints.txt").read_text() == "torch==2.10.0\n"


def test_another_torch_leaves_nothing_of_the_former_one(board: Board) -> None:
    assert board.install("--bridge", "local", "--torch", "cuda").returncode == 0
    (board.home / "nvidia").mkdir()
    assert board.install("--torch", "cpu").returncode == 0
    assert not (board.home / "nvidia").exists()


def test_what_does_not_fit_on_the_disk_is_refused_before_anything_is_changed(board: Board) -> None:
    done = board.install("--bridge", "local", FREE="1000000")
    assert done.returncode == 1
    sizes = "to download: about 300 MB; on the disk: about 1300 MB in /opt/fedkeeper; 976 MB are free"
    assert sizes in done.stdout
    assert "there is not enough space: while pip works, 1600 MB are needed, and" in done.stderr
    assert not board.etc.exists()
    assert board.install(FREE="1000000").returncode == 0
    # An update downloads little.
    assert board.install(FREE="100000").returncode == 0


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_device_is_the_one_on_which_torch_works(device: str, board: Board) -> None:
    done = board.install("--bridge", "local", DEVICE=device)
    assert f"FEDKEEPER_DEVICE={device}" in (board.etc / "local.env").read_text().splitlines()
    assert f"a sentence about {device}\n" in done.stdout
    assert f"{board.home}/bin/python -P -m client_fn.training.device" in done.stdout
    # The operator's word counts, also if it is another one.
    text = (board.etc / "local.env").read_text().replace(f"DEVICE={device}", "DEVICE=cuda:1")
    (board.etc / "local.env").write_text(text)
    done = board.install(DEVICE=device)
    assert (board.etc / "local.env").read_text() == text
    assert f"is 'cuda:1', and the installed torch works with {device}" in done.stdout


def test_a_torch_that_does_not_work_at_all_is_an_error(board: Board) -> None:
    done = board.install("--bridge", "local", DEVICE="neither")
    assert done.returncode == 1
    assert "install.sh: the installed torch can't be used on this machine" in done.stderr
    assert not (board.etc / "local.env").exists()


def test_the_groups_of_gpu_devices_are_there_before_the_unit_names_them(board: Board) -> None:
    assert board.install("--bridge", "local").returncode == 0
    text = (board.root / "usr/lib/sysusers.d/fedkeeper.conf").read_text()
    dropin = (board.units / "fedkeeper-bridge.service.d/local.conf").read_text()
    groups = re.findall(r"^g (\w+) - -$", text, re.MULTILINE)
    assert f"SupplementaryGroups={' '.join(groups)}\n" in dropin
    assert groups == ["video", "render"]
    assert f"systemd-sysusers --root={board.root} fedkeeper.conf" in board.calls()


def test_an_update_needs_no_wheel_of_torch_that_was_installed_before(board: Board) -> None:
    torch = board.folder / "torch-2.12.0-cp312-cp312-linux_aarch64.whl"
    torch.touch()
    first = board.install("--bridge", "local", "--torch", str(torch))
    assert first.returncode == 0, first.stderr
    torch.unlink()
    (board.folder / "stubs/calls").unlink()
    update = board.install()
    assert update.returncode == 0, update.stderr
    assert f"{torch} is not there any more: the torch that was installed from it stays" in update.stdout
    assert not any(torch.name in call for call in board.calls())
    assert (board.home / "constraints.txt").read_text() == "torch==2.10.0\n"


def test_without_that_torch_its_wheel_is_needed_again(board: Board) -> None:
    torch = board.folder / "torch.whl"
    torch.touch()
    assert board.install("--bridge", "local", "--torch", str(torch)).returncode == 0
    torch.unlink()
    (board.home / "incomplete").touch()
    update = board.install()
    assert update.returncode == 1
    assert f"there is no {torch}" in update.stderr


def test_the_password_of_an_index_is_not_told(board: Board) -> None:
    index = "https://me:hunter2@example.org/simple"
    done = board.install(
        "--bridge", "local", "--torch", "torch @ https://me:hunter2@example.org/t.whl", "--index", index
    )
    assert done.returncode == 0, done.stderr
    assert "example.org/simple" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
    assert any(f"--index-url {index}" in call for call in board.calls())

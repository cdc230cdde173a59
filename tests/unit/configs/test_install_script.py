"""The install of `make run` says what it does; pip is replaced by a program that prints what pip prints."""

import subprocess
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

PIP = """#!/bin/sh
echo "$@" > "$(dirname "$0")/arguments"
echo "Collecting torch==2.13.0"
echo "  Downloading https://files.example.org/packages/torch-2.13.0-cp311-none-any.whl (187.5 MB)"
echo "  Downloading https://files.example.org/packages/typer-1-py3-none-any.whl (12 kB)"
echo "Installing collected packages: torch, typer"
echo "WARNING: an old cache" >&2
exit $STATUS
"""


def install(
    folder: Path, machine: str, *options: str, status: int = 0, index: str = ""
) -> subprocess.CompletedProcess[str]:
    (folder / "env" / "bin").mkdir(parents=True)
    for name, text in (("env/bin/pip", PIP), ("uname", f'#!/bin/sh\n[ "$1" = -s ] && echo Linux || echo {machine}\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "requirements.lock").write_text("# a comment\n--no-binary x\ntorch==2.13.0\ntyper==1\n")
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "STATUS": str(status)} | (
        {"PIP_EXTRA_INDEX_URL": index} if index else {}
    )
    command = [str(REPOSITORY / "scripts" / "install"), "env", "requirements.lock", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_large_downloads_are_named_and_the_rest_is_not(tmp_path: Path) -> None:
    done = install(tmp_path, "aarch64", "--no-deps")
    assert done.stdout.splitlines() == [
        "installing the 2 packages of requirements.lock into env",
        "  about 200 MB, 2 minutes on a quick line; torch is the largest",
        "  downloading torch-2.13.0-cp311-none-any.whl (187.5 MB)",
        "  unpacking them",
    ]
    assert done.stderr == "WARNING: an old cache\n"
    assert "--no-deps -r requirements.lock" in (tmp_path / "env" / "bin" / "arguments").read_text()


def test_where_pip_takes_cuda_the_line_for_the_cpu_is_printed(tmp_path: Path) -> None:
    line = "    PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make run"
    assert line in install(tmp_path, "x86_64").stdout.splitlines()


def test_who_has_named_an_index_needs_no_advice(tmp_path: Path) -> None:
    assert "make run" not in install(tmp_path, "x86_64", index="https://cpu.example.org").stdout


@pytest.mark.parametrize("status", [0, 1, 23])
def test_a_failed_install_fails(tmp_path: Path, status: int) -> None:
    assert install(tmp_path, "aarch64", status=status).returncode == status

"""A user's files in the working folder may have the names of our packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.program import run

PROGRAM = Path(sys.executable).with_name("fedkeeper")
TAKEN = "raise SystemExit('a file of the user was imported')\n"
WITHIN_S = 120.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a module or a package for each of our names."""
    for name in ("client_fn", "server"):
        (tmp_path / f"{name}.py").write_text(TAKEN)
    for name in ("broker", "bridges"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(TAKEN)
    return tmp_path


def output_of(folder: Path, *command: str | Path) -> str:
    """Run a program in a folder, and return all that it has printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        command,
        check=False,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WITHIN_S,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


@pytest.mark.parametrize("command", [(PROGRAM,), (sys.executable, "-m", "fedkeeper")])
def test_the_command_line_starts(folder: Path, command: tuple[str | Path, ...]) -> None:
    assert "Usage" in output_of(folder, *command, "jobs", "--help")


def test_the_package_is_imported(folder: Path) -> None:
    program = "import fedkeeper, broker, server; print(fedkeeper.connect.__module__, server.__file__)"
    module, file = output_of(folder, sys.executable, "-c", program).split()
    assert module == "fedkeeper.sdk"
    assert not Path(file).is_relative_to(folder)


def test_a_script_beside_such_files_imports_the_package_and_its_other_modules(folder: Path) -> None:
    (folder / "mine.py").write_text("ANSWER = 42\n")
    (folder / "script.py").write_text("import fedkeeper, mine\nprint(fedkeeper.connect, mine.ANSWER)\n")
    assert output_of(folder, sys.executable, "script.py").split()[-1] == "42"


@pytest.mark.parametrize("file", ["broker.py", "broker/__init__.py"])
def test_a_name_that_is_taken_before_is_told_with_its_file(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("")
    program = "import broker\ntry:\n    import fedkeeper\nexcept ImportError as exc:\n    print(exc)"
    assert output_of(tmp_path, sys.executable, "-c", program) == (
        f"FedKeeper has a package 'broker', and {tmp_path / file} was imported under this name before: "
        "rename that file, or import fedkeeper first if you need only FedKeeper's\n"
    )


def test_our_packages_may_be_imported_before(tmp_path: Path) -> None:
    assert output_of(tmp_path, sys.executable, "-c", "import broker, server, fedkeeper; print(1)") == "1\n"


@pytest.mark.slow
@pytest.mark.torch
async def test_a_job_runs(folder: Path) -> None:
    code, output = await run("run", "quickstart", "--set", "stop.rounds=1", cwd=folder)
    assert code == 0, output
    assert "worker can't start" not in output

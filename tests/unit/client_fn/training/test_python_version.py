"""The trainer's modules run with Python 3.10, which may be the user's."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

FUNCTION = REPOSITORY / "client_fn"
MODULES = (
    *sorted((FUNCTION / "training").glob("*.py")),
    *sorted((FUNCTION / "strategies").glob("*.py")),
    FUNCTION / "errors.py",
    FUNCTION / "learner.py",
)

ALLOWED = {"client_fn", "numpy", "safetensors", "torch"}
LATE = {"torchmetrics_meters.py": {"torchmetrics"}, "tables.py": {"pyarrow"}, "images.py": {"PIL"}}
"""What a module may import in a function: only some jobs need it."""


def vermin(*files: Path, target: str = "3.10") -> tuple[int, str]:
    """Return vermin's exit code and what it found that needs a newer Python."""
    program = Path(sys.executable).with_name("vermin")
    options = ("--quiet", "--no-tips", "--violations", f"--target={target}-")
    run = subprocess.run([program, *options, *files], check=False, capture_output=True, text=True, timeout=60)
    return run.returncode, run.stdout + run.stderr


def imported(file: Path, *, everywhere: bool) -> set[str]:
    """The packages that a module imports at its top, or also in a function."""
    names: set[str] = set()
    module = ast.parse(file.read_text())
    for node in ast.walk(module) if everywhere else module.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("file", MODULES, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_a_module_is_python_3_10_and_imports_nothing_else(file: Path) -> None:
    ast.parse(file.read_text(), feature_version=(3, 10))
    allowed = {"client_fn", "torch"} if file.parent.name == "strategies" else ALLOWED
    known = allowed | set(sys.stdlib_module_names)
    assert imported(file, everywhere=False) <= known
    assert imported(file, everywhere=True) <= known | LATE.get(file.name, set())


def test_nothing_of_a_newer_standard_library_is_used() -> None:
    code, output = vermin(*MODULES)
    assert code == 0, output


def test_an_older_python_can_read_the_file_that_tells_it_so() -> None:
    file = FUNCTION / "training" / "__main__.py"
    ast.parse(file.read_text(), feature_version=(3, 6))
    code, output = vermin(file, target="3.6")
    assert code == 0, output


@pytest.mark.parametrize(
    "planted",
    [
        "import tomllib",
        "from typing import Self",
        "import asyncio\nasyncio.timeout(1)",
        "from datetime import UTC",
        "try:\n    pass\nexcept* ValueError:\n    pass",
    ],
)
def test_something_newer_is_seen(tmp_path: Path, planted: str) -> None:
    file = tmp_path / "planted.py"
    file.write_text(f"{planted}\n")
    assert vermin(file)[0] == 1

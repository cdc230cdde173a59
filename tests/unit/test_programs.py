"""Programs that no other test starts can be imported: the examples, the benchmarks and the emulators."""

import importlib
from pathlib import Path

import pytest

from examples import run

ROOT = Path(__file__).parents[2]

MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for folder in ("examples", "benchmarks", "emulators")
    for file in (ROOT / folder).rglob("*.py")
    # Flower's programs run in an environment of their own.
    if not file.name.startswith("__") and ROOT / "benchmarks/flower" not in file.parents
)


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("name", MODULES)
def test_a_program_can_be_imported(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as exc:
        # Some examples need libraries that are installed only by `make examples`.
        library = (exc.name or "").partition(".")[0]
        assert name.split(".")[1] in run.HEAVY
        assert not (ROOT / library).exists()

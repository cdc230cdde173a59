"""The import contracts of pyproject.toml refuse what they should: one forbidden line is planted, and they see it.

The packages are copied without being changed otherwise, so a file that is not written yet is covered like any other.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

PACKAGES = ("broker", "server", "client_fn", "bridges", "fedkeeper", "emulators", "benchmarks")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the packages and of the contracts."""
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def lint(checkout: Path) -> tuple[int, str]:
    """Return import-linter's exit code and output for a checkout."""
    program = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run(
        [program, "--no-cache"],
        cwd=checkout,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={"COLUMNS": "200"},
    )
    return run.returncode, run.stdout + run.stderr


def test_the_packages_as_they_are_break_no_contract(checkout: Path) -> None:
    code, output = lint(checkout)
    assert code == 0, output


@pytest.mark.parametrize(
    ("file", "line", "seen"),
    [
        ("broker/messages/planted.py", "import nats", "broker.messages.planted -> nats"),
        ("broker/mqtt/planted.py", "import nats", "broker.mqtt.planted -> nats"),
        ("server/planted.py", "import nats", "server.planted -> nats"),
        ("broker/nats/planted.py", "import paho", "broker.nats.planted -> paho"),
        ("broker/messages/planted.py", "import paho.mqtt", "broker.messages.planted -> paho"),
        ("broker/nats/planted.py", "import broker.messages.job", "broker.nats.planted -> broker.messages.job"),
        ("broker/mqtt/planted.py", "import broker.messages.codec", "broker.mqtt.planted -> broker.messages.codec"),
        ("broker/memory/planted.py", "import broker.messages", "broker.memory.planted -> broker.messages"),
        ("broker/nats/planted.py", "import broker.mqtt.link", "broker.nats.planted -> broker.mqtt.link"),
        ("broker/messages/planted.py", "import broker.base", "broker.messages.planted -> broker.base"),
        ("broker/messages/planted.py", "import broker.nats.link", "broker.messages.planted -> broker.nats.link"),
        ("server/planted.py", "import client_fn.cache", "server.planted -> client_fn.cache"),
        ("server/planted.py", "import torch", "server.planted -> torch"),
        ("bridges/planted.py", "import torch", "bridges.planted -> torch"),
        ("broker/planted.py", "from torch import nn", "broker.planted -> torch"),
        ("fedkeeper/planted.py", "import torch", "fedkeeper.planted -> torch"),
        ("client_fn/data/planted.py", "import torch", "client_fn.data.planted -> torch"),
        (
            "client_fn/runtime/planted.py",
            "import client_fn.training.work",
            "planted -> client_fn.training.work",
        ),
        ("fedkeeper/planted.py", "import client_fn.training.models", "fedkeeper.planted -> client_fn.training.models"),
        ("fedkeeper/planted.py", "import client_fn.strategies", "fedkeeper.planted -> client_fn.strategies"),
        (
            "client_fn/strategies/planted.py",
            "import client_fn.training.loop",
            "strategies.planted -> client_fn.training",
        ),
        ("client_fn/strategies/planted.py", "import broker.topics", "client_fn.strategies.planted -> broker.topics"),
        ("client_fn/training/orders.py", "import numpy", "client_fn.training.orders -> numpy"),
        ("client_fn/training/planted.py", "import client_fn.site", "client_fn.training.planted -> client_fn.site"),
        ("client_fn/training/planted.py", "import broker.topics", "client_fn.training.planted -> broker.topics"),
        ("client_fn/training/planted.py", "import msgspec", "client_fn.training.planted -> msgspec"),
        ("client_fn/errors.py", "import broker.topics", "client_fn.errors -> broker.topics"),
        ("bridges/planted.py", "import server.rounds", "bridges.planted -> server.rounds"),
        ("client_fn/planted.py", "import bridges.runner", "client_fn.planted -> bridges.runner"),
        ("client_fn/planted.py", "import fedkeeper", "client_fn.planted -> fedkeeper"),
        ("broker/planted.py", "import server.rounds", "broker.planted -> server.rounds"),
        ("fedkeeper/planted.py", "import emulators.demo", "fedkeeper.planted -> emulators.demo"),
        ("fedkeeper/runs/planted.py", "import fedkeeper.sweeps.grid", "runs.planted -> fedkeeper.sweeps.grid"),
        ("server/planted.py", "import benchmarks", "server.planted -> benchmarks"),
        ("bridges/planted.py", "import tests.support", "bridges.planted -> tests"),
        ("client_fn/planted.py", "import examples", "client_fn.planted -> examples"),
        ("emulators/planted.py", "import server.rounds", "emulators.planted -> server.rounds"),
        ("emulators/planted.py", "import tests.support", "emulators.planted -> tests"),
        ("benchmarks/planted.py", "import tests.support", "benchmarks.planted -> tests"),
    ],
)
def test_a_planted_import_is_refused(checkout: Path, file: str, line: str, seen: str) -> None:
    (checkout / file).write_text(f"{line}\n", encoding="utf-8")
    code, output = lint(checkout)
    assert code == 1, output
    assert seen in output

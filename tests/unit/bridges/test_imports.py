"""The modules that a bridge imports: at the edge it shares a small board's memory with the functions."""

import subprocess
import sys

from tests.support.paths import REPOSITORY

CONFIG = REPOSITORY / "configs" / "bridges" / "openfaas.toml"

HEAVY = "{'torch', 'numpy', 'ml_dtypes', 'safetensors', 'fsspec', 'sklearn', 'scipy', 'matplotlib', 'paho'}"
"""Libraries of the modules that stage, train or aggregate."""

OURS = (
    "{'server.service', 'client_fn.function', 'client_fn.data.shards', 'client_fn.data.datasets', "
    "'fedkeeper.services.learning'}"
)


def imported_by(program: str) -> set[str]:
    """Which of these modules a program has imported, in a process of its own."""
    code = f"import sys\n{program}\nprint(*(({HEAVY} | {OURS}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300)
    return set(run.stdout.split())


def test_the_bridge_to_openfaas_imports_nothing_that_trains_stages_or_aggregates() -> None:
    # The program runs until it tries to connect to its broker, which does not exist.
    program = f"""
from fedkeeper import cli

sys.argv = ["fedkeeper", "bridge", "openfaas", "--config", {str(CONFIG)!r}, "--url", "nats://127.0.0.1:9"]
try:
    cli.main()
except SystemExit as exc:
    assert exc.code == 1
assert "bridges.openfaas.platform" in sys.modules
assert "nats" in sys.modules
"""
    assert imported_by(program) == set()


def test_neither_does_the_command_line_by_itself() -> None:
    assert imported_by("import fedkeeper.cli") == set()


def test_the_server_s_errors_cost_nothing_and_the_server_no_torch() -> None:
    assert imported_by("import server.errors") == set()
    assert "torch" not in imported_by("import server.service, fedkeeper.services.learning, fedkeeper.services.system")

"""The imports of the function's code: on a platform that scales to zero, every cold start pays for them."""

import subprocess
import sys

import pytest

HEAVY = "{'torch', 'numpy', 'msgspec', 'nats', 'paho', 'fsspec', 'sklearn', 'httpx', 'rich', 'server', 'bridges'}"


def imported_with(statement: str) -> set[str]:
    """Return the heavy modules that a statement imports, in a new process."""
    program = f"import sys\n{statement}\nprint(*({HEAVY} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=300)
    return set(run.stdout.split())


def test_the_package_itself_imports_nothing() -> None:
    assert imported_with("import client_fn") == set()


@pytest.mark.parametrize("module", ["shards", "datasets", "partition"])
def test_staging_needs_no_torch(module: str) -> None:
    assert "torch" not in imported_with(f"import client_fn.data.{module}")


def test_a_shard_of_this_machine_is_read_without_heavy_libraries() -> None:
    program = "from client_fn.data import shard_cache, sources; sources.at(sources.Place('file', '/', '/'), None)"
    assert imported_with(program) == {"msgspec"}


def test_the_function_pulls_in_no_broker_client_and_nothing_that_it_may_never_need() -> None:
    assert imported_with("import client_fn.function") == {"msgspec"}


@pytest.mark.parametrize("module", ["runtime.instance", "handlers.local", "handlers.openfaas"])
def test_a_process_that_serves_requests_imports_neither_torch_nor_numpy(module: str) -> None:
    assert imported_with(f"import client_fn.{module}") & {"torch", "numpy"} == set()


def test_the_digits_are_read_without_the_library_that_brings_them() -> None:
    assert "sklearn" not in imported_with("from client_fn.data import datasets; datasets.load('digits')")

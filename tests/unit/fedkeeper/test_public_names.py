"""What `import fedkeeper` offers, and how little it imports."""

import subprocess
import sys

import pytest

import fedkeeper
from fedkeeper import events


def test_the_public_names_are_there_and_sorted() -> None:
    assert fedkeeper.__all__ == sorted(fedkeeper.__all__)
    for module in (fedkeeper, events):
        assert all(hasattr(module, name) for name in module.__all__)
    assert set(fedkeeper.__all__) <= set(dir(fedkeeper))
    with pytest.raises(AttributeError, match="has no attribute 'rum'"):
        _ = fedkeeper.rum


def test_an_event_and_an_error_of_the_same_name_are_two_classes() -> None:
    assert issubclass(fedkeeper.JobFailed, fedkeeper.FedKeeperError)
    assert not issubclass(events.JobFailed, Exception)


def test_importing_the_package_is_quick() -> None:
    heavy = {"numpy", "torch", "rich", "typer", "nats", "paho", "structlog", "matplotlib", "fsspec", "httpx", "server"}
    program = f"import sys, fedkeeper; print(*({heavy!r} & {{*sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=300)
    assert run.stdout.split() == []

"""Trying a device. torch's `meta` device stands for one that computes nothing."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from client_fn.errors import BadSettings
from client_fn.training import device

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A copy of a process that has used several threads would wait for those that it does not have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_device_that_works_is_described() -> None:
    assert device.try_device("cpu") == f"device cpu works: torch {torch.__version__}"


@pytest.mark.parametrize("name", ["cuda:99", "meta", "nonsense", "mps"])
def test_a_device_that_does_not_is_refused_with_the_variable_the_value_and_a_remedy(name: str) -> None:
    with pytest.raises(BadSettings) as refused:
        device.try_device(name)
    text = str(refused.value)
    assert refused.value.name == "FEDKEEPER_DEVICE"
    assert text.startswith(f"FEDKEEPER_DEVICE: '{name}' can't be used here: ")
    assert text.endswith("; give 'cpu', or install a torch that knows this GPU")
    assert "\n" not in text


def test_a_product_that_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: torch.zeros(a.shape[0], b.shape[1]))
    with pytest.raises(BadSettings, match="it gives wrong results"):
        device.try_device("cpu")


def test_a_comparison_that_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "__ne__", lambda a, _: torch.zeros(a.shape, dtype=torch.bool))
    with pytest.raises(BadSettings, match="it gives wrong results"):
        device.try_device("cpu")


def test_a_kernel_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nCUDA kernel errors might be reported later.\n")

    monkeypatch.setattr(torch.Tensor, "__ne__", fail)
    with pytest.raises(BadSettings, match=r"here: CUDA error: no kernel image is available; install torch again$"):
        device.try_device("cpu")


def test_the_command_prints_a_sentence_about_one_device(capfd: pytest.CaptureFixture[str]) -> None:
    assert device.main(["cpu"]) == 0
    assert capfd.readouterr().out == f"device cpu works: torch {torch.__version__}\n"
    assert device.main(["meta"]) == 1
    assert capfd.readouterr().out.startswith("FEDKEEPER_DEVICE: 'meta' can't be used here: ")
    assert device.main(["cpu", "cuda"]) == 2


def test_without_a_device_the_last_line_is_the_best_that_works(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device, "BEST_FIRST", ("meta", "cpu", "nonsense"))
    assert device.main([]) == 0
    why, works, last = capfd.readouterr().out.splitlines()
    assert why.startswith("FEDKEEPER_DEVICE: 'meta' can't be used here: ")
    assert works.startswith("device cpu works")
    assert last == "cpu"


def test_without_a_device_that_works_the_command_fails(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device, "BEST_FIRST", ("meta",))
    assert device.main([]) == 1
    assert len(capfd.readouterr().out.splitlines()) == 1


def test_a_driver_that_crashes_or_hangs_is_a_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device, "try_device", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    assert device.main(["cuda"]) == 1
    assert "the process that tried it ended with signal 9 (Killed)" in capfd.readouterr().out
    monkeypatch.setattr(device, "LIMIT_S", 0.1)
    monkeypatch.setattr(device, "try_device", lambda _: time.sleep(3600))
    assert device.main(["cuda"]) == 1
    assert "it did not answer within 0.1 s" in capfd.readouterr().out

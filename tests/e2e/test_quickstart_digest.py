"""The quickstart's model, bit for bit. A commit that changes it says so, and why, in the CHANGELOG."""

from pathlib import Path
from typing import Final

import pytest

from tests.support.brokers import Mosquitto
from tests.support.program import digest, run

pytestmark = [pytest.mark.slow, pytest.mark.torch]

DIGEST: Final = "cdba94da7cf11cf7fc70b160f117cf73255ab7b985ee63273c6c5ac11834b094"

ALL_COUNT: Final = ("--set", "cohort.quorum=1.0", "--set", "cohort.deadline_s=600")
"""On a loaded machine a round must not close without its last clients."""


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_on_nats(workers: str, tmp_path: Path) -> None:
    code, output = await run("run", "quickstart", *ALL_COUNT, "--workers", workers, cwd=tmp_path)
    assert code == 0, output
    assert digest(output) == DIGEST


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_on_mosquitto(workers: str, mosquitto: Mosquitto, tmp_path: Path) -> None:
    options = (*ALL_COUNT, "--workers", workers, "--url", mosquitto.url)
    code, output = await run("run", "quickstart", *options, cwd=tmp_path)
    assert code == 0, output
    assert digest(output) == DIGEST

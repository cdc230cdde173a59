"""The quickstart's model, bit for bit. A commit that changes it says so, and why, in the CHANGELOG.

Its last bits depend on the kind of processor. On a kind that is not in the table, runs are compared with each other.
"""

from pathlib import Path
from typing import Final

import pytest

from tests.support import processors
from tests.support.brokers import Mosquitto
from tests.support.processors import AVX2
from tests.support.program import ALL_COUNT, digest, run

pytestmark = [pytest.mark.slow, pytest.mark.torch]

DIGESTS: Final = {
    "x86-64 Intel AVX512": "de0741cee225d08f8a636d6248d04035f34b39f9b38a7c613ab4eddf9a4cacf0",
    "x86-64 Intel AVX2": "0f23ccea81bebf18fadba42918698432da1f01830f4754bd88dbcfb33d7b44d7",
    "x86-64 AMD AVX512": "428c6998615bf30c0cf53212625dcebc8205a1a5c7265bbc49ca04614332cf4e",
    "x86-64 AMD AVX2": "47889e6c73a8dffc8d20138c8dc3feb0f6ce871cfb28dfa69490eda485db14e8",
}
"""With the versions in requirements.lock. Those of AMD come from an Intel processor on which MKL was made to take its
path for AMD's Zen; with AVX2, the first rounds have the same models on an emulated EPYC."""


async def train(*options: str, folder: Path, **environment: str) -> str:
    """Run the quickstart, and return its digest."""
    code, output = await run("run", "quickstart", *ALL_COUNT, *options, cwd=folder, **environment)
    assert code == 0, output
    assert f"trained on    {processors.kind(environment)}\n" in output
    return digest(output)


async def expected(folder: Path, **environment: str) -> str:
    """The digest on a kind of processor: from the table, or else of one more run."""
    return DIGESTS.get(processors.kind(environment)) or await train("--workers", "1", folder=folder, **environment)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_on_nats(workers: str, tmp_path: Path) -> None:
    assert await train("--workers", workers, folder=tmp_path) == await expected(tmp_path)


async def test_on_mosquitto(mosquitto: Mosquitto, tmp_path: Path) -> None:
    # `test_mqtt.py` compares the models of one worker.
    options = ("--workers", "2", "--url", mosquitto.url)
    assert await train(*options, folder=tmp_path) == await expected(tmp_path)


async def test_on_another_kind_of_processor(tmp_path: Path) -> None:
    assert await train("--workers", "1", folder=tmp_path, **AVX2) == await expected(tmp_path, **AVX2)

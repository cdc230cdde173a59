"""A server's own arithmetic gives the same bytes on each kind of processor: of the same updates, the same model."""

import hashlib
import os
import subprocess
import sys
from typing import Any, Final

import numpy as np

from broker.messages.tensors import DTYPES, FLOATS, Tensors, encode
from server.strategies.base import ModelInfo
from tests.support.strategy_rounds import Rounds, job_of

SIZE = 1003
"""Not a multiple of the number of elements that a processor takes at once."""


def tensors(random: np.random.Generator, scale: float) -> Tensors:
    return {
        name: np.asarray(random.integers(-(1 << 20), 1 << 20, SIZE) * scale / (1 << 20)).astype(DTYPES[name])
        for name in sorted(FLOATS)
    }


EACH: Final[dict[str, dict[str, Any]]] = {
    "fedavg": {"name": "fedavg"},
    "fedavgm": {"name": "fedavgm"},
    "fedadam": {"name": "fedadam"},
    "fedyogi": {"name": "fedyogi"},
    "fednova": {"name": "fednova"},
    "qfedavg": {"name": "qfedavg"},
    "median": {"name": "median"},
    "krum": {"name": "krum", "faulty": 1, "keep": 2},
    "guarded": {"name": "fedadam", "over": {"name": "trimmed_mean"}, "guard": {"name": "median", "multiple": 1.0}},
}


def models(name: str) -> str:
    """Digest of a strategy's state after three rounds of five updates; the numbers are drawn as integers."""
    random = np.random.default_rng(1)
    rounds = Rounds(job_of(EACH[name]), ModelInfo(tensors(random, 1.0)), (10, 30, 7, 1, 5))
    digest = hashlib.sha256()
    for _ in range(3):
        told = [{"steps": 3.0 + i, "global_loss": 1.0 / (1 + i)} for i in range(5)]
        state = rounds.round([tensors(random, 0.01) for _ in range(5)], told)
        digest.update(encode(state.weights) + encode(state.server_state))
    return digest.hexdigest()


def main() -> None:
    """Print the digest of each strategy named."""
    sys.stdout.write("\n".join(models(name) for name in sys.argv[1:]))


def digests(*names: str, features: str = "") -> list[str]:
    """The digests of strategies as a process computes them in which numpy does without features of the processor."""
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": features}
    command = [sys.executable, "-m", __name__, *names]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return ran.stdout.split()


def test_a_model_has_the_same_bytes_with_and_without_the_processor_s_vector_instructions() -> None:
    code = "from numpy._core import _multiarray_umath as m; print(*m.__cpu_dispatch__)"
    features = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert digests(*EACH, features=features) == [models(name) for name in EACH]


if __name__ == "__main__":
    main()

"""A server's own arithmetic gives the same bytes on each kind of processor: of the same updates, the same model."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from broker.messages import job_file as jobs
from broker.messages.tensors import DTYPES, FLOATS, Tensors, encode
from server import aggregator, strategies
from server.aggregator import Aggregate
from server.strategies.base import Finished, ModelInfo, ReplayStrategy

SIZE = 1003
"""Not a multiple of the number of elements that a processor takes at once."""


def tensors(random: np.random.Generator, scale: float) -> Tensors:
    return {
        name: np.asarray(random.integers(-(1 << 20), 1 << 20, SIZE) * scale / (1 << 20)).astype(DTYPES[name])
        for name in sorted(FLOATS)
    }


def models(name: str) -> str:
    """Digest of a strategy's state after three rounds of four updates; the numbers are drawn as integers."""
    random = np.random.default_rng(1)
    strategy = strategies.create(jobs.from_dict({"strategy": {"name": name}}))
    state, digest = strategy.init(ModelInfo(tensors(random, 1.0))), hashlib.sha256()
    for round_ in range(3):
        model = ModelInfo(state.weights)
        plan = aggregator.plan(state.weights, model.buffers, 1000)
        aggregate, updates = Aggregate(plan), [tensors(random, 0.01) for _ in range(4)]
        for update, samples in zip(updates, (10, 30, 7, 1), strict=True):
            aggregate.add(update, samples)
        replayed: Tensors = {}
        if isinstance(strategy, ReplayStrategy):
            for each, shift in plan.shifts.items():
                rows = np.stack([update[each].astype(np.float64) for update in updates]) * 2.0**shift
                replayed[each] = strategy.reduce(np.rint(rows).astype(np.int64)) / 2.0**shift
        state = strategy.apply(state, Finished(round_, model, aggregate.mean(), "delta", replayed=replayed))
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


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam", "median"])
def test_a_model_has_the_same_bytes_with_and_without_the_processor_s_vector_instructions(name: str) -> None:
    code = "from numpy._core import _multiarray_umath as m; print(*m.__cpu_dispatch__)"
    features = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert digests(name, features=features) == digests(name) == [models(name)]


if __name__ == "__main__":
    main()

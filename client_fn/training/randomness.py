"""Random numbers of the user's code: torch's, numpy's and the standard library's, all from one seed."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the global generators for the block, and restore them afterwards.

    Args:
        seed: 0 to 2^63 - 1.
        device: its generator is seeded too, if it is a GPU.
    """
    on_gpu = device is not None and device.type == "cuda"
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (what user code may draw from)
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.manual_seed_all(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002

"""Kinds of processor on this machine: its own, and those that it can be told to train as."""

import os
import subprocess
import sys
from typing import Final

BASELINE: Final = {"ATEN_CPU_CAPABILITY": "default"}
"""torch's kernels use only what every processor of the architecture has; so it is another kind, but not with NEON."""

AVX2: Final = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""The three libraries that multiply train as on an Intel processor with AVX2: the same bits as on an emulated one."""


def kind(environment: dict[str, str] | None = None) -> str:
    """The kind of processor that a trainer names in its updates.

    Args:
        environment: further variables; none: this machine's own kind.
    """
    code = "from client_fn.training import processor; print(processor.name())"
    variables = {**os.environ, **(environment or {})}
    asked = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    return asked.stdout.strip()

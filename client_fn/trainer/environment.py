"""The environment of a trainer: what torch and the user's code need, and no credential."""

import fnmatch
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from client_fn.site import Site
from client_fn.trainer.group import MARK

ALLOWED: Final = (
    *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LC_*", "VIRTUAL_ENV"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "XDG_CACHE_HOME", "PYTHONPATH", "PYTHONHASHSEED"),
    *("CUDA_*", "CUBLAS_*", "NVIDIA_*", "TORCH_*", "PYTORCH_*", "KMP_*", "MKL_*", "ONEDNN_*", "DNNL_*", "ATEN_*"),
)
"""Names, or patterns of names, of the worker's variables that the trainer gets. FEDKEEPER_TRAINER_ENV adds names."""

DEFAULTS: Final = {
    # A model that iterates over a set of texts is the same one in every trainer.
    "PYTHONHASHSEED": "0",
}

FIXED: Final = {
    # One thread: another number of threads rounds differently, so the same job would have another digest.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # The user's code may end at any time; what it printed before must not be lost.
    "PYTHONUNBUFFERED": "1",
    # The copies of the user's code are not written to.
    "PYTHONDONTWRITEBYTECODE": "1",
    # Otherwise `torch.cuda.is_available()` in the user's module would make CUDA unusable in a forked process:
    # https://docs.pytorch.org/docs/stable/notes/multiprocessing.html
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    # As `broker.support.heap` does (mallopt(3)): tensors of some MB are allocated and freed in every round.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
    "MALLOC_TOP_PAD_": str(32 << 20),
}


CLIENT: Final = "FEDKEEPER_CLIENT"
"""The only variable of ours that may be passed on: an id, and no credential."""


def for_trainer(environ: Mapping[str, str], more: Sequence[str], mark: str) -> dict[str, str]:
    """Return a trainer's environment. It has none of our own variables but CLIENT: others may be credentials.

    Args:
        environ: the worker's environment.
        more: names of further variables that the site allows.
        mark: by this, the trainer's descendants are found.
    """
    names = (*ALLOWED, *more)
    kept = {
        name: value
        for name, value in environ.items()
        if any(fnmatch.fnmatchcase(name, n) for n in names) and (name == CLIENT or not name.startswith("FEDKEEPER_"))
    }
    return {**DEFAULTS, **kept, **FIXED, MARK: mark}


def digest(site: Site, environ: Mapping[str, str]) -> str:
    """Return a digest of the Python and of the environment that a trainer gets: a fork server makes no other one.

    Args:
        site: the Python, and the names of further variables.
        environ: the worker's environment.
    """
    variables = for_trainer(environ, site.variables, "")
    return hashlib.sha256(json.dumps([program(site), sorted(variables.items())]).encode()).hexdigest()


def program(site: Site) -> str:
    """Return the Python that trains."""
    return site.python or sys.executable

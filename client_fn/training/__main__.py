"""The trainer's program: `python .../client_fn/training DESCRIPTOR MEMORY_MB [FOLDER]`. Its worker starts it.

DESCRIPTOR is the socket to the worker, MEMORY_MB the limit (0: none), FOLDER the user's code.

`python .../client_fn/training fork-server DESCRIPTOR ENVIRONMENT` makes a trainer, without a new import of torch, for
each worker that connects to the listening socket DESCRIPTOR and wants this ENVIRONMENT, a digest.

This file alone is written for Python 3.6, so that an older Python than ours is told from a broken one.
"""

import sys

# Python has put this folder first: our `loop.py` or `work.py` must not hide a module of the user's.
sys.path.pop(0)

OLDEST = (3, 10)
LIBRARIES = ("torch", "numpy", "safetensors")


def main() -> None:
    """Prepare the process, and do the worker's orders until it ends."""
    import socket

    arguments = sys.argv[1:]
    # The user's module may read its arguments. They are none of ours.
    sys.argv[:] = ["trainer"]
    if arguments[0] == "fork-server":
        channel, memory_mb, folders = _become_a_copy(int(arguments[1]), arguments[2])
    else:
        channel, memory_mb, folders = int(arguments[0]), int(arguments[1]), arguments[2:]
        _become_a_trainer(channel)

    from client_fn.training import serve

    if memory_mb:
        serve.limit_memory(memory_mb)
    _hide_our_modules(folders)
    sys.path[_first_of_site_packages() : 0] = folders
    serve.serve(socket.socket(fileno=channel))


def _become_a_trainer(channel: int) -> None:
    """Import all that a trainer needs. If that can't be, tell the worker and end."""
    fault = _find_fault()
    if fault:
        _refuse(channel, fault)
    _name_our_package()

    from client_fn.training import descendants

    descendants.keep_a_process_above(channel)
    fault = _import_all()
    if fault:
        _refuse(channel, fault)


def _become_a_copy(listener: int, environment: str) -> "tuple[int, int, list[str]]":
    """Import all that a trainer needs, and serve workers. Returns in copies of this process, which are trainers.

    Args:
        listener: descriptor of the listening socket.
        environment: digest of this process's environment.
    """
    import os
    import socket

    fault = _find_fault()
    if not fault and not hasattr(os, "pidfd_open"):
        # As in some builds of Python. A copy would not be told that its worker has ended.
        fault = "has no os.pidfd_open"
    if not fault:
        _name_our_package()
        fault = _import_all()
    if fault:
        sys.exit(f"{sys.executable} {fault}")

    from client_fn.training import copies

    return copies.serve(socket.socket(fileno=listener), environment)


def _import_all() -> str:
    """Import torch and what is ours; return the fault of this Python as `_find_fault` does."""
    import importlib

    try:
        import torch

        try:
            torch.zeros(1).numpy()
        except RuntimeError as exc:
            # A torch that was built with numpy 1 can't use numpy 2.
            return f"has a torch that can't use its numpy ({exc}): {sys.executable} -m pip install 'numpy<2'"
        importlib.import_module("client_fn.training.serve")
    except (ImportError, OSError) as exc:
        # OSError: torch loads some of its libraries itself, such as CUDA's.
        return f"can't import its torch, numpy or safetensors: {exc}"
    # For the user's code: an import after this would make classes of its own.
    importlib.import_module("client_fn.learner")
    # Another number of threads rounds differently, so the same job would have another digest.
    torch.set_num_threads(1)
    importlib.import_module("client_fn.training.uncompiled").prepare()
    return ""


def _find_fault() -> str:
    """Return what this Python lacks, as the end of a sentence that begins with its name; empty: nothing."""
    from importlib.util import find_spec

    if sys.version_info < OLDEST:
        return "is Python {}.{}: {}.{} or newer is needed".format(*sys.version_info[:2], *OLDEST)
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if not missing:
        return ""
    return f"has no {' and no '.join(missing)}: {sys.executable} -m pip install {' '.join(missing)}"


def _refuse(descriptor: int, fault: str) -> None:
    """Tell the worker what is wrong with this Python, and end.

    Args:
        descriptor: the socket to the worker.
        fault: as `_find_fault` returns it.
    """
    import json
    import socket

    # As `packets.send`, whose module an older Python can't import.
    facts = {"say": "unusable", "order": "", "files": [], "fault": fault}
    with socket.socket(fileno=descriptor) as channel:
        channel.send(json.dumps(facts).encode())
    sys.exit(1)


def _name_our_package() -> None:
    """Make this folder's modules importable: this Python may not have our package, or another version of it."""
    import types
    from pathlib import Path

    if "client_fn" not in sys.modules:
        package = types.ModuleType("client_fn")
        package.__path__ = [str(Path(__file__).parent.parent)]
        sys.modules["client_fn"] = package


def _hide_our_modules(folders: "list[str]") -> None:
    """Make room for modules of the user's that have names of ours. All of ours is imported.

    `client_fn.learner` stays, which the user's code imports; unless the user has a `client_fn` of another kind.
    """
    from pathlib import Path

    ours = [name for name in sys.modules if name.partition(".")[0] == "client_fn"]
    is_theirs = any((Path(folder) / name).exists() for folder in folders for name in ("client_fn", "client_fn.py"))
    kept = () if is_theirs else ("client_fn", "client_fn.learner")
    for name in ours:
        if name not in kept:
            del sys.modules[name]


def _first_of_site_packages() -> int:
    """Return the place of the user's code on the path: after the standard library, before installed packages."""
    places = [i for i, folder in enumerate(sys.path) if folder.endswith(("site-packages", "dist-packages"))]
    return places[0] if places else len(sys.path)


if __name__ == "__main__":
    main()

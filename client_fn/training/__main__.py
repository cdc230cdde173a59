"""The trainer's program: `python .../client_fn/training DESCRIPTOR MEMORY_MB [FOLDER]`. Its worker starts it.

DESCRIPTOR is the socket to the worker, MEMORY_MB the limit (0: none), FOLDER the user's code.
"""

import sys

# Python has put this folder first: our `loop.py` or `work.py` must not hide a module of the user's.
sys.path.pop(0)


def main() -> None:
    """Prepare the process, and do the worker's orders until it ends."""
    import importlib
    import socket

    _name_our_package()
    descriptor, memory_mb, *folders = sys.argv[1:]
    # The user's module may read its arguments. They are none of ours.
    sys.argv[:] = ["trainer"]

    from client_fn.training import descendants

    descendants.keep_a_process_above(int(descriptor))

    import torch

    from client_fn.training import serve

    # For the user's code: an import after this would make classes of its own.
    importlib.import_module("client_fn.learner")
    # Another number of threads rounds differently, so the same job would have another digest.
    torch.set_num_threads(1)
    if int(memory_mb):
        serve.limit_memory(int(memory_mb))
    _hide_our_modules(folders)
    sys.path[_first_of_site_packages() : 0] = folders
    serve.serve(socket.socket(fileno=int(descriptor)))


def _name_our_package() -> None:
    """Make this folder's modules importable: this Python may not have our package, or another version of it."""
    import types
    from pathlib import Path

    if "client_fn" not in sys.modules:
        package = types.ModuleType("client_fn")
        package.__path__ = [str(Path(__file__).parent.parent)]
        sys.modules["client_fn"] = package


def _hide_our_modules(folders: list[str]) -> None:
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

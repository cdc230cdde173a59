"""Environments for a trainer of another Python: with torch, without it, of another version."""

import contextlib
import importlib.metadata
import re
import venv
from collections.abc import Mapping
from pathlib import Path


def make_python(folder: Path, *, packages: tuple[str, ...] = (), files: Mapping[str, str] | None = None) -> Path:
    """Make an environment, and return the path of its Python.

    Args:
        folder: where; it does not exist.
        packages: distributions that are installed here too, with all that they need.
        files: modules by their names, such as `torch.py`.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    (installed,) = folder.glob("lib/python*/site-packages")
    for path in _needed_by(*packages):
        with contextlib.suppress(FileExistsError):
            (installed / path.name).symlink_to(path)
    for name, text in (files or {}).items():
        (installed / name).write_text(text)
    return folder / "bin" / "python"


def _needed_by(*names: str) -> set[Path]:
    """The files and folders of distributions, and of all that they need."""
    left, seen, found = [*names], set[str](), set[Path]()
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another machine
        root = Path(str(distribution.locate_file("")))
        found |= {root / file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}
        needs = (line for line in distribution.requires or () if "extra ==" not in line)
        left += [match[0] for line in needs if (match := re.match(r"[\w.-]+", line))]
    return found

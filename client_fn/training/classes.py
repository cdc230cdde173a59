"""The classes and files in a folder of images, `<class>/<file>`. It opens none, and needs only the standard library."""

from collections.abc import Sequence
from pathlib import Path

from client_fn.training.tables import Wanted

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


def class_numbers(folder: Path, labels: Sequence[str], wanted: Wanted) -> dict[str, int]:
    """Return the number of each class that has a folder, by the folder's name.

    Args:
        folder: holds a folder for each class.
        labels: names of the classes, in the order of their numbers; empty: the folders' names are the numbers.
        wanted: names the folder in messages.

    Raises:
        BadData: there are no such folders, or a class has no number.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    content = f"its folders are {', '.join(names[:20])}"
    if not names:
        raise wanted.bad(
            "it is a folder without <class>/<image>: name one file in it, for example shard.safetensors, "
            "or read it in a learner's data(source)"
        )
    numbers = {label: number for number, label in enumerate(labels)}
    if not labels and all(name.isdecimal() for name in names):
        numbers = {name: int(name) for name in names}
    if not numbers:
        raise wanted.bad(
            "its folders are named by texts: list all classes as data.labels, so that each client gives them the same "
            "numbers",
            content=content,
        )
    if any(name not in numbers for name in names):
        raise wanted.bad("it has a folder whose name is not in data.labels", content=content)
    return {name: numbers[name] for name in names}


def images_in(folder: Path, wanted: Wanted) -> list[Path]:
    """Return the images in a class's folder, sorted by name.

    Args:
        folder: the class's.
        wanted: names the folder in messages.

    Raises:
        BadData: it holds something else.
    """
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if others := [path for path in files if path.suffix.lower() not in ENDINGS or not path.is_file()]:
        raise wanted.bad("a class's folder holds something that is no image", content=f"it is {others[0].name}")
    return files

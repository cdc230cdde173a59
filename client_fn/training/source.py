"""A client's samples as the trainer finds them: a file of one of several formats, or a folder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from client_fn.errors import BadData
from client_fn.training import arrays
from client_fn.training.images import ImageFolder
from client_fn.training.packets import Content
from client_fn.training.tables import Wanted

TABLES = ("csv", "parquet")

Samples = tuple[Tensor, Tensor] | dict[str, Tensor] | ImageFolder
"""x and y; several tensors by name; or a folder's images, which are read when they are used."""


class Source:
    """A client's data, for a learner's `data(source)`.

    Args:
        format: `safetensors`, `npz`, `csv`, `parquet`, `folder`, or `file`, any other file.
        content: the file's bytes; None: it lies at `path`.
        options: `target`, `drop` and `labels` of the job's data section.
        path: path of the file or folder.
        where: its path or URL for messages, without secrets.

    Attributes:
        format: see above.
        path: path of the folder, or of the file, which may be one in memory without a name's ending.
        target: the column that is predicted.
        drop: the columns that are left out.
        labels: names of the classes.
    """

    def __init__(
        self,
        format: str = "safetensors",  # noqa: A002 (the name that a learner reads)
        content: Content | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        path: str = "",
        where: str = "",
    ) -> None:
        options = options or {}
        self.format = format
        self.target = str(options.get("target", ""))
        self.drop = tuple(options.get("drop", ()))
        self.labels = tuple(options.get("labels", ()))
        is_table = format in TABLES
        self._wanted = Wanted(where or path or "in memory", self.target if is_table else "", self.drop * is_table)
        self._memory = None if content is None else _Memory(content)
        self.path = path if self._memory is None else self._memory.path

    def open(self) -> BinaryIO:
        """Return the opened file.

        Raises:
            BadData: it is a folder.
        """
        if self.format == "folder":
            raise self._bad("it is a folder: open the files below source.path")
        return Path(self.path).open("rb")

    def tensors(self) -> dict[str, Tensor]:
        """Return the named tensors of a file (N, ...), or a table's columns (N,) by name, or `x` and `y` of images.

        Those of a large safetensors file are read when they are used.

        Raises:
            BadData: the file can't be read, or its content can't be used.
        """
        if self.format == "folder":
            images = self._images()
            x = torch.stack([images[number][0] for number in range(len(images))])
            return {"x": x, "y": torch.tensor(images.labels)}
        if self.format == "safetensors":
            return self._mapped()
        return self._to_tensors(self._arrays())

    def samples(self) -> Samples:
        """Return the samples that a learner without a `data(source)` of its own trains on.

        A file with only `x` and `y` gives (x, y), another one a dict of all its tensors. A table gives (x, y): y is the
        target (N,), int64 or float32, and x the other columns, float32 (N, columns). A folder gives `ImageFolder`.

        Raises:
            BadData: the file can't be read, or its content can't be used.
        """
        if self.format == "folder":
            return self._images()
        if self.format in TABLES:
            named = self._to_tensors(arrays.to_samples(self._arrays(), self._wanted))
        else:
            named = self.tensors()
        return (named["x"], named["y"]) if named.keys() == {"x", "y"} else named

    def _arrays(self) -> dict[str, arrays.Array]:
        if self.format == "file":
            raise self._bad(
                "its format is not known: name the file .safetensors, .npz, .csv or .parquet, set data.format, "
                "or read it in a learner's data(source)"
            )
        with self.open() as file:
            named = arrays.read(self.format, file, self._wanted)
        arrays.check(named, self._wanted)
        return named

    def _to_tensors(self, named: Mapping[str, arrays.Array]) -> dict[str, Tensor]:
        label = self.target if self.target in named else "y"
        tensors: dict[str, Tensor] = {}
        for name, array in named.items():
            numbers = arrays.to_numbers(array, self.labels, self._wanted) if name == label else array
            try:
                tensors[name] = torch.from_numpy(numbers)
            except TypeError as exc:
                raise self._bad(f"torch has no dtype {array.dtype}", content=f"it is {name!r}") from exc
        return tensors

    def _images(self) -> ImageFolder:
        return ImageFolder(Path(self.path), self.labels, self._wanted)

    def _mapped(self) -> dict[str, Tensor]:
        try:
            with safe_open(self.path, "pt") as file:
                # Sorted, because the library's own order is that of a hash table.
                return {name: file.get_tensor(name) for name in sorted(file.keys())}
        except (SafetensorError, OSError) as exc:
            raise self._bad("it is no safetensors file") from exc
        except (RuntimeError, MemoryError) as exc:
            # torch maps the file so that a task may change its tensors, which counts as memory (RLIMIT_DATA, Linux).
            reason = "it is larger than the memory that the trainer may use (FEDKEEPER_TRAINER_MEMORY_MB)"
            raise self._bad(reason) from exc

    def _bad(self, reason: str, *, content: str = "") -> BadData:
        return self._wanted.bad(reason, content=content)


class _Memory:
    """Bytes in memory that have a path."""

    def __init__(self, content: Content) -> None:
        self._descriptor = os.memfd_create("fedkeeper", os.MFD_CLOEXEC)
        self.path = path_of(self._descriptor)
        with os.fdopen(os.dup(self._descriptor), "wb") as file:
            file.write(content)

    def __del__(self) -> None:
        os.close(self._descriptor)


def path_of(descriptor: int) -> str:
    """Return a path by which this process opens a file that it has open. The new one begins at the first byte."""
    return f"/proc/self/fd/{descriptor}"

"""Folders of images, `<class>/<file>`, whose images are read when they are used."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from client_fn.training.classes import class_numbers, images_in
from client_fn.training.tables import Wanted


class ImageFolder(Dataset[tuple[Tensor, int]]):
    """The images in a folder with a folder for each class. Hidden files are left out.

    An item is (x, y): x float32 (channels, height, width), 0..1, and the number of the class. All images have the size
    of the first one, and one channel if that one is grey, else three.

    Args:
        folder: the folder.
        labels: names of the classes, in the order of their numbers; empty: the folders' names are the numbers.
        wanted: names the folder in messages.

    Attributes:
        labels: each image's number of its class.

    Raises:
        BadData: there are no such folders or no images, a class is unknown, or an image can't be read.
    """

    def __init__(self, folder: Path, labels: Sequence[str], wanted: Wanted) -> None:
        self._wanted = wanted
        self._files: list[Path] = []
        self.labels: list[int] = []
        for name, number in class_numbers(folder, labels, wanted).items():
            files = images_in(folder / name, wanted)
            self._files += files
            self.labels += [number] * len(files)
        if not self._files:
            raise wanted.bad("its folders hold no images")
        first = self._open(0)
        self._mode = "L" if first.mode in {"1", "L", "LA", "I", "I;16"} else "RGB"
        self._size = first.size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._open(index)
        if image.size != self._size:
            sizes = f"{image.size[0]}x{image.size[1]} and {self._size[0]}x{self._size[1]}"
            raise self._wanted.bad(
                f"its images have several sizes, {sizes}: resize them, or do that in a learner's data(source)",
                content=f"one is {self._shown(index)}",
            )
        pixels = np.array(image.convert(self._mode), np.float32) / np.float32(255)
        tensor = torch.from_numpy(pixels)
        return (tensor.unsqueeze(0) if tensor.ndim == 2 else tensor.permute(2, 0, 1).contiguous()), self.labels[index]  # noqa: PLR2004 (height and width)

    def _open(self, index: int) -> Any:
        try:
            from PIL import Image, UnidentifiedImageError
        except ImportError as exc:
            raise self._wanted.bad("this Python can't read images: install pillow") from exc
        try:
            with Image.open(self._files[index]) as image:
                image.load()
                return image
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
            raise self._wanted.bad("an image can't be read", content=f"it is {self._shown(index)}") from exc

    def _shown(self, index: int) -> str:
        return "/".join(self._files[index].parts[-2:])

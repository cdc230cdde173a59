"""Samples in whatever form a learner's `data` returns them, and the batches that are made of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

from client_fn.errors import TrainingFailed

Batch = Any
"""A tuple or a dict of tensors, or what a learner's own data gives."""

TARGET: Final = "y"
"""Name of the targets in a batch that is a dict."""

Collate = Callable[[list[Any]], Batch]


class Samples(Protocol):
    """Samples that are drawn by number."""

    def __len__(self) -> int:
        """Number of samples."""

    def batch(self, indices: Tensor) -> Batch:
        """Return the batch of some samples.

        Args:
            indices: their numbers, int64 (N,).
        """

    def item(self, index: int) -> Any:
        """Return one sample."""


class TensorSamples:
    """Tensors, or arrays, whose first side is the number of samples. A batch has their form.

    Args:
        values: a tuple, or a mapping by name.

    Raises:
        TrainingFailed: there are none, or their numbers of samples differ.
    """

    def __init__(self, values: Sequence[Any] | Mapping[str, Any]) -> None:
        named = dict(values) if isinstance(values, Mapping) else dict(enumerate(values))
        self.named: dict[Any, Tensor] = {name: torch.as_tensor(value) for name, value in named.items()}
        self._is_tuple = not isinstance(values, Mapping)
        sides = {name: tuple(tensor.shape[:1]) for name, tensor in self.named.items()}
        if len(set(sides.values())) != 1 or () in sides.values():
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self.named.items())
            raise TrainingFailed(f"the samples' tensors need a common first side, and have {shapes or 'no tensor'}")

    def __len__(self) -> int:
        """Implements `Samples`."""
        return len(next(iter(self.named.values())))

    def batch(self, indices: Tensor) -> Batch:
        """Implements `Samples.batch`."""
        if self._is_tuple:
            return tuple(tensor.index_select(0, indices) for tensor in self.named.values())
        return {name: tensor.index_select(0, indices) for name, tensor in self.named.items()}

    def item(self, index: int) -> Any:
        """Implements `Samples.item`."""
        parts = {name: tensor[index] for name, tensor in self.named.items()}
        return tuple(parts.values()) if self._is_tuple else parts


class ItemSamples:
    """A map-style dataset: `len(dataset)` samples, each as `dataset[i]`.

    Args:
        dataset: torch's `Dataset`, a list, or alike.
        collate: makes a batch of a list of samples.
    """

    def __init__(self, dataset: Any, collate: Collate) -> None:
        self.dataset = dataset
        self._collate = collate

    def __len__(self) -> int:
        """Implements `Samples`."""
        return len(self.dataset)

    def batch(self, indices: Tensor) -> Batch:
        """Implements `Samples.batch`."""
        return self._collate([self.dataset[index] for index in indices.tolist()])

    def item(self, index: int) -> Any:
        """Implements `Samples.item`."""
        return self.dataset[index]


class Subset:
    """Some of other samples.

    Args:
        samples: the others.
        indices: numbers of those that are meant, int64 (N,).
    """

    def __init__(self, samples: Samples, indices: Tensor) -> None:
        self.samples = samples
        self.indices = indices

    def __len__(self) -> int:
        """Implements `Samples`."""
        return len(self.indices)

    def batch(self, indices: Tensor) -> Batch:
        """Implements `Samples.batch`."""
        return self.samples.batch(self.indices.index_select(0, indices))

    def item(self, index: int) -> Any:
        """Implements `Samples.item`."""
        return self.samples.item(int(self.indices[index]))


class Ready:
    """Batches that come as they are, such as torch's `DataLoader`: their order and size is their own matter.

    Args:
        batches: gives the batches of one epoch each time that it is iterated over.

    Raises:
        TrainingFailed: it can be iterated over only once.
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        if isinstance(batches, Iterator):
            raise TrainingFailed(
                f"data() returns a {type(batches).__name__}, which can be read once, and each epoch reads it: "
                "return a list, a Dataset or a DataLoader"
            )
        self.batches = batches


Data = Samples | Ready


def of(value: Any, collate: Collate = default_collate) -> Data:
    """Return a learner's data in the form that we draw batches from.

    Args:
        value: a tuple or mapping of tensors or arrays, a map-style dataset, or an iterable of batches.
        collate: makes a batch of a list of a dataset's samples.

    Raises:
        TrainingFailed: it is none of these.
    """
    if isinstance(value, (TensorSamples, ItemSamples, Subset, Ready)):
        return value
    if isinstance(value, TensorDataset):
        return TensorSamples(value.tensors)
    if isinstance(value, Mapping) or (isinstance(value, tuple) and all(map(_is_array, value))):
        return TensorSamples(value)
    if hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return ItemSamples(value, collate)
    if hasattr(value, "__iter__"):
        return Ready(value)
    raise TrainingFailed(
        f"data() returns a {type(value).__name__}: return a tuple or mapping of tensors, a Dataset, or a DataLoader"
    )


def count(data: Data) -> int | None:
    """Return the number of samples; None: it is known only after an epoch.

    Args:
        data: the samples.
    """
    if not isinstance(data, Ready):
        return len(data)
    dataset = getattr(data.batches, "dataset", None)
    return len(dataset) if isinstance(dataset, Sized) else None


def size(batch: Batch) -> int:
    """Return the number of samples in a batch: the first side of its first tensor.

    Args:
        batch: the batch.

    Raises:
        TrainingFailed: it holds no tensor that has a side.
    """
    found = next((tensor for tensor in tensors_in(batch) if tensor.dim()), None)
    if found is None:
        raise TrainingFailed(f"a batch is a {type(batch).__name__} without tensors, so its samples can't be counted")
    return len(found)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a nest of tuples, lists and mappings.

    Args:
        value: a batch, or a part of one.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)


def are_placed(samples: Data, device: torch.device, dtype: torch.dtype | None) -> bool:
    """Return whether `place` would change no batch of the samples.

    Args:
        samples: the samples.
        device: as of `place`.
        dtype: as of `place`.
    """
    if not isinstance(samples, TensorSamples):
        return False
    batch = samples.batch(torch.zeros(0, dtype=torch.int64))
    both = zip(tensors_in(batch), tensors_in(place(batch, device, dtype)), strict=True)
    return all(placed is tensor for tensor, placed in both)


def place(batch: Batch, device: torch.device, dtype: torch.dtype | None) -> Batch:
    """Return a batch on a device, with floating-point inputs in the model's dtype.

    The last part of a tuple and `y` of a mapping are targets, which keep their dtype; the loss converts them.

    Args:
        batch: the batch.
        device: where the model is.
        dtype: the model's; None: the inputs keep theirs.
    """
    if isinstance(batch, Mapping):
        return {name: _placed(part, device, None if name == TARGET else dtype) for name, part in batch.items()}
    if isinstance(batch, (tuple, list)) and len(batch) > 1 and not hasattr(batch, "to"):
        return (*(_placed(part, device, dtype) for part in batch[:-1]), _placed(batch[-1], device, None))
    return _placed(batch, device, dtype)


def indices(count: int, order: str, generator: torch.Generator, labels: Callable[[], Tensor]) -> Tensor:
    """Return one epoch's order of the samples.

    Args:
        count: number of samples.
        order: `shuffle`, `sequential`, or `balanced`: drawn with replacement, all labels equally often.
        generator: draws.
        labels: returns the samples' labels; called for `balanced` only.
    """
    if order == "sequential":
        return torch.arange(count)
    if order == "shuffle":
        return torch.randperm(count, generator=generator)
    # First a label and then one of its samples. `torch.multinomial` would know no more than 2^24 samples.
    _, label_of, counts = torch.unique(labels(), return_inverse=True, return_counts=True)
    by_label = torch.argsort(label_of, stable=True)
    drawn = torch.randint(len(counts), (count,), generator=generator)
    within = (torch.rand(count, generator=generator, dtype=torch.float64) * counts[drawn]).long()
    return by_label[(counts.cumsum(0) - counts)[drawn] + within]


def labels_of(samples: Samples) -> Tensor:
    """Return the samples' labels, int64 (N,).

    Args:
        samples: their targets are `y`, or the last part of a tuple; or a dataset has them all in `targets`, as those
            of torchvision do.

    Raises:
        TrainingFailed: the targets are no labels.
    """
    if isinstance(samples, TensorSamples):
        targets = samples.named.get(TARGET, list(samples.named.values())[-1])
    elif isinstance(samples, ItemSamples) and hasattr(samples.dataset, "targets"):
        targets = torch.as_tensor(samples.dataset.targets)
    else:
        items = (samples.item(index) for index in range(len(samples)))
        targets = torch.as_tensor(np.asarray([_target(item) for item in items]))
    if targets.dim() != 1 or targets.is_floating_point():
        has = f"{targets.dtype} of shape {tuple(targets.shape)}"
        raise TrainingFailed(f"training.order 'balanced' needs one whole number as label of each sample; y is {has}")
    return targets.long()


def split(order: Tensor, batch_size: int, *, drop_last: bool, skip_single: bool) -> tuple[Tensor, ...]:
    """Return an epoch's order in parts of a batch each.

    Args:
        order: of the samples.
        batch_size: samples per batch.
        drop_last: leave out a last batch that is smaller than the others.
        skip_single: leave out a last batch of one sample.
    """
    parts = torch.split(order, batch_size)
    is_smaller = len(parts) > 1 and len(parts[-1]) < batch_size
    if is_smaller and (drop_last or (skip_single and len(parts[-1]) == 1)):
        return parts[:-1]
    return parts


def steps(data: Data, batch_size: int, *, drop_last: bool) -> int | None:
    """Return the number of batches in an epoch; None: it is not known.

    Args:
        data: the samples.
        batch_size: samples per batch.
        drop_last: leave out a last batch that is smaller than the others.
    """
    if isinstance(data, Ready):
        return len(data.batches) if isinstance(data.batches, Sized) else None
    whole, rest = divmod(len(data), batch_size)
    has_smaller_one = bool(rest) and not (drop_last and whole)
    return whole + has_smaller_one


def _is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _placed(part: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if isinstance(part, Tensor):
        return part.to(device, dtype) if dtype is not None and part.is_floating_point() else part.to(device)
    if hasattr(part, "to"):  # torch's packed sequences, and other libraries' batches
        return part.to(device)
    if isinstance(part, Mapping):
        return {name: _placed(value, device, dtype) for name, value in part.items()}
    if isinstance(part, (tuple, list)):
        return tuple(_placed(value, device, dtype) for value in part)
    return part


def _target(item: Any) -> Any:
    try:
        target = item[TARGET] if isinstance(item, Mapping) else item[-1]
    except (LookupError, TypeError) as exc:
        raise TrainingFailed("training.order 'balanced' needs samples of inputs and a label") from exc
    return target.numpy() if isinstance(target, Tensor) else target

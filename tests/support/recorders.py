"""A recorder of steps for tests, on the CPU.

Like a CUDA graph, its record is a list of operations, each with the very tensors and numbers of that moment. So a step
that reads anything but what stays at its place is replayed with what was there then.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as trees
from torch.utils._python_dispatch import TorchDispatchMode

from client_fn.training.graphs import Work


class Recorder:
    """Records operations of torch.

    Args:
        spoil: changes the state or a buffer after each replay; None: nothing does.
        failure: raised by `record`.

    Attributes:
        said: what was asked for, in order: `warm up`, `record`, `replay`, `release`.
        read: places in memory of what the last record reads and has not made itself.
    """

    def __init__(self, spoil: Callable[[], object] | None = None, failure: Exception | None = None) -> None:
        self.said: list[str] = []
        self.read: set[int] = set()
        self._spoil = spoil
        self.failure = failure

    def warm_up(self, work: Work) -> Tensor:
        self.said.append("warm up")
        return work()

    def record(self, work: Work) -> Work:
        self.said.append("record")
        if self.failure is not None:
            raise self.failure
        tape = _Tape()
        with tape:
            result = work()
        tape.undo()
        self.read = tape.read

        def replay() -> Tensor:
            self.said.append("replay")
            tape.replay()
            if self._spoil is not None:
                self._spoil()
            return result

        return replay

    def release(self) -> None:
        self.said.append("release")


class _Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations of a piece of work."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read: set[int] = set()
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._made: dict[int, Tensor] = {}
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            if (place := _place(tensor)) not in self._made:
                self.read.add(place)
                if func._schema.is_mutable and place not in self._before:
                    whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                    self._before[place] = (whole, whole.clone())
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            if _place(tensor) not in self.read:
                self._made.setdefault(_place(tensor), tensor)
        self._calls.append((func, args, kwargs, result))
        return result

    def undo(self) -> None:
        """Leave what was there before as it was: a record does nothing. What it has made holds nothing yet."""
        for whole, before in self._before.values():
            whole.copy_(before)
        self._forget()

    def replay(self) -> None:
        self._forget()
        with torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, expected in self._calls:
                for tensor, now in zip(_tensors(expected), _tensors(func(*args, **kwargs)), strict=True):
                    if now.data_ptr() != tensor.data_ptr():
                        tensor.copy_(now)

    def _forget(self) -> None:
        with torch._C._AutoDispatchBelowAutograd():
            for tensor in self._made.values():
                tensor.fill_(float("nan") if tensor.is_floating_point() else 0)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in trees.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()

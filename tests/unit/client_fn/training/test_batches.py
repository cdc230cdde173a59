"""Batches of samples in any form, in the order that the job asks for."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

from client_fn.errors import TrainingFailed
from client_fn.training import batches
from client_fn.training.batches import ItemSamples, Ready, Subset, TensorSamples

pytestmark = pytest.mark.torch

X, Y = torch.arange(12.0).reshape(6, 2), torch.arange(6)
CPU = torch.device("cpu")


class Words(Dataset[tuple[Tensor, int]]):
    """Sequences of different lengths."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.ones(index + 1), index % 2


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def no_labels() -> Tensor:
    raise AssertionError("no labels are needed")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ((X, Y), TensorSamples),
        ((X.numpy(), Y.numpy()), TensorSamples),
        ({"x": X, "mask": X > 0, "y": Y}, TensorSamples),
        (TensorDataset(X, Y), TensorSamples),
        (Words(), ItemSamples),
        ([(X[0], 1), (X[1], 0)], ItemSamples),
        (DataLoader(Words()), Ready),
    ],
)
def test_data_of_many_kinds_is_known(value: Any, kind: type[Any]) -> None:
    assert isinstance(batches.of(value), kind)
    assert batches.of(batches.of(value)) is not None


def test_a_batch_has_the_form_of_the_data() -> None:
    drawn = torch.tensor([4, 0])
    x, y = batches.of((X, Y)).batch(drawn)  # type: ignore[union-attr]
    assert (x.tolist(), y.tolist()) == ([[8, 9], [0, 1]], [4, 0])
    named = batches.of({"x": X, "y": Y}).batch(drawn)  # type: ignore[union-attr]
    assert {name: len(part) for name, part in named.items()} == {"x": 2, "y": 2}


def test_a_subset_is_data_like_the_rest() -> None:
    part = Subset(TensorSamples((X, Y)), torch.tensor([1, 3, 5]))
    assert len(part) == 3
    assert part.batch(torch.tensor([2, 0]))[1].tolist() == [5, 1]
    assert part.item(1)[1] == 3


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ((X, Y[:3]), r"need a common first side, and have 0 \(6, 2\), 1 \(3,\)"),
        ({}, "have no tensor"),
        ({"x": torch.tensor(1.0)}, r"have x \(\)"),
        (iter([(X, Y)]), "list_iterator, which can be read once"),
        (3, "data\\(\\) returns a int: return a tuple or mapping"),
        (None, "data\\(\\) returns a NoneType"),
    ],
)
def test_data_that_can_t_be_used_is_explained(value: Any, reason: str) -> None:
    with pytest.raises(TrainingFailed, match=reason):
        batches.of(value)


def test_the_number_of_samples_is_found_where_it_can_be() -> None:
    assert batches.count(batches.of((X, Y))) == 6
    assert batches.count(batches.of(DataLoader(Words(), batch_size=3))) == 4
    assert batches.count(Ready([(X, Y)])) is None
    assert batches.size({"names": ["a", "b"], "x": X}) == 6
    with pytest.raises(TrainingFailed, match="a batch is a str without tensors"):
        batches.size("abc")


def test_floating_inputs_take_the_model_s_dtype_and_targets_keep_theirs() -> None:
    def dtypes(batch: Any) -> list[torch.dtype]:
        return [part.dtype for part in batches.tensors_in(batches.place(batch, CPU, torch.float16))]

    assert dtypes((X, Y, X)) == [torch.float16, torch.int64, torch.float32]
    assert dtypes({"x": X, "more": [X, Y], "y": X}) == [torch.float16, torch.float16, torch.int64, torch.float32]
    packed = batches.place((pack_sequence([X, X]), Y), CPU, None)[0]
    assert type(packed).__name__ == "PackedSequence"


def test_shuffled_is_new_in_each_epoch_and_sequential_is_not() -> None:
    draws = generator()
    first, second = (batches.indices(100, "shuffle", draws, no_labels).tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second
    assert batches.indices(3, "sequential", draws, no_labels).tolist() == [0, 1, 2]


def test_balanced_draws_each_label_equally_often() -> None:
    labels = torch.tensor([7] * 900 + [-1] * 90 + [3] * 10)
    drawn = batches.indices(3000, "balanced", generator(), lambda: labels)
    assert drawn.max() < 1000
    counts = Counter(labels[drawn].tolist())
    assert all(900 < count < 1100 for count in counts.values())
    assert len(set(drawn[labels[drawn] == 7].tolist())) > 500


def test_labels_are_found_in_datasets_too() -> None:
    assert batches.labels_of(ItemSamples(Words(), list)).tolist() == [0, 1, 0, 1]
    assert batches.labels_of(TensorSamples({"y": Y.int(), "z": X})).tolist() == Y.tolist()
    for value in ((X, X[:, 0]), (X, X > 0)):
        with pytest.raises(TrainingFailed, match="'balanced' needs one whole number"):
            batches.labels_of(TensorSamples(value))


def test_labels_that_a_dataset_knows_need_no_samples() -> None:
    class Knowing(Words):
        targets = (3, 1, 1, 3)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            raise AssertionError(index)

    assert batches.labels_of(ItemSamples(Knowing(), list)).tolist() == [3, 1, 1, 3]


def test_the_last_batch() -> None:
    def sizes(count: int, size: int, **options: bool) -> list[int]:
        given = {"drop_last": False, "skip_single": False} | options
        return [len(part) for part in batches.split(torch.arange(count), size, **given)]

    assert sizes(7, 3) == [3, 3, 1]
    assert sizes(7, 3, drop_last=True) == sizes(7, 3, skip_single=True) == [3, 3]
    assert sizes(2, 3, drop_last=True) == sizes(2, 3) == [2]
    assert sizes(1, 3, skip_single=True) == [1]
    assert sizes(2, 1, skip_single=True, drop_last=True) == [1, 1]


@pytest.mark.parametrize(("count", "size", "steps", "whole"), [(7, 3, 3, 2), (6, 3, 2, 2), (2, 3, 1, 1)])
def test_the_number_of_steps_in_an_epoch(count: int, size: int, steps: int, whole: int) -> None:
    data = TensorSamples((np.zeros(count),))
    assert batches.steps(data, size, drop_last=False) == steps
    assert batches.steps(data, size, drop_last=True) == whole
    assert batches.steps(Ready([1, 2]), size, drop_last=False) == 2
    assert batches.steps(Ready(set()), size, drop_last=False) == 0


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ((torch.rand(3, 2), torch.zeros(3)), torch.float32, True),
        ((torch.rand(3, 2), torch.zeros(3)), torch.float64, False),
        ((torch.rand(3, 2), torch.zeros(3)), None, True),
        ({"x": torch.zeros(3, dtype=torch.int64), "y": torch.zeros(3, dtype=torch.float64)}, torch.float32, True),
        ({"x": torch.rand(3, dtype=torch.float64), "y": torch.zeros(3)}, torch.float32, False),
        ((torch.rand(0, 2), torch.zeros(0)), torch.float32, True),
    ],
)
def test_samples_whose_batches_need_no_change_are_known_before(
    values: Any,
    dtype: torch.dtype | None,
    expected: bool,  # noqa: FBT001 (a column of the table)
) -> None:
    cpu, samples = torch.device("cpu"), TensorSamples(values)
    assert batches.are_placed(samples, cpu, dtype) is expected
    batch = samples.batch(torch.arange(min(2, len(samples))))
    same = [
        placed is tensor
        for tensor, placed in zip(
            batches.tensors_in(batch), batches.tensors_in(batches.place(batch, cpu, dtype)), strict=True
        )
    ]
    assert all(same) is expected


def test_samples_of_a_dataset_are_placed_one_batch_after_the_other() -> None:
    assert not batches.are_placed(batches.of([(1.0, 2)], lambda items: items), torch.device("cpu"), torch.float32)

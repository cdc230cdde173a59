"""Which samples a client holds out."""

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from client_fn.errors import TrainingFailed
from client_fn.training import batches, holdout

pytestmark = pytest.mark.torch

SHARE = 0.25


def samples(count: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, generator=draw), torch.randint(5, (count,), generator=draw)


def rows(data: Any) -> set[tuple[float, ...]]:
    """The samples' values of data whose samples are (x, y)."""
    if data is None:
        return set()
    samples = batches.of(data)
    parts = samples.batches if isinstance(samples, batches.Ready) else [samples.batch(torch.arange(len(samples)))]
    return {(*x.tolist(), float(y)) for xs, ys in parts for x, y in zip(xs, ys, strict=True)}


def test_about_the_asked_share_is_held_out_and_no_sample_is_lost() -> None:
    data = samples(2000)
    rest, held = holdout.split(data, SHARE)
    assert rows(rest) | rows(held) == rows(data)
    assert not rows(rest) & rows(held)
    assert len(rows(held)) == pytest.approx(2000 * SHARE, rel=0.15)


def test_what_is_held_out_stays_held_out_when_data_grows_in_any_order() -> None:
    x, y = samples(400)
    before = rows(holdout.split((x[:150], y[:150]), SHARE)[1])
    order = torch.randperm(400, generator=torch.Generator().manual_seed(3))
    rest, held = holdout.split((x[order], y[order]), SHARE)
    assert before
    assert before <= rows(held)
    assert not before & rows(rest)


def test_the_draw_is_the_sha_256_of_the_values_in_the_order_of_their_names() -> None:
    x, y = samples(50)
    held = holdout.split({"y": y, "x": x}, SHARE).held
    expected = [
        index
        for index in range(50)
        if int.from_bytes(hashlib.sha256(x[index].numpy().tobytes() + y[index].numpy().tobytes()).digest()[:8], "big")
        < SHARE * 2**64
    ]
    assert torch.equal(held["x"], x[expected])
    assert torch.equal(held["y"], y[expected])


FORMS: dict[str, Any] = {
    "a tuple": lambda x, y: (x, y),
    "numpy arrays": lambda x, y: (x.numpy(), y.numpy()),
    "a list of samples": lambda x, y: [(xs, int(ys)) for xs, ys in zip(x, y, strict=True)],
    "a data set of tensors": TensorDataset,
    "a data set": lambda x, y: Subset(TensorDataset(x, y), range(len(x))),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_in_which_samples_come_is_kept_and_does_not_decide(form: str) -> None:
    x, y = samples(60)
    data = FORMS[form](x, y)
    expected, parts = holdout.split((x, y), SHARE), holdout.split(data, SHARE)
    assert (rows(parts.rest), rows(parts.held)) == (rows(expected.rest), rows(expected.held))
    kinds = (Subset,) if isinstance(data, list) else (type(data),)
    assert isinstance(parts.rest, kinds)
    assert isinstance(parts.held, kinds)


def test_the_parts_of_named_tensors_and_arrays_are_tensors_and_arrays_of_these_names() -> None:
    x, y = samples(60)
    parts = holdout.split({"x": x, "y": y.numpy()}, SHARE)
    for part in parts:
        assert [type(values) for values in part.values()] == [torch.Tensor, np.ndarray]
        assert list(part) == ["x", "y"]


@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_ready_batches_are_split_sample_by_sample(batch_size: int) -> None:
    x, y = samples(60)
    loader = DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=True)
    parts, expected = holdout.split(loader, SHARE), holdout.split((x, y), SHARE)
    for _ in range(2):
        assert (rows(parts.rest), rows(parts.held)) == (rows(expected.rest), rows(expected.held))


def test_ready_batches_may_hold_dicts_and_texts() -> None:
    batch: dict[str, Any] = {"x": torch.rand(40, 2), "name": [f"sample {i}" for i in range(40)], "width": 2}
    rest, held = holdout.split(_Epoch([batch]), SHARE)
    (trained,), (judged,) = list(rest), list(held)
    assert sorted(trained["name"] + judged["name"]) == sorted(batch["name"])
    assert len(judged["x"]) == len(judged["name"])
    assert judged["width"] == 2


class _Epoch:
    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts

    def __iter__(self) -> Any:
        return iter(self.parts)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_something_is_left_to_train_on_however_large_the_share(count: int) -> None:
    rest, held = holdout.split(samples(count), 0.999999)
    assert len(rows(rest)) == 1
    assert len(rows(held)) == count - 1
    assert (held is None) == (count == 1)


def test_without_a_share_no_sample_is_looked_at() -> None:
    class Untouched:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            raise AssertionError(index)

    data = Untouched()
    assert holdout.split(data, 0.0) == (data, None)


DIFFERENT: list[Any] = [
    torch.zeros(2),
    torch.ones(2),
    torch.ones(2, dtype=torch.bfloat16),
    np.ones(2, np.int16),
    1,
    1.5,
    True,
    "text",
    b"bytes",
    {"a": 1, "b": [2.0, "x"]},
    np.array(["object", {"deep": 3}], dtype=object),
    torch.tensor(True),
    torch.zeros(0),
]


def test_every_kind_of_value_has_a_draw_that_depends_on_it() -> None:
    draws = [holdout.draw(value) for value in DIFFERENT]
    assert draws == [holdout.draw(value) for value in DIFFERENT]
    assert len(set(draws[:-2])) == len(draws) - 2
    assert holdout.draw({"b": 1, "a": 2}) == holdout.draw({"a": 2, "b": 1})


def test_a_value_without_defined_bytes_is_refused_with_a_remedy() -> None:
    with pytest.raises(TrainingFailed, match="a sample holds a object, whose bytes are not defined"):
        holdout.split([(object(), 1)], SHARE)


def test_ready_batches_without_any_sample_to_hold_out_have_no_hold_out() -> None:
    assert holdout.split(_Epoch([torch.zeros(5, 2)]), 1e-12).held is None


def test_tensors_of_every_dtype_and_shape_are_split() -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.uint8, torch.bool, torch.complex64):
        rest, held = holdout.split({"x": torch.ones(6, 2, 2).to(dtype), "y": torch.zeros(6, 0)}, SHARE)
        # Equal samples are on the same side.
        assert (len(rest["x"]), held) in ((6, None), (1, held))

"""A client's changes in fewer bits: how far they are off, the same bytes when repeated, and what is left alone."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from broker.messages import tensors as payload
from broker.messages import update_forms
from broker.messages.tensors import Array
from client_fn.errors import TrainingFailed
from client_fn.training import codecs, tensors
from server import codecs as server_codecs
from server import values

pytestmark = pytest.mark.torch

BUFFERS = ("mean",)


def update(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn((4, 200), generator=generator).mul_(0.01),
        "b": torch.randn(10, generator=generator),
        "point": torch.tensor(0.3),
        "wide": torch.randn(300, generator=generator, dtype=torch.float64),
        "half": torch.randn(7, generator=generator).to(torch.bfloat16),
        "none": torch.zeros((0, 3)),
        "mean": torch.randn(5, generator=generator),
        "count": torch.tensor(3),
        "mask": torch.tensor([True, False]),
    }


WEIGHTS = ("w", "b", "point", "wide", "half", "none")


def decoded(of: Mapping[str, Tensor], form: update_forms.UpdateForm, seed: int = 7) -> dict[str, Array]:
    """What the server reads of an update that travels as bytes."""
    layout = payload.layout(payload.decode(tensors.to_bytes(of))[0])
    codec = server_codecs.of(form, layout, [name for name in WEIGHTS if name in of])
    sent = payload.decode(tensors.to_bytes(codecs.encode(of, BUFFERS, form, seed)))[0]
    assert payload.layout(sent) == codec.layout
    opened = codec.open(sent).items()
    return {name: values.dense(tensor, np.dtype(np.float64)).reshape(tensor.shape) for name, tensor in opened}


def array(tensor: Tensor) -> Array:
    return np.asarray(tensor.double().numpy())


def test_both_sides_have_the_same_numbers() -> None:
    theirs = (update_forms.BLOCK, update_forms.SCALES, update_forms.NOT_FINITE, update_forms.LEAST_EXPONENT)
    assert theirs == (codecs.BLOCK, codecs.SCALES, codecs.NOT_FINITE, codecs.LEAST_EXPONENT)
    assert {*codecs._HALVES, "int8"} == update_forms.ROUNDED


def test_the_random_numbers_are_of_a_stream_that_numpy_never_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of NumPy's `Generator` may change with its version (NEP 19); those of PCG64 do not."""
    monkeypatch.delattr(np.random, "default_rng")
    monkeypatch.delattr(np.random, "Generator")
    of = {"w": torch.linspace(-1, 1, 1001)}
    sent = codecs.encode(of, (), "int8", 7)
    assert sent["w"][:12].tolist() == [-64, -64, -63, -63, -64, -63, -63, -63, -63, -63, -63, -62]


@pytest.mark.parametrize("form", ["delta", "weights"])
def test_other_forms_are_left_alone(form: str) -> None:
    of = update()
    assert all(sent is of[name] for name, sent in codecs.encode(of, BUFFERS, form, 7).items())


@pytest.mark.parametrize(("form", "error"), [("bf16", 2.0**-8), ("fp16", 2.0**-11), ("int8", 1 / 63.5)])
def test_the_server_reads_each_weight_within_its_error_and_the_rest_as_it_was(
    form: update_forms.UpdateForm, error: float
) -> None:
    of = update()
    got = decoded(of, form)
    assert got.keys() == of.keys()
    for name, tensor in of.items():
        exact = array(tensor)
        is_rounded = name in WEIGHTS and (name != "half" or form == "int8")
        bound = error * np.abs(exact).max(initial=0.0) if is_rounded else 0.0
        assert np.abs(got[name] - exact).max(initial=0.0) <= bound, name
    assert (got["w"] != array(of["w"])).any()


def test_int8_s_error_is_that_of_its_own_block() -> None:
    large = torch.cat([torch.full((256,), 1e-6), torch.full((256,), 1e3), torch.full((9,), 1e-9)])
    off = np.abs(decoded({"w": large}, "int8")["w"] - array(large)) / array(large)
    assert off.max() <= 1 / 63.5


def test_the_mean_of_many_tasks_is_right() -> None:
    """Each value is rounded up as often as it must be."""
    of = {"w": torch.tensor([1.0, 0.1003, -0.0501, 0.0008, -0.7777])}
    mean = np.mean([decoded(of, "int8", seed)["w"] for seed in range(3000)], axis=0)
    step = 2.0**-6
    assert np.abs(mean - array(of["w"])).max() <= 5 * step / 2 / np.sqrt(3000)
    nearest = np.rint(array(of["w"]) / step) * step
    assert np.abs(nearest - array(of["w"])).max() > 5 * step / 2 / np.sqrt(3000), "nearest would be off"


def test_the_same_task_sends_the_same_bytes_and_another_one_others() -> None:
    first, again, other = (tensors.to_bytes(codecs.encode(update(), BUFFERS, "int8", seed)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_rounding_draws_nothing_from_the_user_s_generators() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    codecs.encode(update(), BUFFERS, "int8", 7)
    assert torch.equal(torch.rand(3), expected)


def test_the_order_of_tensors_does_not_matter() -> None:
    of = update()
    turned = dict(reversed(of.items()))
    first, second = (codecs.encode(each, BUFFERS, "int8", 7) for each in (of, turned))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_memory_that_is_not_in_rows_is_sent_in_rows() -> None:
    of = torch.arange(6.0).reshape(2, 3).T
    assert decoded({"w": of}, "int8")["w"] == pytest.approx(array(of), abs=5 / 63.5)


@pytest.mark.parametrize("value", [127.0, 127.0 * 2.0**-7, 2.0**-149, 1e-45, 1.0, 3.4e38, 0.0])
def test_extremes_stay_within_127(value: float) -> None:
    """127 and a random number just below 1 make 128, in float32."""
    of = {"w": torch.full((100_000,), value)}
    sent = codecs.encode(of, (), "int8", 3)["w"]
    assert -127 <= int(sent.min()) <= int(sent.max()) <= 127
    # Below 2^-120, a change is smaller than any sum can tell.
    assert np.abs(decoded(of, "int8")["w"] - value).max() <= max(value / 63.5, 2.0**-120)


@pytest.mark.parametrize("wild", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("form", ["bf16", "fp16", "int8"])
def test_the_server_sees_that_a_change_is_not_finite(form: update_forms.UpdateForm, wild: float) -> None:
    of = torch.ones(600)
    of[300] = wild
    sent = {name: each.numpy() for name, each in codecs.encode({"w": of}, (), "int8", 7).items()}
    if form == "int8":
        exponents = sent[codecs.SCALES].tolist()
        assert exponents == [-6, codecs.NOT_FINITE, -6]
        assert not sent["w"][256:512].any()
    else:
        assert not torch.isfinite(codecs.encode({"w": of}, (), form, 7)["w"]).all()


def test_a_model_with_a_tensor_of_the_scales_name_fails_with_a_sentence() -> None:
    with pytest.raises(TrainingFailed, match=r"'int8' needs the name int8\.scales: the model must not use it"):
        codecs.encode({"w": torch.ones(2), "int8.scales": torch.ones(2)}, (), "int8", 7)


def test_a_model_without_weights_that_become_smaller_has_no_scales() -> None:
    sent = codecs.encode({"count": torch.tensor(3)}, (), "int8", 7)
    assert sent[codecs.SCALES].tolist() == []

"""Modules and samples of awkward kinds, at an order."""

import importlib
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from client_fn.errors import BadModel, TrainingFailed
from client_fn.training import tensors
from client_fn.training.orders import Training
from tests.support import own_learners
from tests.support.own_learners import X, Y, module

pytestmark = pytest.mark.torch

OWN = own_learners.OWN


def test_lazy_layers_see_one_batch(own: str) -> None:
    with_example, without = module(own, "LazyWithExample"), module(own, "Lazy")
    _, weights = with_example.build()
    assert weights["0.weight"].shape == (8, 3)
    assert with_example.build()[1]["0.weight"].tolist() == weights["0.weight"].tolist()
    with pytest.raises(BadModel, match=r"the shape of 0.weight is open until .* attribute 'example_input'"):
        without.build()
    assert torch.equal(without.build(shard=without.shard)[1]["0.weight"], weights["0.weight"])
    facts, _ = without.train(weights)
    assert facts["metrics"]["steps"] == 10
    assert without.evaluate(weights)[0]["samples"] == 50


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("LazyUnused", "the shape of unused.0.weight is still open after a batch"),
        ("LazyAndWrong", "the lazy layer of 0.weight can't be initialised with a batch: TypeError"),
    ],
)
def test_lazy_layers_that_stay_open_are_named(own: str, name: str, reason: str) -> None:
    with pytest.raises(BadModel, match=reason):
        module(own, name).build()


@pytest.mark.parametrize("update", ["delta", "weights"])
def test_a_constant_with_infinities_stays_as_it_is_and_tiny_numbers_too(own: str, update: str) -> None:
    client = module(own, "Masked")
    facts, weights = client.build()
    assert facts["frozen"] == ["mask"]
    assert "steps" not in weights
    facts, files = client.train(weights, update=update)
    sent = tensors.from_bytes(files["update"])
    assert "mask" not in sent
    assert all(torch.isfinite(part).all() for part in sent.values())
    if update == "delta":
        after = client.after(weights, files)
        assert all(torch.equal(after[name], weights[name]) for name in ("mask", "tiny", "codes"))
    assert client.evaluate(weights)[0]["metrics"]["loss"] > 0


def test_tied_weights_are_one_tensor_and_load_strictly_as_safetensors_loads_a_model(own: str, tmp_path: Path) -> None:
    client = module(own, "Tied")
    _, weights = client.build()
    after = client.after(weights, client.train(weights)[1])
    assert sorted(after) == ["first.bias", "first.weight", "out.bias", "out.weight", "second.bias"]
    (tmp_path / "model.safetensors").write_bytes(tensors.to_bytes(after))
    tied = importlib.import_module(own).Tied()
    safetensors.torch.load_model(tied, tmp_path / "model.safetensors", strict=True)
    assert torch.equal(tied.second.weight, after["first.weight"])


def test_a_model_that_changes_its_own_parameters_names_fails_with_a_sentence(own: str) -> None:
    client = module(own, "Renaming")
    with pytest.raises(TrainingFailed, match=r"keep the model's tensors, now these are unexpected: extra.weight"):
        client.train(client.build()[1])


@pytest.mark.parametrize("kind", ["tuple", "dict", "aux"])
def test_a_model_may_return_several_outputs(own: str, kind: str) -> None:
    client = module(own, "Outputs", kind=kind)
    _, weights = client.build()
    assert client.train(weights)[0]["metrics"]["loss"] > 0
    assert client.evaluate(weights)[0]["metrics"].keys() == {"loss", "accuracy"}


def test_five_thousand_tensors(own: str) -> None:
    client = module(own, "Many", count=5000)
    client.training = Training(batch_size=50, local_epochs=2)
    _, weights = client.build()
    facts, files = client.train(weights)
    assert (len(weights), facts["metrics"]["steps"]) == (5000, 2)
    assert len(tensors.from_bytes(files["state.opt"])) == 15_000
    states = {"state.opt": files["state.opt"]}
    assert tensors.from_bytes(client.train(weights, states)[1]["state.opt"])["4999.step"].item() == 4


def test_complex_parameters_are_refused_with_a_remedy(own: str) -> None:
    with pytest.raises(BadModel, match=r"phase has dtype torch.complex64, known are .*; keep torch.view_as_real\(\)"):
        module(own, "Complex").build()


@pytest.mark.parametrize("count", [1, 11])
def test_batch_normalisation_of_one_sample(own: str, count: int) -> None:
    client = module(own, "Normed")
    _, weights = client.build()
    client.samples = {"x": X[:count], "y": Y[:count]}
    if count > 1:
        assert client.train(weights)[0]["metrics"]["steps"] == 2, "the last batch of one is left out"
        client.training = Training(batch_size=1)
    with pytest.raises(TrainingFailed, match=r"needs two samples in a batch.*set training.batch_size to 2") as failed:
        client.train(weights)
    assert not failed.value.retryable


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ({"x": X, "y": Y + 1}, "labels go from 1 to 3, and the model has 3 outputs: use labels from 0 to 2"),
        ({"x": X, "y": Y - 1}, "labels go from -1 to 1, and the model has 3 outputs"),
        ({"x": X, "y": Y.float()}, "from 0 to 2; cross_entropy needs whole numbers from 0"),
        ({"x": (X * 9).to(torch.uint8), "y": Y}, r"let the model begin with x.float\(\) / 255"),
        ({"x": X.where(X > -1, torch.nan), "y": Y}, r"x holds NaN or infinity in \d+ of 50 samples; fill in or leave"),
        ({"x": X, "y": torch.full((50,), -100)}, "all labels are -100"),
        ({"x": X[:0], "y": Y[:0]}, "there are no samples"),
        ({"x": X, "more": X, "z": Y}, "a batch has more, x, z and no 'y'"),
    ],
)
def test_samples_that_do_not_fit_are_explained(own: str, samples: dict[str, Tensor], reason: str) -> None:
    client = module(own, "Net")
    _, weights = client.build()
    client.samples = samples
    with pytest.raises(TrainingFailed, match=reason) as failed:
        client.train(weights)
    assert "learning rate" not in str(failed.value)


@pytest.mark.parametrize(
    "samples", [{"x": X.double(), "y": Y}, {"x": X.half(), "y": Y.to(torch.uint8)}, {"x": X, "y": Y, "id": Y}]
)
def test_samples_of_other_dtypes_and_further_tensors_are_no_matter(own: str, samples: dict[str, Tensor]) -> None:
    client = module(own, "Net")
    _, weights = client.build()
    client.samples = samples
    assert client.train(weights)[0]["samples"] == 50
    assert client.evaluate(weights)[0]["samples"] == 50

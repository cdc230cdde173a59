"""Personal layers never leave the trainer but in the client's own file, and a training starts from that file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client_fn import strategies
from client_fn.errors import BadModel, TrainingFailed
from client_fn.strategies.base import ClientStrategy, Outcome, Tensors
from client_fn.training import models, personal, tensors, work
from client_fn.training.learner import Learner
from client_fn.training.model_tensors import ModelTensors
from client_fn.training.orders import OPTIMIZER, PERSONAL, Build, Evaluate, Model, Train, Training
from client_fn.training.personal import PersonalLayers

pytestmark = pytest.mark.torch

NORMED = Model("tests.support.modules:BatchNormed")
NORM = ("2.weight", "2.bias", "2.running_mean", "2.running_var", "2.num_batches_tracked")
SHARED = {"1.weight", "1.bias", "3.weight", "3.bias"}
PATTERNS = ("2.*",)
STATES = {OPTIMIZER: 1.0, f"{OPTIMIZER}2": 2.0}
SHARD = tensors.to_bytes(
    {"x": torch.rand((20, 8, 8), generator=torch.Generator().manual_seed(1)), "y": torch.arange(20) % 10}
)


class Tied(nn.Module):
    """One matrix under two names, and one more."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.embed.weight
        self.out = nn.Linear(4, 4)


def layers_of(module: nn.Module, patterns: tuple[str, ...]) -> PersonalLayers:
    return PersonalLayers(ModelTensors(Learner(), module), patterns)


def silent(_: str) -> None:
    pass


def initial(patterns: tuple[str, ...] = PATTERNS) -> bytes:
    return work.do(Build(NORMED, seed=1, personal=patterns), {}, silent)[1]["weights"]


def train(
    patterns: tuple[str, ...] = PATTERNS, own: bytes | None = None, *, model_seed: int = 1, **changes: object
) -> tuple[dict[str, Tensor], Mapping[str, bytes]]:
    """Train for one round; return the update's tensors, and all files of the answer."""
    settings = Training(**{"batch_size": 5, "local_epochs": 1, **changes})  # type: ignore[arg-type]
    order = Train(NORMED, settings, seed=3, device="cpu", left_s=60.0, personal=patterns, model_seed=model_seed)
    inputs = {"weights": initial(patterns), "shard": SHARD, **({} if own is None else {PERSONAL: own})}
    _, files = work.do(order, inputs, silent)
    return tensors.from_bytes(files["update"]), files


def test_the_initial_model_is_sent_without_them_and_the_facts_name_them() -> None:
    facts, files = work.do(Build(NORMED, seed=1, personal=PATTERNS), {}, silent)
    assert facts == {"frozen": [], "buffers": [], "personal": list(NORM)}
    assert tensors.from_bytes(files["weights"]).keys() == SHARED


def test_without_patterns_a_model_has_none() -> None:
    facts, files = work.do(Build(NORMED, seed=1), {}, silent)
    assert facts["personal"] == []
    assert tensors.from_bytes(files["weights"]).keys() == SHARED | set(NORM)


def test_frozen_parameters_that_are_personal_are_not_named_as_frozen() -> None:
    model = Model("tests.support.modules:Frozen")
    facts, files = work.do(Build(model, seed=1, personal=("backbone.*",)), {}, silent)
    assert (facts["frozen"], facts["personal"]) == ([], ["backbone.weight", "backbone.bias"])
    assert tensors.from_bytes(files["weights"]).keys() == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        (("hed.*",), "model.personal: 'hed.*' matches no tensor of the model; it has 1.weight, 1.bias, 2.weight"),
        (("2.*", "bn*"), "model.personal: 'bn*' matches no tensor"),
        (("*",), "model.personal: it matches every trained parameter, so nothing would be learned together"),
        (("*.weight", "*.bias"), "model.personal: it matches every trained parameter"),
    ],
)
def test_patterns_that_match_nothing_or_everything_are_refused(patterns: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(BadModel) as caught:
        work.do(Build(NORMED, seed=1, personal=patterns), {}, silent)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(("pattern", "inner"), [("head.*", "head.weight"), ("embed.*", "embed.weight")])
def test_a_personal_tensor_that_another_layer_sends_is_refused(pattern: str, inner: str) -> None:
    with pytest.raises(BadModel, match=rf"{inner} and \w+.weight are the same tensor \(tied weights\)"):
        personal.names_of(ModelTensors(Learner(), Tied()), (pattern,))
    assert personal.names_of(ModelTensors(Learner(), Tied()), ("head.*", "embed.*")) == ("embed.weight",)


@pytest.mark.parametrize("update", ["delta", "weights", "int8"])
@pytest.mark.parametrize("is_dry", [False, True])
def test_an_update_leaves_them_out_and_the_client_s_file_holds_them(update: str, is_dry: bool) -> None:  # noqa: FBT001
    settings = None if is_dry else Training(batch_size=5, local_epochs=1)
    order = Train(NORMED, settings, 3, "cpu", 60.0, update=update, personal=PATTERNS, model_seed=1)
    _, files = work.do(order, {"weights": initial(), "shard": SHARD}, silent)
    assert tensors.from_bytes(files["update"]).keys() - {"int8.scales"} == SHARED
    assert set(NORM) <= tensors.from_bytes(files[PERSONAL]).keys()
    assert files.keys() == {"update", PERSONAL}


def test_the_optimizer_s_state_stays_with_them() -> None:
    _, files = train(optimizer="adam")
    assert OPTIMIZER not in files
    beside = {name for name in tensors.from_bytes(files[PERSONAL]) if name not in NORM}
    assert {name.partition("/")[0] for name in beside} == {"optimizer"}
    assert train(optimizer="adam", optimizer_state="reset")[1].keys() == files.keys()
    assert tensors.from_bytes(train(optimizer="adam", optimizer_state="reset")[1][PERSONAL]).keys() == set(NORM)


def test_a_training_starts_from_the_client_s_file() -> None:
    _, first = train()
    again, second = train(own=first[PERSONAL])
    assert int(tensors.from_bytes(second[PERSONAL])["2.num_batches_tracked"]) == 8, "two rounds of four batches"
    from_initial, _ = train()
    assert not torch.equal(again["3.weight"], from_initial["3.weight"])
    same, _ = train(own=first[PERSONAL])
    assert torch.equal(again["3.weight"], same["3.weight"])


def test_without_a_file_it_starts_from_the_initial_ones_of_the_model_s_seed() -> None:
    module = models.build(Model(), seed=1)
    layers = layers_of(module, ("out.*",))
    built = {name: tensor.clone() for name, tensor in tensors.tensors_of(module).items()}
    order = Train(Model(), None, 3, "cpu", 60.0, personal=("out.*",), model_seed=1)
    for _ in range(2):
        _, files = work.do(order, {"weights": tensors.to_bytes(layers.shared.all())}, silent)
        kept = tensors.from_bytes(files[PERSONAL])
        assert kept.keys() == {"out.weight", "out.bias"}
        assert all(torch.equal(kept[name], built[name]) for name in kept)


def test_personal_layers_change_nothing_in_the_training_of_the_others() -> None:
    whole, whole_files = train(patterns=())
    part, files = train()
    assert all(torch.equal(part[name], whole[name]) for name in SHARED)
    assert OPTIMIZER in whole_files
    assert OPTIMIZER not in files


def test_the_state_beside_them_continues_the_optimizer() -> None:
    _, first = train(optimizer="adam")
    continued, _ = train(own=first[PERSONAL], optimizer="adam")
    bare = {name: tensor for name, tensor in tensors.from_bytes(first[PERSONAL]).items() if name in NORM}
    restarted, _ = train(own=tensors.to_bytes(bare), optimizer="adam")
    assert not torch.equal(continued["1.weight"], restarted["1.weight"])


def test_the_state_beside_them_continues_each_of_several_optimizers() -> None:
    layers = layers_of(models.build(NORMED, seed=1), PATTERNS)
    states = {name: tensors.to_bytes({"0.exp_avg": torch.full((2,), value)}) for name, value in STATES.items()}
    kept = layers.save({**states, "state.own": b"the strategy's"})
    assert kept.keys() == {PERSONAL, "state.own"}
    assert layers.load({PERSONAL: kept[PERSONAL]}) == {PERSONAL: kept[PERSONAL], **states}


@pytest.mark.parametrize("file", [{"2.weight": torch.ones(8)}, {name: torch.ones(3) for name in NORM}])
def test_a_file_of_another_model_is_refused(file: dict[str, Tensor]) -> None:
    with pytest.raises(BadModel, match="the client's file of personal layers: not this model's tensors"):
        train(own=tensors.to_bytes(file))


def test_a_strategy_never_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()

    class Curious(ClientStrategy):
        @property
        def changes_gradients(self) -> bool:
            return True

        def start(self, module: nn.Module, states: Mapping[str, Tensors], along: Tensors) -> None:  # noqa: ARG002
            seen.update(name for name, _ in module.named_parameters())

        def correction(self, name: str, parameter: nn.Parameter) -> Tensor:
            seen.add(name)
            return torch.zeros_like(parameter)

        def finish(self, module: nn.Module) -> Outcome:
            seen.update([*module.state_dict(), *(name for name, _ in module.named_buffers())])
            return Outcome({"own": {name: p.detach() for name, p in module.named_parameters()}}, {})

    monkeypatch.setitem(strategies.STRATEGIES, "fedavg", Curious)
    _, files = train()
    assert seen == SHARED
    assert tensors.from_bytes(files["state.own"]).keys() == SHARED


def test_a_training_that_changes_the_shape_of_one_is_refused() -> None:
    module = models.build(NORMED, seed=1)
    layers = layers_of(module, PATTERNS)
    norm = module.get_submodule("2")
    norm.weight = nn.Parameter(torch.zeros(9))
    with pytest.raises(TrainingFailed, match=r"must keep the model's personal tensors.*2.weight"):
        layers.save({})


def test_an_evaluation_uses_the_client_s_own_layers() -> None:
    _, files = train(local_epochs=20, rate=0.05)
    inputs = {"weights": initial(), "shard": SHARD}
    order = Evaluate(NORMED, personal=PATTERNS, model_seed=1)
    without, _ = work.do(order, inputs, silent)
    own, answer = work.do(order, {**inputs, PERSONAL: files[PERSONAL]}, silent)
    assert own["metrics"]["loss"] != without["metrics"]["loss"]
    assert answer.keys() == {"sums"}


class Arrays(Learner):
    """A model that is no torch module."""

    def model(self) -> dict[str, Any]:
        return {"body": np.zeros(2), "head": np.ones(3)}

    def arrays(self, model: dict[str, Any]) -> dict[str, Any]:
        return model

    def load(self, model: dict[str, Any], arrays: Mapping[str, Any]) -> None:
        model.update(arrays)


def test_a_model_of_another_kind_has_personal_arrays_too() -> None:
    learner = Arrays()
    model = learner.model()
    layers = PersonalLayers(ModelTensors(learner, model), ("head",))
    assert layers.names == ("head",)
    assert layers.shared.all().keys() == {"body"}
    kept = layers.save({})
    layers.shared.load({"body": torch.full((2,), 7.0, dtype=torch.float64)})
    model["head"] = np.zeros(3)
    layers.load(kept)
    assert {name: array.tolist() for name, array in model.items()} == {"body": [7.0, 7.0], "head": [1.0, 1.0, 1.0]}
    assert layers.part(model) is model
    with pytest.raises(BadModel, match="matches every trained parameter"):
        PersonalLayers(ModelTensors(learner, model), ("*",))


def test_a_round_s_model_that_holds_a_personal_tensor_is_refused() -> None:
    layers = layers_of(models.build(NORMED, seed=1), PATTERNS)
    with pytest.raises(BadModel, match=r"not this model's tensors; unexpected: 2\.weight"):
        layers.shared.load({**layers.shared.all(), "2.weight": torch.ones(8)})

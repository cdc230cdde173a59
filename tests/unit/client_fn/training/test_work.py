"""An order is done as it says, whatever was done before it."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import optimizer as of_torch

from client_fn import strategies
from client_fn.errors import BadModel, BadSettings, LeaseOver, TrainingFailed, UserCodeFailed
from client_fn.strategies.base import ClientStrategy, Outcome, Tensors
from client_fn.training import codecs, loop, models, tensors, updates, work
from client_fn.training.learner import Learner
from client_fn.training.model_tensors import ModelTensors
from client_fn.training.orders import Build, Evaluate, Evaluation, Model, Train, Training

pytestmark = pytest.mark.torch

OWN = """
import torch
from torch import nn

class Counting(nn.Linear):
    built = 0

    def __init__(self):
        super().__init__(2, 2, bias=False)
        Counting.built += 1

class Replacing(nn.Linear):
    def __init__(self, width):
        super().__init__(2, 2, bias=False)
        self.width = width

    def forward(self, x):
        self.weight = nn.Parameter(torch.zeros(self.width, 2))
        return super().forward(x)

class Angle(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.register_buffer("angle", torch.zeros(2).to(getattr(torch, dtype)))
"""
SMALL = Model(type="nn", args={"input_size": 2, "hidden": 2, "classes": 2})
SAMPLES = tensors.to_bytes(
    {
        "x": torch.tensor([[5.0, 0.0], [0.0, 5.0], [5.0, 0.0], [0.0, 5.0]]),
        "y": torch.tensor([0, 1, 0, 0], dtype=torch.uint8),
    }
)


def weights(*, swapped: bool = False) -> bytes:
    """Return identity weights: the logits are the two inputs, if these are positive."""
    eye = torch.eye(2)
    return tensors.to_bytes(
        {
            "hidden.weight": eye,
            "hidden.bias": torch.zeros(2),
            "out.weight": eye.flip(0) if swapped else eye,
            "out.bias": torch.zeros(2),
        }
    )


def initial(model: Model) -> bytes:
    return work.do(Build(model, seed=1), {}, silent)[1]["weights"]


def silent(_: str) -> None:
    """Say nothing."""


def accuracy(model: Model, blob: bytes) -> float:
    facts, files = work.do(Evaluate(model, Evaluation(batch_size=2)), {"weights": blob, "shard": SAMPLES}, silent)
    assert (facts["samples"], sorted(files)) == (4, ["sums"])
    got: float = facts["metrics"]["accuracy"]
    return got


def train(
    model: Model = SMALL,
    blob: bytes | None = None,
    say: work.Say = silent,
    inputs: Mapping[str, bytes] | None = None,
    **changes: Any,
) -> work.Answer:
    order: dict[str, Any] = {"training": Training(batch_size=2), "seed": 7, "device": "cpu", "left_s": 60.0}
    files = {"weights": initial(model) if blob is None else blob, "shard": SAMPLES, **(inputs or {})}
    return work.do(Train(model, **(order | changes)), files, say)


def test_our_module_is_kept_and_its_weights_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    build = models.build

    def counted(model: models.Spec, *, seed: int) -> torch.nn.Module:
        built.append(model.type)
        return build(model, seed=seed)

    monkeypatch.setattr(models, "build", counted)
    monkeypatch.setattr(work, "_built_in", {})
    assert accuracy(SMALL, weights()) == 0.75
    assert accuracy(SMALL, weights(swapped=True)) == 0.25
    train(SMALL, weights(swapped=True))
    assert accuracy(SMALL, weights()) == 0.75
    assert accuracy(Model(SMALL.type, dict(reversed(SMALL.args.items()))), weights()) == 0.75
    assert built == ["nn"]


def test_other_args_are_another_module_and_one_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, torch.nn.Module] = {}
    monkeypatch.setattr(work, "_built_in", kept)
    accuracy(SMALL, weights())
    with pytest.raises(BadModel, match="not this model's tensors"):
        accuracy(Model("nn", {**SMALL.args, "hidden": 3}), weights())
    for hidden in (5, 6, 5):
        model = Model("nn", {**SMALL.args, "hidden": hidden})
        assert tensors.from_bytes(train(model)[1]["update"])["hidden.weight"].shape[0] == hidden
        assert len(kept) == 1


def test_a_user_s_module_is_built_anew_for_each_order(own: str) -> None:
    model = Model(f"{own}:Counting")
    blob = initial(model)
    train(model, blob)
    accuracy(model, blob)
    accuracy(model, blob)
    assert models.find(model.type).built == 4  # type: ignore[attr-defined]


def test_the_same_order_gives_the_same_bytes() -> None:
    first = train()[1]
    torch.rand(17)
    assert train()[1] == first
    assert train(seed=8)[1]["update"] != first["update"]


def test_the_training_is_announced_once_and_each_batch() -> None:
    said: list[str] = []
    facts, _ = train(say=said.append, training=Training(batch_size=2, local_epochs=3))
    assert said == ["training", *["alive"] * 6]
    assert facts["metrics"]["steps"] == 6
    assert facts["seconds"].keys() == {"build", "train"}


def test_a_training_ends_at_its_deadline_before_the_next_batch() -> None:
    said: list[str] = []
    with pytest.raises(LeaseOver):
        train(say=said.append, left_s=0.0)
    assert said == ["training"]


def test_an_update_is_the_change_of_the_round_s_model_or_the_trained_weights() -> None:
    base = tensors.from_bytes(initial(SMALL))
    delta, trained = (tensors.from_bytes(train(update=kind)[1]["update"]) for kind in ("delta", "weights"))
    assert delta.keys() == trained.keys() == base.keys()
    assert all(torch.equal(delta[name], trained[name] - base[name]) for name in base)


@pytest.mark.parametrize("kind", ["bf16", "fp16", "int8"])
def test_an_update_in_fewer_bits_is_the_rounded_change_and_the_same_when_it_is_made_again(kind: str) -> None:
    exact = tensors.from_bytes(train(update="delta")[1]["update"])
    first, second = train(update=kind)[1]["update"], train(update=kind)[1]["update"]
    assert first == second
    sent, expected = tensors.from_bytes(first), codecs.encode(exact, (), kind, 7)
    assert {name: tensor.dtype for name, tensor in sent.items()} == {n: each.dtype for n, each in expected.items()}
    assert all(torch.equal(sent[name], expected[name]) for name in expected)


def test_what_scaffold_sends_beside_the_model_is_not_rounded() -> None:
    sgd, scaffold = Training("sgd", 0.1, batch_size=2), {"name": "scaffold"}
    exact, rounded = (
        tensors.from_bytes(train(update=kind, training=sgd, strategy=scaffold)[1]["update"])
        for kind in ("delta", "int8")
    )
    controls = [name for name in exact if name.startswith("aux.")]
    assert controls
    assert all(torch.equal(exact[name], rounded[name]) for name in controls)
    assert {rounded[name.removeprefix("aux.")].dtype for name in controls} == {torch.int8}


def test_a_training_continues_from_the_optimizer_s_state() -> None:
    first = train()[1]
    assert first.keys() == {"update", "state.opt"}
    second = train(inputs={"state.opt": first["state.opt"]})[1]
    assert second["update"] != first["update"]
    assert train(training=Training("sgd", batch_size=2))[1].keys() == {"update"}
    assert train(training=Training(batch_size=2, optimizer_state="reset"))[1].keys() == {"update"}


@pytest.mark.parametrize("kind", ["delta", "weights", "int8"])
def test_a_dry_update_is_noise(kind: str) -> None:
    base = initial(SMALL)
    facts, files = train(training=None, update=kind, inputs={"shard": SAMPLES})
    module = models.build(SMALL, seed=0)
    noise = updates.noise(ModelTensors(Learner(), module), tensors.from_bytes(base), kind, 7)
    expected = codecs.encode(noise, (), kind, 7)
    assert files == {"update": tensors.to_bytes(expected)}
    assert (facts["samples"], facts["metrics"]) == (1, {})
    without_data = Train(SMALL, None, seed=7, device="cpu", left_s=60.0, update=kind)
    facts, again = work.do(without_data, {"weights": base}, silent)
    assert (facts["samples"], again) == (1, files)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "nadam"])
def test_a_strategy_changes_the_training_and_with_mu_0_not_a_bit(optimizer: str) -> None:
    training = Training(optimizer, 0.1, batch_size=2)
    fedavg, same, near = (
        train(training=training, strategy=strategy)[1]
        for strategy in ({"name": "fedavg"}, {"name": "fedprox", "mu": 0.0}, {"name": "fedprox", "mu": 1.0})
    )
    assert same == fedavg
    assert near["update"] != fedavg["update"]


def hooks() -> int:
    return len(of_torch._global_optimizer_pre_hooks) + len(of_torch._global_optimizer_post_hooks)


def test_no_hook_is_left_after_a_training_that_ended_early() -> None:
    before = hooks()
    with pytest.raises(LeaseOver):
        train(strategy={"name": "fedprox", "mu": 1.0}, left_s=0.0)
    assert hooks() == before


def test_a_loop_that_makes_no_steps_fails_instead_of_being_fedavg(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_hand(_: Learner, module: nn.Module, *__: object) -> dict[str, float]:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.sub_(0.1)
        return {"loss": 1.0}

    monkeypatch.setattr(loop, "train", by_hand)
    for name in ("fedavg", "median"):
        assert train(strategy={"name": name})[1]["update"]
    with pytest.raises(TrainingFailed, match="strategy 'fedprox' changes the gradients before each optimizer step"):
        train(strategy={"name": "fedprox", "mu": 1.0})


def test_a_module_that_replaces_its_parameters_fails_with_a_sentence(own: str) -> None:
    with pytest.raises(TrainingFailed, match="the training made none"):
        train(Model(f"{own}:Replacing", {"width": 2}), strategy={"name": "fedprox", "mu": 1.0})
    with pytest.raises(TrainingFailed, match=r"keep the model's tensors.* of another shape or dtype: weight"):
        train(Model(f"{own}:Replacing", {"width": 3}))


class Remembers(ClientStrategy):
    """Counts its trainings in a state, and sends back what the server sent along."""

    def start(self, module: nn.Module, states: Mapping[str, Tensors], along: Tensors) -> None:
        del module
        self.count = states.get("memory", {}).get("count", torch.zeros(1))
        self.names, self.along = sorted(states), along

    def finish(self, module: nn.Module) -> Outcome:
        of_first = next(module.parameters()).detach()
        return Outcome({"memory": {"count": self.count + 1}, "first": {"weight": of_first}}, self.along)


def test_states_and_tensors_of_a_strategy_go_in_and_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(strategies.STRATEGIES, "remembers", Remembers)
    along = {"out.weight": torch.arange(3.0)}
    inputs: dict[str, bytes] = {"along": tensors.to_bytes(along)}
    for count in (1, 2):
        _, files = train(strategy={"name": "remembers"}, inputs=inputs)
        update = tensors.from_bytes(files.pop("update"))
        assert sorted(files) == ["state.first", "state.memory", "state.opt"]
        assert tensors.from_bytes(files["state.memory"])["count"].item() == count
        assert sorted(update) == ["aux.out.weight", "hidden.bias", "hidden.weight", "out.bias", "out.weight"]
        assert torch.equal(update["aux.out.weight"], along["out.weight"])
        inputs |= files


@pytest.mark.parametrize("dtype", ["complex64", "float8_e4m3fn"])
def test_a_dtype_that_no_update_carries_is_named(own: str, dtype: str) -> None:
    with pytest.raises(BadModel, match=f"angle has dtype torch.{dtype}, known are torch.float64"):
        initial(Model(f"{own}:Angle", {"dtype": dtype}))


def test_a_device_that_is_not_here_is_named() -> None:
    for device in ("cuda:99", "gpu"):
        with pytest.raises(BadSettings, match=f"FEDKEEPER_DEVICE: '{device}' can't be used here") as bad:
            train(device=device)
        assert not bad.value.retryable


def test_what_does_not_fit_is_explained() -> None:
    with pytest.raises(UserCodeFailed, match="not a safetensors file"):
        accuracy(SMALL, b"garbage")
    with pytest.raises(BadModel, match="no_such_package can't be imported"):
        accuracy(Model("no_such_package:Net"), weights())
    large = Model("nn", {"input_size": 9})
    with pytest.raises(TrainingFailed, match=r"samples of shape \(2\)"):
        accuracy(large, initial(large))

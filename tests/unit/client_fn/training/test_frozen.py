"""Tensors that no client trains: from a file of their own, or as the model's class constructs them."""

import hashlib

import pytest
import torch

from client_fn.errors import BadModel
from client_fn.training import frozen, tensors
from client_fn.training.learner import Learner
from client_fn.training.model_tensors import ModelTensors
from client_fn.training.orders import FROZEN
from tests.support.modules import Frozen

pytestmark = pytest.mark.torch

NAMES = ("backbone.bias", "backbone.weight")


def files(module: torch.nn.Module) -> tuple[bytes, bytes]:
    """The file of the trained tensors, and that of the frozen ones."""
    parts: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = ({}, {})
    for name, tensor in tensors.tensors_of(module).items():
        parts[name in NAMES][name] = tensor
    return tensors.to_bytes(parts[0]), tensors.to_bytes(parts[1])


def constructed() -> ModelTensors:
    return ModelTensors(Learner(), Frozen())


def equal(got: dict[str, torch.Tensor], module: torch.nn.Module) -> bool:
    wanted = tensors.tensors_of(module)
    return got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_a_model_with_all_of_its_tensors_is_as_it_was_sent() -> None:
    sent = Frozen()
    assert equal(frozen.complete(constructed(), {"weights": tensors.to_bytes(tensors.tensors_of(sent))}, ""), sent)


def test_sent_tensors_replace_those_that_the_class_constructs() -> None:
    sent = Frozen()
    weights, others = files(sent)
    assert equal(frozen.complete(constructed(), {"weights": weights, FROZEN: others}, ""), sent)


def test_tensors_that_the_site_makes_must_have_the_server_s_digest() -> None:
    torch.manual_seed(3)
    at_server = Frozen()
    weights, others = files(at_server)
    digest = hashlib.sha256(others).hexdigest()
    torch.manual_seed(3)
    assert equal(frozen.complete(constructed(), {"weights": weights}, digest), at_server)
    with pytest.raises(BadModel, match="constructed otherwise at this site than at the server"):
        frozen.complete(constructed(), {"weights": weights}, digest)

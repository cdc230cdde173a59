"""The tensors of a model that no client trains: sent once beside the rounds' models, or made at each site."""

import hashlib
from collections.abc import Mapping

from torch import Tensor

from client_fn.errors import BadModel
from client_fn.training import tensors
from client_fn.training.model_tensors import ModelTensors
from client_fn.training.orders import FROZEN
from client_fn.training.packets import Content


def complete(model: ModelTensors, inputs: Mapping[str, Content], digest: str) -> dict[str, Tensor]:
    """Return all tensors of a round's model.

    Args:
        model: as it was constructed.
        inputs: safetensors files by name: `weights`, and `frozen` if the tensors are sent.
        digest: SHA-256 digest of the file of those that the module's constructor makes; empty: it makes none.

    Raises:
        BadModel: the constructor has made others.
        TrainingFailed: an input is no safetensors file.
    """
    sent = tensors.from_bytes(inputs["weights"])
    if FROZEN in inputs:
        return {**tensors.from_bytes(inputs[FROZEN]), **sent}
    if not digest:
        return sent
    initial = model.all()
    names = set(model.frozen(initial))
    made = {name: tensor.clone() for name, tensor in initial.items() if name in names}
    if hashlib.sha256(tensors.to_bytes(made)).hexdigest() != digest:
        difference = "the frozen tensors are constructed otherwise at this site than at the server"
        remedy = "needs the same code, libraries and weights at both; drawn weights depend on the kind of processor too"
        raise BadModel(f"{difference}: model.frozen = 'site' {remedy}")
    return {**made, **sent}

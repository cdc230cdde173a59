"""A model for other programs: the file of a run in plain torch, a state_dict, and ONNX."""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any, NoReturn

import pytest
import safetensors.torch
import torch
from structlog.testing import capture_logs
from torch import nn

from broker.messages import job_file as jobs
from broker.messages import tensor_header
from broker.messages import tensors as payload
from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.progress import RoundCompleted
from broker.messages.reports import Split
from broker.messages.round import BlobRef
from client_fn.errors import BadModel
from client_fn.site import Site
from client_fn.training import export, orders, tensors
from client_fn.training.learner import Learner
from fedkeeper.errors import FedKeeperError
from fedkeeper.runs import model_file
from fedkeeper.services.learning import TrainerLearning
from server.errors import LearningFailed
from tests.support.modules import Tied
from tests.support.trainers import InlineTrainers

pytestmark = pytest.mark.torch

TIED = "tests.support.modules:Tied"


def job_with(module: str) -> Job:
    return jobs.from_dict({"model": {"type": module}, "data": {"dataset": "own"}})


def saved(module: nn.Module, folder: Path, type_: str = TIED) -> Path:
    """Write the file that a run with this model leaves."""
    content = tensors.to_bytes(tensors.tensors_of(module))
    digest = hashlib.sha256(content).hexdigest()
    model = BlobRef(f"fl.models.j.{digest}", digest, len(content))
    last = RoundCompleted(
        round=3,
        counted=(),
        missing=(),
        samples=1,
        model=model,
        split=Split(invocation_s=0.0, clients_start_s=0.0, training_s=0.0, aggregation_s=0.0, round_s=0.0),
        trained_s=0.0,
        metrics={},
        bytes_in=0,
        bytes_out=0,
    )
    record = JobRecord(id="j", job=job_with(type_), model=model, done=3, last=last)
    path = folder / "model.safetensors"
    path.write_bytes(model_file.described(content, record))
    return path


def test_one_line_loads_a_run_s_model_in_plain_torch_also_with_tied_weights(tmp_path: Path) -> None:
    trained, x = Tied(), torch.rand(3, 64)
    path = saved(trained, tmp_path)
    assert "second.weight" not in payload.decode(path.read_bytes())[0], "it is stored once"
    model = Tied()
    safetensors.torch.load_model(model, path)
    assert torch.equal(model(x), trained(x))
    assert model_file.verified(path)["round"] == "3"


@pytest.mark.parametrize("changes", [{"job": ""}, {"round": ""}, {"round": "first"}])
def test_a_file_that_names_only_its_digest_is_none_of_ours(tmp_path: Path, changes: dict[str, str]) -> None:
    path = saved(Tied(), tmp_path)
    _, table = payload.decode(path.read_bytes())
    path.write_bytes(tensor_header.with_metadata(path.read_bytes(), {**table, **changes}))
    with pytest.raises(FedKeeperError, match="does not name the job and the round"):
        model_file.verified(path)


async def test_a_state_dict_is_what_torch_saves_and_loads_without_running_code(tmp_path: Path) -> None:
    trained, x = Tied(), torch.rand(3, 64)
    weights = saved(trained, tmp_path).read_bytes()
    learning = TrainerLearning(Site(), InlineTrainers(), None)
    content = await learning.export(job_with(TIED), weights, "state_dict", "")
    model = Tied()
    model.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
    assert torch.equal(model(x), trained(x))
    with (
        capture_logs() as logged,
        pytest.raises(LearningFailed, match="not this model's tensors"),
    ):
        await learning.export(job_with("nn"), weights, "state_dict", "")
    assert logged == [], "who exports is told once"


def test_a_state_that_only_pickle_reads_is_refused() -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> Any:
            return Path("somewhere")

    with pytest.raises(BadModel, match="refuses"):
        export.state_dict(Odd(1, 1))
    with pytest.raises(BadModel, match="it is a dict, and no torch module"):
        export.state_dict({})


def test_onnx_needs_an_example_of_the_input() -> None:
    with pytest.raises(BadModel, match="give the model an attribute 'example_input'"):
        export.onnx(Learner(), Tied(), lambda: None)


def test_onnx_says_which_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> NoReturn:
        raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")

    level = logging.getLogger("torch.onnx").level
    monkeypatch.setattr(torch.onnx, "export", missing)
    with pytest.raises(BadModel, match="onnxscript is missing: pip install onnx onnxscript"):
        export.onnx(Learner(), Tied(), lambda: (torch.zeros(2, 64), torch.zeros(2)))
    assert logging.getLogger("torch.onnx").level == level, "an export that fails leaves torch's logger silent"


def test_onnx_gets_the_arguments_that_the_learner_gives_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Program:
        class model_proto:  # noqa: N801 (torch's name)
            @staticmethod
            def SerializeToString() -> bytes:  # noqa: N802
                return b"onnx"

    def take(module: nn.Module, arguments: tuple[Any, ...], **options: Any) -> Program:
        seen.update(options, module=module, arguments=arguments)
        return Program()

    monkeypatch.setattr(torch.onnx, "export", take)
    x = torch.rand(2, 64)
    assert export.onnx(Learner(), Tied().train(), lambda: (x, torch.zeros(2))) == b"onnx"
    assert seen["arguments"][0] is x
    assert not seen["module"].training
    assert seen["dynamic_shapes"] == ({0: torch.export.Dim.AUTO},)


def test_an_order_survives_its_encoding() -> None:
    order = orders.Export(orders.Model("nn", {"input_size": 2}), "onnx", personal=("head.*",), model_seed=3)
    assert orders.decode(orders.encode(order)) == order

"""The trainer of another Python than the worker's: it gives the same bytes, and one that can't train says why.

By default the other Python is one of this version, which has torch, numpy, safetensors and nothing of ours. With
FEDKEEPER_TRAINER_PYTHON it is the one named there, such as a Python 3.10 with torch of the same version as here.
"""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from client_fn.errors import BadModel, BadSettings
from client_fn.site import Site
from client_fn.trainer.process import Trainer
from client_fn.trainer.shared import SharedBytes
from client_fn.training.orders import Build, Evaluate, Evaluation, Model, Train, Training
from tests.support.other_python import make_python
from tests.support.trainer_bench import WITHIN_S, Bench, open_bench

pytestmark = [pytest.mark.torch, pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("other python")]

MODELS = """
import random
import numpy, torch
from torch import nn

class Draws(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = random.random() + float(numpy.random.random()) + float(torch.rand(()))
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 10))

    def forward(self, x):
        return self.layers(x.reshape(-1, 1, 8, 8)) * (self.scale + random.random() + float(numpy.random.random()))
"""

ISOLATED = """
from torch import nn

def missing(name):
    try: __import__(name)
    except ModuleNotFoundError: return True
    return False

class Isolated(nn.Linear):
    def __init__(self):
        for name in ("structlog", "broker", "client_fn.trainer.process"):
            if not missing(name): raise RuntimeError(f"{name} is there")
        super().__init__(2, 3)
"""

OLD = 'import sys\nsys.version_info = (3, 8, 10, "final", 0)\n'
"""For sitecustomize.py, which Python imports at its start: JetPack 5's Python 3.8, as far as the trainer looks."""

BUILT_WITH_NUMPY_1 = """
class zeros:
    def __init__(self, size): pass
    def numpy(self): raise RuntimeError("Numpy is not available")
"""
"""As torch 2.2 behaves beside numpy 2."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="bench")
async def _open(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    folder = tmp_path_factory.mktemp("code")
    for name, text in {"models": MODELS, "isolated": ISOLATED}.items():
        (folder / f"{name}.py").write_text(text)
    async with open_bench(folder) as bench:
        yield bench


@pytest.fixture(scope="module", name="python")
def _python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("FEDKEEPER_TRAINER_PYTHON")
    folder = tmp_path_factory.mktemp("other") / "venv"
    return Path(named) if named else make_python(folder, packages=("torch", "numpy", "safetensors"))


@contextlib.asynccontextmanager
async def trainer_of(bench: Bench, python: Path) -> AsyncIterator[Trainer]:
    """A trainer of another Python."""
    trainer = Trainer(Site(python=str(python)), [bench.folder])
    try:
        yield trainer
    finally:
        await trainer.end()


async def refused(bench: Bench, python: Path) -> BadSettings:
    """Return why this Python can't train."""
    async with trainer_of(bench, python) as trainer:
        with pytest.raises(BadSettings) as bad:
            await bench.build("good:Good", trainer)
    assert bad.value.name == "FEDKEEPER_TRAINER_PYTHON"
    return bad.value


def version_of(python: Path) -> str:
    """Return the version of a Python."""
    program = "import platform; print(platform.python_version())"
    run = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    return run.stdout.strip()


async def round_of(bench: Bench, optimizer: str, trainer: Trainer) -> tuple[object, ...]:
    """Build the model, train it for a round and evaluate it. Return all that the trainer answers but durations."""
    model = Model("models:Draws")
    training = Training(optimizer, 0.01, batch_size=3, local_epochs=3, optimizer_state="carry")
    async with asyncio.timeout(WITHIN_S * 2):
        built = await trainer.do(Build(model, 1), {})
        inputs = {**bench.inputs, "weights": SharedBytes(built.files["weights"])}
        trained = await trainer.do(Train(model, training, 1, "cpu", 600.0), inputs)
        evaluated = await trainer.do(Evaluate(model, Evaluation(5)), inputs)
    return built, trained.files, trained.facts["metrics"], evaluated.facts["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
async def test_another_python_gives_the_same_bytes(bench: Bench, python: Path, optimizer: str) -> None:
    async with trainer_of(bench, python) as trainer:
        for _ in range(2):
            assert await round_of(bench, optimizer, trainer) == await round_of(bench, optimizer, bench.trainer)


@pytest.mark.slow
async def test_it_needs_torch_and_nothing_of_ours(bench: Bench, python: Path) -> None:
    expected = version_of(python)
    async with trainer_of(bench, python) as trainer:
        assert (await bench.build("isolated:Isolated", trainer)).files["weights"]
        packages, version = await trainer.installed()
    assert "torch" in packages
    assert version == expected
    with pytest.raises(BadModel, match="structlog is there"):
        await bench.build("isolated:Isolated")


async def test_one_that_is_too_old_says_so(bench: Bench, tmp_path: Path) -> None:
    python = make_python(tmp_path / "old", files={"sitecustomize.py": OLD})
    bad = await refused(bench, python)
    assert str(bad) == f"FEDKEEPER_TRAINER_PYTHON: {python} is Python 3.8: 3.10 or newer is needed"


async def test_one_without_libraries_says_how_to_install_them(bench: Bench, tmp_path: Path) -> None:
    python = make_python(tmp_path / "empty", files={"numpy.py": ""})
    bad = await refused(bench, python)
    install = f"{python} -m pip install torch safetensors"
    assert str(bad) == f"FEDKEEPER_TRAINER_PYTHON: {python} has no torch and no safetensors: {install}"


async def test_one_whose_torch_lacks_a_library_of_the_system_says_which(bench: Bench, tmp_path: Path) -> None:
    """So it is on a Jetson: NVIDIA's torch needs libcusparseLt, which pip does not install."""
    sentence = "libcusparseLt.so.0: cannot open shared object file: No such file or directory"
    broken = {"torch.py": f"raise ImportError({sentence!r})", "numpy.py": "", "safetensors.py": ""}
    python = make_python(tmp_path / "broken", files=broken)
    bad = await refused(bench, python)
    assert str(bad) == f"FEDKEEPER_TRAINER_PYTHON: {python} can't import its torch, numpy or safetensors: {sentence}"


async def test_one_whose_torch_was_built_with_an_older_numpy_says_so(bench: Bench, tmp_path: Path) -> None:
    files = {"torch.py": BUILT_WITH_NUMPY_1, "numpy.py": "", "safetensors.py": ""}
    python = make_python(tmp_path / "numpy-2", files=files)
    sentence = f"has a torch that can't use its numpy (Numpy is not available): {python} -m pip install 'numpy<2'"
    assert str(await refused(bench, python)) == f"FEDKEEPER_TRAINER_PYTHON: {python} {sentence}"


async def test_one_that_is_not_there_is_named(bench: Bench, tmp_path: Path) -> None:
    assert "can't be started" in str(await refused(bench, tmp_path / "python"))

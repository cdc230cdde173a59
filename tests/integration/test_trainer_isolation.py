"""One order has the same bytes whatever came before, in every trainer; and no trainer sees a credential."""

import asyncio
import contextlib
import itertools
import os
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from client_fn.errors import TrainerDied
from client_fn.trainer.answers import Answer
from client_fn.trainer.process import Trainer
from client_fn.training.orders import Build, Evaluate, Evaluation, Model, Train, Training
from tests.support.trainer_bench import GOOD, WITHIN_S, Bench, open_bench

pytestmark = [pytest.mark.torch, pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("isolation")]

STATEFUL = """
import random
import numpy, torch
from torch import nn

COUNT = 0
OFFSET = random.random() + float(numpy.random.random()) + float(torch.rand(()))

class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1)) * self.factor()

class Attribute(Linear):
    count = 0
    def factor(self):
        self.count += 1
        return 1 + self.count / 10

class ClassAttribute(Linear):
    seen = []
    def factor(self):
        self.seen.append(1)
        return 1 + len(self.seen) / 10

class Global(Linear):
    def factor(self):
        global COUNT
        COUNT += 1
        return 1 + COUNT / 10 + OFFSET

class Torchs(Linear):
    def factor(self):
        torch.set_default_dtype(torch.float64 if COUNT else torch.float32)
        nn.Linear.count = getattr(nn.Linear, "count", 0) + 1
        return 1 + nn.Linear.count / 10

class Draws(Linear):
    def factor(self):
        return 1 + random.random() + float(numpy.random.random()) + torch.rand(())

class DrawsInConstructor(Linear):
    def __init__(self):
        super().__init__()
        self.noise = random.random() + float(numpy.random.random()) + float(torch.rand(()))
    def factor(self):
        return 1 + self.noise

class Hashes(Linear):
    def factor(self):
        return 1 + [*{"alpha", "beta", "gamma", "delta"}].index("alpha")

class Thaws(Linear):
    def __init__(self):
        super().__init__()
        self.layer.bias.requires_grad_(False)
        self.steps = 0
    def factor(self):
        self.steps += 1
        self.layer.bias.requires_grad_(self.steps > 1)
        return 1

class Buffers(Linear):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)
    def factor(self):
        self.seen += 1
        return 1 + self.seen / 10
"""

DUMPS = """
import os, sys
from pathlib import Path
from torch import nn

FILES = ("environ", "cmdline")

class Dumps(nn.Module):
    def __init__(self, file):
        with open(file, "w") as output:
            print(sys.argv, dict(os.environ), file=output)
            for pid in ("self", os.getppid()):
                print([Path(f"/proc/{pid}/{name}").read_bytes() for name in FILES], file=output)
            for entry in os.scandir("/proc/self/fd"):
                try: print("descriptor", os.readlink(entry.path), file=output)
                except OSError: pass
        super().__init__()
        self.layer = nn.Linear(1, 1)
"""

THREADS = """
import torch
from torch import nn

torch.set_num_threads(2)
LARGE = torch.randn(600, 600)
SUM = float((LARGE @ LARGE).sum())

class Threads(nn.Linear):
    def __init__(self):
        super().__init__(2, 3)
        self.sum = float((LARGE @ LARGE).sum())
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="bench")
async def _open(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    folder = tmp_path_factory.mktemp("code")
    for name, text in {"stateful": STATEFUL, "dumps": DUMPS, "threads": THREADS}.items():
        (folder / f"{name}.py").write_text(text)
    async with open_bench(folder) as bench:
        yield bench


@contextlib.asynccontextmanager
async def fresh(bench: Bench, **settings: object) -> AsyncIterator[Trainer]:
    """A trainer that has done nothing yet."""
    trainer = Trainer(replace(bench.site, **settings), [bench.folder])  # type: ignore[arg-type]
    try:
        yield trainer
    finally:
        await trainer.end()


async def train(bench: Bench, name: str, seed: int, trainer: Trainer | None = None) -> Answer:
    training = Training("adam", 0.01, batch_size=3, local_epochs=2, optimizer_state="carry")
    order = Train(Model(f"stateful:{name}"), training, seed, "cpu", 600.0)
    async with asyncio.timeout(WITHIN_S):
        return await (trainer or bench.trainer).do(order, bench.inputs)


def content(answer: Answer) -> tuple[dict[str, bytes], object]:
    return answer.files, answer.facts["metrics"]


STATEFUL_CLASSES = re.findall(r"^class (\w+)\(Linear\)", STATEFUL, re.MULTILINE)


@pytest.mark.parametrize("name", STATEFUL_CLASSES)
async def test_an_order_has_the_same_bytes_after_other_clients_orders(bench: Bench, name: str) -> None:
    first = content(await train(bench, name, seed=1))
    others = [content(await train(bench, name, seed)) for seed in (2, 3)]
    model = Model(f"stateful:{name}")
    await bench.trainer.do(Evaluate(model, Evaluation(5)), bench.inputs)
    await bench.trainer.do(Build(model, 5), {})
    assert content(await train(bench, name, seed=1)) == first
    assert first not in others, "the seed has no influence"


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"fork_server": None}], ids=["another copy", "a new process"])
async def test_orders_have_the_same_bytes_in_a_fresh_trainer_and_in_another_order(
    bench: Bench, settings: dict[str, None]
) -> None:
    here = {name: content(await train(bench, name, seed=1)) for name in STATEFUL_CLASSES}
    async with fresh(bench, **settings) as trainer:
        there = {name: content(await train(bench, name, 1, trainer)) for name in reversed(STATEFUL_CLASSES)}
    assert here == there


async def test_a_module_that_computes_with_several_threads_when_it_is_imported(bench: Bench) -> None:
    for _ in range(2):
        await bench.build("threads:Threads")


@pytest.mark.parametrize("name", ["server", "client_fn", "broker", "loop", "work", "descendants"])
async def test_a_module_of_the_users_may_have_the_name_of_one_of_ours(bench: Bench, name: str) -> None:
    """And the module may have parts that are imported later."""
    texts = {name: f"{GOOD}\nOWN = True\n", f"of_{name}": f"from {name} import OWN, Good\n"}
    for module, text in texts.items():
        (bench.folder / f"{module}.py").write_text(text)
    async with fresh(bench) as trainer:
        for module in texts:
            assert (await bench.build(f"{module}:Good", trainer)).files["weights"] == bench.expected
    for module in texts:
        (bench.folder / f"{module}.py").unlink()


async def test_evaluations_do_not_depend_on_earlier_ones(bench: Bench) -> None:
    order = Evaluate(Model("stateful:Draws"), Evaluation(5))
    results = [(await bench.trainer.do(order, bench.inputs)).facts["metrics"] for _ in range(3)]
    assert all(a == b for a, b in itertools.pairwise(results))


@pytest.fixture
def secret_file(tmp_path: Path) -> Iterator[Path]:
    """A file with a secret that this process has open, and that a child could inherit."""
    file = tmp_path / "hidden"
    file.write_text("hidden")
    descriptor = os.open(file, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    yield file
    os.close(descriptor)


async def test_a_trainer_has_what_the_site_names_and_no_credential(
    bench: Bench, tmp_path: Path, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = {
        "FEDKEEPER_URL": "nats://server:hidden-url@127.0.0.1:4222",
        "FEDKEEPER_KEY": "hidden-key",
        "FEDKEEPER_SITE_SECRET": "hidden-secret",
        "AWS_SECRET_ACCESS_KEY": "hidden-aws",
    }
    for name, value in hidden.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OWN_SETTING", "shown")
    dump = tmp_path / "dump"
    async with fresh(bench, variables=("OWN_SETTING",)) as trainer, asyncio.timeout(WITHIN_S):
        await trainer.do(Build(Model("dumps:Dumps", {"file": str(dump)}), 1), {})
    text = dump.read_text()
    assert "FEDKEEPER_TRAINER=" in text
    assert "shown" in text
    assert "hidden" not in text
    assert not [name for name in hidden if name in text]
    assert "descriptor socket" in text
    assert str(secret_file) not in text


async def test_a_trainer_that_takes_too_much_memory_to_start_says_so(bench: Bench) -> None:
    async with fresh(bench, memory_mb=20) as trainer:
        with pytest.raises(TrainerDied) as died:
            await bench.build("good:Good", trainer)
    assert "its start" in died.value.message(reveal=False)

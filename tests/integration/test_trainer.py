"""Real trainers with models that exit, hang, crash, fork or write garbage.

Each time the caller hears what happened, the next order works, and nothing stays behind.
"""

import contextlib
import gc
import os
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from client_fn import errors
from client_fn.errors import BadModel, LimitExceeded, TrainerDied, TrainingFailed, UserCodeFailed
from client_fn.trainer import process
from client_fn.trainer.process import Trainer
from client_fn.trainer.shared import SharedBytes
from client_fn.training.orders import Build, Model, Train
from tests.support import bad_models
from tests.support.bad_models import Place
from tests.support.fakes import soon
from tests.support.trainer_bench import MEMORY_MB, SILENCE_S, Bench, open_bench

pytestmark = [pytest.mark.torch, pytest.mark.asyncio(loop_scope="module")]


FORGES: Final = """
import gc, json, os, socket
import torch
from torch import nn

def is_socket(descriptor):
    try: return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket")
    except OSError: return False

class Forges(nn.Linear):
    def __init__(self, packet, facts=None, size=0):
        super().__init__(2, 3)
        own = socket.socket(fileno=os.dup(next(fd for fd in range(3, 100) if is_socket(fd))))
        file = os.memfd_create("forged")
        os.write(file, (facts or "").encode())
        if size: os.ftruncate(file, size)
        order = next(each._order for each in gc.get_objects() if type(each).__name__ == "Answers")
        for name in (order, "another"):
            text = json.dumps({**packet, "order": name, "files": [] if facts is None else ["facts"]})
            socket.send_fds(own, [text.encode()], [] if facts is None else [file])

class Names(nn.Module):
    def __init__(self):
        super().__init__()
        for i in range(3000):
            self.register_parameter("frozen_parameter_with_a_long_name_%d" % i, nn.Parameter(torch.zeros(1), False))
"""
GARBAGE: Final = "the trainer wrote garbage to its worker during the construction of the model"

BAD_AT_A_PLACE: Final = {
    "import": BadModel,
    "constructor": BadModel,
    "forward": TrainingFailed,
    "evaluation": TrainingFailed,
}
STEPS: Final = {
    "import": "the construction of the model",
    "constructor": "the construction of the model",
    "forward": "the training",
    "evaluation": "the evaluation of the model",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="bench")
async def _open(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    folder = tmp_path_factory.mktemp("code")
    (folder / "forges.py").write_text(FORGES)
    async with open_bench(folder, SILENCE_S) as bench:
        yield bench


@pytest.mark.parametrize("place", bad_models.PLACES)
@pytest.mark.parametrize(
    ("action", "cause"),
    [
        ("exits", "SystemExit"),
        ("raises", "KeyError"),
        ("recurses", "RecursionError"),
        ("allocates", "MemoryError"),
        ("allocates_tensors", "MemoryError"),
    ],
)
async def test_an_error_is_named_with_its_line_and_ends_no_process(
    bench: Bench, action: str, cause: str, place: Place
) -> None:
    before = bench.mark
    error = await bench.fail(action, place)
    assert isinstance(error, BAD_AT_A_PLACE[place])
    assert isinstance(error, UserCodeFailed)
    assert (error.cause, error.where.rpartition(":")[0], error.retryable) == (
        cause,
        f"bad_{action}_at_{place}.py",
        False,
    )
    assert bench.mark == before, "the trainer is the same one"


async def test_the_text_of_an_error_stays_at_the_site(bench: Bench) -> None:
    error = await bench.fail("raises", "forward")
    line = bad_models.line_of("raises", "forward")
    sentence = "the model failed on samples of shape (8, 8), torch.float32, or on their labels: KeyError"
    assert error.message(reveal=False) == f"{sentence} in bad_raises_at_forward.py:{line} (its text is in the log)"
    assert error.message(reveal=True).endswith(": 'Meier, Hans'")


@pytest.mark.parametrize(
    ("action", "place", "how"),
    [
        ("ends", "import", "ended with code 3"),
        ("ends", "constructor", "ended with code 3"),
        ("ends", "evaluation", "ended with code 3"),
        ("ends_well", "forward", "ended with code 0"),
        ("segfaults", "constructor", "was killed by signal SIGSEGV (11)"),
        ("segfaults", "forward", "was killed by signal SIGSEGV (11)"),
        ("segfaults", "evaluation", "was killed by signal SIGSEGV (11)"),
        ("aborts", "forward", "was killed by signal SIGABRT (6)"),
        ("kills_its_parent", "import", "was killed by signal SIGKILL (9)"),
        ("kills_its_parent", "constructor", "was killed by signal SIGKILL (9)"),
        ("interrupts", "forward", "ended with code 1"),
        ("closes_descriptors", "import", "ended with code 1"),
        ("closes_descriptors", "constructor", "ended with code 1"),
    ],
)
async def test_the_end_of_the_process_is_described(bench: Bench, action: str, place: Place, how: str) -> None:
    error = await bench.fail(action, place)
    assert type(error) is TrainerDied
    assert error.sentence == f"the process {how} during {STEPS[place]}"
    assert error.retryable == ("signal" in how)


async def test_what_a_process_printed_last_is_told_to_the_operator_only(bench: Bench) -> None:
    error = await bench.fail("ends", "forward")
    assert isinstance(error, TrainerDied)
    assert error.lines[-1] == "bye"
    assert "bye" in error.message(reveal=True)
    assert "bye" not in error.message(reveal=False)
    later = await bench.fail("segfaults", "forward")
    assert isinstance(later, TrainerDied)
    assert later.lines == (), "those of an earlier order, which may be another client's"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "place"),
    [("hangs", "import"), ("hangs_on", "forward"), ("hangs", "evaluation")],
)
async def test_silence_ends_the_trainer(bench: Bench, action: str, place: Place) -> None:
    error = await bench.fail(action, place)
    assert type(error) is LimitExceeded
    assert error.sentence == f"{STEPS[place]} took longer than 5 s (FEDKEEPER_TRAINER_SILENCE_S)"
    assert not error.retryable


@pytest.mark.slow
@pytest.mark.xdist_group("much memory")
async def test_the_memory_of_all_processes_together_is_limited(bench: Bench) -> None:
    type_ = bad_models.write(bench.folder, "allocates_in_children", "forward")
    trainer = Trainer(replace(bench.site, silence_s=600), [bench.folder])
    await trainer.start()
    assert trainer._child is not None
    mark = trainer._child.running.mark
    with pytest.raises(LimitExceeded) as failed:
        await bench.run(type_, "forward", trainer)
    assert failed.value.sentence.startswith("the training used ")
    assert failed.value.sentence.endswith(f"more than {MEMORY_MB} MiB (FEDKEEPER_TRAINER_MEMORY_MB)")
    await soon(lambda: not bad_models.left_running(mark))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["import", "forward"])
async def test_garbage_in_the_channel_is_named(bench: Bench, place: Place) -> None:
    error = await bench.fail("writes_garbage", place)
    assert type(error) is TrainerDied
    assert error.sentence == f"the trainer wrote garbage to its worker during {STEPS[place]}"


@pytest.mark.parametrize("action", ["prints", "starts_threads"])
@pytest.mark.parametrize("place", bad_models.PLACES)
async def test_some_oddities_do_no_harm(bench: Bench, action: str, place: Place) -> None:
    await bench.run(bad_models.write(bench.folder, action, place), place)
    await bench.check_good()


@pytest.mark.parametrize("action", ["forks", "forks_away", "starts_without_mark"])
@pytest.mark.parametrize("place", ["constructor", "forward", "evaluation"])
async def test_what_an_order_has_started_ends_with_it(bench: Bench, action: str, place: Place) -> None:
    await bench.run(bad_models.write(bench.folder, action, place), place)
    await bench.check_good()
    await bench.wait_until_alone()


@pytest.mark.slow
async def test_what_has_left_its_session_and_its_environment_ends_with_the_trainer(bench: Bench) -> None:
    assert type(await bench.fail("starts_without_mark_and_hangs", "constructor")) is LimitExceeded
    await bench.wait_until_alone()


async def test_what_an_import_has_started_lives_for_all_orders_and_ends_with_the_trainer(bench: Bench) -> None:
    """A module may start a helper, and each order of its models needs it."""
    trainer = Trainer(bench.site, [bench.folder])
    type_ = bad_models.write(bench.folder, "starts_without_mark", "import")
    try:
        for _ in range(2):
            await bench.build(type_, trainer)
        assert trainer._child is not None
        mark = trainer._child.running.mark
        await soon(lambda: len(bad_models.left_running(mark)) == 3)
    finally:
        await trainer.end()
    await bench.wait_until_alone()


async def test_a_trainer_that_an_earlier_order_has_stopped_is_replaced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_TAKE", process._TAKE._replace(silence_s=1.0))
    await bench.run(bad_models.write(bench.folder, "stops_its_parent", "constructor"), "constructor")
    await bench.check_good()


async def test_a_trainer_that_has_died_between_two_orders_is_replaced(bench: Bench) -> None:
    await bench.check_good()
    assert bench.trainer._child is not None
    os.kill(bench.trainer._child.running.process.pid, 9)
    # Otherwise the trainer, which ends with the process above it, may have taken the order before.
    mark = bench.mark
    await soon(lambda: not bad_models.left_running(mark))
    await bench.check_good()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"packet": {"say": "done"}}, GARBAGE),
        ({"packet": {"say": "done"}, "facts": "[]"}, GARBAGE),
        ({"packet": {"say": "done"}, "facts": "{"}, GARBAGE),
        ({"packet": {"say": "done"}, "facts": "{}", "size": 1 << 50}, "the trainer's answer can't be read: "),
        ({"packet": {"say": "failed"}, "facts": '{"error": "NoSuchError", "sentence": 5}'}, "5"),
        ({"packet": {"say": "ended", "code": "three"}}, GARBAGE),
        ({"packet": {"say": ["done"]}}, GARBAGE),
    ],
)
async def test_forged_packets_are_errors_of_the_model(bench: Bench, args: dict[str, object], sentence: str) -> None:
    await bench.check_good()
    before = descriptors()
    said = ""
    try:
        await bench.trainer.do(Build(Model("forges:Forges", args), 1), {})
    except (TrainerDied, UserCodeFailed) as exc:
        said = exc.sentence
    assert said.startswith(sentence)
    await bench.check_good()
    assert descriptors() <= before  # fewer: what an earlier child left to be closed is closed by now


async def test_descriptors_beside_forged_packets_are_closed(bench: Bench) -> None:
    await bench.check_good()
    before = descriptors()
    await bench.trainer.do(Build(Model("forges:Forges", {"packet": {"say": "alive"}, "facts": "x"}), 1), {})
    await bench.check_good()
    assert descriptors() <= before  # fewer: what an earlier child left to be closed is closed by now


async def test_a_model_may_have_thousands_of_names(bench: Bench) -> None:
    answer = await bench.build("forges:Names")
    assert len(answer.facts["frozen"]) == 3000


@pytest.mark.parametrize("type_", ["nn", "good:Good"])
async def test_a_dry_task_begins_once_whatever_its_model(bench: Bench, type_: str) -> None:
    model = Model(type_, {"hidden": 4} if type_ == "nn" else {})
    weights = SharedBytes((await bench.trainer.do(Build(model, 1), {})).files["weights"])
    begun: list[str] = []
    dry = Train(model, None, seed=7, device="cpu", left_s=60.0)
    answer = await bench.trainer.do(dry, {"weights": weights}, on_training=lambda: begun.append(type_))
    assert begun == [type_]
    assert answer.facts["samples"] == 1
    assert abs(len(answer.files["update"]) - weights.size) < 16  # the header's padding


async def test_an_order_s_text_may_be_longer_than_a_packet(bench: Bench) -> None:
    long = Train(Model("nn", {"hidden": 4}), None, 7, "cpu", 60.0, strategy={"name": "x" * (1 << 17)})
    weights = SharedBytes((await bench.trainer.do(Build(long.model, 1), {})).files["weights"])
    assert (await bench.trainer.do(long, {"weights": weights})).facts["samples"] == 1


async def test_orders_leave_no_descriptor_open(bench: Bench) -> None:
    bad = [bad_models.write(bench.folder, action, "constructor") for action in ("ends", "raises", "forks")]
    await bench.check_good()
    assert bench.trainer._child is not None
    above = bench.trainer._child.running.process.pid
    before = descriptors(), descriptors(above)
    gc.disable()  # neither by its help
    try:
        for i in range(20):
            await ended(bench.build(bad[i % 3]))
            await bench.check_good()
        assert (descriptors(), descriptors(above)) == before
    finally:
        gc.enable()


async def ended(work: Awaitable[object]) -> None:
    with contextlib.suppress(errors.ClientError):
        await work


def descriptors(pid: int | str = "self") -> int:
    """How many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))

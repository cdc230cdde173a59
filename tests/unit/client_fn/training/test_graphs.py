"""A step is replayed from a record only where that gives what the step itself gives."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from client_fn.training import graphs
from client_fn.training.graphs import Inputs, Repeated
from tests.support.recorders import Recorder

pytestmark = pytest.mark.torch

TRIED = ["warm up"] * graphs.WARM_UP + ["record"]


class Training:
    """Steps of a small training. Each is another sample's."""

    def __init__(self, step: Callable[["Training", Inputs], Tensor] | None = None) -> None:
        generator = torch.Generator().manual_seed(1)
        self.values = torch.randn(3, 4, generator=generator)
        self.momentum = torch.zeros(3, 4)
        self.samples = torch.randn(50, 4, generator=generator)
        self.rows = torch.randint(50, (60, 3), generator=generator)
        self.rates = torch.linspace(0.1, 0.9, 60).repeat(3, 1).T.contiguous()
        self.number = 0
        self._step = step or Training.step

    @property
    def state(self) -> list[Tensor]:
        return [self.values, self.momentum]

    def step(self, inputs: Inputs, rate: float | None = None) -> Tensor:
        rows = inputs["rows"]
        values, momentum = self.values[: len(rows)], self.momentum[: len(rows)]
        leaf = values.detach().requires_grad_()
        losses = torch.tanh(leaf * self.samples.index_select(0, rows)).sum(1)
        (gradients,) = torch.autograd.grad(losses.sum(), leaf)
        with torch.no_grad():
            momentum.mul_(0.9).add_(gradients)
            values.addcmul_(momentum, inputs["rate"][:, None] if rate is None else torch.tensor(rate), value=-0.1)
        return losses.detach()

    def do(self, counts: Sequence[int], recorder: Recorder | None, facts: Callable[[], object] = int) -> Repeated:
        """Make steps with so many rows each, and note the losses."""
        self.losses = torch.zeros(len(counts), 3)
        with contextlib.closing(Repeated(lambda each: self._step(self, each), self.state, recorder, facts)) as repeated:
            for self.number, count in enumerate(counts):
                inputs = {"rows": self.rows[self.number, :count], "rate": self.rates[self.number, :count]}
                self.losses[self.number, :count] = repeated.do(inputs, counts.count(count))
        return repeated

    def assert_equal(self, other: "Training") -> None:
        for got, wanted in zip([*self.state, self.losses], [*other.state, other.losses], strict=True):
            assert torch.equal(got, wanted)


def plain(counts: Sequence[int]) -> Training:
    training = Training()
    training.do(counts, None)
    return training


def test_replayed_steps_give_the_same_bits() -> None:
    counts, training, recorder = [3] * 40, Training(), Recorder()
    repeated = training.do(counts, recorder)
    training.assert_equal(plain(counts))
    assert recorder.said == ["release", *TRIED, *["replay"] * 37, "release"]
    assert (repeated.replayed, repeated.fault) == (37, "")


def test_a_record_reads_only_what_stays_at_its_place() -> None:
    training, recorder = Training(), Recorder()
    repeated = training.do([3] * 40, recorder)
    kept = [*training.state, training.samples, *repeated._buffers.values()]
    assert recorder.read == {each.untyped_storage().data_ptr() for each in kept}


def test_steps_of_another_shape_have_another_record_if_there_are_enough() -> None:
    counts, training, recorder = [3] * 25 + [2] * 10 + [1] * 22, Training(), Recorder()
    repeated = training.do(counts, recorder)
    training.assert_equal(plain(counts))
    assert recorder.said == ["release", *TRIED, *["replay"] * 22, "release", *TRIED, *["replay"] * 19, "release"]
    assert repeated.replayed == 41


def test_few_steps_are_not_recorded() -> None:
    training, recorder = Training(), Recorder()
    training.do([3] * (graphs.LEAST - 1), recorder)
    assert recorder.said == ["release"]


def frozen(training: Training, inputs: Inputs) -> Tensor:
    """A step whose rate is a number of Python's."""
    return training.step(inputs, rate=float(training.rates[training.number, 0]))


def elsewhere(training: Training, inputs: Inputs) -> Tensor:
    """A step that reads a tensor which is another one in each step."""
    return training.step({**inputs, "rows": training.rows[training.number]})


@pytest.mark.parametrize("step", [frozen, elsewhere])
def test_a_step_that_reads_what_is_in_no_buffer_is_found_and_made_as_it_is(
    step: Callable[[Training, Inputs], Tensor],
) -> None:
    counts, training, expected = [3] * 40, Training(step), Training(step)
    expected.do(counts, None)
    repeated = training.do(counts, Recorder())
    training.assert_equal(expected)
    assert (repeated.replayed, repeated.fault) == (0, "a replayed step differs from the step itself")


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("by", [1e-3, float("nan")])
def test_a_replay_that_gives_something_else_is_found(index: int, by: float) -> None:
    counts, training = [3] * 40, Training()
    recorder = Recorder(spoil=lambda: training.state[index].add_(by))
    repeated = training.do(counts, recorder)
    training.assert_equal(plain(counts))
    assert recorder.said == ["release", *TRIED, "replay", "release"]
    assert repeated.fault == "a replayed step differs from the step itself"


def test_a_difference_that_is_rounding_is_none() -> None:
    training = Training()
    repeated = training.do([3] * 40, Recorder(spoil=lambda: training.values.mul_(1 + 2**-23)))
    assert (repeated.replayed, repeated.fault) == (37, "")


@pytest.mark.parametrize("failure", [RuntimeError("called a synchronizing CUDA operation\nlong"), ValueError("odd")])
def test_what_can_t_be_recorded_is_made_as_it_is(failure: Exception) -> None:
    counts, training, recorder = [3] * 25 + [2] * 25, Training(), Recorder(failure=failure)
    repeated = training.do(counts, recorder)
    training.assert_equal(plain(counts))
    assert recorder.said == ["release", *TRIED, "release"]
    assert repeated.fault == f"it can't be recorded: {type(failure).__name__}: {str(failure).splitlines()[0]}"


@pytest.mark.parametrize("at", [0, 1])
def test_a_step_that_fails_while_it_is_tried_is_made_again(at: int) -> None:
    counts, training = [3] * 40, Training()
    tries = itertools.count()

    def no_memory() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def step(own: Training, inputs: Inputs) -> Tensor:
        result = own.step(inputs)
        if at == 0 and own.number == graphs.WARM_UP and next(tries) == 0:
            no_memory()
        return result

    training._step = step
    # The record is made in the third step, which a fake record does as well.
    repeated = training.do(counts, Recorder(spoil=no_memory if at else None))
    training.assert_equal(plain(counts))
    assert repeated.fault == "it can't be replayed: OutOfMemoryError: CUDA out of memory"


def test_a_model_that_counts_its_calls_is_not_recorded() -> None:
    counts, training, recorder = [3] * 40, Training(), Recorder()
    calls = itertools.count()
    repeated = training.do(counts, recorder, lambda: next(calls))
    training.assert_equal(plain(counts))
    assert "record" not in recorder.said
    assert repeated.fault == "numbers of the model change from step to step"


def test_nothing_is_recorded_on_a_cpu() -> None:
    assert graphs.recorder(torch.device("cpu")) is None
    assert not graphs.has_harmed_the_process()


class Stream:
    """A stream of a GPU that is not there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def wait_stream(self, other: "Stream") -> None:
        Gpu.said.append(f"{self.name} waits for {other.name}")


class Gpu:
    """What the recorder uses of torch.cuda. Notes what is done, and fails at the end of a capture if it shall."""

    said: list[str]
    current: Stream
    mode: int | str
    spoilt: bool

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        type(self).said, type(self).current, type(self).mode, type(self).spoilt = [], Stream("main"), 0, False
        monkeypatch.setattr(graphs, "_harmed", [])
        monkeypatch.setattr(graphs, "_side_stream", lambda _: Stream("side"))
        for name in ("stream", "graph", "CUDAGraph", "current_stream", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: self.mode)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: setattr(Gpu, "mode", mode))

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, Gpu.current = Gpu.current, stream
        try:
            yield
        finally:
            Gpu.current = before

    @contextlib.contextmanager
    def graph(self, graph: Any, stream: Stream) -> Iterator[None]:  # noqa: ARG002 (torch's)
        assert Gpu.mode == 0  # torch waits for the device before it captures
        Gpu.current = stream
        self.said.append("capture")
        try:
            yield
        finally:
            self.said.append("end")
            if self.spoilt:
                raise RuntimeError("operation failed due to a previous error during capture")

    class CUDAGraph:
        def replay(self) -> None:
            Gpu.said.append(f"replay on {Gpu.current.name}")

        def reset(self) -> None:
            Gpu.said.append("reset")

    def current_stream(self, device: torch.device) -> Stream:  # noqa: ARG002 (torch's)
        return Gpu.current

    def empty_cache(self) -> None:
        self.said.append("empty")


def work() -> Tensor:
    Gpu.said.append(f"work on {Gpu.current.name}" + (", no waiting" if Gpu.mode == "error" else ""))
    return torch.ones(1)


def bad_work() -> Tensor:
    raise ValueError("called a synchronizing CUDA operation")


def test_a_gpu_warms_up_and_captures_on_another_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, recorder = Gpu(monkeypatch), graphs.recorder(torch.device("cuda"))
    assert recorder is not None
    recorder.warm_up(work)
    assert gpu.said == ["side waits for main", "work on side", "main waits for side"]
    gpu.said.clear()
    replay = recorder.record(work)
    assert replay() is replay()
    recorder.release()
    recorder.release()
    captured = ["capture", "work on side, no waiting", "end"]
    assert gpu.said == [*captured, "replay on main", "replay on main", "reset", "empty"]
    assert gpu.mode == 0


def test_work_that_fails_leaves_the_gpu_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, recorder = Gpu(monkeypatch), graphs.CudaRecorder(torch.device("cuda"))
    with pytest.raises(ValueError, match="synchronizing"):
        recorder.record(bad_work)
    recorder.release()
    assert (gpu.said, gpu.current.name, gpu.mode) == (["capture", "end", "reset", "empty"], "main", 0)
    assert not graphs.has_harmed_the_process()


def test_after_a_capture_that_fails_nothing_is_recorded_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, recorder = Gpu(monkeypatch), graphs.CudaRecorder(torch.device("cuda"))
    Gpu.spoilt = True
    with pytest.raises(RuntimeError, match="previous error during capture"):
        recorder.record(work)
    recorder.release()
    assert (gpu.said[-1], gpu.current.name, gpu.mode) == ("end", "main", 0)
    assert graphs.has_harmed_the_process()
    assert graphs.recorder(torch.device("cuda")) is None

"""Repeats a step of a training from a record of its work on a GPU: one launch instead of hundreds.

A record (a CUDA graph) does the same work on the same memory again. So whatever differs between two steps is copied
into buffers before each of them; a number of Python's would stay what it was. Each record is tried once. This follows
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import torch
from torch import Tensor

Inputs = Mapping[str, Tensor]
"""What a step reads beside the state, by name."""

Work = Callable[[], Tensor]

WARM_UP: Final = 3
"""Steps before a record, as in torch's examples: libraries choose their kernels and allocate their memory then."""

LEAST: Final = 20
"""Steps of one shape that are worth a record, which takes as long as a few of them."""

TOLERANCE: Final = 1e-5
"""Most that a replayed step may differ, as a share of the step's norm."""

_CHARACTERS: Final = 300

_harmed: Final[list[str]] = []
"""Why torch can't be relied on in this process any more."""


class Recorder(Protocol):
    """Records work on a device."""

    def warm_up(self, work: Work) -> Tensor:
        """Do the work as a preparation of its record, and return its result."""

    def record(self, work: Work) -> Work:
        """Record the work without doing it. Return what does it again, with the result always in the same memory."""

    def release(self) -> None:
        """Give back the record and its memory. What `record` has returned must not be kept any longer."""


class CudaRecorder:
    """Records a CUDA graph.

    Args:
        device: a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _side_stream(device)
        self._graph: Any = None

    def warm_up(self, work: Work) -> Tensor:
        """Implements `Recorder.warm_up`."""
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            result = work()
        here.wait_stream(self._stream)
        return result

    def record(self, work: Work) -> Work:
        """Implements `Recorder.record`. If it fails within CUDA, this process is harmed."""
        found: list[Tensor] = []
        failure: Exception | None = None
        # torch.cuda.graph leaves its stream the current one if the capture fails: the outer block does not.
        with torch.cuda.stream(self._stream):
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=self._stream):
                    try:
                        with _without_waiting():
                            found.append(work())
                    except Exception as exc:  # noqa: BLE001 (whatever a model raises, the capture must end in order)
                        failure = exc
            except RuntimeError as exc:
                # torch's generator and allocator take the capture for unfinished then (reset() in CUDAGraph.cpp).
                _harmed.append(str(exc))
                raise
        self._graph = graph
        if failure is not None:
            try:
                raise failure
            finally:
                # Otherwise the error and this frame would hold each other, and the record's memory with them.
                failure = None

        def replay() -> Tensor:
            graph.replay()
            return found[0]

        return replay

    def release(self) -> None:
        """Implements `Recorder.release`."""
        if self._graph is not None:
            self._graph.reset()
            self._graph = None
            torch.cuda.empty_cache()


def recorder(device: torch.device) -> Recorder | None:
    """Return what records on a device; None: nothing does."""
    return CudaRecorder(device) if device.type == "cuda" and not _harmed else None


def has_harmed_the_process() -> bool:
    """Return whether a record failed so that this process should do nothing else any more."""
    return bool(_harmed)


class Repeated:
    """Makes a step again and again: a few times as it is, then from a record, if that gives the same.

    `close` gives back the record.

    Args:
        step: makes one step: it reads its inputs and the state, changes the state in place and returns a new tensor.
        state: all tensors that it changes.
        recorder: records; None: every step is made as it is.
        facts: returns numbers of Python's that the step may read. If they change, it is not recorded.

    Attributes:
        replayed: number of steps that were made from a record.
        fault: why no record is used any more; empty: none has failed.
    """

    def __init__(
        self,
        step: Callable[[Inputs], Tensor],
        state: Sequence[Tensor],
        recorder: Recorder | None,
        facts: Callable[[], object] = lambda: None,
    ) -> None:
        self.replayed = 0
        self.fault = ""
        self._step = step
        self._state = state
        self._recorder = recorder
        self._facts = facts
        self._first_facts: object = None
        self._buffers: dict[str, Tensor] = {}
        self._warmed_up = 0
        self._replay: Work | None = None
        self._is_tried = False

    def do(self, inputs: Inputs, alike: int) -> Tensor:
        """Make a step and return its result, which the next step may overwrite.

        Args:
            inputs: the step's.
            alike: how many steps in all have inputs of these shapes, one after the other.
        """
        if self._recorder is None or alike < LEAST:
            return self._step(inputs)
        if _shapes(inputs) != _shapes(self._buffers):
            self._begin(inputs)
        for name, buffer in self._buffers.items():
            buffer.copy_(inputs[name])
        if self._replay is None:
            return self._warm_up(self._recorder)
        if not self._is_tried:
            return self._try(self._replay)
        self.replayed += 1
        return self._replay()

    def close(self) -> None:
        """Give back the record and its memory."""
        self._replay = None
        if self._recorder is not None:
            self._recorder.release()

    def _begin(self, inputs: Inputs) -> None:
        """Prepare for steps with inputs of other shapes."""
        self.close()
        self._buffers = {name: torch.empty_like(each) for name, each in inputs.items()}
        self._first_facts = self._facts()
        self._warmed_up, self._is_tried = 0, False

    def _work(self) -> Tensor:
        return self._step(self._buffers)

    def _warm_up(self, recorder: Recorder) -> Tensor:
        """Make a step as it is; after the last one of these, record it."""
        result = recorder.warm_up(self._work)
        self._warmed_up += 1
        if self._warmed_up == WARM_UP:
            if self._facts() != self._first_facts:
                self._give_up("numbers of the model change from step to step")
                return result
            try:
                self._replay = recorder.record(self._work)
            except Exception as exc:  # noqa: BLE001 (whatever the model raises: nothing was computed)
                self._give_up(f"it can't be recorded: {_line(exc)}")
        return result

    def _try(self, replay: Work) -> Tensor:
        """Make a step as it is, and again from the record, which was made with another step's inputs."""
        before: list[Tensor] = []
        try:
            before.extend(each.clone() for each in self._state)
            result = self._compared(replay, before)
        except RuntimeError as exc:
            self._give_up(f"it can't be replayed: {_line(exc)}")
        else:
            if result is not None:
                self._is_tried = True
                self.replayed += 1
                return result
            self._give_up("a replayed step differs from the step itself")
        _put(self._state, before)
        before.clear()
        return self._work()

    def _compared(self, replay: Work, before: Sequence[Tensor]) -> Tensor | None:
        """Return the result of a replayed step; None: it differs from that of the step itself."""
        loss = self._work()
        expected = [each.clone() for each in self._state]
        _put(self._state, before)
        result = replay()
        differs = _differ([*self._state, result], [*expected, loss], [*before, torch.zeros_like(loss)])
        return None if differs else result

    def _give_up(self, fault: str) -> None:
        self.fault = fault
        self.close()
        self._recorder = None


@functools.cache
def _side_stream(device: torch.device) -> Any:
    """Return the one stream for records: cuBLAS keeps memory for each stream that has ever used it."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _without_waiting() -> Iterator[None]:
    """Let torch raise an error before it waits for the device, which would spoil a capture."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _shapes(inputs: Inputs) -> dict[str, torch.Size]:
    return {name: each.shape for name, each in inputs.items()}


def _line(exc: Exception) -> str:
    """Return an error's class and the first line of its text: those of torch are long."""
    lines = str(exc).strip().splitlines() or [""]
    return f"{type(exc).__name__}: {lines[0][:_CHARACTERS]}"


def _put(state: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for each, value in zip(state, values):  # noqa: B905 (equally long, or nothing was changed)
        each.copy_(value)


def _differ(got: Sequence[Tensor], expected: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    """Return whether a step's results are further from the expected ones than rounding explains."""
    for found, wanted, old in zip(got, expected, before):  # noqa: B905 (equally long)
        # What is stored is rounded too: a small step of a large number has few digits.
        rounding = torch.finfo(wanted.dtype).eps * wanted.norm()
        most = TOLERANCE * (wanted - old).norm() + rounding
        if not bool((found - wanted).norm() <= most):  # also if it is not a number
            return True
    return False

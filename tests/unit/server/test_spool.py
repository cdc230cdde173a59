"""Counted updates are kept in a file and reduced element by element: the same bytes in any order, bounded memory."""

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from broker.messages.tensors import Array, Tensors
from broker.messages.update_forms import UpdateForm
from server import aggregator, codecs, spool
from server.aggregator import Plan
from server.errors import NoRoomForUpdates
from server.spool import Reduced, Spool
from server.strategies.robust import Middle
from server.values import Scaled, Values
from tests.support.rounded import rounded

BASE: Tensors = {"w": np.ones((3, 50_000), np.float32), "b": np.zeros((), np.float32), "n": np.array(3, np.int64)}
EMPTY: Tensors = {"none": np.zeros((0, 4), np.float32)}
NAMES = ("w", "b")


def plan(base: Tensors = BASE) -> Plan:
    return aggregator.plan(base, frozenset(), 10_000)


def client(number: int) -> str:
    return f"c-{number:02d}"


def make(count: int) -> list[Tensors]:
    """Return changes of so many clients."""
    rng = np.random.default_rng(1)
    return [
        {
            name: np.asarray(rng.normal(size=base.shape).astype(base.dtype) if base.ndim else base)
            for name, base in BASE.items()
        }
        for _ in range(count)
    ]


def counted(numbers: Sequence[int], factors: dict[str, float] | None = None) -> list[Reduced]:
    """Return updates of clients without factors, but the first one's."""
    return [Reduced(client(number), (factors or {}) if place == 0 else {}) for place, number in enumerate(numbers)]


class First:
    """Takes the first update, and keeps what it has seen."""

    def __init__(self, *, needs_look: bool = False) -> None:
        self.needs_look = needs_look
        self.seen: list[Array] = []
        self.looked: list[Array] = []

    def look(self, changes: Array) -> None:
        self.looked.append(changes)

    def reduce(self, values: Array) -> Array:
        self.seen.append(values)
        return np.asarray(values[0].astype(np.float64))


def test_every_element_is_reduced_over_the_updates_in_the_given_order_whatever_order_they_came_in() -> None:
    changes, first, bytes_ = make(5), First(), set[bytes]()
    for order in ((0, 1, 2, 3, 4), (4, 2, 0, 3, 1)):
        with Spool(plan(), NAMES, most=7) as kept:
            for number in order:
                kept.add(client(number), changes[number])
            medians = kept.reduce(counted(range(5)), Middle())
            firsts = kept.reduce(counted(range(5)), first)
        for name in NAMES:
            exact = np.median(np.stack([change[name].astype(np.float64) for change in changes]), axis=0)
            assert medians[name].shape == BASE[name].shape
            assert np.abs(medians[name] - exact).max() < 1e-7
            assert np.abs(firsts[name] - changes[0][name]).max() < 1e-7
        bytes_.add(b"".join(medians[name].tobytes() for name in NAMES))
    assert len(bytes_) == 1
    assert max(values.size for values in first.seen) <= spool.BLOCK_VALUES


def test_an_update_that_is_kept_again_replaces_itself_and_one_that_is_left_out_does_not_count() -> None:
    changes, first = make(3), First()
    with Spool(plan(), NAMES, most=2) as kept:
        for number, change in ((0, changes[2]), (1, changes[1]), (0, changes[0])):
            kept.add(client(number), change)
        assert np.abs(kept.reduce(counted([0]), first)["w"] - changes[0]["w"]).max() < 1e-7
    assert {len(values) for values in first.seen} == {1}


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_weights_of_every_dtype_are_kept(dtype: type) -> None:
    base: Tensors = {"w": np.array([[1, -2, 3.5]], dtype)}
    with Spool(plan(base), ("w",), most=1) as kept:
        kept.add(client(0), base)
        assert kept.reduce(counted([0]), Middle())["w"].tolist() == [[1, -2, 3.5]]


def test_a_tensor_without_values_stays_one() -> None:
    with Spool(plan(EMPTY), ("none",), most=1) as kept:
        kept.add(client(0), EMPTY)
        assert kept.reduce(counted([0]), Middle())["none"].shape == (0, 4)


@pytest.mark.parametrize(("form", "error"), [("bf16", 2.0**-8), ("fp16", 2.0**-11), ("int8", 1 / 127)])
def test_updates_in_fewer_bits_are_kept_as_they_were_counted(form: UpdateForm, error: float) -> None:
    changes, layout = make(5), plan().layout
    codec = codecs.of(form, layout, NAMES)
    assert codec is not None
    with Spool(plan(), NAMES, most=5) as kept:
        for number, change in enumerate(changes):
            opened: dict[str, Values] = dict(codec.open(rounded(change, NAMES, form)))
            kept.add(client(number), opened)
        medians = kept.reduce(counted(range(5)), Middle())
    for name in NAMES:
        sent = np.stack([change[name].astype(np.float64) for change in changes])
        off = np.abs(medians[name] - np.median(sent, axis=0)).max()
        assert off <= error * np.abs(sent).max()
        assert off > 0 or not BASE[name].ndim


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_small_multiples_of_a_16_bit_model_s_updates_are_kept(dtype: type) -> None:
    base: Tensors = {"w": np.ones(3, dtype)}
    sent = Scaled(np.array([1, -3, 127], np.int8), np.array([-30], np.int16), (3,))
    codec = codecs.of("int8", plan(base).layout, ["w"])
    with Spool(plan(base), ("w",), most=1, scaled=codec.scaled) as kept:
        kept.add(client(0), {"w": sent})
        reduced = kept.reduce(counted([0]), Middle())["w"]
    assert reduced.tolist() == [2.0**-30, -3 * 2.0**-30, 127 * 2.0**-30]


def test_each_update_is_multiplied_by_its_factors_and_all_is_looked_at_before_anything_is_reduced() -> None:
    changes, first = make(3), First(needs_look=True)
    with Spool(plan(), NAMES, most=3) as kept:
        for number, change in enumerate(changes):
            kept.add(client(number), change)
        reduced = kept.reduce(counted(range(3), {"w": 0.25}), first)
    assert np.abs(reduced["w"] - 0.25 * changes[0]["w"].astype(np.float64)).max() < 1e-7
    assert np.abs(reduced["b"] - changes[0]["b"]).max() < 1e-7
    assert len(first.looked) == len(first.seen)
    looked = first.looked[0][:, 0]
    assert looked[0] == 0.25 * float(changes[0]["w"].reshape(-1)[0])
    assert looked[1] == float(changes[1]["w"].reshape(-1)[0])


def test_memory_does_not_grow_with_the_number_of_updates() -> None:
    def peak(count: int) -> int:
        change = make(1)[0]
        with Spool(plan(), NAMES, most=count) as kept:
            for number in range(count):
                kept.add(client(number), change)
            tracemalloc.start()
            try:
                kept.reduce(counted(range(count)), Middle())
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    # 40 updates have 24 MB, and as float64 twice as much.
    assert peak(40) < 1.2 * peak(10) < 24_000_000


def test_a_full_disk_is_told_once_and_with_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """/dev/full takes no byte (null(4))."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Spool(plan(), NAMES, most=1) as kept:
        kept._file.close()
        kept._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
        monkeypatch.setattr(kept, "_places", {"w": 0, "b": 0})
        with pytest.raises(NoRoomForUpdates, match=rf"{tmp_path} has no room for a round's updates: .*No space left"):
            kept.add(client(0), make(1)[0])


def test_a_folder_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    with pytest.raises(NoRoomForUpdates, match=r"none has no room"):
        Spool(plan(), NAMES, most=1)


def test_updates_lie_on_a_disk_unless_the_site_says_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    assert spool.folder() == "/var/tmp"  # noqa: S108
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    assert spool.folder() == "/elsewhere"

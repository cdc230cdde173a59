"""Tensors: encoding, decoding and malformed files."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from broker.messages import tensor_header
from broker.messages import tensors as payload
from broker.messages.errors import BadTensors
from broker.messages.tensors import DTYPES, Array

pytestmark = pytest.mark.torch

RNG = np.random.default_rng(1)


def some(code: str, shape: tuple[int, ...]) -> Array:
    values = RNG.integers(0, 2, shape) if code == "BOOL" else RNG.normal(size=shape) * 100
    return np.abs(values).astype(DTYPES[code]) if code == "U8" else np.asarray(values).astype(DTYPES[code])


def assert_same(first: Array, other: Array) -> None:
    assert (first.dtype, first.shape) == (other.dtype, other.shape)
    assert first.tobytes() == other.tobytes()


def file(header: object, body: bytes = b"", *, size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + body


def tensor(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 4), (2, 0, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("code", DTYPES)
def test_every_dtype_and_shape_comes_back(code: str, shape: tuple[int, ...]) -> None:
    array = some(code, shape)
    tensors, metadata = payload.decode(payload.encode({"a": array, "b": array}))
    assert_same(tensors["a"], array)
    assert_same(tensors["b"], array)
    assert metadata == {}


@pytest.mark.parametrize(
    "view", [lambda a: a.T, lambda a: a[::2], lambda a: a[:, 1:3], lambda a: a[::-1], lambda a: a[0, 0]]
)
def test_an_array_in_column_order_is_written_in_row_order(view: Callable[[Array], Array]) -> None:
    array = view(some("F32", (4, 5)))
    (got,) = payload.decode(payload.encode({"a": array}))[0].values()
    assert np.array_equal(got, array)


def test_the_same_tensors_give_the_same_bytes_in_any_order_of_names() -> None:
    tensors = {f"{code}-{i}": some(code, (3, i)) for code in DTYPES for i in range(3)}
    expected = payload.encode(tensors)
    for _ in range(5):
        names = RNG.permutation(list(tensors)).tolist()
        assert payload.encode({name: tensors[name].copy() for name in names}) == expected


def test_different_values_give_different_bytes() -> None:
    assert payload.encode({"a": np.zeros(2)}) != payload.encode({"a": np.array([0.0, -0.0])})


def test_the_layout_is_the_file_s() -> None:
    tensors = {code: some(code, (2, 3)) for code in DTYPES}
    assert payload.layout(tensors) == {code: (code, (2, 3)) for code in DTYPES}
    assert payload.layout(payload.decode(payload.encode(tensors))[0]) == payload.layout(tensors)


def test_tensors_are_views_of_the_payload() -> None:
    blob = payload.encode({"a": np.arange(1000.0)})
    got = payload.decode(blob)[0]["a"]
    assert np.shares_memory(got, np.frombuffer(blob, np.uint8))
    assert not got.flags.writeable


@pytest.mark.parametrize("code", DTYPES)
def test_files_are_exchanged_with_torch_in_both_directions(code: str) -> None:
    array = some(code, (3, 4))
    bits = array.view(np.int16) if code == "BF16" else array
    native = torch.from_numpy(bits.copy())
    native = native.view(torch.bfloat16) if code == "BF16" else native
    tensors, metadata = payload.decode(safetensors.torch.save({"a": native}, {"format": "pt"}))
    assert_same(tensors["a"], array)
    assert metadata == {"format": "pt"}
    got = safetensors.torch.load(payload.encode({"a": array}))["a"]
    assert got.dtype == native.dtype
    assert torch.equal(got, native)


def test_a_file_without_tensors_is_valid() -> None:
    assert payload.decode(payload.encode({})) == ({}, {})


def test_tensors_need_no_alignment() -> None:
    header = b'{"a":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}'
    values = np.array([1.5, -2.5])
    for spaces in range(8):
        got = payload.decode(file(header + b" " * spaces, values.tobytes()))[0]["a"]
        assert got.tolist() == [1.5, -2.5]
        assert float(got.min()) == -2.5


FOUR = b"\0" * 4

REFUSED = {
    "nothing": (b"", "no safetensors file"),
    "seven bytes": (b"\0" * 7, "no safetensors file"),
    "a header of no bytes": (b"\0" * 8, "unreadable"),
    "a header longer than the file": (file({}, size=3), "claims 3 bytes, at most 2"),
    "a header of 2^63 bytes": (file({}, size=2**63), "claims 9223372036854775808 bytes"),
    "no JSON": (file(b"garbage"), "unreadable"),
    "no UTF-8": (file(b'{"\xff":1}'), "unreadable"),
    "a list": (file([]), "no JSON object"),
    "a number": (file(b"NaN"), "no JSON object"),
    "a number of 5,000 digits": (file(b"1" * 5000), "unreadable"),
    "too many brackets": (file(b"[" * 60_000), "unreadable"),
    "a name twice": (file(b'{"a":%b,"a":%b}' % ((json.dumps(tensor()).encode(),) * 2), FOUR), "twice"),
    "a key of a tensor twice": (
        file(b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', FOUR),
        "twice",
    ),
    "a lone surrogate as a name": (file(b'{"\\ud800":%b}' % json.dumps(tensor()).encode(), FOUR), "surrogates"),
    "a lone surrogate in the metadata": (file(b'{"__metadata__":{"a":"\\udfff"}}'), "surrogates"),
    "metadata that are numbers": (file({"__metadata__": {"a": 1}}), "malformed"),
    "no metadata": (file({"__metadata__": None}), "malformed"),
    "a tensor that is none": (file({"a": 3}), "malformed"),
    "no dtype": (file({"a": {"shape": [1], "data_offsets": [0, 4]}}, FOUR), "malformed"),
    "an extra key": (file({"a": tensor(more=1)}, FOUR), "malformed"),
    "a shape of text": (file({"a": tensor(shape="1")}, FOUR), "malformed"),
    "a shape of halves": (file({"a": tensor(shape=[0.5])}, FOUR), "malformed"),
    "a shape of truths": (file({"a": tensor(shape=[True])}, FOUR), "malformed"),
    "three offsets": (file({"a": tensor(offsets=[0, 4, 4])}, FOUR), "malformed"),
    "a negative shape": (file({"a": tensor(shape=[-1, -1])}, FOUR), "a has shape (-1, -1)"),
    "a foreign dtype": (file({"a": tensor("C64")}, FOUR), "known are F64, F32"),
    "an unsigned dtype": (file({"a": tensor("U32")}, FOUR), "dtype U32"),
    "a shape that is too large": (file({"a": tensor(shape=[2])}, FOUR), "4 bytes for shape"),
    "a shape that overflows to its size": (
        file({"a": tensor(shape=[2**62 + 1, 4], offsets=[0, 16])}, FOUR * 4),
        "16 bytes for shape",
    ),
    "a hole in front": (file({"a": tensor(offsets=[4, 8])}, FOUR * 2), "begins at byte 4"),
    "a hole": (file({"a": tensor(), "b": tensor(offsets=[5, 9])}, b"\0" * 9), "begins at byte 5"),
    "an overlap": (file({"a": tensor(), "b": tensor(offsets=[2, 6])}, b"\0" * 6), "begins at byte 2"),
    "the same bytes twice": (file({"a": tensor(), "b": tensor()}, FOUR), "begins at byte 0"),
    "trailing bytes": (file({"a": tensor()}, FOUR + b"!"), "end at byte 4 of 5"),
    "missing bytes": (file({"a": tensor()}, b"\0" * 3), "end at byte 4 of 3"),
    "offsets backwards": (file({"a": tensor(offsets=[4, 0])}, FOUR), "begins at byte 4"),
    "negative offsets": (file({"a": tensor(offsets=[-4, 0])}, FOUR), "begins at byte -4"),
    "offsets of 100 digits": (file({"a": tensor(offsets=[0, 10**100])}, FOUR), "of 4"),
    "65 dimensions": (file({"a": tensor(shape=[1] * 65)}, FOUR), "impossible shape"),
    "a side of 2^63": (file({"a": tensor(shape=[0, 2**63], offsets=[0, 0])}), "impossible shape"),
    "sides that multiply to 2^124": (file({"a": tensor(shape=[0, 2**62, 2**62], offsets=[0, 0])}), "impossible shape"),
    "a boolean of 2": (file({"a": tensor("BOOL", offsets=[0, 1])}, b"\2"), "neither 0 nor 1"),
    "a boolean of 7": (file({"a": tensor("BOOL", offsets=[0, 1])}, b"\7"), "neither 0 nor 1"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_malformed_files_are_refused_with_a_reason(what: str) -> None:
    blob, reason = REFUSED[what]
    with pytest.raises(BadTensors) as refused:
        payload.decode(blob)
    assert reason in str(refused.value)
    str(refused.value).encode()


def test_a_header_is_not_parsed_if_it_is_far_too_large_for_what_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = json.dumps(tensor(shape=[0], offsets=[0, 0]))
    bomb = file(("{" + ",".join(f'"tensor-{i:06}":{empty}' for i in range(100_000)) + "}").encode())
    assert len(bomb) > 6_800_000
    monkeypatch.setattr(tensor_header, "_parse_header", pytest.fail)
    with pytest.raises(BadTensors, match="at most 65536 are accepted"):
        payload.decode(bomb, expected=100)


def test_a_header_may_be_as_large_as_many_tensors_need() -> None:
    names = [f"{'layer.' * 40}{i}" for i in range(1000)]
    blob = safetensors.numpy.save({name: np.zeros(1, np.float32) for name in names})
    assert int.from_bytes(blob[:8], "little") > tensor_header.HEADER_CAP
    assert set(payload.decode(blob, expected=1000)[0]) == set(names)
    with pytest.raises(BadTensors, match="header claims"):
        payload.decode(blob, expected=10)


def test_a_file_is_the_one_that_the_library_writes() -> None:
    random = np.random.default_rng(1)
    names = ("b", "a", 'é"\n\x01/', "a.b", "A", "")
    for trial in range(50):
        chosen = {}
        for number, index in enumerate(random.permutation(len(DTYPES))[: trial % 11]):
            dtype = list(DTYPES.values())[index]
            name = f"{names[random.integers(len(names))]}{number}"
            chosen[name] = random.integers(0, 2, random.integers(0, 4, 2)).astype(dtype)
        assert payload.encode(chosen) == safetensors.numpy.save(chosen)
    for array in (np.array(1.5, np.float32), np.ones((3, 2), np.int64).T, np.ones(6, np.float16)[::2]):
        assert payload.encode({"x": array}) == safetensors.numpy.save({"x": np.asarray(array, order="C")})

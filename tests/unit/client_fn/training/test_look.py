"""What the trainer says of a client's data: counts, names, dtypes and shapes, and no value."""

import io
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from PIL import Image
from pyarrow import parquet

from client_fn.errors import BadData
from client_fn.training import arrays, look
from client_fn.training.look import Column, Found
from client_fn.training.source import Source

pytestmark = pytest.mark.torch

PLANTED: Final = ("Mustermann", "41.4717")
"""Values that no answer may hold."""


def looked_at(format_: str, content: bytes | str | None = None, *, path: str = "") -> Found:
    payload = content.encode() if isinstance(content, str) else content
    found = look.look(Source(format_, payload, path=path), "/data/a", lambda _: None)
    assert not any(value in repr(found) for value in PLANTED)
    return found


def npz(**named: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **named)
    return file.getvalue()


def test_a_csv_file_has_rows_columns_of_dtypes_and_gaps() -> None:
    text = f"age,name,visits,ill\n{PLANTED[1]},{PLANTED[0]},3,1\n,Jane,nan,0\n52,,4,1\n"
    assert looked_at("csv", text) == Found(
        3,
        [
            Column("age", "float64", (), 1),
            Column("name", "text", (), 1),
            Column("visits", "float64", (), 1),
            Column("ill", "int64"),
        ],
        4,
    )


@pytest.mark.parametrize(
    "text",
    [
        f"{PLANTED[1]},{PLANTED[0]},1\n52,Jane,0\n",  # no line of names
        "NA,Jones,A\n52,Jane,B\n",
        "Jones,A\nJane,B\n",  # nothing tells names from values
    ],
)
def test_a_first_line_that_may_hold_values_gives_no_names(text: str) -> None:
    found = look.look(Source("csv", text.encode()), "/data/a", lambda _: None)
    assert not found.named


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"a,b\n{PLANTED[0]}\n", "row 1 has 1 cells, but there are 2 columns"),
        (f"{PLANTED[0]},{PLANTED[0]}\n1,2\n", "each column needs a name of its own"),
        ("a,b\n", "it is empty"),
        ("", "it is empty"),
    ],
)
def test_an_error_about_a_csv_file_tells_nothing_of_it(text: str, reason: str) -> None:
    with pytest.raises(BadData, match=reason) as raised:
        looked_at("csv", text)
    assert PLANTED[0] not in raised.value.message(reveal=False)


def test_only_the_first_columns_of_many_are_told() -> None:
    names = [f"c{number}" for number in range(300)]
    found = looked_at("csv", f"{','.join(names)}\n{','.join(['1'] * 300)}\n")
    assert (len(found.columns), found.column_count) == (look.MOST, 300)


def test_a_parquet_file_is_known_by_its_schema() -> None:
    file = io.BytesIO()
    columns = {"age": [float(PLANTED[1]), 2.0], "name": [PLANTED[0], "Jane"], "tags": [["a"], ["b"]]}
    parquet.write_table(pa.table(columns), file)
    found = looked_at("parquet", file.getvalue())
    assert found == Found(2, [Column("age", "float64"), Column("name", "text"), Column("tags", "nested")], 3)


def test_a_file_of_tensors_has_shapes_and_a_number_of_classes() -> None:
    tensors = {"x": torch.zeros(4, 3, 2, dtype=torch.bfloat16), "y": torch.tensor([5, 5, 7, 9])}
    columns = [Column("x", "bfloat16", [3, 2]), Column("y", "int64", [])]
    assert looked_at("safetensors", safetensors.torch.save(tensors)) == Found(4, columns, 2, 3)


def test_arrays_have_shapes_and_a_number_of_classes_also_of_texts() -> None:
    found = looked_at("npz", npz(x=np.zeros((2, 3), np.float32), y=np.array([PLANTED[0], "Jane"])))
    assert found == Found(2, [Column("x", "float32", (3,)), Column("y", "text")], 2, 2)


def test_targets_that_are_no_labels_have_no_classes() -> None:
    assert looked_at("npz", npz(x=np.zeros((2, 3)), y=np.array([1.5, 2.5]))).classes is None


def test_a_folder_of_images_is_counted_and_its_classes_are_not_named(tmp_path: Path) -> None:
    for label, number in ((PLANTED[0], 1), ("healthy", 2)):
        (tmp_path / label).mkdir()
        for image in range(number):
            Image.new("RGB", (6, 4)).save(tmp_path / label / f"{image}.png")
    found = looked_at("folder", path=str(tmp_path))
    assert found == Found(3, (Column("x", "float32", (3, 4, 6)), Column("y", "int64")), 2, 2)


@pytest.mark.parametrize("format_", ["csv", "parquet", "npz", "safetensors"])
def test_another_file_is_bad_data(format_: str) -> None:
    content = b"\x89PNG" + b"\xff" * 100
    with pytest.raises(BadData):
        looked_at(format_, content)


def test_data_that_is_larger_than_the_memory_is_bad_data_and_no_failure_of_a_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_memory(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(arrays, "read", no_memory)
    with pytest.raises(BadData, match=r"more memory than the trainer may use \(FEDKEEPER_TRAINER_MEMORY_MB\)"):
        looked_at("npz", npz(x=np.zeros(1)))

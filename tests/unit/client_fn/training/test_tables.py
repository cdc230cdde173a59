"""A table becomes columns of numbers, or an error that names the place, the row, the column and the remedy."""

import io

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from client_fn.errors import BadData
from client_fn.training import arrays, tables
from client_fn.training.tables import Column, Wanted

PLACE = "/data/board.csv"


def read(text: str | bytes, target: str = "y", drop: tuple[str, ...] = ()) -> dict[str, Column]:
    content = text.encode() if isinstance(text, str) else text
    return tables.read_csv(io.BytesIO(content), Wanted(PLACE, target, drop))


def read_parquet(columns: dict[str, object], target: str = "y", drop: tuple[str, ...] = ()) -> dict[str, Column]:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file)
    file.seek(0)
    return tables.read_parquet(file, Wanted("/data/board.parquet", target, drop))


def as_lists(columns: dict[str, Column]) -> dict[str, list[object]]:
    return {name: column.tolist() for name, column in columns.items()}


@pytest.mark.parametrize(
    "text",
    [
        "a,b,y\n1,2.5,0\n-3,4,1\n",
        "a;b;y\n1;2.5;0\n-3;4;1",
        "a\tb\ty\r\n1\t2.5\t0\r\n-3\t4\t1\r\n",
        "\ufeffa,b,y\n1,2.5,0\n\n-3, 4 ,1\n\n",
        'a,"b",y\n"1",2.5,0\n-3,4,1\n',
    ],
)
def test_a_csv_file_gives_columns_of_numbers(text: str) -> None:
    columns = read(text)
    assert as_lists(columns) == {"a": [1, -3], "b": [2.5, 4.0], "y": [0, 1]}
    assert [column.dtype for column in columns.values()] == [np.int64, np.float64, np.int64]


def test_rows_are_read_in_parts_and_a_column_s_kind_is_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS", 2)
    columns = read("a,y\n1,1\n2,2\n3.5,3\n4,4.5\n5,5\n")
    assert as_lists(columns) == {"a": [1, 2, 3.5, 4, 5], "y": [1, 2, 3, 4.5, 5]}
    assert as_lists(read("a,y\n1,1\n2,2\n3,cat\n")) == {"a": [1, 2, 3], "y": ["1", "2", "cat"]}
    with pytest.raises(BadData, match="column 1 holds a text in row 4"):
        read("a,y\n1,1\n2,2\n3,3\nx,4\n")


def test_dropped_columns_may_hold_anything() -> None:
    assert as_lists(read("id,a,y\nx1,1,0\n,2,1\n", drop=("id",))) == {"a": [1, 2], "y": [0, 1]}


@pytest.mark.parametrize(
    ("text", "reason", "revealed"),
    [
        ("a,b\n1,2\n", "it has no column 'y', which data.target names", "the columns are a, b"),
        ("a,y\n1,cat\nx,dog\n", "column 1 holds a text in row 2: leave it out with data.drop", "the column is 'a'"),
        ("a,y\n1,0\n,0\n", "column 1 has no value in row 2: fill it in, remove the row, or", "the column is 'a'"),
        ("a,y\n1,0\nnan,0\n", "column 1 has no value in row 2", "the column is 'a'"),
        ("a,y\n1,\n", "column 'y' has no value in row 1", ""),
        ("a,y\n1,0.5\n1,nan\n", "column 'y' has no value in row 2", ""),
        ("a,y\n1,0\n1,0,9\n", "row 2 has 3 cells, but there are 2 columns", ""),
        ("a,a,y\n1,1,0\n", "each column needs a name of its own", "the columns are a, a, y"),
        ("a,,y\n1,1,0\n", "each column needs a name of its own", ""),
        ("", "it is empty; the first line must name the columns", ""),
        ("a,y\n", "it is empty: it has no rows below the names", ""),
        (b"\xff\xfe", "it is no text in UTF-8", ""),
        ('a,y\n"' + "x" * (tables.CELL_BYTES + 1), "it is no CSV file", ""),
    ],
)
def test_a_csv_file_that_can_t_be_used_is_explained_and_others_see_none_of_its_text(
    text: str | bytes, reason: str, revealed: str
) -> None:
    with pytest.raises(BadData, match=reason) as bad:
        read(text)
    assert bad.value.where == PLACE
    assert bad.value.message(reveal=False).startswith(f"shard {PLACE}: ")
    assert revealed in bad.value.message(reveal=True)
    assert not revealed or revealed not in bad.value.message(reveal=False)


def test_a_dropped_column_must_be_there_and_the_target_can_t_be_dropped() -> None:
    with pytest.raises(BadData, match=r"it has no column 'time', which data\.drop names"):
        read("a,y\n1,0\n", drop=("time",))
    with pytest.raises(BadData, match=r"column 'y' can't be data\.target and in data\.drop"):
        read("a,y\n1,0\n", drop=("y",))


def test_a_parquet_file_gives_the_columns_that_are_wanted() -> None:
    texts = pa.array(["u", "v"]).dictionary_encode()
    columns = read_parquet({"a": [1, 2], "flag": [True, False], "c": texts, "y": [0.5, 1.5]}, drop=("c",))
    assert as_lists(columns) == {"a": [1, 2], "flag": [1, 0], "y": [0.5, 1.5]}
    assert as_lists(read_parquet({"a": [1, 2], "y": ["cat", "dog"]}))["y"] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"a": [1, 2]}, "it has no column 'y', which data.target names"),
        ({"a": ["u", "v"], "y": [0, 1]}, "column 1 holds no numbers but string: leave it out with data.drop"),
        ({"a": [[1], [2]], "y": [0, 1]}, "column 1 holds no numbers but list"),
        ({"a": [1, None], "y": [0, 1]}, "column 1 has no value in row 2"),
        ({"a": [1.0, float("nan")], "y": [0, 1]}, "column 1 has no value in row 2"),
        ({"a": [1, 2], "y": [0, None]}, "column 'y' has no value in row 2"),
        ({"a": pa.array([], pa.int64()), "y": pa.array([], pa.int64())}, "it is empty: it has no rows"),
    ],
)
def test_a_parquet_file_that_can_t_be_used_is_explained(columns: dict[str, object], reason: str) -> None:
    with pytest.raises(BadData, match=reason):
        read_parquet(columns)


def test_what_is_no_parquet_file_is_named() -> None:
    with pytest.raises(BadData, match="it is no Parquet file that can be read"):
        tables.read_parquet(io.BytesIO(b"PAR1 and more"), Wanted(PLACE))


def test_a_table_s_samples_are_the_target_and_the_other_columns() -> None:
    wanted = Wanted(PLACE, "y")
    named = arrays.to_samples(read("a,y,b\n1,0.5,2\n3,1,4\n"), wanted)
    assert named["x"].tolist() == [[1, 2], [3, 4]]
    assert named["y"].tolist() == [0.5, 1]
    assert {array.dtype for array in named.values()} == {np.dtype(np.float32)}
    assert arrays.to_samples(read("a,y\n1,7\n"), wanted)["y"].dtype == np.int64


def test_a_table_without_target_or_features_is_explained() -> None:
    with pytest.raises(BadData, match=r"name it as data\.target \(the columns are a, y\)"):
        arrays.to_samples(read("a,y\n1,0\n", target=""), Wanted(PLACE))
    with pytest.raises(BadData, match="it has no column beside 'y'"):
        arrays.to_samples(read("y\n1\n"), Wanted(PLACE, "y"))

"""What a person reads of a client's data."""

from broker.messages.data_report import Column, DataReport, StatePlace
from broker.messages.register import ClientRecord
from fedkeeper.commands import clients_check
from fedkeeper.errors import NotChecked

RECORD = ClientRecord(id="ward-7", platform="board-7", data_loc="/srv/fedkeeper/xray.csv")
TABLE = DataReport(
    client="ward-7",
    path="/srv/fedkeeper/xray.csv",
    kind="csv",
    bytes=12_345_678,
    owner="root:root",
    mode="-rw-r--r--",
    service="fedkeeper-bridge",
    is_readable=True,
    samples=1437,
    columns=(
        *(Column(name=f"pixel_{number}", dtype="float64") for number in range(64)),
        Column(name="ward", dtype="text", missing=3),
        Column(name="ill", dtype="int64"),
    ),
    column_count=66,
    state=StatePlace(path="/srv/fedkeeper/state", owner="root:root", mode="drwxr-xr-x", is_writable=True),
)


def shown(report: DataReport | NotChecked, record: ClientRecord = RECORD, *, registers: bool = False) -> str:
    lines = clients_check.lines(record, report, registers=registers)
    assert all(len(line) <= 80 for line in lines)
    return "\n".join(lines)


def test_a_table_is_shown_with_its_columns() -> None:
    assert (
        shown(TABLE)
        == """\
ward-7 on board-7: ok
  /srv/fedkeeper/xray.csv
  a CSV file, 12.3 MB
  root:root -rw-r--r--, fedkeeper-bridge can read it
  1,437 rows; no number is registered: check --register writes it
  66 columns
    pixel_0 ... pixel_63 (64): float64
    ward: text, no value in 3 rows
    ill: int64
  own layers: /srv/fedkeeper/state
    root:root drwxr-xr-x, can be written"""
    )


def test_a_shard_is_shown_with_its_tensors_and_the_difference_to_the_register() -> None:
    columns = (Column(name="x", dtype="float32", shape=(3, 32, 32)), Column(name="y", dtype="int64"))
    report = DataReport(client="a", path="s3://b/a", kind="safetensors", samples=5, columns=columns, classes=2)
    text = shown(report, ClientRecord(id="a", platform="b", samples=4))
    assert "5 samples of 2 classes; 4 are registered: check --register writes it" in text
    assert "x: float32 (N, 3, 32, 32)" in text
    assert "registered" not in shown(report, ClientRecord(id="a", platform="b", samples=5))
    assert "registered now, before: 4" in shown(report, ClientRecord(id="a", platform="b", samples=4), registers=True)


def test_what_a_job_would_fail_with_is_shown_with_what_to_do() -> None:
    report = DataReport(
        client="a",
        path="/home/anna/a.csv",
        error="DataMissing",
        problem="nothing lies there",
        remedy="put it elsewhere",
    )
    assert shown(report) == (
        "ward-7 on board-7: a job would fail\n  /home/anna/a.csv\n"
        "  DataMissing: nothing lies there\n  do: put it elsewhere"
    )


def test_a_long_problem_is_wrapped() -> None:
    report = DataReport(client="a", path="/srv/a.csv", error="BadData", problem="many words " * 30, remedy="do it")
    assert shown(report).count("many words") > 20


def test_a_client_that_nobody_checked_is_shown_with_the_reason() -> None:
    assert shown(NotChecked("ward-7", "platform 'b' has no bridge that answers")) == (
        "ward-7 on board-7: not checked\n  platform 'b' has no bridge that answers"
    )


def test_many_columns_of_different_dtypes_are_cut() -> None:
    columns = tuple(Column(name=f"c{n}", dtype=("int64", "text")[n % 2]) for n in range(100))
    lines = clients_check.lines(RECORD, DataReport(client="a", kind="csv", columns=columns, column_count=500))
    assert "  500 columns" in lines
    assert lines[-1] == "    ..."
    assert len(lines) < 20

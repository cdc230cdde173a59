"""A file of clients is checked as a whole, and compared with the register."""

from pathlib import Path

import msgspec
import pytest

from broker.messages.register import ClientRecord
from fedkeeper.errors import BadOption
from fedkeeper.sites import client_file
from tests.support.paths import REPOSITORY

HEADER = "client,platform,data_loc,samples,function,state_loc,label.data,label.region\n"
WARD = ClientRecord(
    id="ward-1",
    platform="board-1",
    function="ward-1",
    data_loc="/srv/xray.csv",
    labels={"data": "xray", "region": "north"},
    samples=360,
)
ROW = "ward-1,board-1,/srv/xray.csv,360,,,xray,north\n"


def records(text: str) -> list[ClientRecord]:
    found, mistakes = client_file.parse(text)
    assert mistakes == []
    return found


def mistakes(text: str) -> list[str]:
    return client_file.parse(text)[1]


@pytest.mark.parametrize(
    "text",
    [
        HEADER + ROW,
        (HEADER + ROW).replace("\n", "\r\n"),
        HEADER + "\n,,,,,,,\n" + ROW + "\n\n",
        "# boards, of all wards\n" + HEADER + "#" + ROW + ROW,
        '"#, a comment"\n' + HEADER + ROW,
        HEADER + '"ward-1", board-1 ,"/srv/xray.csv",360,"","",xray,"north"',
        (HEADER + ROW).replace(",", ";"),
        (HEADER + ROW).replace(",", "\t"),
        HEADER.replace("data_loc", "data-loc").replace("state_loc", "State_Loc") + ROW,
        HEADER.strip() + ",,\n" + ROW.strip() + ",,\n",
        "label.region,label.data,samples,data_loc,platform,client\nnorth,xray,360,/srv/xray.csv,board-1,ward-1",
    ],
)
def test_a_table_of_any_program_gives_the_same_clients(text: str) -> None:
    assert records(text) == [WARD]


def test_only_client_and_platform_are_needed() -> None:
    (record,) = records("client,platform\na,b\n")
    assert record == ClientRecord(id="a", platform="b", function="a")


def test_cells_hold_quotes_commas_and_any_alphabet(tmp_path: Path) -> None:
    file = tmp_path / "boards.csv"
    file.write_bytes(b"\xef\xbb\xbf" + 'client,platform,label.ward\na,b,"Ward ""7"", Zürich"\n'.encode())
    (record,) = client_file.read(file)
    assert record.labels == {"ward": 'Ward "7", Zürich'}


def test_a_function_is_what_the_platform_triggers() -> None:
    (record,) = records("client,platform,function,data_loc,state_loc\na,b,train-a,s3://bucket/a,file:///var/lib/a\n")
    expected = ClientRecord(id="a", platform="b", function="train-a", url="train-a", data_loc="s3://bucket/a")
    assert record == msgspec.structs.replace(expected, state_loc="file:///var/lib/a")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("Ward 1,b,,,,,,\n", "line 2, client = 'Ward 1': use 1 to 40 of a-z, 0-9 and '-'"),
        ("a,,,,,,,\n", "line 2, platform = '': use 1 to 40 of a-z, 0-9 and '-'"),
        ("a\n", "line 2, platform = '': use 1 to 40 of a-z, 0-9 and '-'"),
        ("a,b,x.csv,,,,,\n", "line 2, data_loc = 'x.csv': it lies on another machine: give its absolute path there"),
        ("a,b,file:x.csv,,,,,\n", "line 2, data_loc = 'file:x.csv': it lies on another machine"),
        ("a,b,file://x.csv,,,,,\n", "line 2, data_loc = 'file://x.csv': it lies on another machine"),
        ("a,b,,,,~/layers,,\n", "line 2, state_loc = '~/layers': it lies on another machine"),
        ("a,b,,many,,,,\n", "line 2, samples = 'many': write a whole number such as 360"),
        ("a,b,,-1,,,,\n", "line 2, samples = '-1': write"),
        (f"a,b,,{'9' * 5000},,,,\n", "line 2, samples = '999999"),
        ("a,b,,,,,x\x1by,\n", "line 2, label.data = 'x\\x1by': it has characters that can't be printed"),
        ('a,b,,,,,"x\ny",\n', "line 3, label.data = 'x\\ny': it has characters"),
        ("a,b,/a,b.csv,1,,,,x\n", "line 2: it has 1 cells more than the header: put quotes around"),
        ("a,b\n\nc,d\na,e\n", "line 5, client = 'a': line 2 has this client too: give each an id of its own"),
        ('a,b,"x"y,,,,,\n', "line 2: this is no CSV: "),
        ('a,b,"x,,,,,\n', "line 2: this is no CSV: "),
        ("", "line 1: the file has no row; the first line names the columns"),
    ],
)
def test_a_mistake_names_line_column_value_and_remedy(rows: str, expected: str) -> None:
    (mistake,) = mistakes(HEADER + rows)
    assert mistake.startswith(expected)
    assert len(mistake) < 300


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("client,platfrom", "line 1, column = 'platfrom': did you mean 'platform'? columns are client, platform, "),
        ("client,platform,label.", "line 1, column = 'label.': "),
        ("client,platform,,samples", "line 1, column = '': columns are"),
        ("client,platform,client", "line 1, column = 'client': it is there twice"),
        ("client,data-loc,data_loc,platform", "line 1, column = 'data-loc': it is there twice"),
        ("client,samples", "line 1: the column 'platform' is missing; the first line names the columns"),
        ("ward-1,board-1", "line 1, column = 'ward-1': columns are client, platform, data_loc, samples, function, "),
    ],
)
def test_a_mistake_in_the_header_ends_the_reading(header: str, expected: str) -> None:
    (mistake,) = mistakes(f"{header}\nward-1,board-1,x,y,z\nWard 2,,,,,\n")
    assert mistake.startswith(expected)


def test_all_mistakes_are_named_at_once_at_most_ten(tmp_path: Path) -> None:
    file = tmp_path / "boards.csv"
    file.write_text("client,platform,samples\n" + "".join(f"Ward {n},b,none\n" for n in range(6)))
    with pytest.raises(BadOption) as failed:
        client_file.read(file)
    lines = str(failed.value).splitlines()
    assert lines[0] == f"--from {file}: nothing was registered"
    assert lines[1] == "  line 2, client = 'Ward 0': use 1 to 40 of a-z, 0-9 and '-'"
    assert lines[2].startswith("  line 2, samples = 'none': ")
    assert (len(lines), lines[-1]) == (12, "  and 2 more")


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"--from .*none\.csv: No such file or directory"):
        client_file.read(tmp_path / "none.csv")
    (tmp_path / "utf-16.csv").write_text(HEADER + ROW, "utf-16")
    with pytest.raises(BadOption, match="byte 0 is no UTF-8; save the table as CSV in UTF-8"):
        client_file.read(tmp_path / "utf-16.csv")
    (tmp_path / "null.csv").write_bytes(b"client,platform\na\0,b\n")
    with pytest.raises(BadOption, match="line 2"):
        client_file.read(tmp_path / "null.csv")


def test_the_shipped_example_is_valid() -> None:
    found = client_file.read(REPOSITORY / "configs" / "edge" / "boards.csv")
    assert [(each.id, each.platform) for each in found] == [(f"ward-{n}", f"board-{n}") for n in (1, 2, 3)]
    assert found[2].labels == {"data": "xray", "region": "south"}


def test_what_is_new_changed_and_the_same_is_told() -> None:
    other, new = msgspec.structs.replace(WARD, id="ward-2"), msgspec.structs.replace(WARD, id="ward-3")
    moved = msgspec.structs.replace(other, platform="board-2", labels={})
    changes = client_file.compare([WARD, moved, new], [other, WARD, ClientRecord(id="x", platform="y")])
    assert [(change.record, change.kind, change.fields) for change in changes] == [
        (WARD, "same", ()),
        (moved, "changed", ("platform", "labels")),
        (new, "new", ()),
    ]


def test_what_a_file_does_not_say_stays_while_it_is_about_the_same() -> None:
    known = msgspec.structs.replace(WARD, paused=True, secret="name-of-it", url="http://gateway/ward-1")  # noqa: S106 (a name)
    (change,) = client_file.compare([msgspec.structs.replace(WARD, samples=0)], [known])
    assert (change.record, change.kind) == (known, "same")
    elsewhere = msgspec.structs.replace(WARD, platform="board-2", data_loc="/srv/new.csv", samples=0)
    (change,) = client_file.compare([elsewhere], [known])
    assert (change.record.samples, change.record.url, change.record.paused) == (0, "", True)


def test_the_name_of_a_label_can_be_printed() -> None:
    (mistake,) = mistakes("client,platform,label.\x1b[31m\na,b,c\n")
    assert mistake.startswith("line 1, column = 'label.\\x1b[31m': it has characters that can't be printed")

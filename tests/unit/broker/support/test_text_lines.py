"""Lines of values in TOML and JSON files."""

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import tomli_w

from broker.support.text_lines import find_lines, joined, line_of
from tests.support.paths import REPOSITORY

TOML = '''\
# a job
name = "a [b] # c"     # comment with "quotes"
id = 'C:\\'

[training]
learning_rate = 1e-3
optimizer_args = { weight_decay = 0.1, betas = [0.9, 0.99] }
text = """
[not.a.table]
key = 5 \\"""
quotes at the end"""""
raw = \'\'\'
[nor = "this"
\'\'\'
"a.b" = 1
'c d'."e\\u0066" = 2
list = [
  1,   # one ]
  { x = 2 },
  [3, 4],
]
when = 2024-01-01 10:00:00

[ data . deal ]
clients = 3

[[override]]
where = { site = "north" }
[override.deep]
x = 1
[[override]]
batch_size = 0
[[override.inner]]
y = 1
[[override.inner]]
y = 2'''

LINES = {
    "name": 2,
    "id": 3,
    "training": 5,
    "training.learning_rate": 6,
    "training.optimizer_args": 7,
    "training.optimizer_args.weight_decay": 7,
    "training.optimizer_args.betas[1]": 7,
    "training.text": 8,
    "training.raw": 12,
    "training.a.b": 15,
    "training.c d.ef": 16,
    "training.list": 17,
    "training.list[0]": 18,
    "training.list[1].x": 19,
    "training.list[2][1]": 20,
    "training.when": 22,
    "data.deal": 24,
    "data.deal.clients": 25,
    "override": 27,
    "override[0]": 27,
    "override[0].where.site": 28,
    "override[0].deep.x": 30,
    "override[1]": 31,
    "override[1].batch_size": 32,
    "override[1].inner[0].y": 34,
    "override[1].inner[1].y": 36,
}


def test_each_value_of_a_toml_file_has_its_line() -> None:
    tomllib.loads(TOML)
    found = find_lines(TOML)
    assert {path: found.get(path) for path in LINES} == LINES
    assert "not.a.table" not in found
    assert "key" not in found
    assert find_lines(TOML.replace("\n", "\r\n")) == found


def test_each_value_of_a_json_file_has_its_line() -> None:
    text = '{\n "name": "a, \\"b\\": {",\n "cohort": {"clients": 0,\n  "x": [1,\n {"y": null}]},\n "": true, "z": []\n}'
    json.loads(text)
    assert find_lines(text) == {
        "name": 2,
        "cohort": 3,
        "cohort.clients": 3,
        "cohort.x": 4,
        "cohort.x[0]": 4,
        "cohort.x[1]": 5,
        "cohort.x[1].y": 5,
        "": 6,
        "z": 6,
    }


def paths(value: Any, path: str = "") -> Iterator[str]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from paths(part, joined(path, key))
    if isinstance(value, list):
        for i, part in enumerate(value):
            yield from paths(part, f"{path}[{i}]")


FILES = sorted([*REPOSITORY.glob("configs/**/*.toml"), *REPOSITORY.glob("examples/**/*.toml")])


@pytest.mark.parametrize("form", ["as it stands", "written anew", "json"])
def test_each_value_of_our_files_has_a_line(form: str) -> None:
    assert FILES
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        table = tomllib.loads(text)
        if form == "written anew":
            text = tomli_w.dumps(table, multiline_strings=True)
        elif form == "json":
            text = json.dumps(table, indent=1, default=str)
        found = find_lines(text)
        assert set(found) == set(paths(table)), file
        lines = text.splitlines()
        for path, line in found.items():
            name = path.rpartition(".")[2].partition("[")[0]
            assert name in lines[line - 1] or path.endswith("]"), (file, path, line)


@pytest.mark.parametrize(
    "text", ["", "{", "[", "[[a", "a", "a = ", "a = [", "a = {b", '"', "= 1", "{]", "]", "\0", "a.=1"]
)
def test_a_text_of_neither_kind_ends_the_search(text: str) -> None:
    find_lines(text)
    find_lines(f"x = 1\n{text}")
    find_lines("a = " + "[" * 100_000)


@pytest.mark.parametrize(
    ("field", "line"),
    [("a.b", 2), ("a.b.c[3].d", 2), ("a.x", 1), ("list[1].x", 4), ("list[7]", 3), ("z", 0), ("", 0)],
)
def test_a_missing_field_has_the_line_of_the_table_around_it(field: str, line: int) -> None:
    assert line_of(field, {"a": 1, "a.b": 2, "list": 3, "list[1]": 4}) == line

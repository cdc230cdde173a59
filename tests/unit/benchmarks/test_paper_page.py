"""docs/paper.md and its figures: what the rows say, and nothing else."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper import cells, page
from benchmarks.paper.cells import Cell
from tests.support.paths import REPOSITORY

pytestmark = pytest.mark.slow

DOCS = REPOSITORY / "docs"
NAMES = ["paper.md", "paper-figure3.svg", "paper-figure4.svg", "paper-figure5.svg"]

CELL = Cell("nn", 5, "adam", 100, "reset", "fedavg", 0.9695)

FABRIC = {
    "network": "nn",
    "epochs": 1,
    "clients": 100,
    "instances": {"openfaas": 3, "openwhisk": 7, "gcf": 8},
    "rounds": [
        {"cold": 100, "invocation_s": 0.25, "clients_start_s": 2.75, "training_s": 190.0, "aggregation_s": 0.5},
        {"cold": 90, "invocation_s": 0.06, "clients_start_s": 0.1, "training_s": 171.5, "aggregation_s": 0.01},
    ],
    "device": "a processor",
    "cores": 2,
    "commit": "abc",
}


def row(cell: Cell, seed: int, rounds: int) -> dict[str, Any]:
    planned = cells.planned(cell, seed)
    accuracy = [0.5] * 3 + [0.95] * (rounds - 4) + [cell.target]
    facts = {
        "accuracy": accuracy,
        "round_s": [None] + [3.0] * (rounds - 1),
        "seconds": 3600.0,
        "error": "",
        "refused": {},
    }
    return {**planned.names, "job": planned.job, **facts, "device": "a processor", "torch": "2.9"}


ROWS = [row(CELL, 1, 250), row(CELL, 2, 351), row(replace(CELL, clients=10, state="carry"), 1, 99)]


def written(folder: Path, found: list[dict[str, Any]], *fabric: dict[str, Any]) -> dict[str, bytes]:
    folder.mkdir()
    file = folder / "fabric.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in fabric))
    paths = page.write(found, folder, file)
    assert [path.name for path in paths] == NAMES
    return {path.name: path.read_bytes() for path in paths}


def test_the_page_and_its_figures_are_those_of_the_committed_rows(tmp_path: Path) -> None:
    """If this fails: `python -m benchmarks.paper draw`."""
    page.write(cells.read(), tmp_path)
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (DOCS / name).read_bytes(), name


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    once = written(tmp_path / "a", ROWS, FABRIC)
    assert written(tmp_path / "b", ROWS, FABRIC) == once
    other = written(tmp_path / "c", [*ROWS, row(CELL, 3, 200)], FABRIC)
    assert [name for name in NAMES if other[name] != once[name]] == NAMES[:3]


def test_no_number_of_the_page_is_written_by_hand() -> None:
    prose = re.sub(
        r"```.*?```|`[^`]*`|\]\([^)]*\)|\$[a-z0-9_]+|Figure \d", "", page.TEMPLATE.read_text(), flags=re.DOTALL
    )
    assert re.findall(r"[^\n]*\d[^\n]*", prose) == []


def test_the_page_has_what_the_rows_have_come_to(tmp_path: Path) -> None:
    file = tmp_path / "fabric.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in ({**FABRIC, "device": "an earlier one"}, FABRIC)))
    text = page.text(ROWS, page.last_fabric(file))
    assert "1 of the 60 cells were run. Runs with their variants: 3, in 3.0 hours on a processor, torch 2.9." in text
    assert "1 are within, 0 have fewer rounds, 0 have more." in " ".join(text.split())
    assert "| nn | 5 | adam | 100 | 244.5 [386, 103] | 87.5 to 443.9 | 300.5 [250, 351] | within |  |  |" in text
    assert "| nn | 5 | adam | 10 | 236.0 [212, 260] | 180.2 to 299.0 |  |  | 99 |  |" in text
    assert "| nn | 5 | ours, seed 1 | 4 | 250 | 3.00 | a processor |" in text
    assert "| nn | 5 | adam | 100 | ours | 250 | 0.9695 | 0.9500 |" in text
    assert "| nn | 5 | adam | 10 | ours, state kept | 99 | 0.9695 | 0.9500 |" in text
    assert "| nn | 5 | adam | 100 | the paper's | 245 | 0.9700 | 0.9567 |" in text
    assert "| ours, nn, round 1 | 0.25 | 2.75 | 190.00 | 0.50 | 0.75 |" in text
    assert "on 2 cores of a processor, measured at commit abc." in text
    assert "18 instances lived at once (3 of openfaas, 7 of openwhisk, 8 of gcf)" in text
    assert "(by round: 100, 90)" in text
    assert "trained 5 local epochs, ours 1." in " ".join(text.split())
    assert "an earlier one" not in text


def test_the_page_says_which_state_of_the_optimizers_fits_the_paper_s_numbers() -> None:
    cell = replace(CELL, clients=10)
    kept = row(replace(cell, state="carry"), 1, 240)
    assert "No cell has runs of both yet." in page.text([kept], None)
    fits = "with the state kept are within in 1, those with a new optimizer in 0: too few cells to tell"
    assert fits in page.text([row(cell, 1, 400), kept], None)
    three = [replace(cell, epochs=10, clients=clients) for clients in (10, 30, 50)]
    paper_s = [175, 97, 86]
    kept_rows = [row(replace(each, state="carry"), 1, rounds) for each, rounds in zip(three, paper_s, strict=True)]
    reset_rows = [row(each, 1, rounds) for each, rounds in zip(three, paper_s, strict=True)]
    more = [row(each, 1, 400) for each in three]
    assert "kept are within in 3, those with a new optimizer in 0: that speaks for its text." in page.text(
        [*kept_rows, *more], None
    )
    kept_more = [row(replace(each, state="carry"), 1, 400) for each in three]
    assert "in 3: that speaks for its published function." in page.text([*kept_more, *reset_rows], None)
    assert "kept are within in 1, those with a new optimizer in 1." in page.text([row(cell, 1, 250), kept], None)


def test_a_cell_whose_list_is_a_copy_is_run_but_not_judged() -> None:
    copied = replace(CELL, network="cnn", epochs=10, clients=10, target=cells.target_of("cnn"))
    text = page.text([row(copied, 1, 100)], None)
    assert text.splitlines()[1].startswith("1 of the 60 cells were run.")
    assert "0 are within, 0 have fewer rounds, 0 have more." in " ".join(text.split())


def test_without_rows_the_page_says_that_nothing_was_run(tmp_path: Path) -> None:
    text = page.text([], page.last_fabric(tmp_path / "none.jsonl"))
    assert "0 of the 60 cells were run. There are no runs yet." in text
    assert "None was run yet." in text
    assert "Ours: not run yet." in text
    assert "Adam 0.86 (nn) and 2.05 (cnn) times the speed of SGD" in " ".join(text.split())

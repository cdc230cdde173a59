"""The benchmarks of clients that are trained together work, in their smallest size and without a GPU."""

import json
from pathlib import Path

import pytest

from benchmarks import gpu, together
from benchmarks.together import Plan, Trained

pytestmark = [pytest.mark.slow, pytest.mark.torch]


async def test_both_models_one_by_one_and_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "MOST_TOGETHER", 2)  # so that there are two programs
    file = tmp_path / "rows.jsonl"
    assert await gpu.train(Plan(clients=(3,)).small(), file) >= 0
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["model"], row["clients"], row["device"]) for row in found] == [("nn", 3, "cpu"), ("cnn", 3, "cpu")]
    assert all(row["distance"] < 1e-4 and row["one by one"] > 0 and row["together"] > 0 for row in found)
    assert all((row["replayed"], row["graph"]) == (None, "not used") for row in found)
    assert capsys.readouterr().out.count("| cpu |") == 2


@pytest.mark.parametrize(
    ("replayed", "unrecorded", "graph"),
    [(0, "", "not used"), (7, "", "passed"), (0, "it can't be recorded", "failed"), (7, "it differs", "failed")],
)
def test_a_graph_has_passed_if_steps_were_replayed_and_nothing_failed(
    replayed: int, unrecorded: str, graph: str
) -> None:
    assert Trained([], replayed, unrecorded).graph == graph

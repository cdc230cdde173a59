"""What notebooks show of jobs and runs. Strangers write names, reasons and metrics, so no text is HTML."""

import json
from pathlib import Path

import pytest

import fedkeeper
from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.job_sections import Data, Model, Stop
from fedkeeper.display.job_list import JobList

PLANTED = "<script>alert('x')</script>\x1b[2J\u202e"
RECORD = JobRecord(
    id="mine-1",
    job=Job(name="mine", stop=Stop(rounds=7)),
    phase="failed",
    done=3,
    metrics={PLANTED: 0.5, "loss": 0.25},
    accuracy=0.75,
    reason=f"a client said {PLANTED}",
)


def assert_is_safe(html: str) -> None:
    assert "<script" not in html
    assert "&lt;script&gt;alert(&#x27;x&#x27;)" in html
    assert not {"\x1b", "\u202e"} & {*html}
    assert "style" not in html, "the notebook's own colours, dark or light"


def test_a_job_is_shown_as_the_fields_that_differ_from_their_defaults() -> None:
    html = Job(name="mine", model=Model(args={"text": PLANTED}), data=Data(labels=("a", "<b>")))._repr_html_()
    assert_is_safe(html)
    assert "name = &quot;mine&quot;" in html
    assert "&lt;b&gt;" in html
    assert "learning_rate" not in html


def test_a_record_is_shown_as_a_table() -> None:
    html = RECORD._repr_html_()
    assert_is_safe(html)
    for part in ("mine-1", "failed", "3 of at most 7", "accuracy 0.75", "loss 0.25", "a client said"):
        assert part in html


def test_a_list_of_jobs_is_shown_as_one_table() -> None:
    html = JobList([RECORD, RECORD])._repr_html_()
    assert_is_safe(html)
    assert html.count("<tr>") == 3
    assert "3/7" in html
    assert len(JobList([RECORD])) == 1


def test_a_run_is_shown_as_a_table(tmp_path: Path) -> None:
    folder = tmp_path / f"2026-11-27-{PLANTED.replace('/', '')}"
    folder.mkdir()
    (folder / "job.toml").write_text("")
    row = {"round": 1, "model": "f" * 64, "metrics": {PLANTED: 0.5, "accuracy": 0.75}}
    (folder / "metrics.jsonl").write_text(json.dumps(row))
    html = fedkeeper.load_run(folder)._repr_html_()
    assert_is_safe(html)
    assert "accuracy 0.75" in html


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_long_text_is_shortened(size: int) -> None:
    assert len(JobList([JobRecord(id="a", job=Job(), reason="x" * size)])._repr_html_()) < 5000

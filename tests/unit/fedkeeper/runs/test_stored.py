"""What run folders hold: rows, the job's fields, and how a run has ended."""

import errno
import json
from pathlib import Path

import pytest

from broker.messages import job_file
from fedkeeper.errors import Missing
from fedkeeper.runs import stored
from fedkeeper.runs.stored import Ended

JOB = job_file.to_toml(job_file.from_dict({"seed": 3, "training": {"batch_size": 8}, "model": {"args": {"hidden": 5}}}))


def a_run(folder: Path, job: str = JOB) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(json.dumps({"round": 1}) + "\n")
    (folder / "job.toml").write_text(job)
    return folder


def test_a_run_has_its_jobs_fields_by_their_dotted_names(tmp_path: Path) -> None:
    run = stored.read(a_run(tmp_path / "one"))
    fields = (run.fields["training.batch_size"], run.fields["model.args.hidden"], run.seed, run.name)
    assert fields == (8, 5, 3, "one")
    assert run.rows == [{"round": 1}]


def test_a_job_of_a_newer_version_can_be_read(tmp_path: Path) -> None:
    run = stored.read(a_run(tmp_path / "one", JOB + "\n[later]\nfield = 1\n"))
    assert (run.seed, run.fields["later.field"]) == (3, 1)


def test_a_folder_of_an_old_version_has_no_job(tmp_path: Path) -> None:
    (a_run(tmp_path / "one") / "job.toml").unlink()
    run = stored.read(tmp_path / "one")
    assert (run.job, run.seed, run.fields) == (None, None, {})
    assert (run.ended, run.is_completed) == (None, True)


def test_how_a_run_has_ended_is_kept(tmp_path: Path) -> None:
    ended = Ended("demo-1", "failed", "no quorum")
    stored.write_ended(tmp_path, ended)
    run = stored.read(tmp_path)
    assert (run.ended, run.is_completed, run.rows) == (ended, False, [])
    assert [path.name for path in tmp_path.iterdir()] == ["ended.json"]


def test_a_run_that_can_go_on_is_not_completed(tmp_path: Path) -> None:
    stored.write_ended(a_run(tmp_path / "one"), Ended("one", "completed"))
    (tmp_path / "one" / "unfinished.json").write_text("{}")
    run = stored.read(tmp_path / "one")
    assert (run.ended, run.is_completed) == (Ended("", "running", "it has not ended"), False)


def test_a_copy_of_a_job_that_runs_is_not_completed(tmp_path: Path) -> None:
    run = stored.read(a_run(tmp_path / "one"))
    assert run.ended == Ended("", "running", "it had not ended when it was fetched: fetch it again")
    assert not run.is_completed


@pytest.mark.parametrize(("name", "text"), [("job.toml", "seed = "), ("job.toml", 'seed = "x"'), ("ended.json", "{")])
def test_a_damaged_file_is_named(name: str, text: str, tmp_path: Path) -> None:
    folder = a_run(tmp_path / "one")
    (folder / name).write_text(text)
    with pytest.raises(Missing, match=rf"{name} (is damaged|can't be read)"):
        stored.read(folder)


@pytest.mark.parametrize("name", ["job.toml", "metrics.jsonl", "ended.json"])
def test_a_file_that_cant_be_read_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = a_run(tmp_path / "one")
    stored.write_ended(folder, Ended("one", "completed"))
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == name:
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(Missing, match=rf"{name} can't be read: .*Input/output error"):
        stored.read(folder)

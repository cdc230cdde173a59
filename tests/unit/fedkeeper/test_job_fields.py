"""The list of a job's fields, and the commented job file."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from broker.messages import job_file
from broker.messages.job import Job
from fedkeeper import job_fields
from fedkeeper.errors import BadOption
from fedkeeper.exit_codes import ExitCode
from tests.support.command import run_here

TEMPLATE = job_fields.template("mine")


def test_the_file_is_the_default_job_as_it_stands() -> None:
    assert job_file.from_text(TEMPLATE) == job_file.from_dict({"name": "mine"})
    assert [line for line in TEMPLATE.splitlines() if len(line) > job_fields.WIDTH] == []


def test_every_field_of_the_file_has_its_default_or_says_that_it_is_not_set() -> None:
    """Each line with a default can be uncommented, and nothing changes."""
    lines = TEMPLATE.splitlines()
    for i, line in enumerate(lines[: lines.index("#[[override]]")]):
        if re.match(r"#\w+ =", line) and not line.endswith("# not set"):
            text = "\n".join([*lines[:i], line[1:], *lines[i + 1 :]])
            assert job_file.from_text(text) == job_file.from_text(TEMPLATE), line


def test_the_file_has_every_field() -> None:
    keys = set(re.findall(r"^#?(\w+) =", TEMPLATE, re.MULTILINE))
    job = Job()
    for section in ("", *job_fields.SECTIONS):
        part = job_fields.SECTIONS.get(section, Job)
        assert {*part.__struct_encode_fields__} - {*job_fields.SECTIONS, "strategy"} <= keys, section
    tables = set(re.findall(r"^#?\[+(\w+)\]+$", TEMPLATE, re.MULTILINE))
    assert tables == {
        name for name, part in msgspec.structs.asdict(job).items() if isinstance(part, msgspec.Struct)
    } | {"override"}


def test_the_list_has_every_field_and_no_line_is_too_long() -> None:
    listed = job_fields.fields()
    assert {"id", "training.loss", "strategy.mu", "training.schedule.floor", "stop.rounds"} <= {
        field.name for field in listed
    }
    assert all(field.meaning and field.type for field in listed)
    assert all(len(line) <= job_fields.WIDTH for field in listed for line in job_fields.lines(field))


@pytest.mark.parametrize(
    ("section", "message"),
    [("trainig", "did you mean 'training'"), ("rounds", "'stop.rounds'|tables are"), ("xyz", "tables are model, ")],
)
def test_a_table_that_no_job_has_is_named(section: str, message: str) -> None:
    with pytest.raises(BadOption, match=message):
        job_fields.fields(section)


def test_fields_prints_one_table_for_people_and_for_programs() -> None:
    shown = run_here("fields", "stop")
    assert shown.output.splitlines()[:2] == [
        "stop.rounds = 20",
        "    whole number ≥ 1: maximum number of completed rounds",
    ]
    lines = [json.loads(line) for line in run_here("fields", "stop", "--json").stdout.splitlines()]
    assert [line["name"] for line in lines][:2] == ["stop.rounds", "stop.target_accuracy"]
    assert lines[0] == {
        "name": "stop.rounds",
        "type": "whole number ≥ 1",
        "default": "20",
        "meaning": "maximum number of completed rounds",
    }


def test_new_writes_a_file_and_never_replaces_one_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written = run_here("new", "My Job.toml")
    assert (written.exit_code, written.stdout) == (0, "My Job.toml\n")
    assert job_file.from_text(Path("My Job.toml").read_text(encoding="utf-8")).name == "my-job"
    Path("My Job.toml").write_text("mine")
    refused = run_here("new", "My Job.toml")
    assert refused.exit_code == ExitCode.USAGE
    assert refused.stderr == "error: My Job.toml is there already; --force replaces it\n"
    assert Path("My Job.toml").read_text() == "mine"
    done = run_here("new", "My Job.toml", "--force", "--name", "other", "--json")
    assert json.loads(done.stdout) == {"path": "My Job.toml"}
    assert job_file.from_text(Path("My Job.toml").read_text(encoding="utf-8")).name == "other"


def test_new_can_t_write_into_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "job.toml: No such file" in run_here("new", str(tmp_path / "no" / "job.toml")).stderr

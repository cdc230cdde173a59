"""docs/job.md describes every table of a job, and its example is a job."""

import re

import msgspec

from broker.messages import job_file
from broker.messages.job import Job
from tests.support import job_docs


def test_the_committed_page_is_up_to_date() -> None:
    assert job_docs.PAGE.read_text(encoding="utf-8") == job_docs.job_md(), "run scripts/wire-docs"


def test_every_table_of_a_job_has_a_section() -> None:
    tables = {name for name, part in msgspec.structs.asdict(Job()).items() if isinstance(part, msgspec.Struct)}
    headings = set(re.findall(r"^## `\[+(\w+)\]+`$", job_docs.job_md(), re.MULTILINE))
    assert headings == {*tables, "override"}


def test_the_example_is_a_job() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", job_docs.INTRODUCTION, re.DOTALL)
    assert job_file.from_text(example).evaluation.best == "r2"

"""The version, in all files that name it; the citation and the files for GitHub are valid."""

import re
import tomllib
from typing import Final

import yaml

from tests.support import documents
from tests.support.paths import REPOSITORY

VERSION: Final = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
CITATION: Final = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())


def test_the_changelog_has_the_version_first_or_behind_what_is_unreleased() -> None:
    titles = re.findall(r"^## (.*)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = next(title for title in titles if title != "Unreleased")
    assert re.fullmatch(rf"{re.escape(VERSION)} - \d{{4}}-\d\d-\d\d", released)
    assert released.endswith(str(CITATION["date-released"]))


def test_the_wheels_in_the_documents_have_this_version() -> None:
    texts = {name: (REPOSITORY / name).read_text() for name in documents.DOCUMENTS}
    wheels = {wheel for text in texts.values() for wheel in re.findall(r"fedkeeper-([\d.]+)-py3", text)}
    assert wheels == {VERSION}


def test_the_citation_has_what_cff_1_2_requires() -> None:
    assert {"cff-version", "title", "message", "authors"} <= CITATION.keys()
    assert (CITATION["cff-version"], CITATION["version"], CITATION["license"]) == ("1.2.0", VERSION, "Apache-2.0")
    assert all("name" in author or "family-names" in author for author in CITATION["authors"])
    (paper,) = CITATION["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert paper["doi"] == "10.1145/3429880.3430100"


def test_the_workflow_runs_all_tests_without_a_secret() -> None:
    text = (REPOSITORY / ".github/workflows/test.yml").read_text()
    workflow = yaml.safe_load(text)
    assert any("make test" in step.get("run", "") for step in workflow["jobs"]["test"]["steps"])
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in text


def test_the_templates_of_issues_have_a_name() -> None:
    for template in (REPOSITORY / ".github/ISSUE_TEMPLATE").glob("*.md"):
        head = yaml.safe_load(template.read_text().split("---")[1])
        assert {"name", "about"} <= head.keys()

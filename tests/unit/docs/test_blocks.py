"""Blocks of TOML and Python in the documents are valid for who reads them, and links lead somewhere."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from bridges import platforms
from broker.messages import job_file
from fedkeeper.deployment import file as deployment_file
from fedkeeper.services import bridging, relaying
from tests.support import documents
from tests.support.documents import Block
from tests.support.paths import REPOSITORY

_KINDS: Final = {"gateway": "openfaas", "host": "openwhisk", "project": "gcf"}


def all_blocks(*languages: str) -> list[Block]:
    return [block for document in documents.DOCUMENTS for block in documents.blocks(document, *languages)]


def place(block: Block) -> str:
    return f"{block.document}:{block.line}"


def check(text: str, folder: Path) -> str:
    """Read a TOML text with the loader of its kind, and return the kind."""
    table, file = tomllib.loads(text), folder / "file.toml"
    file.write_text(text)
    if "project" in table and "entry-points" in table["project"]:
        return "pyproject"
    if "backbone" in table:
        relaying.read(file)
        return "relay"
    for key, kind in _KINDS.items():
        if key in table:
            bridging.read(platforms.find(kind), file)
            return "bridge"
    if "platforms" in table:
        file.write_text(text if "name" in table else f'name = "fragment"\n{text}')
        if table["platforms"].keys() == {"edge"} and "kind" not in table["platforms"]["edge"]:
            file.write_text(f'name = "fragment"\n[platforms.edge]\nkind = "openfaas"\n{text}')
        deployment_file.read(file)
        return "fabric"
    job_file.from_text(text)
    return "job"


@pytest.mark.parametrize("block", all_blocks("toml"), ids=place)
def test_a_file_of_ours_is_one_that_its_loader_takes(block: Block, tmp_path: Path) -> None:
    assert check(block.text, tmp_path) in {"job", "fabric", "bridge", "relay", "pyproject"}


@pytest.mark.parametrize("block", all_blocks("python"), ids=place)
def test_python_is_python(block: Block) -> None:
    compile(block.text, place(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", documents.DOCUMENTS)
def test_links_lead_to_files_and_headings_that_are_there(document: str) -> None:
    path = REPOSITORY / document
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        assert not anchor or file.suffix != ".md" or anchor in anchors(file), target


def test_the_map_has_every_page() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (REPOSITORY / "docs/README.md").read_text()))
    assert listed == {path.name for path in (REPOSITORY / "docs").glob("*.md")} - {"README.md"}


def test_the_sentences_of_the_table_of_errors_are_ones_that_the_code_says() -> None:
    table = (REPOSITORY / "docs/operate.md").read_text().partition("| the sentence has |")[2]
    cells = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    sentences = [sentence for cell in cells for sentence in re.findall(r"`([^`]+)`", cell)]
    code = "".join(
        path.read_text() for package in ("broker", "fedkeeper") for path in (REPOSITORY / package).rglob("*.py")
    )
    assert len(sentences) > 10
    assert [sentence for sentence in sentences if sentence not in code] == []

"""No sentence of ours lets pip look for FedKeeper on an index, where it is not."""

import re
import tomllib
from typing import Final

import pytest

from broker.support import installing
from tests.support.paths import REPOSITORY

PACKAGES: Final = ("broker", "server", "bridges", "client_fn", "fedkeeper", "emulators", "examples", "configs")
EXTRAS: Final = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]

FROM_AN_INDEX: Final = re.compile(r"fedkeeper\\?\[[a-z]|pip install [^\n]*\bfedkeeper(?![-.\w/])")


def texts() -> list[tuple[str, str]]:
    """Every text that a user may read: modules, scripts, configuration and documents, by path."""
    files = [file for package in PACKAGES for file in (REPOSITORY / package).rglob("*")]
    files += [*(REPOSITORY / "docs").glob("*.md"), *REPOSITORY.glob("*.md"), *REPOSITORY.glob("Dockerfile")]
    return [
        (str(file.relative_to(REPOSITORY)), file.read_text())
        for file in files
        if file.suffix in {".py", ".md", ".sh", ".toml", ".conf", ".env", ".yml", ".txt", ".service", ""}
        and file.is_file()
    ]


def test_no_text_lets_pip_look_for_fedkeeper_on_an_index() -> None:
    found = {path: match[0] for path, text in texts() if (match := FROM_AN_INDEX.search(text))}
    assert found == {}


@pytest.mark.parametrize(
    "wrong", ["pip install fedkeeper", "pip install 'fedkeeper[train]'", "install fedkeeper[plot]"]
)
def test_that_would_be_found(wrong: str) -> None:
    assert FROM_AN_INDEX.search(wrong)


@pytest.mark.parametrize("right", ["pip install '.[train]'", "pip install dist/fedkeeper-0.2.0-py3-none-any.whl"])
def test_what_works_is_allowed(right: str) -> None:
    assert not FROM_AN_INDEX.search(right)


def test_the_remedy_is_for_a_checkout_and_for_a_wheel() -> None:
    assert installing.remedy("train").startswith("pip install '.[train]' in a checkout")
    assert "pip install 'WHEEL[train]'" in installing.remedy("train")


def test_the_extras_that_the_code_names_are_there() -> None:
    named = {name for _, text in texts() for name in re.findall(r"installing\.remedy\(['\"]([a-z]+)['\"]\)", text)}
    assert {"train", "embedded", "plot"} <= named <= EXTRAS.keys()

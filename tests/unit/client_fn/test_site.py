"""A site's settings from its environment."""

from pathlib import Path

import pytest

from client_fn import site
from client_fn.errors import BadSettings
from client_fn.site import Site


def test_another_process_reads_the_same_site() -> None:
    here = Site(allow=("a", "b.c:D"), code=Path("/code"), code_is_allowed=False, code_store=Path("/s"), memory_mb=7)
    assert site.read(site.to_environ(here)) == here


def test_another_process_may_run_in_another_folder() -> None:
    assert site.to_environ(Site(code=Path("mine.py")))["FEDKEEPER_CODE"] == str(Path.cwd() / "mine.py")


def test_the_code_of_an_archive_counts_if_no_variable_names_code() -> None:
    assert site.read({}).code is None
    assert site.read({}, code=Path("/packed")).code == Path("/packed")
    assert site.read({"FEDKEEPER_CODE": "/mine"}, code=Path("/packed")).code == Path("/mine")


def test_this_checkout_has_no_packaged_code() -> None:
    assert site.packaged_code() is None


def test_code_may_be_used_without_being_allowed() -> None:
    assert site.read({}).code_is_allowed
    assert not site.read({"FEDKEEPER_CODE_ALLOWED": "0"}).code_is_allowed
    with pytest.raises(BadSettings, match="FEDKEEPER_CODE_ALLOWED: 'no' is none of 1, 0"):
        site.read({"FEDKEEPER_CODE_ALLOWED": "no"})

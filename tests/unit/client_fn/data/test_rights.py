"""Who may read a file, and what to do if the service may not."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from client_fn.data import rights
from tests.support.users import as_another_user

OWNER: Final = 12345


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


def seen(look: Callable[[], Any]) -> Any:
    """What a user without rights of its own sees."""
    return json.loads(as_another_user(lambda: json.dumps(look())))


def test_the_owner_and_the_mode_are_as_ls_shows_them(folder: Path) -> None:
    file = folder / "a.csv"
    file.write_text("a\n1\n")
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, OWNER, OWNER)
    found = rights.of(file)
    assert found is not None
    assert found.mode == "-rw-r-----"
    assert os.geteuid() != 0 or found.owner == f"{OWNER}:{OWNER}"
    assert rights.of(folder / "nowhere") is None


def test_what_can_be_read_or_is_not_there_is_not_blocked(folder: Path) -> None:
    file = folder / "a.csv"
    file.write_text("a\n1\n")
    file.chmod(0o644)
    assert (
        seen(lambda: [rights.blocked(file), rights.blocked(folder), rights.blocked(folder / "nowhere")]) == [None] * 3
    )


def test_a_file_without_rights_says_how_to_give_them(folder: Path) -> None:
    file = folder / "a.csv"
    file.write_text("a\n1\n")
    file.chmod(0o600 if os.geteuid() == 0 else 0)
    problem, remedy = seen(lambda: rights.blocked(file))
    assert problem.endswith(f"can't read {file}")
    assert remedy.startswith(f"chmod o+r {file}")


def test_a_folder_on_the_way_that_can_not_be_entered_is_named(folder: Path) -> None:
    closed = folder / "closed"
    (closed / "deep").mkdir(parents=True)
    closed.chmod(0o700 if os.geteuid() == 0 else 0)
    try:
        problem, remedy = seen(lambda: rights.blocked(closed / "deep" / "a.csv"))
        assert problem.endswith(f"can't enter the folder {closed}")
        assert remedy.startswith(f"chmod o+x {closed}")
        assert seen(lambda: str(rights.nearest(closed / "deep"))) == str(closed)
    finally:
        closed.chmod(0o700)


def test_files_in_a_folder_that_can_not_be_read_are_counted_and_not_named(folder: Path) -> None:
    for number in range(3):
        (folder / f"patient-{number}.png").touch()
        (folder / f"patient-{number}.png").chmod(0o644 if not number else 0)
    problem, remedy = seen(lambda: rights.blocked(folder))
    assert f"can't read 2 of the files and folders in {folder}" in problem
    assert "patient" not in problem
    assert remedy.startswith(f"chmod -R o+rX {folder}")


@pytest.mark.parametrize("path", ["/home/anna/a.csv", "file:///root/a.csv", Path("/run/user/1000/a")])
def test_a_place_that_a_protected_service_does_not_see_is_to_be_left(path: Path | str) -> None:
    assert "ProtectHome=" in rights.remedy_if_hidden(path)


@pytest.mark.parametrize("path", ["/srv/a.csv", "/homes/a.csv", "s3://home/a.csv", ""])
def test_other_places_are_visible(path: str) -> None:
    assert rights.remedy_if_hidden(path) == ""


@pytest.mark.parametrize("name", ["n" * 300, "n" * 300 + "/a.csv", "loop"], ids=["long", "in a long one", "loop"])
def test_a_path_that_no_file_can_have_is_not_blocked(folder: Path, name: str) -> None:
    (folder / "loop").symlink_to("loop")
    assert rights.blocked(folder / name) is None
    assert rights.of(folder / name) is None

"""Where a job's results lie."""

from pathlib import Path

from fedkeeper.runs import folder

DAY_S = 1_795_000_000.0
NAME = "2026-11-18-quickstart-1a2b3c"


def test_the_name_begins_with_the_date(tmp_path: Path) -> None:
    assert folder.choose(tmp_path, "quickstart-1a2b3c", DAY_S) == tmp_path / NAME


def test_a_job_keeps_its_folder_on_later_days(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    assert folder.choose(tmp_path, "quickstart-1a2b3c", DAY_S + 86_400 * 3) == tmp_path / NAME
    assert folder.choose(tmp_path, "1a2b3c", DAY_S) == tmp_path / "2026-11-18-1a2b3c"


def test_latest_is_the_newest(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        folder.mark_latest(tmp_path / name)
    assert (tmp_path / "latest").resolve() == tmp_path / "second"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "latest", "second"]


def test_a_folder_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    (tmp_path / "first").mkdir()
    folder.mark_latest(tmp_path / "first")
    assert (tmp_path / "latest").is_dir()
    assert not (tmp_path / "latest").is_symlink()

"""The log of a run is a file beside its results, and is named when something failed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from broker.support import logs
from fedkeeper.errors import NotSaved
from fedkeeper.runs import run_log
from fedkeeper.runs.run_log import RunLog


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = structlog.get_config()
    yield
    logs.configure()
    structlog.configure(**before)


def end_with(code: int, folder: Path) -> None:
    """Log something, and end before the run has a folder."""
    with run_log.open_log(folder, verbose=False):
        structlog.get_logger().warning("the worker can't start")
        sys.exit(code)


def test_lines_of_this_process_and_its_children_are_in_the_file_and_not_on_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_log.open_log(tmp_path / "system", verbose=False) as log:
        structlog.get_logger().info("before the job has an id", job="x\x1b")
        log.move_to(tmp_path / "run")
        structlog.get_logger().info("after it")
        structlog.get_logger().debug("only with --verbose")
        logs.copy(b"of a worker \xff\n")
    text = (tmp_path / "run" / "run.log").read_text()
    assert [text.count(part) for part in ("before the job", "after it", "of a worker \\xff", "--verbose")] == [
        1,
        1,
        1,
        0,
    ]
    assert "\x1b" not in text
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "system").exists()


def test_everything_is_logged_on_request(tmp_path: Path) -> None:
    with run_log.open_log(tmp_path, verbose=True) as log:
        log.move_to(tmp_path)
        structlog.get_logger().debug("a detail")
    assert "a detail" in (tmp_path / "run.log").read_text()


def test_a_run_that_fails_names_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        end_with(1, tmp_path / "system")
    assert capsys.readouterr().err == f"log           {tmp_path / 'system' / 'run.log'}\n"
    assert "can't start" in (tmp_path / "system" / "run.log").read_text()


@pytest.mark.parametrize("code", [2, 130])
def test_a_run_that_was_interrupted_or_never_began_names_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    with pytest.raises(SystemExit):
        end_with(code, tmp_path / "system")
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "system").exists()


def test_an_earlier_run_s_lines_stay(tmp_path: Path) -> None:
    (tmp_path / "run.log").write_text("earlier\n")
    log = RunLog()
    log.write("later\n")
    log.move_to(tmp_path)
    assert (tmp_path / "run.log").read_text() == "earlier\nlater\n"


def test_a_log_that_was_deleted_is_not_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def end() -> None:
        with run_log.open_log(tmp_path / "system", verbose=False) as log:
            log.move_to(tmp_path)
            (tmp_path / "run.log").unlink()
            sys.exit(1)

    with pytest.raises(SystemExit):
        end()
    assert capsys.readouterr().err == ""


def test_a_log_that_cant_be_written_is_told_and_hides_no_other_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    log = RunLog()
    log.write("a line\n")
    with pytest.raises(NotSaved, match=r"can't write .*run\.log: "):
        log.move_to(tmp_path / "file")
    with pytest.raises(SystemExit):
        end_with(1, tmp_path / "file")
    assert capsys.readouterr().err == ""

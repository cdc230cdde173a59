"""Job files are found by path or by name, and a mistake in one is reported."""

from pathlib import Path

import pytest

from broker.messages.errors import JobError
from fedkeeper import configs
from fedkeeper.errors import Missing
from tests.support.paths import REPOSITORY

SHIPPED = REPOSITORY / "configs"
JOBS = sorted(path for path in SHIPPED.glob("*.toml") if not path.stem.startswith(configs.DEPLOYMENT_FILE_PREFIX))


@pytest.mark.parametrize("file", ["quickstart", "quickstart.toml"])
def test_a_shipped_job_is_found_by_its_name(file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert configs.find(file) == SHIPPED / "quickstart.toml"
    assert configs.read_job(file).name == "quickstart"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_shipped_job_file_is_valid(path: Path) -> None:
    assert configs.read_job(path.stem).name == path.stem


def test_a_file_in_the_folder_comes_before_a_shipped_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text("seed = 77")
    assert configs.read_job("quickstart").seed == 77


def test_overrides_come_after_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\n[cohort]\nclients = 2\n')
    job = configs.read_job(str(file), ("cohort.clients=3", "seed=5"))
    assert (job.name, job.cohort.clients, job.seed) == ("mine", 3, 5)


def test_the_error_for_a_missing_file_lists_the_known_names() -> None:
    names = ", ".join(sorted(path.stem for path in JOBS))
    with pytest.raises(Missing, match=f"^no job file 'quickstar'; give a path, or one of {names}$"):
        configs.read_job("quickstar")


@pytest.mark.parametrize("file", ["", ".", "/", "no/such/folder/job.toml", "a\0b"])
def test_a_path_that_is_not_a_file_is_missing(file: str) -> None:
    with pytest.raises(Missing):
        configs.read_job(file)


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Missing, match=r"model.safetensors can't be read"):
        configs.read_job(str(file))


def test_a_file_is_read_as_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes('[model.args]\ntitle = "größer"\n'.encode())
    assert configs.read_job(str(file)).model.args["title"] == "größer"


def test_a_file_that_is_not_a_job_is_an_error_with_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[cohort]\nclients = 0\n")
    with pytest.raises(JobError, match=r"cohort.clients = 0"):
        configs.read_job(str(file))

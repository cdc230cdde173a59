"""What a site says of a client's data before any round, and what it never says."""

import asyncio
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from broker.messages import codec
from broker.messages.data_report import NAME_CHARACTERS, Column, DataCheck, DataReport
from client_fn import looking
from client_fn.errors import BadData, TrainerDied
from client_fn.function import WarmState
from client_fn.site import Site
from client_fn.trainer.answers import Answer
from tests.support.trainers import InlineTrainers, warm_state
from tests.support.users import as_another_user

pytestmark = pytest.mark.torch

PLANTED: Final = ("Mustermann", "41.4717")
"""Values that no answer may hold."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


class Trainers(InlineTrainers):
    """Answers as a test says.

    Args:
        facts: the answer's; or an error; None: the answer never comes.
    """

    def __init__(self, facts: Mapping[str, Any] | Exception | None) -> None:
        self._facts = facts

    async def do(self, *_: Any, on_training: Any = None, limit_s: float | None = None) -> Answer:  # noqa: ARG002
        if isinstance(self._facts, Exception):
            raise self._facts
        if self._facts is None:
            await asyncio.Event().wait()
        return Answer(dict(self._facts or {}), {})


async def looked_at(
    place: Path | str,
    site: Site | None = None,
    *,
    state: str = "",
    trainers: Trainers | None = None,
    limit_s: float = 60.0,
) -> DataReport:
    warm: WarmState = warm_state(site)
    if trainers is not None:
        warm.trainers = trainers
    check = DataCheck(id="1", client="c-1", data_loc=str(place), state_loc=state, limit_s=limit_s)
    report = await looking.look(check, warm)
    assert not any(value in codec.encode(report).decode() for value in PLANTED)
    return report


def table(folder: Path, text: str = f"age,name,ill\n{PLANTED[1]},{PLANTED[0]},1\n") -> Path:
    file = folder / "patients.csv"
    file.write_text(text)
    return file


async def test_a_table_is_reported_with_its_rights_rows_and_columns(folder: Path) -> None:
    file = table(folder)
    file.chmod(0o640)
    report = await looked_at(f"file://{file}")
    assert (report.client, report.path, report.kind) == ("c-1", f"file://{file}", "csv")
    assert (report.bytes, report.mode, report.is_readable) == (file.stat().st_size, "-rw-r-----", True)
    assert (report.samples, report.error, report.note) == (1, "", "")
    assert report.columns == tuple(
        Column(name=n, dtype=d) for n, d in zip(("age", "name", "ill"), ("float64", "text", "int64"), strict=True)
    )


async def test_a_shard_is_reported_with_its_tensors(folder: Path) -> None:
    file = folder / "shard.safetensors"
    safetensors.numpy.save_file({"x": np.zeros((4, 3), np.float32), "y": np.array([1, 1, 2, 2])}, file)
    report = await looked_at(file)
    assert (report.kind, report.samples, report.classes) == ("safetensors", 4, 2)
    assert report.columns == (Column(name="x", dtype="float32", shape=(3,)), Column(name="y", dtype="int64"))


async def test_names_that_may_be_values_stay_at_the_site_unless_it_reveals_texts(folder: Path) -> None:
    file = table(folder, f"{PLANTED[1]},{PLANTED[0]},1\n52,Jane,0\n")
    report = await looked_at(file)
    assert [column.name for column in report.columns] == ["", "", ""]
    assert "no column is named" in report.note
    warm = warm_state(Site(reveal="text"))
    revealed = await looking.look(DataCheck(id="1", client="c-1", data_loc=str(file)), warm)
    assert [column.name for column in revealed.columns] == [PLANTED[1], PLANTED[0], "1"]


@pytest.mark.parametrize("reveal", ["class", "text"])
async def test_an_error_of_the_data_holds_none_of_it_unless_the_site_reveals_texts(folder: Path, reveal: Any) -> None:
    file = table(folder, f"{PLANTED[0]},{PLANTED[0]}\n1,2\n")
    report = await looking.look(DataCheck(id="1", client="c-1", data_loc=str(file)), warm_state(Site(reveal=reveal)))
    assert report.error == "BadData"
    assert report.problem.startswith("each column needs a name of its own")
    assert (PLANTED[0] in report.problem) == (reveal == "text")


async def test_what_is_not_there_says_what_to_do(folder: Path) -> None:
    report = await looked_at(folder / "nowhere.csv")
    assert (report.error, report.problem) == ("DataMissing", "nothing lies there")
    assert "register its place" in report.remedy
    assert "ProtectHome=" in (await looked_at("/home/anna-does-not-exist/a.csv")).remedy
    assert "without a place" in (await looked_at("")).problem


@pytest.mark.parametrize(
    ("site", "place", "problem", "remedy"),
    [
        (
            Site(data_prefixes=("/srv/data",)),
            "/etc/passwd",
            "FEDKEEPER_DATA_PREFIXES",
            "move the data below one of them",
        ),
        (Site(), "ftp://anna:pass@host/a.csv?key=1", "FEDKEEPER_DATA_SCHEMES", "register another place"),
    ],
)
async def test_a_place_that_the_site_does_not_allow_is_not_looked_at(
    site: Site, place: str, problem: str, remedy: str
) -> None:
    report = await looked_at(place, site)
    assert report.error == "DataNotAllowed"
    assert problem in report.problem
    assert remedy in report.remedy
    assert (report.owner, report.bytes, report.is_readable) == ("", None, None)
    assert "pass" not in codec.encode(report).decode().replace("/etc/passwd", "")


async def test_data_that_is_too_large_is_not_read(folder: Path) -> None:
    file = table(folder)
    report = await looked_at(file, Site(data_max_mb=0))
    assert report.error == "DataNotAllowed"
    assert "FEDKEEPER_DATA_MAX_MB" in report.problem
    assert "fewer samples" in report.remedy


def test_a_file_that_the_service_may_not_read_says_which_right_it_lacks(folder: Path) -> None:
    file = table(folder)
    file.chmod(0)
    # Loads what the other user might not be able to import.
    assert asyncio.run(looked_at(file)).kind in {"", "csv"}
    said = as_another_user(lambda: codec.encode(asyncio.run(looked_at(file))).decode())
    report = codec.decode(DataReport, said.encode())
    assert (report.is_readable, report.error, report.mode) == (False, "DataUnreadable", "----------")
    assert report.problem.endswith(f"can't read {file}")
    assert report.remedy.startswith(f"chmod o+r {file}")


async def test_a_folder_that_only_a_learner_can_read_is_no_problem(folder: Path) -> None:
    (folder / "a.txt").write_text(PLANTED[0])
    report = await looked_at(folder)
    assert (report.kind, report.error, report.bytes) == ("folder", "", len(PLANTED[0]))
    assert "only a learner's own data(source) can read it" in report.note


async def test_a_file_of_another_format_is_not_parsed(folder: Path) -> None:
    file = folder / "a.json"
    file.write_text('["' + PLANTED[0] + '"]')
    report = await looked_at(file, trainers=Trainers(AssertionError()))
    assert (report.kind, report.samples, report.error) == ("file", None, "")
    assert "data(source)" in report.note


async def test_a_worker_with_other_work_says_so_and_tells_the_rest(folder: Path) -> None:
    # As if the time were over while the order waits.
    report = await looked_at(table(folder), trainers=Trainers(TimeoutError()))
    assert "had other work" in report.note
    assert (report.kind, report.is_readable, report.error) == ("csv", True, "")


async def test_a_look_ends_with_its_time(folder: Path) -> None:
    report = await looked_at(table(folder), trainers=Trainers(None), limit_s=0.1)
    assert report.note
    assert report.error == ""


@pytest.mark.parametrize("facts", [{}, {"samples": "many"}, {"samples": 1, "columns": [1], "column_count": 1}])
async def test_an_answer_of_the_trainer_that_can_not_be_read_is_not_believed(
    folder: Path, facts: Mapping[str, Any]
) -> None:
    report = await looked_at(table(folder), trainers=Trainers(facts))
    assert report.note == "what the trainer says of the content can't be read"


async def test_names_from_a_file_are_shortened_and_cleaned(folder: Path) -> None:
    long = [{"name": "\x1b[31m" + "n" * 1000, "dtype": "d" * 1000, "shape": [1] * 1000}]
    facts = {"samples": 1, "columns": long * 1000, "column_count": 1000}
    report = await looked_at(table(folder), trainers=Trainers(facts))
    assert len(codec.encode(report)) < 64 << 10
    assert all("\x1b" not in column.name and len(column.name) <= NAME_CHARACTERS for column in report.columns)


async def test_a_trainer_that_died_is_the_error_without_what_it_printed(folder: Path) -> None:
    died = TrainerDied("the process was killed by SIGKILL during the look at the data", (PLANTED[0],))
    report = await looked_at(table(folder), trainers=Trainers(died))
    assert (report.error, report.problem) == ("TrainerDied", died.sentence)


async def test_the_place_of_own_layers_is_reported_and_not_written(folder: Path) -> None:
    file = table(folder)
    report = await looked_at(file)
    assert report.state is not None
    assert (report.state.path, report.state.is_writable) == (f"{folder}/state", True)
    elsewhere = await looked_at(file, Site(data_prefixes=(str(folder),)), state="/srv/other")
    assert elsewhere.state is not None
    assert "FEDKEEPER_DATA_PREFIXES" in elsewhere.state.problem
    assert [path.name for path in folder.glob("*")] == [file.name]  # noqa: ASYNC240 (a test)
    remote = await looked_at(file, state="s3://bucket/state")
    assert remote.state is not None
    assert remote.state.is_writable is None


def test_a_place_of_own_layers_that_the_service_may_not_write_is_a_problem(folder: Path) -> None:
    file = table(folder)
    file.chmod(0o644)
    folder.chmod(0o555)
    said = as_another_user(
        lambda: codec.encode(looking._state(DataCheck(id="1", client="c", data_loc=str(file)), Site())).decode()
    )
    state = msgspec.json.decode(said)
    assert state["is_writable"] is False
    assert state["problem"].endswith(f"can't write to {folder}")


async def test_the_log_holds_none_of_the_data(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await looked_at(table(folder))
    await looked_at(
        table(folder, f"{PLANTED[0]},{PLANTED[0]}\n1,2\n"), trainers=Trainers(BadData("bad", content=PLANTED[0]))
    )
    assert not any(value in caplog.text for value in PLANTED)

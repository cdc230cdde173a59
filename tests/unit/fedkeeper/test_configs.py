"""Job files are found by path or by name, and a mistake in one is reported."""

from pathlib import Path

import pytest

from broker.messages.errors import JobError
from broker.support.validation import OVERRIDDEN
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
    with pytest.raises(Missing, match=f"^no job file 'nothing'; give a path, or one of {names}$"):
        configs.read_job("nothing")
    with pytest.raises(Missing, match=r"^no job file 'quikstart'; did you mean 'quickstart'"):
        configs.read_job("quikstart")


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


WRONG = """\
name = "My Job"
colour = "red"

[training]
optimiser = "adam"   # the other spelling
batch_size = 0

[cohort]
clients = 2

[[override]]
where = { site = "a" }
[[override]]
batch_size = "many"

[stop]
metric = "f1"
"""

MISTAKES = r"""8 mistakes
mine.toml:1: name = 'My Job': use 1 to 40 of a-z, 0-9 and '-'; did you mean 'my-job'\?
mine.toml:2: colour = 'red': no such key; did you mean 'cohort'\? known are .*
mine.toml:5: training.optimiser = 'adam': no such key; did you mean 'optimizer'\?
mine.toml:6: training.batch_size = 0: expected a whole number >= 1
mine.toml:9: cohort.clients = -1: expected a whole number >= 1
mine.toml:11: override\[0\]: changes nothing: set batch_size, local_epochs, learning_rate or device
mine.toml:14: override\[1\].batch_size = 'many': expected a whole number >= 1
mine.toml:17: stop.metric = 'f1': needs stop.target or stop.patience, which look at it"""


def test_all_mistakes_of_a_file_are_told_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(WRONG.replace("clients = 2", "clients = -1"))
    with pytest.raises(JobError, match=f"^{MISTAKES}$") as refused:
        configs.read_job(str(file))
    assert [(error.field, error.line) for error in refused.value.errors][:2] == [
        ("name", 1),
        ("colour", 2),
    ]
    assert (refused.value.field, refused.value.value) == ("name", "My Job")


def test_a_mistake_of_an_override_is_not_looked_for_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[cohort]\nclients = 2\nquorm = 1")
    with pytest.raises(JobError) as refused:
        configs.read_job(str(file), ("cohort.clients=0", "stop.round=3"))
    assert [(error.field, error.line) for error in refused.value.errors] == [
        ("cohort.clients", OVERRIDDEN),
        ("stop.round", OVERRIDDEN),
        ("cohort.quorm", 3),
    ]
    assert "--set: cohort.clients = 0: " in str(refused.value)


def test_values_that_contradict_each_other_are_told_at_once_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "My Job"\n[cohort]\nclients = 20\n\n[stop]\nmetric = "f1"\n')
    with pytest.raises(JobError) as refused:
        configs.read_job(str(file))
    first, second, third = str(refused.value).splitlines()[1:]
    assert first == "mine.toml:1: name = 'My Job': use 1 to 40 of a-z, 0-9 and '-'; did you mean 'my-job'?"
    assert second.startswith("mine.toml:3: cohort.clients = 20: ")
    assert third.startswith("mine.toml:6: stop.metric = 'f1': needs stop.target")


@pytest.mark.parametrize("name", ["job.json", "job.toml", "job"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
def test_a_file_may_be_json_and_begin_with_a_byte_order_mark(name: str, mark: bytes, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(mark + b'\n{"name": "mine",\r\n "cohort": {"clients": 3}}')
    assert configs.read_job(str(file), ("seed=5",)).cohort.clients == 3
    file.write_bytes(mark + b'name = "mine"\r\n[cohort]\r\nclients = 3')
    assert configs.read_job(str(file)).cohort.clients == 3
    file.write_bytes(mark + b'{"name": "mine",\r\n "cohort": {"clients": 0}}')
    with pytest.raises(JobError, match=f"^{name}:2: cohort.clients = 0"):
        configs.read_job(str(file))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a = 1\n[b\n", r"job.toml:2: not a TOML file: .*\(column 3\)"),
        ('a = 1\nb = """\n', r"job.toml:2: not a TOML file: .*"),
        ('{"a": 1,\n"b": ]}', r"job.toml:2: not a JSON file: invalid character"),
        ('{"a": 1,\n"b": 2', r"job.toml:2: not a JSON file: .*"),
    ],
)
def test_a_text_of_no_form_names_the_line(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text(text)
    with pytest.raises(JobError, match=f"^{sentence}$"):
        configs.read_job(str(file))

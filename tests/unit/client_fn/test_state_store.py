"""A client's personal layers are kept where the site allows it, by round and attempt, and checked when read."""

import hashlib
import os
from pathlib import Path
from typing import Any

import fsspec
import pytest
import safetensors.numpy

from broker.errors import BadTopic
from broker.messages.job_sections import Model
from broker.messages.round import PersonalRef, RoundTask
from broker.messages.tensors import Tensors
from broker.support import files
from client_fn import state_store
from client_fn.errors import PersonalMissing, PersonalNotKept, TrainerDied
from client_fn.site import SCHEMES, Site
from client_fn.state_store import UNCOUNTED_KEPT, StateStore
from client_fn.trainer.answers import Answer
from tests.support import tasks

PERSONAL = Model(personal=("head.*",))
SITE = Site(data_schemes=(*SCHEMES, "memory"))


def task(state_loc: str, **changes: Any) -> RoundTask:
    return tasks.task("c1", model_configuration=PERSONAL, state_loc=state_loc, **changes)


def content(*values: float) -> bytes:
    return tensors_file({"head.weight": list(values)})


def tensors_file(named: dict[str, list[float]]) -> bytes:
    import numpy as np

    arrays: Tensors = {name: np.array(values, np.float32) for name, values in named.items()}
    return safetensors.numpy.save(arrays)


def answer(own: bytes, **more: bytes) -> Answer:
    return Answer({}, {"update": tensors_file({"body.weight": [1.0]}), "personal": own, **more})


def keep(state_loc: str, round_: int, attempt: int, own: bytes, site: Site = SITE) -> PersonalRef:
    digest = StateStore(task(state_loc, round=round_), site).keep(answer(own), attempt)
    return PersonalRef(round_, attempt, digest)


def read(state_loc: str, ref: PersonalRef | None, round_: int = 9, site: Site = SITE) -> bytes:
    return bytes(StateStore(task(state_loc, round=round_, personal=ref), site).read())


def names(state_loc: str) -> list[str]:
    """The files of the client, each as `round.attempt`."""
    system, path = fsspec.core.url_to_fs(f"{state_loc}/job/c1")
    return sorted(".".join(Path(name).name.split(".")[:2]) for name in system.ls(path, detail=False))


@pytest.fixture(params=["file", "memory"])
def state_loc(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder of this machine, and a bucket."""
    return str(tmp_path / "layers") if request.param == "file" else f"memory://{tmp_path.name}/layers"


def test_what_is_kept_is_read_again_and_named_by_its_digest(state_loc: str) -> None:
    ref = keep(state_loc, 1, 1, content(1.0))
    assert ref.sha256 == hashlib.sha256(content(1.0)).hexdigest()
    assert read(state_loc, ref) == content(1.0)


def test_a_client_without_a_counted_update_has_none_yet(state_loc: str) -> None:
    assert read(state_loc, None) == b""
    keep(state_loc, 1, 1, content(1.0))
    assert read(state_loc, None) == b""


def test_two_attempts_and_two_runs_of_one_never_overwrite_each_other(state_loc: str) -> None:
    refs = {keep(state_loc, 1, attempt, content(value)): value for attempt in (1, 2) for value in (1.0, 2.0)}
    assert len(refs) == 4
    for ref, value in refs.items():
        assert read(state_loc, ref, round_=1) == content(value)


def test_two_clients_and_two_jobs_share_a_state_loc(tmp_path: Path) -> None:
    ref = keep(str(tmp_path), 1, 1, content(1.0))
    for other in (task(str(tmp_path), personal=ref, job="other"), task(str(tmp_path), personal=ref, client_id="c2")):
        with pytest.raises(PersonalMissing):
            StateStore(other, SITE).read()


def test_once_a_newer_one_is_named_the_older_ones_are_deleted(state_loc: str) -> None:
    first = keep(state_loc, 1, 1, content(1.0))
    keep(state_loc, 2, 1, content(2.0))
    counted = keep(state_loc, 2, 2, content(3.0))
    keep(state_loc, 3, 1, content(4.0))
    assert read(state_loc, first, round_=2) == content(1.0)
    assert names(state_loc) == ["1.1", "2.1", "2.2", "3.1"], "those of the open round may be counted"
    assert read(state_loc, counted, round_=3) == content(3.0)
    assert names(state_loc) == ["2.2", "3.1"]


def test_nothing_is_deleted_if_the_named_one_can_t_be_read(state_loc: str) -> None:
    keep(state_loc, 1, 1, content(1.0))
    with pytest.raises(PersonalMissing):
        read(state_loc, PersonalRef(2, 1, "ab" * 32))
    assert names(state_loc) == ["1.1"]


def test_a_client_whose_updates_are_never_counted_keeps_a_few(state_loc: str) -> None:
    for round_ in range(1, 20):
        read(state_loc, None, round_)
        keep(state_loc, round_, 1, content(round_))
    assert len(names(state_loc)) == UNCOUNTED_KEPT + 1
    assert "19.1" in names(state_loc)


def test_what_an_interrupted_write_has_left_is_deleted_and_other_files_are_not(tmp_path: Path) -> None:
    ref = keep(str(tmp_path), 2, 1, content(1.0))
    folder = tmp_path / "job" / "c1"
    (folder / f".1.1.{'a' * 12}.safetensors.x1y2").touch()
    (folder / "notes.txt").touch()
    read(str(tmp_path), ref, round_=3)
    assert {path.name.split(".")[0] for path in folder.iterdir()} == {"2", "notes"}


def test_a_lost_file_is_named_with_the_remedy(state_loc: str) -> None:
    ref = PersonalRef(3, 2, "ab" * 32)
    with pytest.raises(PersonalMissing) as caught:
        read(state_loc, ref)
    assert str(caught.value).endswith(
        "layers/job/c1/3.2.abababababab.safetensors: the file is not there: put it back, or register the client under "
        "another id, which begins with the initial ones"
    )
    assert caught.value.retryable


def test_another_file_in_its_place_is_not_believed(tmp_path: Path) -> None:
    ref = keep(str(tmp_path), 1, 1, content(1.0))
    (file,) = (tmp_path / "job" / "c1").iterdir()
    file.write_bytes(content(2.0))
    with pytest.raises(
        PersonalMissing, match=rf"its SHA-256 begins with \w+, that of the counted one with {ref.sha256[:12]}"
    ):
        read(str(tmp_path), ref)


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job" / "c1" / f"1.1.{'ab' * 6}.safetensors").mkdir(parents=True)
    with pytest.raises(PersonalMissing, match="it is no regular file"):
        read(str(tmp_path), PersonalRef(1, 1, "ab" * 32))


def test_only_the_site_s_user_can_read_a_local_file(tmp_path: Path) -> None:
    keep(str(tmp_path), 1, 1, content(1.0))
    (file,) = (tmp_path / "job" / "c1").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_by_default_they_lie_beside_the_data(tmp_path: Path) -> None:
    beside = task("", data_loc=f"{tmp_path}/shard.safetensors")
    StateStore(beside, SITE).keep(answer(content(1.0)), 1)
    assert names(f"{tmp_path}/state") == ["1.1"]


@pytest.mark.parametrize(
    ("data_loc", "state_loc", "message"),
    [
        ("", "", "personal layers: the client has no data_loc and no state_loc: register"),
        ("https://u:p@host/shard?key=s", "", "personal layers https://host/shard: its scheme can't be written"),
        ("/data/shard", "https://host/layers", "personal layers https://host/layers: its scheme can't be written"),
        ("/data/shard", "ftp://host/layers", "personal layers ftp://host/layers/job/c1: its scheme is not allowed"),
        ("/elsewhere/shard", "", "personal layers /elsewhere/state/job/c1: it is outside of /data (FEDKEEPER"),
        ("/data/shard", "/data/../etc", "personal layers /data/../etc/job/c1: it is outside of /data"),
    ],
)  # fmt: skip
def test_a_place_that_the_site_does_not_allow_or_can_t_write_is_refused_before_the_training(
    data_loc: str, state_loc: str, message: str
) -> None:
    with pytest.raises(PersonalNotKept) as caught:
        state_store.prepare(task(state_loc, data_loc=data_loc), Site(data_prefixes=("/data",)))
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("register the client with a state_loc, a folder or URL that it may write")
    assert not caught.value.retryable


@pytest.mark.parametrize(("name", "value"), [("job", "../x"), ("client_id", "..")])
def test_a_task_can_t_leave_the_place_by_its_names(tmp_path: Path, name: str, value: str) -> None:
    evil = task(str(tmp_path), **{name: value})
    with pytest.raises(BadTopic):
        state_store.prepare(evil, SITE)


def test_a_place_is_tried_before_the_training_and_nothing_is_left_there(state_loc: str) -> None:
    assert state_store.prepare(task(state_loc), SITE) is not None
    system, path = fsspec.core.url_to_fs(f"{state_loc}/job/c1")
    assert not system.exists(path) or system.ls(path) == []


def test_a_folder_that_can_t_be_written_is_a_final_failure(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    with pytest.raises(PersonalNotKept) as caught:
        state_store.prepare(task(str(tmp_path / "state")), SITE)
    assert str(caught.value) == (
        f"personal layers {tmp_path}/state/job/c1: this place can't be written (Not a directory): register the client "
        "with a state_loc, a folder or URL that it may write"
    )
    assert not caught.value.retryable


def test_a_read_only_file_system_is_a_final_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: Any, **__: Any) -> None:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(files, "write", write)
    with pytest.raises(PersonalNotKept, match=r"can't be written \(Read-only file system\)"):
        state_store.prepare(task(str(tmp_path)), SITE)


def test_a_write_that_fails_after_the_training_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = state_store.prepare(task(str(tmp_path)), SITE)

    def write(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(files, "write", write)
    assert store is not None
    with pytest.raises(PersonalNotKept, match=r"\(No space left on device\)") as caught:
        store.keep(answer(content(1.0)), 1)
    assert caught.value.retryable


def test_a_store_s_own_words_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: Any, **__: Any) -> None:
        raise RuntimeError("AccessKey 123 of Jane Doe is wrong")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "pipe_file", write)
    with pytest.raises(PersonalNotKept, match=r"can't be written \(RuntimeError\)") as caught:
        state_store.prepare(task("memory://bucket"), SITE)
    assert "Jane" not in str(caught.value)


def test_a_task_that_only_judges_needs_no_place_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = keep(str(tmp_path), 1, 1, content(1.0))

    def write(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is to be written")

    monkeypatch.setattr(files, "write", write)
    judging = state_store.prepare(task(str(tmp_path), purpose="evaluate", round=2, personal=ref), SITE)
    assert judging is not None
    assert bytes(judging.read()) == content(1.0)
    assert judging.keep(Answer({}, {}), 1) == ""


def test_a_job_without_personal_layers_has_no_store() -> None:
    assert state_store.prepare(tasks.task("c1"), SITE) is None


@pytest.mark.parametrize(
    ("files_of", "message"),
    [
        ({"update": tensors_file({"head.weight": [1.0]})}, "would send the personal tensors head.weight"),
        ({"update": tensors_file({"aux.head.bias": [1.0]})}, "would send the personal tensors head.bias"),
        ({"state.own": tensors_file({"head.weight": [1.0]})}, "would send the personal tensors head.weight"),
        ({"state.opt": tensors_file({"0.exp_avg": [1.0]})}, "would send the state of an optimizer"),
        ({"update": b"garbage"}, "holds no tensors in its file 'update'"),
        ({"personal": b""}, "holds no personal layers"),
    ],
)
def test_an_answer_that_would_send_a_personal_tensor_is_not_published(
    tmp_path: Path, files_of: dict[str, bytes], message: str
) -> None:
    store = StateStore(task(str(tmp_path)), SITE)
    with pytest.raises(TrainerDied, match=message):
        store.keep(Answer({}, {**answer(content(1.0)).files, **files_of}), 1)
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_a_metric_are_no_personal_tensors(tmp_path: Path) -> None:
    wide = tasks.task("c1", model_configuration=Model(personal=("loss*",)), state_loc=str(tmp_path))
    update = tensors_file({"body.weight": [1.0], "eval.loss.sum": [1.0]})
    assert StateStore(wide, SITE).keep(answer(content(1.0), update=update), 1)


def test_a_local_file_is_on_the_disk_before_its_update_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        steps.append("folder" if Path(f"/proc/self/fd/{descriptor}").readlink().is_dir() else "content")
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        steps.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    keep(str(tmp_path), 1, 1, content(1.0))
    assert steps == ["content", "name", "folder"]

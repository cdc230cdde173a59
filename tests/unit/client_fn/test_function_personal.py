"""The function leaves personal layers at the client's site: before the update is published, and never in it."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from broker import topics
from broker.messages import tensors as payload
from broker.messages.invocation import InvocationRequest
from broker.messages.job_sections import Model, Training
from broker.messages.round import BlobRef, PersonalRef, RoundTask
from broker.support import files as files_module
from client_fn.errors import PersonalMissing, PersonalNotKept
from client_fn.function import Published, handle
from client_fn.runtime.failure import failure_report
from client_fn.site import SCHEMES
from client_fn.site import Site as ClientSite
from client_fn.training import models, tensors
from client_fn.training.learner import Learner
from client_fn.training.model_tensors import ModelTensors
from client_fn.training.personal import PersonalLayers
from tests.support.function_site import Site, model_ref, read_update, task_for
from tests.support.trainers import warm_state

pytestmark = pytest.mark.torch

MODEL = Model(args={"input_size": 4, "hidden": 5, "classes": 3}, personal=("out.*",))
SHARED = {"hidden.weight", "hidden.bias"}
OWN = {"out.weight", "out.bias"}


async def publish_shared(site: Site) -> BlobRef:
    """Publish the global model: what a job's first round starts from."""
    layers = PersonalLayers(ModelTensors(Learner(), models.build(MODEL, seed=1)), MODEL.personal)
    blob = tensors.to_bytes(layers.shared.all())
    ref = model_ref(blob)
    await site.bus.put(ref.topic, blob)
    site.writes.clear()
    return ref


async def task(site: Site, **changes: Any) -> RoundTask:
    ref = await publish_shared(site)
    return await task_for(site, model_configuration=MODEL, model=ref, model_seed=1, **changes)


async def train(site: Site, attempt: int = 1, **changes: Any) -> Published:
    return await handle(await task(site, **changes), site.bus, warm_state(), attempt=attempt)


def ref_of(done: Published) -> PersonalRef:
    header = done.header
    return PersonalRef(header.round, header.attempt, header.personal)


def files(site: Site) -> dict[str, bytes]:
    """The client's files, by round and attempt."""
    folder = Path(site.data_loc).parent / "state" / "job" / "c1"
    found = folder.iterdir() if folder.exists() else ()
    return {".".join(path.name.split(".")[:2]): path.read_bytes() for path in found}


@pytest.mark.parametrize("update", ["delta", "weights", "bf16", "int8"])
async def test_an_update_names_the_digest_of_the_personal_layers_and_leaves_them_out(site: Site, update: str) -> None:
    done = await train(site, training_hyperparameters=Training(update=update))  # type: ignore[arg-type]
    got, header = await read_update(site)
    assert got.keys() == SHARED | ({"int8.scales"} if update == "int8" else set())
    assert header.personal == hashlib.sha256(files(site)["1.1"]).hexdigest()
    assert header == done.header
    assert tensors.from_bytes(files(site)["1.1"]).keys() >= OWN


async def test_the_optimizer_s_state_is_not_at_the_broker(site: Site) -> None:
    done = await train(site)
    assert done.header.states == {}
    assert site.writes == [topics.update("job", 1, "c1", 1)]


async def test_they_are_written_before_the_update(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    publish, seen = site.bus.publish, list[set[str]]()

    async def watched(topic: str, content: bytes, **options: Any) -> Any:
        seen.append(set(files(site)))
        return await publish(topic, content, **options)

    monkeypatch.setattr(site.bus, "publish", watched)
    await train(site)
    assert seen == [{"1.1"}]


async def test_the_next_round_starts_from_those_that_its_task_names(site: Site) -> None:
    first = await train(site)
    await train(site, round=2, personal=ref_of(first))
    continued = files(site)["2.1"]
    await train(site, round=2, attempt=2)
    assert files(site)["2.2"] != continued, "the second attempt was told to start from the initial ones"
    assert files(site)["2.2"] == files(site)["1.1"], "the same seed, model and data"


async def test_a_second_attempt_starts_from_the_same_file_as_the_first(site: Site) -> None:
    first = await train(site)
    updates = []
    for attempt in (1, 2, 3):
        await train(site, round=2, attempt=attempt, personal=ref_of(first))
        got, _ = await read_update(site, round_=2, attempt=attempt)
        updates.append(payload.encode(got))
    assert updates == [updates[0]] * 3
    kept = files(site)
    assert kept["2.1"] == kept["2.2"] == kept["2.3"] != kept["1.1"]


async def test_a_client_that_has_missed_rounds_uses_its_last_counted_ones(site: Site) -> None:
    first = await train(site)
    refused = await train(site, round=2, personal=ref_of(first))
    await train(site, round=7, personal=ref_of(first))
    assert files(site).keys() == {"1.1", "7.1"}
    with pytest.raises(PersonalMissing):
        await train(site, round=8, personal=ref_of(refused))


async def test_no_training_begins_without_the_file_that_the_task_names(site: Site) -> None:
    begun: list[int] = []
    lost = await task(site, round=2, personal=PersonalRef(1, 1, "ab" * 32))
    with pytest.raises(PersonalMissing) as caught:
        await handle(lost, site.bus, warm_state(), attempt=1, on_training=lambda: begun.append(1))
    assert (begun, site.writes) == ([], [])
    report = failure_report(InvocationRequest(lost, 1), caught.value, reveal=False)
    assert report.reason.startswith("PersonalMissing: personal layers /")
    assert report.retryable


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state_loc": "https://host/layers"}, "PersonalNotKept: personal layers https://host/layers: its scheme can"),
        ({"data_loc": ""}, "PersonalNotKept: personal layers: the client has no data_loc and no state_loc"),
        ({"state_loc": "/proc/layers"}, "PersonalNotKept: personal layers /proc/layers/job/c1: this place can't be"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_dry", [False, True])
async def test_no_training_begins_without_a_place_for_them_and_no_attempt_follows(
    site: Site,
    changes: dict[str, str],
    reason: str,
    is_dry: bool,  # noqa: FBT001 (a test's case)
) -> None:
    begun: list[int] = []
    homeless = await task(site, **changes, training_hyperparameters=Training(dry=is_dry))
    with pytest.raises(PersonalNotKept) as caught:
        await handle(homeless, site.bus, warm_state(), attempt=1, on_training=lambda: begun.append(1))
    assert (begun, site.gets, site.writes) == ([], [], [])
    report = failure_report(InvocationRequest(homeless, 1), caught.value, reveal=False)
    assert report.reason.startswith(reason)
    assert not report.retryable


async def test_a_failure_to_write_them_publishes_no_update(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    def begun() -> None:
        monkeypatch.setattr(files_module, "write", full)

    full_soon = await task(site)
    with pytest.raises(PersonalNotKept, match="No space left on device"):
        await handle(full_soon, site.bus, warm_state(), attempt=1, on_training=begun)
    assert site.writes == []


async def test_they_lie_in_a_bucket_of_the_site_s_own(site: Site, tmp_path: Path) -> None:
    import fsspec

    bucket = f"memory://{tmp_path.name}/layers"
    warm = warm_state(ClientSite(data_schemes=(*SCHEMES, "memory")))
    first = await handle(await task(site, state_loc=bucket), site.bus, warm, attempt=1)
    second = await task(site, state_loc=bucket, round=2, personal=ref_of(first))
    await handle(second, site.bus, warm, attempt=1)
    assert files(site) == {}
    system, path = fsspec.core.url_to_fs(f"{bucket}/job/c1")
    assert sorted(Path(name).name[:4] for name in system.ls(path, detail=False)) == ["1.1.", "2.1."]


async def test_a_dry_task_keeps_them_as_they_are(site: Site) -> None:
    done = await train(site, training_hyperparameters=Training(dry=True))
    await train(site, round=2, personal=ref_of(done), training_hyperparameters=Training(dry=True))
    got, _ = await read_update(site, round_=2)
    assert got.keys() == SHARED
    assert files(site)["1.1"] == files(site)["2.1"]
    assert tensors.from_bytes(files(site)["1.1"]).keys() == OWN


async def test_without_personal_layers_nothing_is_written_at_the_site(site: Site) -> None:
    done = await handle(await task_for(site), site.bus, warm_state(), attempt=1)
    assert done.header.personal == ""
    assert [path.name for path in Path(site.data_loc).parent.iterdir()] == ["shard.safetensors"]

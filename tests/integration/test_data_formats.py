"""The same samples in any format train the same update in a real trainer; what can't be read fails the task."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from broker.messages.job_sections import Data
from client_fn.data import sources
from client_fn.data.shard_cache import ShardCache
from client_fn.errors import BadData
from client_fn.function import WarmState, handle
from client_fn.site import Site as ClientSite
from client_fn.trainer.trainers import open_trainers
from tests.support.function_site import Site, open_site, read_update, task_for
from tests.support.shard_files import Array, read_shard

pytestmark = [pytest.mark.torch, pytest.mark.slow]

NAMES = ("cat", "dog", "bird")


def as_csv(path: Path, x: Array, y: Array) -> None:
    rows = [",".join(map(repr, [*map(float, row), int(label)])) for row, label in zip(x, y, strict=True)]
    path.write_text("\n".join(["a,b,c,d,y", *rows]))


def as_csv_with_texts(path: Path, x: Array, y: Array) -> None:
    rows = [f"{','.join(map(repr, map(float, row)))},{NAMES[label]},u{label}" for row, label in zip(x, y, strict=True)]
    path.write_text("\n".join(["a,b,c,d,y,user", *rows]))


def as_parquet(path: Path, x: Array, y: Array) -> None:
    parquet.write_table(pa.table({"y": y, **{name: x[:, i] for i, name in enumerate("abcd")}}), path)


def as_npz(path: Path, x: Array, y: Array) -> None:
    np.savez(path, x=x, y=y)


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    async with open_site(tmp_path, monkeypatch) as opened:
        yield opened


@pytest.fixture
async def warm() -> AsyncIterator[WarmState]:
    async with open_trainers(ClientSite()) as trainers:
        yield WarmState(trainers, ClientSite(), ShardCache(ClientSite()))


FORMATS: dict[str, tuple[Callable[[Path, Array, Array], None], Data]] = {
    "numbers.csv": (as_csv, Data(target="y")),
    "texts.csv": (as_csv_with_texts, Data(target="y", labels=NAMES, drop=("user",))),
    "a.parquet": (as_parquet, Data(target="y")),
    "a.npz": (as_npz, Data()),
    "a.data": (as_csv, Data(target="y", format="csv")),
}


async def update_bytes(site: Site, round_: int) -> dict[str, bytes]:
    update, _ = await read_update(site, round_)
    return {name: part.tobytes() for name, part in update.items()}


async def test_each_format_trains_the_same_update_as_a_safetensors_file(
    site: Site, warm: WarmState, tmp_path: Path
) -> None:
    x, y = read_shard(site.data_loc)
    await handle(await task_for(site), site.bus, warm, attempt=1)
    expected = await update_bytes(site, 1)
    for round_, (name, (write, data)) in enumerate(FORMATS.items(), 2):
        write(tmp_path / name, x.reshape(len(x), -1), y)
        task = await task_for(site, round=round_, data_loc=f"{tmp_path}/{name}", data=data)
        published = await handle(task, site.bus, warm, attempt=1)
        assert published.header.samples == 10, name
        assert await update_bytes(site, round_) == expected, name


async def test_a_folder_of_images_trains_and_its_images_are_counted(
    site: Site, warm: WarmState, tmp_path: Path
) -> None:
    for number in range(6):
        folder = tmp_path / "images" / NAMES[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), 40 * number).save(folder / f"{number}.png")
    data = Data(labels=NAMES)
    published = await handle(await task_for(site, data_loc=f"{tmp_path}/images", data=data), site.bus, warm, attempt=1)
    assert published.header.samples == 6
    assert published.header.metrics["loss"] > 0
    (tmp_path / "images" / "dog" / "1.png").write_bytes(b"no image")
    with pytest.raises(BadData, match=r"an image can't be read \(it is dog/1\.png\)"):
        await handle(await task_for(site, data_loc=f"{tmp_path}/images", data=data), site.bus, warm, attempt=1)
    (tmp_path / "images" / "wolf").mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "images" / "wolf" / "1.png")
    with pytest.raises(BadData, match=r"it has a folder whose name is not in data\.labels"):
        await handle(await task_for(site, data_loc=f"{tmp_path}/images", data=data), site.bus, warm, attempt=1)


async def test_a_mapped_file_trains_the_same_update(
    site: Site, warm: WarmState, monkeypatch: pytest.MonkeyPatch
) -> None:
    await handle(await task_for(site), site.bus, warm, attempt=1)
    monkeypatch.setattr(sources, "MAP_ABOVE", 0)
    warm.shards = ShardCache(ClientSite())
    await handle(await task_for(site, round=2), site.bus, warm, attempt=1)
    assert await update_bytes(site, 1) == await update_bytes(site, 2)


MISTAKES = [
    ("a,y\n1,0\n", "label", "it has no column 'label', which data.target names", "a, y"),
    ("a,y\nJane,0\n", "y", "column 1 holds a text in row 1", "'a'"),
    ("a,y\n,0\n", "y", "column 1 has no value in row 1", "'a'"),
    ("a,y\n1,cat\n", "y", "column 'y' holds texts: list all of them as data.labels", "cat"),
    ("a,y\n", "y", "it is empty: it has no rows", ""),
    ("", "y", "it is empty", ""),
]
"""A file, the target, what everybody reads about it, and what only the site's operator reads."""


async def test_a_table_that_can_t_be_used_fails_the_task_and_others_see_none_of_its_text(
    site: Site, warm: WarmState, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    for content, target, sentence, hidden in MISTAKES:
        path.write_text(content)
        with pytest.raises(BadData) as bad:
            await handle(await task_for(site, data_loc=str(path), data=Data(target=target)), site.bus, warm, attempt=1)
        public, own = (bad.value.message(reveal=reveal) for reveal in (False, True))
        assert not bad.value.retryable
        assert f"shard {path}: {sentence}" in public
        assert not hidden or hidden not in public
        assert hidden in own
        assert "Jane" not in own
    # The worker and its trainer go on.
    await handle(await task_for(site), site.bus, warm, attempt=1)

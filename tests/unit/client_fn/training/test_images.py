"""A folder of images gives (pixels, class); each image is read when it is used, and what can't be used is named."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from client_fn.errors import BadData
from client_fn.training.images import ImageFolder
from client_fn.training.source import Source

pytestmark = pytest.mark.torch

RED, BLACK = (255, 0, 0), (0, 0, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in (("cat/1.png", RED), ("dog/1.PNG", BLACK), ("dog/2.bmp", RED)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 5), colour).save(tmp_path / name)
    (tmp_path / "dog" / ".DS_Store").write_bytes(b"hidden")
    return tmp_path


def images(folder: Path, labels: Sequence[str] = ("cat", "dog")) -> ImageFolder:
    samples = Source("folder", path=str(folder), options={"labels": labels}).samples()
    assert isinstance(samples, ImageFolder)
    return samples


def test_an_image_is_pixels_and_the_number_of_its_class(folder: Path) -> None:
    found = images(folder)
    assert (len(found), found.labels) == (3, [0, 1, 1])
    x, y = found[0]
    assert (x.shape, x.dtype, y) == ((3, 5, 4), torch.float32, 0)
    assert x[0].eq(1).all()
    assert x[1:].eq(0).all()


def test_the_labels_of_the_job_number_the_classes_and_a_client_may_lack_some(folder: Path) -> None:
    assert images(folder, ("dog", "bird", "cat")).labels == [2, 0, 0]


def test_folders_that_are_numbers_need_no_labels(folder: Path) -> None:
    (folder / "cat").rename(folder / "7")
    (folder / "dog").rename(folder / "10")
    assert images(folder, ()).labels == [10, 10, 7]


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    Image.new("L", (4, 5), 51).save(tmp_path / "0" / "1.png")
    x, _ = images(tmp_path, ())[0]
    assert x.shape == (1, 5, 4)
    assert torch.allclose(x, torch.tensor(0.2))


def test_all_images_as_tensors(folder: Path) -> None:
    named = Source("folder", path=str(folder), options={"labels": ["cat", "dog"]}).tensors()
    assert named["x"].shape == (3, 3, 5, 4)
    assert named["y"].tolist() == [0, 1, 1]


def test_an_image_is_not_read_before_it_is_used(folder: Path) -> None:
    (folder / "dog" / "2.bmp").write_bytes(b"no image")
    found = images(folder)
    assert found[1][1] == 1
    with pytest.raises(BadData, match=r"an image can't be read \(it is dog/2\.bmp\)") as bad:
        found[2]
    assert "bmp" not in bad.value.message(reveal=False)


def test_images_of_several_sizes_are_named(folder: Path) -> None:
    Image.new("RGB", (9, 5)).save(folder / "dog" / "2.bmp")
    with pytest.raises(BadData, match=r"several sizes, 9x5 and 4x5: resize them, or do that in a learner's data"):
        images(folder)[2]


def test_texts_as_classes_need_the_list_of_all_classes(folder: Path) -> None:
    with pytest.raises(BadData, match=r"list all classes as data\.labels.*\(its folders are cat, dog\)") as bad:
        images(folder, ())
    assert "cat" not in bad.value.message(reveal=False)
    with pytest.raises(BadData, match=r"a folder whose name is not in data\.labels"):
        images(folder, ("cat",))


def test_what_is_no_folder_of_images_is_explained(folder: Path) -> None:
    (folder / "dog" / "notes.txt").write_text("")
    with pytest.raises(BadData, match=r"holds something that is no image \(it is notes\.txt\)"):
        images(folder)
    with pytest.raises(BadData, match="a folder without <class>/<image>: name one file in it"):
        images(folder / "cat")
    (folder / "none" / "cat").mkdir(parents=True)
    with pytest.raises(BadData, match="its folders hold no images"):
        images(folder / "none")


def test_a_folder_can_t_be_opened_as_a_file(folder: Path) -> None:
    with pytest.raises(BadData, match=r"it is a folder: open the files below source\.path"):
        Source("folder", path=str(folder)).open()

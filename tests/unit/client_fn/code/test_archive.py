"""The archive of the user's code and its digest."""

import hashlib
import io
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from client_fn.code import archive
from client_fn.errors import BadCode

FILES = {
    "mine.py": "import nets\n",
    "nets/deep/a.py": "",
    "nets/data.json": "{}",
    "random.py": "",
    "class.py": "",
    "docs/a.md": "",
    "__main__.py": "",
    "requirements.txt": "\ufeffscikit-image>=0.24\n",
}


def put(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_the_same_files_give_the_same_bytes_and_digest_wherever_they_are(tmp_path: Path) -> None:
    first = archive.pack(put(tmp_path / "a", FILES))
    second_folder = put(tmp_path / "b", dict(reversed(FILES.items())) | {"left/__pycache__/x.pyc": "", "data.csv": ""})
    for file in second_folder.rglob("*"):
        file.chmod(0o700)
        os.utime(file, (0, 0))
    second = archive.pack(second_folder)
    assert (second.content, second.digest) == (first.content, first.digest)
    assert first.digest == hashlib.sha256(first.content).hexdigest()
    entries = zipfile.ZipFile(io.BytesIO(first.content)).infolist()
    assert [entry.filename for entry in entries] == sorted(FILES)
    assert {(entry.date_time, entry.compress_type, entry.external_attr >> 16) for entry in entries} == {
        ((1980, 1, 1, 0, 0, 0), zipfile.ZIP_STORED, 0o100644)
    }


def test_another_byte_or_name_gives_another_digest(tmp_path: Path) -> None:
    folders = [put(tmp_path / str(i), files) for i, files in enumerate(({"a.py": ""}, {"a.py": "\n"}, {"b.py": ""}))]
    assert len({archive.pack(folder).digest for folder in folders}) == 3


def test_an_archive_knows_its_modules_and_requirements(tmp_path: Path) -> None:
    packed = archive.pack(put(tmp_path, FILES))
    assert packed.modules == {"mine", "nets"}, "the standard library's names and keywords can't be imported from it"
    assert packed.requirements == "scikit-image>=0.24\n"
    assert packed.taken["mine.py"] == len(FILES["mine.py"])
    assert archive.pack(tmp_path / "mine.py").requirements == ""


def test_the_summary_is_one_line(tmp_path: Path) -> None:
    packed = archive.pack(put(tmp_path, {"mine.py": " " * 12_345, "a.py": "", "data.csv": "", ".venv/pyvenv.cfg": ""}))
    left_out = "left out 2: data.csv (data), .venv/ (environment)"
    assert packed.summary() == f"code {packed.digest[:8]}: 2 files, 12 kB; {left_out}"
    single = archive.pack(tmp_path / "a.py")
    assert single.summary() == f"code {single.digest[:8]}: 1 file, 0 B"
    assert "left out 22: " in archive.pack(put(tmp_path, {f"{i}.csv": "" for i in range(20)})).summary()


def test_what_is_extracted_is_read_only_and_has_the_same_digest(tmp_path: Path) -> None:
    packed = archive.pack(put(tmp_path / "source", FILES))
    packed.extract(tmp_path / "copy")
    assert archive.pack(tmp_path / "copy").digest == packed.digest
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "copy").rglob("*") if file.is_file()} == {0o444}


def test_a_single_module_and_the_folder_with_only_that_are_the_same_code(tmp_path: Path) -> None:
    put(tmp_path, {"mine.py": "x = 1\n", "other.py": ""})
    packed = archive.pack(tmp_path / "mine.py")
    (tmp_path / "code").mkdir()
    shutil.copy(tmp_path / "mine.py", tmp_path / "code")
    assert archive.pack(tmp_path / "code").digest == packed.digest


@pytest.mark.parametrize("files", [{"notes.md": ""}, {"random.py": ""}, {"__init__.py": ""}])
def test_code_without_a_module_is_refused(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(BadCode, match="it has no Python module"):
        archive.pack(put(tmp_path, files))


def test_requirements_that_are_no_text_are_refused(tmp_path: Path) -> None:
    put(tmp_path, {"mine.py": ""})
    (tmp_path / "requirements.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(BadCode, match=r"requirements\.txt is not UTF-8"):
        archive.pack(tmp_path)

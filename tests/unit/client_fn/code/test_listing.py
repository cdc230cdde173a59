"""Which files are the user's code."""

import os
from pathlib import Path

import pytest

from client_fn.code import listing
from client_fn.errors import BadCode


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}\n", encoding="utf-8")


def taken(folder: Path) -> list[str]:
    return [file.name for file in listing.read(folder).files]


def test_code_is_taken_and_everything_else_is_left_out_with_a_reason(tmp_path: Path) -> None:
    code = ["mine.py", "nets/__init__.py", "nets/deep/block.py", "nets/settings.json", "nets/runs/a.py", "README.md"]
    put(tmp_path, *code)
    put(tmp_path, ".git/config", ".env", "__pycache__/mine.cpython-311.pyc", "nets/old.pyc", "nets/.cache/a.py")
    put(tmp_path, "env/pyvenv.cfg", "env/lib/a.py", ".venv/pyvenv.cfg", "runs/job/job.toml", "node_modules/x/a.js")
    put(tmp_path, "data.csv", "nets/W.NPZ", "scan.nii.gz", "state/site-secret", "state/broker/password", "__init__.py")
    (tmp_path / "large.txt").write_bytes(bytes(listing.MAX_FILE_BYTES + 1))
    os.mkfifo(tmp_path / "pipe")
    listed = listing.read(tmp_path)
    assert [file.name for file in listed.files] == sorted(code)
    assert listed.left_out == {
        ".env": "hidden",
        ".git/": "hidden",
        ".venv/": "environment",
        "__init__.py": "the root is no package; to import it by its name, give the folder above",
        "__pycache__/": "compiled",
        "data.csv": "data",
        "env/": "environment",
        "large.txt": "over 10 MB",
        "nets/.cache/": "hidden",
        "nets/W.NPZ": "data",
        "nets/old.pyc": "compiled",
        "node_modules/": "packages",
        "pipe": "no regular file",
        "runs/": "results",
        "scan.nii.gz": "data",
        "state/": "FedKeeper's own folder",
    }


def test_the_ignore_file_has_the_patterns_of_git(tmp_path: Path) -> None:
    put(
        tmp_path, "mine.py", "notes.md", "docs/a.md", "docs/deep/b.py", "a/tmp/x.py", "tmp/x.py", "keep.txt", "drop.txt"
    )
    (tmp_path / listing.IGNORE_FILE).write_text("# no code\n*.md\n/tmp\ndeep/\n*.txt\n!keep.txt\n", encoding="utf-8")
    listed = listing.read(tmp_path)
    assert [file.name for file in listed.files] == ["a/tmp/x.py", "keep.txt", "mine.py"]
    assert set(listed.left_out) == {"notes.md", "docs/a.md", "docs/deep/", "tmp/", "drop.txt"}
    assert set(listed.left_out.values()) == {listing.IGNORE_FILE}


def test_an_ignore_file_that_can_not_be_used_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "mine.py")
    (tmp_path / listing.IGNORE_FILE).write_bytes(b"\xff")
    with pytest.raises(BadCode, match=listing.IGNORE_FILE):
        listing.read(tmp_path)


def test_a_link_is_followed_to_a_file_inside_and_nowhere_else(tmp_path: Path) -> None:
    put(tmp_path, "outside.py", "code/mine.py", "code/nets/a.py", "code/.env")
    code = tmp_path / "code"
    targets: dict[str, str | Path] = {
        "again.py": "mine.py",
        "out.py": tmp_path / "outside.py",
        "up": "..",
        "loop": "nets",
        "secret.txt": ".env",
        "gone.py": "nowhere.py",
    }
    for name, target in targets.items():
        (code / name).symlink_to(target)
    listed = listing.read(code)
    assert [file.name for file in listed.files] == ["again.py", "mine.py", "nets/a.py"]
    assert listed.left_out == {
        ".env": "hidden",
        "gone.py": "broken link",
        "loop": "link to a folder",
        "out.py": "link that leads outside",
        "secret.txt": "link to something hidden",
        "up": "link that leads outside",
    }


def test_a_single_module_is_code(tmp_path: Path) -> None:
    put(tmp_path, "mine.py", "data.csv", "my-model.py", "__main__.py")
    assert taken(tmp_path / "mine.py") == ["mine.py"]
    for name in ("data.csv", "my-model.py", "__main__.py"):
        with pytest.raises(BadCode, match=r"its name must be a Python name and end with \.py"):
            listing.read(tmp_path / name)
    (tmp_path / "mine.py").write_bytes(bytes(listing.MAX_FILE_BYTES + 1))
    with pytest.raises(BadCode, match="it has 10000001 bytes, at most 10000000 are allowed"):
        listing.read(tmp_path / "mine.py")


def test_code_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCode, match="No such file or directory; name a module's file, or a folder") as bad:
        listing.read(tmp_path / "nowhere")
    assert bad.value.where == str(tmp_path / "nowhere")


def test_too_many_files_name_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_FILES", 5)
    put(tmp_path, "mine.py", *(f"photos/{i}.txt" for i in range(9)))
    with pytest.raises(BadCode, match=r"too many files, most of them in photos/; .*list what is no code in its \.fedk"):
        listing.read(tmp_path)


def test_too_many_files_that_are_no_code_end_the_search_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_SEEN", 5)
    put(tmp_path, "mine.py", *(f"tables/{i}.csv" for i in range(9)))
    with pytest.raises(BadCode, match="too many files, most of them in tables/;"):
        listing.read(tmp_path)


def test_too_many_folders_end_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_SEEN", 5)
    for i in range(9):
        (tmp_path / str(i)).mkdir()
    with pytest.raises(BadCode, match=r"too many files, most of them in \./;"):
        listing.read(tmp_path)


def test_too_many_bytes_name_the_largest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_BYTES", 1000)
    put(tmp_path, "mine.py")
    for size in (300, 500, 400):
        (tmp_path / f"{size}.txt").write_bytes(bytes(size))
    with pytest.raises(BadCode, match=r"more than 1000 bytes; the largest files are 500\.txt \(500 bytes\), 400"):
        listing.read(tmp_path)


def test_a_name_that_no_archive_can_hold_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, "mine.py")
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.py")).touch()
    listed = listing.read(tmp_path)
    assert [file.name for file in listed.files] == ["mine.py"]
    assert list(listed.left_out.values()) == ["its name is not UTF-8"]


def test_a_change_is_seen_without_reading(tmp_path: Path) -> None:
    put(tmp_path, "mine.py")
    before = listing.read(tmp_path)
    assert listing.read(tmp_path) == before
    (tmp_path / "new").write_text("# mine.PY\n", encoding="utf-8")
    (tmp_path / "new").replace(tmp_path / "mine.py")
    os.utime(tmp_path / "mine.py", ns=(0, before.files[0].mtime_ns))
    assert listing.read(tmp_path) != before

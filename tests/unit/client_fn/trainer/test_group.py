"""What a trainer's memory limit counts."""

import subprocess
import sys
from pathlib import Path

from client_fn.trainer import group

MB = 1 << 20

MAPS = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
sum(pages[i] for i in range(0, len(pages), 4096))
own = bytearray(int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.read()
"""


def test_pages_of_a_file_do_not_count_and_memory_of_the_process_does(tmp_path: Path) -> None:
    """The kernel takes a file's pages back when it needs memory, so a large shard must not end its trainer."""
    with (tmp_path / "file").open("wb") as file:
        file.truncate(96 * MB)
    for own_mb, least, most in ((0, 0, 48), (64, 64, 112)):
        with subprocess.Popen(
            [sys.executable, "-c", MAPS, str(tmp_path / "file"), str(own_mb * MB)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            used = group.memory_bytes(process.pid, limit=1 * MB)
            process.kill()
        assert least * MB <= used < most * MB

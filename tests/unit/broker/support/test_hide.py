"""A process that holds credentials hides them from other processes of the same user."""

import subprocess
import sys
from typing import Final

PR_GET_DUMPABLE: Final = 3
"""prctl(2). The files of a process that is not dumpable belong to root (proc(5))."""

PROGRAM: Final = f"""
import ctypes
from broker.support import processes
before = ctypes.CDLL(None).prctl({PR_GET_DUMPABLE})
processes.hide()
print(before, ctypes.CDLL(None).prctl({PR_GET_DUMPABLE}))
"""


def test_a_hidden_process_gives_its_files_to_root() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=60)
    assert run.stdout == "1 0\n"

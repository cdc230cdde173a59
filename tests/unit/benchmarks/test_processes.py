"""What is read of processes in /proc."""

import os
import subprocess
import sys
import time

from benchmarks import processes

NAMED_LIKE_A_WORKER = "import sys; print('started', flush=True); sum(range(10**7)); sys.stdin.read()"


def test_a_process_and_its_children_are_found_with_what_they_use() -> None:
    command = [sys.executable, "-c", NAMED_LIKE_A_WORKER, "client_fn.handlers.local"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert {os.getpid(), child.pid} <= set(processes.descendants(os.getpid()))
        assert processes.descendants(child.pid) == [child.pid]
        assert (processes.role(child.pid), processes.role(os.getpid())) == ("workers", processes.HERE)
        while processes.cpu_s()["workers"] < 0.05:
            time.sleep(0.01)
        assert 0 < processes.memory_mb(child.pid, "VmRSS") <= processes.memory_mb(child.pid, "VmHWM") < 1000
        child.communicate()
    assert child.pid not in processes.descendants(os.getpid())
    assert processes.command(child.pid) == []

"""What is read of processes in /proc."""

import os
import subprocess
import sys
import time

import pytest

from benchmarks import processes
from benchmarks.bars import flower

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


DEPLOYED = """
import subprocess, sys, time
sys.path.insert(0, sys.argv[1])
import deploy
with deploy.ending_all():
    # The shell ends at once, so that its child is an orphan.
    print(subprocess.run(["sh", "-c", "sleep 600 >&- & echo $!"], stdout=subprocess.PIPE, text=True).stdout, flush=True)
    sys.stdin.readline()
    if len(sys.argv) > 2:
        time.sleep(600)
"""


@pytest.mark.parametrize("how", [[], ["until it is terminated"]])
def test_what_a_deployment_of_flower_has_started_ends_with_it(how: list[str]) -> None:
    command = [sys.executable, "-c", DEPLOYED, str(flower.FOLDER), *how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as deployed:
        assert deployed.stdout is not None
        orphan = int(deployed.stdout.readline())
        assert processes.command(orphan) == ["sleep", "600"]
        if how:
            deployed.terminate()
        deployed.communicate("\n")
    assert processes.command(orphan) == []

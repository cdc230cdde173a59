"""What `make board` reads from others' output, and its table."""

import pytest

from tests.board import checks, job, report

PIP = """\
+ chroot /x env TMPDIR=/y /opt/fedkeeper/bin/python -m pip install torch>=2.6,<2.11
Collecting torch<2.11,>=2.6
  Downloading torch-2.10.0-cp311-cp311-manylinux_2_28_aarch64.whl (146.0 MB)
     ---------------------------------------- 146.0/146.0 MB 20.1 MB/s eta 0:00:00
  Downloading https://registry.example/mpmath-1.3.0-py3-none-any.whl (536 kB)
Downloading cuda.whl (1.5 GB)
  Using cached sympy-1.14.0-py3-none-any.whl (6.3 MB)
"""


def test_downloads_are_counted_in_mb_without_what_was_cached() -> None:
    assert report.downloaded_mb(PIP) == pytest.approx(146.0 + 0.536 + 1500)


def test_the_highest_memory_of_a_process_is_read_from_its_status() -> None:
    assert report.peak_memory_mb("Name:\tpython\nVmHWM:\t  100000 kB\nVmRSS:\t 5 kB\n") == pytest.approx(102.4)
    assert report.peak_memory_mb("Name:\tended\n") == 0.0


def test_the_table_fits_a_screen() -> None:
    full = report.Installation(
        kind="--bridge local --torch cpu", seconds=1079.4, pip_mb=285.2, disk_mb=1104.0, memory_mb={}
    )
    full.memory_mb = {"main": 93.2, "worker": 401.0}
    lines = report.table([full, report.Installation(kind="--bridge openfaas")])
    assert lines[1].split()[-4:] == ["main", "93,", "worker", "401"]
    assert "1079" in lines[1]
    assert max(len(line) for line in lines) <= 80


def test_what_systemd_says_of_other_units_and_of_newer_keys_is_no_complaint() -> None:
    assert checks.complaints("/lib/systemd/system/getty.service: x\nfedkeeper-bridge.service:23: RestartSteps\n") == []
    wrong = "/etc/systemd/system/fedkeeper-relay.service:9: Unknown key 'Foo'"
    assert checks.complaints(f"{wrong}\n") == [wrong]


@pytest.mark.parametrize(
    ("counted", "said"),
    [([4, 4], ""), ([4, 3], "counted in the rounds: [4, 3] of 4"), ([4], "1 of 2 rounds are done")],
)
def test_a_job_in_which_somebody_was_missing_is_a_failure(counted: list[int], said: str) -> None:
    assert job.missing([{"clients": ["c"] * number} for number in counted]) == said

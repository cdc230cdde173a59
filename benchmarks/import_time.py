"""How long the function's own code takes to import, once torch is there: the bar is 0.15 s.

python benchmarks/import_time.py
"""

import subprocess
import sys
from statistics import median

RUNS = 5
BAR_S = 0.15

MEASURE = """
import sys, time
import torch
begin = time.perf_counter()
import client_fn.function
print(time.perf_counter() - begin)
print(*sorted({"nats", "paho", "server", "bridges", "fedkeeper", "fsspec", "sklearn", "httpx"} & set(sys.modules)))
"""


def measured() -> tuple[float, str]:
    """Seconds in a process of its own, and which of the modules it should not need were imported."""
    command = [sys.executable, "-c", MEASURE]
    run = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 (our own program)
    seconds, _, extra = run.stdout.partition("\n")
    return float(seconds), extra.strip()


def main() -> None:
    """Print the median of a few runs; fail above the bar."""
    runs = [measured() for _ in range(RUNS)]
    seconds, extra = median(run[0] for run in runs), runs[0][1]
    print(f"import client_fn.function, torch apart: {seconds:.3f} s (bar {BAR_S} s); not wanted: {extra or 'nothing'}")
    sys.exit(bool(extra) or seconds > BAR_S)


if __name__ == "__main__":
    main()

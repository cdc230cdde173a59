"""Import time of the function's own code: its trainer, which imports torch, starts meanwhile. The limit is 0.15 s.

python -m benchmarks.import_time
"""

import subprocess
import sys
from statistics import median

RUNS = 5
LIMIT_S = 0.15

PROGRAM = """
import sys, time
begin = time.perf_counter()
import client_fn.function
print(time.perf_counter() - begin)
unwanted = {"torch", "numpy", "nats", "paho", "server", "bridges", "fedkeeper", "fsspec", "sklearn", "httpx"}
print(*sorted(unwanted & set(sys.modules)))
"""


def measure() -> tuple[float, str]:
    """Measure in a new process; return the seconds and the imported modules that the function must not need."""
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 (our own program)
    seconds, _, extra = run.stdout.partition("\n")
    return float(seconds), extra.strip()


def main() -> None:
    """Print the median of a few runs; fail above the limit."""
    runs = [measure() for _ in range(RUNS)]
    seconds, extra = median(run[0] for run in runs), runs[0][1]
    print(f"import client_fn.function: {seconds:.3f} s (limit {LIMIT_S} s); not allowed: {extra or '-'}")
    sys.exit(bool(extra) or seconds > LIMIT_S)


if __name__ == "__main__":
    main()

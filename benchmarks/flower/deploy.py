"""Flower's rounds without training as a deployment on this machine: a SuperLink, and a SuperNode for each client.

    benchmarks/flower/.venv/bin/python benchmarks/flower/deploy.py --clients 10 --rounds 3 --shapes '[[1000, 10]]'

Prints a line of JSON with its seconds after each round, the first one included. All connections are plain HTTP on the
loopback address, and the SuperLink keeps everything in memory.
"""

import argparse
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

APP: Final = Path(__file__).parent / "app"
PROGRAMS: Final = Path(sys.executable).parent
CONNECTION: Final = "here"
START_S: Final = 120.0
END_S: Final = 20.0

PR_SET_CHILD_SUBREAPER: Final = 36
"""Of prctl(2)."""


def _children() -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name of a program may hold spaces and brackets.
            if stat.read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
                found.append(int(stat.parent.name))
    return found


@contextlib.contextmanager
def ending_all() -> Iterator[None]:
    """At the end of the block, or if this process is asked to end, kill every process that was started in it.

    A SuperExec that outlives its SuperNode starts processes again and again.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to end"))
    try:
        yield
    finally:
        # Whose parent was killed becomes our child.
        while children := _children():
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child, 0)


def free_port() -> int:
    """Return a TCP port that nobody uses now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(port: int) -> None:
    """Wait until somebody listens.

    Args:
        port: on the loopback address.
    """
    end_s = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.1)
        else:
            return


@contextlib.contextmanager
def running(program: str, *arguments: str, log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the end of the block, with all that it starts.

    Args:
        program: name of one of Flower's programs.
        arguments: its arguments.
        log: file for what it prints.
        env: its environment.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 (Flower's own programs)
            [PROGRAMS / program, *arguments], stdout=output, stderr=output, env=env, stdin=subprocess.DEVNULL
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def deployment(folder: Path, nodes: int, env: dict[str, str]) -> Iterator[None]:
    """Run a SuperLink and its SuperNodes until the end of the block.

    Args:
        folder: for files.
        nodes: number of SuperNodes.
        env: the programs' environment.
    """
    port = free_port()
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            running(
                "flower-superlink",
                *("--insecure", "--disable-runtime-dependency-installation", "--port", str(port)),
                log=folder / "superlink.log",
                env=env,
            )
        )
        wait_for(port)
        for number in range(nodes):
            stack.enter_context(
                running(
                    "flower-supernode",
                    *("--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(free_port())),
                    log=folder / f"supernode-{number}.log",
                    env=env,
                )
            )
        yield


def follow(results: Path, rounds: int, limit_s: float) -> None:
    """Print each round's line when it is there, until the last one.

    Args:
        results: the file that the app writes.
        rounds: number of rounds.
        limit_s: how long a round may take, in seconds.
    """
    seen, since_s = 0, time.monotonic()
    while seen < rounds:
        lines = results.read_text().splitlines() if results.exists() else []
        for line in lines[seen + 1 :]:  # the first one is that of the start
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            seen, since_s = seen + 1, time.monotonic()
        if time.monotonic() - since_s > limit_s:
            raise SystemExit(f"no round within {limit_s:g} s")
        time.sleep(0.2)


def main() -> None:
    """Read the arguments, start everything, run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", default="[[1000, 10]]", help="shapes of the model's tensors, in JSON")
    parser.add_argument("--own", action="store_true", help="each client's update has bytes of its own")
    parser.add_argument("--limit", type=float, default=600.0, metavar="SECONDS", help="of a round")
    parser.add_argument("--logs", type=Path, help="a folder that keeps the programs' logs; default: none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flower-") as temporary, ending_all():
        folder = options.logs or Path(temporary)
        results = folder / "rounds.jsonl"
        order = {"into": str(results), "clients": options.clients, "rounds": options.rounds, "own": options.own}
        order["shapes"] = json.loads(options.shapes)
        # No word of a benchmark leaves this machine.
        env = {**os.environ, "FLWR_HOME": str(folder), "FLWR_TELEMETRY_ENABLED": "0", "FLOWER_NOOP": json.dumps(order)}
        env["PATH"] = f"{PROGRAMS}{os.pathsep}{env.get('PATH', '')}"
        with deployment(folder, options.clients, env):
            sys.stdout.write(json.dumps({"ready": True, "flwr": version("flwr")}) + "\n")
            submit = [str(PROGRAMS / "flwr"), "run", str(APP), CONNECTION]
            subprocess.run(submit, env=env, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
            follow(results, options.rounds, options.limit)


if __name__ == "__main__":
    main()

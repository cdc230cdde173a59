"""Google's own Pub/Sub emulator. Where it is installed, tests compare ours with it."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from broker.support import processes
from tests.support.ports import free_port

START_S: Final = 60.0
_JAR: Final = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*.jar"


def jar() -> Path | None:
    """Return the emulator's program; None if it or Java is missing."""
    jars = (path for folder in _folders() for path in sorted(folder.glob(_JAR)))
    return next(jars, None) if shutil.which("java") else None


@contextlib.contextmanager
def serving(program: Path) -> Iterator[str]:
    """Run the emulator until the end of the block; yield its host and port."""
    port = free_port()
    arguments = ["-XX:TieredStopAtLevel=1", "-Xmx256m", "-jar", str(program), "--host=127.0.0.1", f"--port={port}"]
    process = subprocess.Popen(
        ["java", *arguments],  # noqa: S607 (whichever Java is there)
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),  # noqa: PLW1509 (it only makes system calls)
    )
    try:
        _wait(process)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


def _wait(process: "subprocess.Popen[bytes]") -> None:
    """Wait until the emulator listens. It is killed after START_S; then its output ends."""
    timer = threading.Timer(START_S, process.kill)
    timer.start()
    output = b""
    assert process.stdout is not None
    try:
        while b"listening on" not in output:
            line = process.stdout.readline()
            assert line, f"Google's emulator does not start:\n{output.decode()}"
            output += line
    finally:
        timer.cancel()


def _folders() -> Iterator[Path]:
    yield Path("/usr/lib/google-cloud-sdk")
    if root := os.environ.get("CLOUDSDK_ROOT_DIR"):
        yield Path(root)
    if gcloud := shutil.which("gcloud"):
        yield Path(gcloud).resolve().parent.parent
    yield Path.home() / "google-cloud-sdk"

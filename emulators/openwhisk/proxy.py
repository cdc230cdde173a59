"""An OpenWhisk container as the invoker sees it: HTTP with /init and /run, and the action in its own process.

`python -m emulators.openwhisk.proxy FD FOLDER` serves the listening socket FD. The action prints to standard output and
standard error. A marker on both ends the lines of one activation.
"""

import base64
import binascii
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from broker.support import processes

END: Final = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX"

LAUNCHER: Final = Path(__file__).with_name("launcher.py")


class Refused(Exception):
    """Raised for a response other than 200.

    Attributes:
        status: HTTP status of the response.
    """

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


class Runtime:
    """Runs the action of this container.

    Args:
        folder: folder for the action's code.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._initialized = False
        self._process: subprocess.Popen[bytes] | None = None
        self._results: IO[str] = io.StringIO()

    def init(self, value: dict[str, Any]) -> Any:
        """Unpack the code and start the action's process.

        Raises:
            Refused: the container has an action already, or the code does not start.
        """
        if self._initialized:
            raise Refused(403, "Cannot initialize the action more than once.")
        if not value.get("code"):
            raise Refused(403, "Missing main/no code to execute.")
        try:
            self._unpack(value)
        except (zipfile.BadZipFile, binascii.Error, SyntaxError, OSError) as exc:
            sys.stderr.write(f"{exc}\n")
            raise Refused(502, "The action failed to generate or locate a binary. See logs for details.") from exc
        self._start(value)
        self._initialized = True
        return {"ok": True}

    def run(self, call: dict[str, Any]) -> Any:
        """Return the action's result for a call.

        Raises:
            Refused: there is no action, it ended, or its result is not an object or array.
        """
        if self._process is None or self._process.stdin is None:
            raise Refused(500, "no action defined yet")
        # If the process has ended, the missing result below shows it.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(call).encode() + b"\n")
            self._process.stdin.flush()
        line = self._results.readline()
        if not line:
            self._process.wait()
            self._process = None
            raise Refused(400, "command exited")
        try:
            result = json.loads(line, parse_constant=_refuse_constant)
        except ValueError:
            result = None
        if not isinstance(result, dict | list):
            raise Refused(502, "The action did not return a dictionary or array.")
        return result

    def _unpack(self, value: dict[str, Any]) -> None:
        main = self._folder / "main__.py"
        if value["binary"]:
            with zipfile.ZipFile(io.BytesIO(base64.b64decode(value["code"], validate=True))) as archive:
                archive.extractall(self._folder)
            with contextlib.suppress(FileNotFoundError):
                (self._folder / "__main__.py").rename(main)
        else:
            main.write_text(value["code"], encoding="utf-8")
        compile(main.read_text(encoding="utf-8"), str(main), "exec")

    def _start(self, value: dict[str, Any]) -> None:
        reading, writing = os.pipe()
        self._process = subprocess.Popen(  # noqa: S603 (our own launcher)
            [sys.executable, LAUNCHER, str(writing), value.get("main") or "main"],
            cwd=self._folder,
            env={name: text if isinstance(text, str) else json.dumps(text) for name, text in value["env"].items()},
            stdin=subprocess.PIPE,
            pass_fds=[writing],
            # The kernel sends the signal when the thread that started the process ends. This server has one thread.
            preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),  # noqa: PLW1509 (one thread)
        )
        os.close(writing)
        self._results = os.fdopen(reading, encoding="utf-8")
        if not self._results.readline():
            raise Refused(502, "Cannot start action. Check logs for details.")


def _refuse_constant(constant: str) -> NoReturn:
    """Refuse NaN and Infinity, which are not JSON."""
    raise ValueError(constant)


class Handler(BaseHTTPRequestHandler):
    """Serves the runtime over HTTP."""

    runtime: Runtime

    def do_POST(self) -> None:
        """Handle `/init` and `/run`, and print the marker at the end of an activation."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_over = True
        try:
            if self.path == "/init":
                status, answer = 200, self.runtime.init(body["value"])
                is_over = False
            else:
                status, answer = 200, self.runtime.run(body)
        except Refused as exc:
            status, answer = exc.status, {"error": str(exc)}
        if is_over:
            for stream in (sys.stdout, sys.stderr):
                stream.write(f"{END}\n")
                stream.flush()
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing: the output belongs to the action."""


def main() -> None:
    """Serve the socket and the folder that the command line names."""
    Handler.runtime = Runtime(Path(sys.argv[2]))
    server = HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=int(sys.argv[1]))
    server.serve_forever()


if __name__ == "__main__":
    main()

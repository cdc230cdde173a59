"""A container of OpenWhisk, as the invoker sees it: HTTP with /init and /run, and the action as a process of its own.

`python -m emulators.openwhisk.proxy FD FOLDER` serves the listening socket FD. What the action prints goes to the
standard output and error; a marker on both ends what belongs to one activation.
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
    """An answer other than 200."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


class Runtime:
    """The action of this container, once it has one.

    Args:
        folder: for its code.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._initialized = False
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: IO[str] = io.StringIO()

    def init(self, value: dict[str, Any]) -> Any:
        """Take the code and start it."""
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
        """Have the action answer."""
        if self._process is None or self._process.stdin is None:
            raise Refused(500, "no action defined yet")
        # A process that has ended can't take it, which shows when it has no answer.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(call).encode() + b"\n")
            self._process.stdin.flush()
        answer = self._answers.readline()
        if not answer:
            self._process.wait()
            self._process = None
            raise Refused(400, "command exited")
        return _checked(answer)

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
            # This server has one thread, its first: the signal comes when the thread that started the process ends.
            preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),  # noqa: PLW1509 (one thread)
        )
        os.close(writing)
        self._answers = os.fdopen(reading, encoding="utf-8")
        if not self._answers.readline():
            raise Refused(502, "cannot start action: command exited")


def _checked(answer: str) -> Any:
    def no_json(constant: str) -> NoReturn:
        raise ValueError(constant)

    try:
        result = json.loads(answer, parse_constant=no_json)
    except ValueError:
        result = None
    if not isinstance(result, dict | list):
        raise Refused(502, "The action did not return a dictionary or array.")
    return result


class Handler(BaseHTTPRequestHandler):
    """The runtime over HTTP."""

    runtime: Runtime

    def do_POST(self) -> None:
        """Answer `/init` or `/run`; what the action printed ends with a marker."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ends = True
        try:
            if self.path == "/init":
                status, answer = 200, self.runtime.init(body["value"])
                ends = False
            else:
                status, answer = 200, self.runtime.run(body)
        except Refused as exc:
            status, answer = exc.status, {"error": str(exc)}
        if ends:
            for stream in (sys.stdout, sys.stderr):
                stream.write(f"{END}\n")
                stream.flush()
        self._answer(status, json.dumps(answer).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: what is printed here is the action's."""


def main() -> None:
    """Serve the socket and the folder that the command line names."""
    Handler.runtime = Runtime(Path(sys.argv[2]))
    server = HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=int(sys.argv[1]))
    server.serve_forever()


if __name__ == "__main__":
    main()

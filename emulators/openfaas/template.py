"""A function's process, as OpenFaaS's `python3-http` template runs it: Flask behind waitress.

`python template.py FOLDER FD` serves `handle(event, context)` of FOLDER/handler.py or FOLDER/function/handler.py,
on a socket that is bound already. It listens only when the handler is imported: until then calls are refused.
"""

import importlib
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flask
import waitress

METHODS = ("GET", "PUT", "POST", "PATCH", "DELETE")

Handle = Callable[["Event", "Context"], Any]


@dataclass(frozen=True)
class Event:
    """The call."""

    body: bytes
    headers: Any
    method: str
    query: Any
    path: str


@dataclass(frozen=True)
class Context:
    """The instance."""

    hostname: str


def load(folder: Path) -> Handle:
    """The handler of a function's code."""
    sys.path.insert(0, str(folder))
    name = "function.handler" if (folder / "function" / "handler.py").exists() else "handler"
    handle: Handle = importlib.import_module(name).handle
    return handle


def response(returned: Any) -> Any:
    """What Flask makes of a handler's result; bytes in a dict become their repr."""
    if returned is None:
        return "", 200
    if not isinstance(returned, dict):
        return returned
    body = returned.get("body", "")
    shown = flask.jsonify(body) if isinstance(body, dict) else str(body)
    return shown, returned.get("statusCode", 200), returned.get("headers", {})


def application(handle: Handle) -> flask.Flask:
    """Every path and method is the handler's."""
    app, context = flask.Flask(__name__), Context(os.environ.get("HOSTNAME", "localhost"))

    def call(path: str) -> Any:  # noqa: ARG001 (the handler finds it in the event)
        request = flask.request
        event = Event(request.get_data(), request.headers, request.method, request.args, request.path)
        return response(handle(event, context))

    app.add_url_rule("/", "root", call, methods=METHODS, defaults={"path": ""})
    app.add_url_rule("/<path:path>", "path", call, methods=METHODS)
    return app


def main(folder: str, number: str) -> None:
    """Serve until killed."""
    app = application(load(Path(folder)))
    waitress.serve(app, sockets=[socket.socket(fileno=int(number))])


if __name__ == "__main__":
    main(*sys.argv[1:])

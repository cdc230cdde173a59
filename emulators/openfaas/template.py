"""The process of a function, as OpenFaaS's template `python3-http` runs it: Flask behind waitress.

`python template.py FOLDER FD` serves `handle(event, context)` of FOLDER/handler.py or FOLDER/function/handler.py on the
bound socket FD. It starts to listen after it has imported the handler. Until then the system refuses connections.
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
    """A call."""

    body: bytes
    headers: Any
    method: str
    query: Any
    path: str


@dataclass(frozen=True)
class Context:
    """Facts about the instance."""

    hostname: str


def load(folder: Path) -> Handle:
    """Import and return the handler in a function's folder."""
    sys.path.insert(0, str(folder))
    name = "function.handler" if (folder / "function" / "handler.py").exists() else "handler"
    handle: Handle = importlib.import_module(name).handle
    return handle


def response(result: Any) -> Any:
    """Return a handler's result in Flask's terms. The template turns bytes in a dict into their repr."""
    if result is None:
        return "", 200
    if not isinstance(result, dict):
        return result
    body = result.get("body", "")
    content = flask.jsonify(body) if isinstance(body, dict) else str(body)
    return content, result.get("statusCode", 200), result.get("headers", {})


def application(handle: Handle) -> flask.Flask:
    """Return an application that gives every path and method to a handler."""
    app, context = flask.Flask(__name__), Context(os.environ.get("HOSTNAME", "localhost"))

    def call(path: str) -> Any:  # noqa: ARG001 (the event has the path)
        request = flask.request
        event = Event(request.get_data(), request.headers, request.method, request.args, request.path)
        return response(handle(event, context))

    app.add_url_rule("/", "root", call, methods=METHODS, defaults={"path": ""})
    app.add_url_rule("/<path:path>", "path", call, methods=METHODS)
    return app


def main(folder: str, fd: str) -> None:
    """Serve until killed.

    Args:
        folder: folder with the function's code.
        fd: number of the bound socket.
    """
    app = application(load(Path(folder)))
    waitress.serve(app, sockets=[socket.socket(fileno=int(fd))])


if __name__ == "__main__":
    main(*sys.argv[1:])

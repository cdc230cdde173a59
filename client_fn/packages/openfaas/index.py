"""Serves handler.py over HTTP to the of-watchdog in the same container.

It takes the place of the one in OpenFaaS's template python3-http, which finds no package beside the handler.
"""

import importlib
import os
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import waitress
from flask import Flask, request
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import Headers

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")

THREADS: Final = 8
"""More than the watchdog's `max_inflight`, so that a thread is free for the health check during a training."""

app = Flask(__name__)
handler = importlib.import_module("handler")


@dataclass(frozen=True, slots=True)
class Event:
    """An HTTP request, in the form that the template passes to a handler."""

    body: bytes
    headers: Headers
    method: str
    path: str


@app.route("/", defaults={"_": ""}, methods=METHODS)
@app.route("/<path:_>", methods=METHODS)
def call(_: str) -> ResponseReturnValue:
    """Pass a request to the handler."""
    event = Event(request.get_data(), request.headers, request.method, request.path)
    response: ResponseReturnValue = handler.handle(event, None)
    return response


if __name__ == "__main__":
    # The watchdog reads this variable to find us, and passes it on.
    upstream = urlsplit(os.environ.get("upstream_url", "http://127.0.0.1:5000"))  # noqa: SIM112 (the watchdog's name)
    waitress.serve(app, host=upstream.hostname, port=upstream.port, threads=THREADS)

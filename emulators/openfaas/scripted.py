"""A function that does not train. It does what the arguments of the task's model say, and replies like the real one."""

from pathlib import Path
from typing import Final

from emulators.paths import REPOSITORY

IMAGE: Final = "docker.io/fedkeeper/client-fn:test"

HANDLER: Final = f"""
import json, os, sys, time

sys.path.insert(0, {str(REPOSITORY)!r})
from broker.messages import bundle, signature
from broker.messages.errors import BadSignature

seen = {{}}

def handle(event, context):
    if event.path == "/healthz":
        return {{"statusCode": 200, "body": "fine"}}
    try:
        if "FEDKEEPER_KEY_FILE" in os.environ:
            with open(os.environ["FEDKEEPER_KEY_FILE"], "rb") as file:
                signature.verify(file.read(), event.body, event.headers, time.time(), seen)
    except BadSignature as exc:
        return {{"statusCode": 401, "body": str(exc)}}
    if event.headers["Content-Type"] != bundle.CONTENT_TYPE:
        return act(json.loads(event.body))
    message, blobs = bundle.unpack(event.body)
    request = json.loads(message)
    inputs = list(blobs.values())
    topics = [topic.replace("ATTEMPT", str(request["attempt"])) for topic in arguments(request)["topics"]]
    report = json.dumps({{"id": name(request["task"]), "state": "done"}}).encode()
    return bundle.pack(report, dict(zip(topics, [b"update of " + inputs[0], b"state of " + inputs[-1]]))), 200

def arguments(request):
    return request["task"]["model_configuration"]["args"]

def name(task):
    return f"{{task['job']}}.{{task['round']}}.{{task['client_id']}}"

def act(request):
    config = arguments(request)
    report = {{"id": name(request["task"]), "state": "done", "cold": True, "attempt": request["attempt"]}}
    if "note" in config:
        with open(config["note"], "a") as file:
            file.write("begun;")
    time.sleep(config.get("sleep", 0))
    if "note" in config:
        with open(config["note"], "a") as file:
            file.write("done;")
    match config.get("do"):
        case "raise":
            raise RuntimeError("no such model")
        case "die":
            os._exit(1)
        case "say":
            return config["body"], config["status"]
        case "env":
            report |= {{"reason": json.dumps(dict(os.environ)), "state": "failed"}}
    return {{"statusCode": 200, "body": report | config.get("report", {{}})}}
"""
"""Its `handler.py`, for OpenFaaS's template `python3-http`."""


def write_code(folder: Path, handler: str = HANDLER) -> Path:
    """Write a function's code into a new folder and return the folder.

    Args:
        folder: the new folder.
        handler: content of `handler.py`.
    """
    folder.mkdir()
    (folder / "handler.py").write_text(handler)
    return folder

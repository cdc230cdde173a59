"""The archives are complete: what is in them runs where nothing else of ours is."""

import ast
import io
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bridges import platforms
from bridges.errors import UnknownPlatform
from broker import BrokerUrl, topics
from client_fn.code import archive
from client_fn.code.archive import Archive
from client_fn.data import shards
from fedkeeper.deployment import archives
from tests.support.command import run_here
from tests.support.function_site import FAR
from tests.support.paths import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.torch]

PLATFORMS = [kind.name for kind in platforms.KINDS if kind.files]
OURS = {"broker", "client_fn"}
FOR_STAGING_ALONE = {"httpx", "rich"}
"""Modules that only the program that partitions the data imports."""

FOR_SOME_DATA = {"aiohttp", "PIL", "pyarrow"}
"""Imported only to read from such a store or format; where one is missing, the error names what to install."""

MODULES = {
    "paho-mqtt": "paho",
    "nats-py": "nats",
    "ml-dtypes": "ml_dtypes",
    "functions-framework": "functions_framework",
}
COMES_ALONG = {"werkzeug": "flask"}

ENDING = """
import json, sys
roots = {name.partition(".")[0] for name in sys.modules}
assert not roots & {"server", "bridges", "fedkeeper"}, roots
foreign = [m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] in ("broker", "client_fn")
             and not (m.__file__ or "").startswith(FOLDER)]
assert not foreign, foreign
print(json.dumps(answer))
"""


def opened(platform: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(archives.build(platform)))


def unpacked(platform: str, folder: Path) -> Path:
    opened(platform).extractall(folder)
    return folder


def answer_of(program: str, folder: Path, **environment: str) -> tuple[Any, str]:
    """Run a program in that folder, in an environment as empty as OpenWhisk's. Return its output and its log."""
    program = f"FOLDER = {str(folder)!r}\n{program}{ENDING}"
    run = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1]), run.stdout + run.stderr


def task(tmp_path: Path) -> dict[str, Any]:
    data_loc = f"{tmp_path}/shard.safetensors"
    shards.write(data_loc, np.random.default_rng(1).random((10, 2, 2), dtype=np.float32), np.arange(10) % 3)
    return {
        "client_id": "c1",
        "client_type": "openwhisk",
        "url": "",
        "model_configuration": {"args": {"input_size": 4, "hidden": 5, "classes": 3}},
        "data_loc": data_loc,
        "training_hyperparameters": {"local_epochs": 1},
        "job": "job",
        "round": 1,
        "model": {"topic": f"fl.models.job.{'0' * 64}", "sha256": "0" * 64, "bytes": 1},
        "token": "t0ken",
        "seed": 7,
        "deadline_s": FAR,
        "max_attempts": 3,
    }


@pytest.mark.parametrize("platform", PLATFORMS)
def test_an_archive_has_all_of_our_code_and_nothing_that_is_made_from_it(platform: str) -> None:
    names = opened(platform).namelist()
    for folder in OURS:
        on_disk = {str(file.relative_to(REPOSITORY)) for file in (REPOSITORY / folder).rglob("*.py")}
        assert {name for name in on_disk if not name.startswith("client_fn/packages/")} <= set(names)
    assert not [name for name in names if "__pycache__" in name or "/packages/" in name or name.endswith(".pyc")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("platform", "own"),
    [
        ("openfaas", {"Dockerfile", "handler.py", "index.py", "requirements.txt", "stack.yml"}),
        # A requirements.txt beside __main__.py would be installed at every cold start.
        ("openwhisk", {"__main__.py", "image/Dockerfile", "image/requirements.txt"}),
        ("gcf", {"main.py", "requirements.txt"}),
    ],
)
def test_an_archive_has_its_platform_s_files_beside_the_code(platform: str, own: set[str]) -> None:
    assert {name for name in opened(platform).namelist() if name.partition("/")[0] not in OURS} == own


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_same_sources_give_the_same_small_archive(platform: str, tmp_path: Path) -> None:
    first = archives.build(platform)
    file = archives.write(platform, tmp_path / "new folder")
    assert file.name == f"fedkeeper-{platform}.zip"
    assert file.read_bytes() == first
    # Far below the 4 MB from which on the broker's layer sends a payload in chunks.
    assert len(first) < 1_500_000
    entries = opened(platform).infolist()
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {(entry.date_time, entry.compress_type) for entry in entries} == {((1980, 1, 1, 0, 0, 0), 0)}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_user_s_code_is_the_same_in_an_archive_as_in_its_folder(platform: str, tmp_path: Path) -> None:
    code = code_of_a_user(tmp_path / "project")
    content = archives.build(platform, code)
    assert content == archives.build(platform, code_of_a_user(tmp_path / "again"))
    zipfile.ZipFile(io.BytesIO(content)).extractall(tmp_path / "app")
    assert archive.pack(tmp_path / "app" / "code").digest == code.digest
    names = {str(file.relative_to(tmp_path / "app")) for file in (tmp_path / "app").rglob("*") if file.is_file()}
    assert names - set(opened(platform).namelist()) == {f"code/{name}" for name in code.taken}
    (path,) = (name for name in names if name.endswith("requirements.txt") and not name.startswith("code/"))
    assert (tmp_path / "app" / path).read_bytes() == opened(platform).read(path) + b"timm>=1\n"


USER_CODE = """
from client_fn import site
from client_fn.code.store import CodeStore
import code, handler

assert code.InteractiveConsole, "the standard library's module"
with CodeStore(site.read({}, code=site.packaged_code()).code, None) as store:
    answer = store.get(DIGEST).digest
"""


def test_a_function_finds_the_user_s_code_in_its_archive(tmp_path: Path) -> None:
    code = code_of_a_user(tmp_path / "project")
    zipfile.ZipFile(io.BytesIO(archives.build("openfaas", code))).extractall(tmp_path / "app")
    answer, _ = answer_of(f"DIGEST = {code.digest!r}\n{USER_CODE}", tmp_path / "app")
    assert answer == code.digest


def test_the_command_packs_the_user_s_code_and_says_what_is_in_it(tmp_path: Path) -> None:
    code = code_of_a_user(tmp_path / "project")
    result = run_here("package", "gcf", "--out", str(tmp_path), "--code", str(tmp_path / "project"))
    assert result.output.splitlines() == [code.summary(), f"{tmp_path}/fedkeeper-gcf.zip"]
    assert "data.csv (data)" in result.output
    assert (tmp_path / "fedkeeper-gcf.zip").read_bytes() == archives.build("gcf", code)


def code_of_a_user(folder: Path) -> Archive:
    (folder / "mine").mkdir(parents=True)
    for name, text in {
        "mine/nets.py": "",
        "__init__.py": "raise SystemExit",
        "requirements.txt": "timm>=1  # a comment",
        "data.csv": "1",
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    return archive.pack(folder)


def test_other_platforms_are_unknown(tmp_path: Path) -> None:
    with pytest.raises(UnknownPlatform) as unknown:
        archives.write("lambda", tmp_path)
    assert str(unknown.value) == "unknown platform 'lambda': use one of openfaas, openwhisk, gcf"
    assert not list(tmp_path.iterdir())


def requirements(platform: str) -> dict[str, str]:
    name = "image/requirements.txt" if platform == "openwhisk" else "requirements.txt"
    lines = [line for line in opened(platform).read(name).decode().splitlines() if not line.startswith("--")]
    return {re.split(r"[<>=]", line)[0]: line for line in lines}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_is_required_is_what_the_project_requires(platform: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    listed = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["train"],
        *project["dependency-groups"]["dev"],
    ]
    known = {re.split(r"[<>=]", line)[0]: line for line in listed}
    for name, line in requirements(platform).items():
        assert line == known.get(name, line)
    assert requirements(platform)["torch"] == known["torch"]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_is_imported_is_required(platform: str) -> None:
    archive = opened(platform)
    files = [name for name in archive.namelist() if name.endswith(".py")]
    needed = {module for name in files for module in imported(archive.read(name))}
    installed = {MODULES.get(name, name) for name in requirements(platform)}
    missing = {COMES_ALONG.get(module, module) for module in needed} - installed - OURS
    assert not missing - FOR_STAGING_ALONE - FOR_SOME_DATA - sys.stdlib_module_names


def imported(source: bytes) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in plain | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}}


def test_the_stack_file_is_one_that_works() -> None:
    stack = yaml.safe_load(opened("openfaas").read("stack.yml"))
    ((client, function),) = stack["functions"].items()
    environment = function["environment"]
    assert stack["provider"]["name"] == "openfaas"
    assert environment["FEDKEEPER_CLIENT"] == topics.checked_id(client)
    assert function["annotations"]["topic"] == topics.task("openfaas", client)
    url = BrokerUrl.parse(environment["FEDKEEPER_URL"])
    mounted = {f"/var/openfaas/secrets/{name}" for name in function["secrets"]}
    assert mounted == {str(url.password_file), environment["FEDKEEPER_KEY_FILE"]}
    assert int(environment["exec_timeout"][:-1]) < int(environment["write_timeout"][:-1])


def test_the_health_check_has_threads_that_no_request_uses() -> None:
    archive = opened("openfaas")
    inflight = re.search(r'max_inflight="(\d+)"', archive.read("Dockerfile").decode())
    threads = re.search(r"THREADS: Final = (\d+)", archive.read("index.py").decode())
    assert inflight is not None
    assert threads is not None
    assert 0 < int(inflight[1]) < int(threads[1])


OPENFAAS = """
import hashlib, json
import index
from broker.messages import bundle
from broker.messages.job_sections import Model
from client_fn.training import models, tensors

client = index.app.test_client()
task = json.loads(TASK)
model = tensors.to_bytes(tensors.tensors_of(models.build(Model(args=task["model_configuration"]["args"]), seed=1)))
digest = hashlib.sha256(model).hexdigest()
task["model"] = {"topic": f"fl.models.job.{digest}", "sha256": digest, "bytes": len(model)}
body = bundle.pack(json.dumps({"task": task, "attempt": 1}).encode(), {task["model"]["topic"]: model})
health = client.get("/healthz")
done = client.post("/", data=body, headers={"Content-Type": bundle.CONTENT_TYPE, "X-Call-Id": "call-1"})
message, blobs = bundle.unpack(done.get_data())
answer = [health.status_code, done.status_code, done.content_type, json.loads(message), sorted(blobs)]
answer += [client.post("/", data=b"no order").status_code]
"""


def test_openfaas_s_archive_trains(tmp_path: Path) -> None:
    program = f"TASK = {json.dumps(task(tmp_path))!r}\n{OPENFAAS}"
    answer, _ = answer_of(program, unpacked("openfaas", tmp_path / "app"), FEDKEEPER_CLIENT="c1")
    report = {"id": "job.1.c1", "state": "done", "cold": True, "attempt": 1, "activation": "call-1"}
    bundle_type = "application/vnd.fedkeeper.parcel"
    assert answer == [200, 200, bundle_type, report, ["fl.state.job.c1.1.1.opt", "fl.updates.job.1.c1.1"], 400]


OPENWHISK = """
import json
from main__ import main

hidden = "Basic czNjcmV0OnMzY3JldA=="
params = {"order": {"task": json.loads(TASK), "attempt": 1}, "__ow_headers": {"authorization": hidden}}
answer = [main(params), main({"order": 5, "__ow_headers": {"authorization": hidden}})]
"""


def test_openwhisk_s_archive_runs_as_its_runtime_runs_it(tmp_path: Path) -> None:
    folder = unpacked("openwhisk", tmp_path / "action")
    # As the runtime does; what it finds at this broker is that the model is not there.
    (folder / "__main__.py").rename(folder / "main__.py")
    program = f"TASK = {json.dumps(task(tmp_path))!r}\n{OPENWHISK}"
    environment = {"FEDKEEPER_URL": "memory://alone", "__OW_ACTIVATION_ID": "0123"}
    (report, refusal), output = answer_of(program, folder, **environment)
    assert (report["id"], report["state"], report["activation"]) == ("job.1.c1", "failed", "0123")
    assert report["reason"].startswith("BlobMissing")
    assert refusal.keys() == {"error"}
    assert "czNjcmV0OnMzY3JldA" not in output


GCF = """
import base64, json
import flask
from functions_framework import create_app

client = create_app("train", "main.py").test_client()

def send(data, id):
    headers = {"ce-id": id, "ce-source": "//pubsub.googleapis.com/projects/p/topics/t", "ce-specversion": "1.0",
               "ce-type": "google.cloud.pubsub.topic.v1.messagePublished"}
    message = {"message": {"data": base64.b64encode(data).decode(), "messageId": id}, "subscription": "s"}
    return client.post("/", json=message, headers=headers).status_code

answer = [send(json.dumps({"task": json.loads(TASK), "attempt": 1}).encode(), "message-1"), send(b"{}", "message-2")]
"""


def test_gcf_s_archive_acknowledges_valid_and_invalid_requests(tmp_path: Path) -> None:
    program = f"TASK = {json.dumps(task(tmp_path))!r}\n{GCF}"
    answer, output = answer_of(program, unpacked("gcf", tmp_path / "source"), FEDKEEPER_URL="memory://alone")
    assert answer == [200, 200]
    logged = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    events = [entry for entry in logged if entry["event"] in ("request answered", "no request")]
    assert [(entry["event"], entry["level"]) for entry in events] == [
        ("request answered", "info"),
        ("no request", "error"),
    ]
    assert events[0]["reason"].startswith("BlobMissing")
    assert events[1]["message"] == "message-2"


def test_an_instance_that_is_set_up_wrong_does_not_start(tmp_path: Path) -> None:
    folder = unpacked("openfaas", tmp_path / "app")
    with pytest.raises(AssertionError, match="FEDKEEPER_KEY_FILE: /nowhere can't be read"):
        answer_of("import handler; answer = 0", folder, FEDKEEPER_KEY_FILE="/nowhere")

"""What commands print with --json. `run_here` checks each line against docs/schemas/cli.json."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from broker.messages.job_record import JobRecord
from broker.messages.register import ClientRecord, ClientStats
from broker.messages.round import BlobRef
from fedkeeper.errors import NotChecked
from fedkeeper.exit_codes import ExitCode
from fedkeeper.sdk import Client
from tests.support import fakes
from tests.support.command import run_here

MODEL: Final = BlobRef("fl.models.demo-1.x", "ab" * 32, 5)
JOBS: Final = (
    JobRecord(id="demo-1", job=fakes.job("demo"), phase="completed", done=2, model=MODEL, metrics={"f1": 0.5}),
    JobRecord(id="demo-2", job=fakes.job("demo"), phase="running", waiting="1 of 5 clients are registered"),
)


class System:
    """A system's register and jobs, in memory."""

    def __init__(self) -> None:
        self.clients = {"c-0": ClientRecord(id="c-0", platform="site", function="c-0", data_loc="s3://k:secret@b/0")}
        self.cancelled: list[str] = []

    async def jobs(self) -> list[JobRecord]:
        return list(JOBS)

    async def job(self, job: str) -> JobRecord:
        return next(record for record in JOBS if record.id == job)

    async def cancel(self, job: str) -> None:
        self.cancelled.append(job)

    async def list_clients(self) -> list[ClientRecord]:
        return list(self.clients.values())

    async def client(self, client: str) -> ClientRecord | None:
        return self.clients.get(client)

    async def client_stats(self) -> dict[str, ClientStats]:
        return {"c-0": ClientStats(client="c-0", platform="site", state="succeeded", seen_s=5.0, invocations=3)}

    async def register(self, clients: Iterable[ClientRecord]) -> None:
        self.clients.update({client.id: client for client in clients})

    async def unregister(self, client: str) -> None:
        del self.clients[client]

    async def check(self, client: str, **__: object) -> Any:
        raise NotChecked(client, "no bridge answers")


@pytest.fixture(autouse=True)
def system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> System:
    monkeypatch.chdir(tmp_path)
    made = System()
    for name in ("jobs", "job", "cancel", "client", "client_stats", "register", "unregister", "check"):
        monkeypatch.setattr(Client, name, getattr(made, name))
    monkeypatch.setattr(Client, "clients", made.list_clients)
    return made


def run(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
    ended = run_here(*arguments, "--json", FEDKEEPER_URL="memory://json")
    assert ended.exit_code == code, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_jobs_are_a_line_each(system: System) -> None:
    first, second = run("jobs")
    assert (first["job"], first["phase"], first["rounds"], first["metrics"]) == ("demo-1", "completed", 2, {"f1": 0.5})
    assert (first["sha256"], first["bytes"], second["sha256"]) == (MODEL.sha256, 5, None)
    assert (second["phase"], second["reason"]) == ("waiting", "1 of 5 clients are registered")
    assert [line["job"] for line in run("jobs", "--phase", "waiting")] == ["demo-2"]
    assert run("cancel", "demo-1") == [{"job": "demo-1", "requested": False, "phase": "completed", "reason": ""}]
    assert [line["requested"] for line in run("cancel", "demo-2")] == [True]
    assert system.cancelled == ["demo-2"]


def test_clients_are_a_line_each_without_secrets() -> None:
    (client,) = run("clients")
    assert (client["client"], client["state"], client["invocations"], client["seen_s"]) == ("c-0", "succeeded", 3, 5.0)
    assert "secret" not in client["data_loc"]


def test_the_register_says_what_has_become_of_an_entry(system: System) -> None:
    added = run("clients", "add", "c-1", "--platform", "site", "--samples", "7", "--no-check")
    assert added == [{"client": "c-1", "entry": "new", "fields": [], "samples": 7}]
    (changed,) = run("clients", "add", "c-1", "--platform", "other", "--samples", "7", "--no-check")
    assert (changed["entry"], changed["fields"]) == ("changed", ["platform"])
    Path("boards.csv").write_text("client,platform\nc-1,other\nc-2,site\n")
    dry = run("clients", "add", "--from", "boards.csv", "--dry-run")
    assert [(line["client"], line["entry"]) for line in dry] == [("c-1", "same"), ("c-2", "new")]
    assert set(system.clients) == {"c-0", "c-1"}
    assert [line["entry"] for line in run("clients", "pause", "c-0", "c-1")] == ["changed", "changed"]
    assert [line["entry"] for line in run("clients", "pause", "c-0")] == ["same"]
    assert run("clients", "remove", "c-1") == [{"client": "c-1", "entry": "removed", "fields": [], "samples": 0}]


def test_a_client_that_was_not_checked_is_a_line_too() -> None:
    (line,) = run("clients", "check", "c-0", code=ExitCode.FAILED)
    assert (line["client"], line["error"], line["problem"]) == ("c-0", "NotChecked", "no bridge answers")


def test_files_that_are_written_are_named(tmp_path: Path) -> None:
    (package,) = run("package", "openwhisk", "--out", str(tmp_path))
    assert Path(package["path"]).is_file()
    Path("mine.csv").write_text("x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(10)))
    (staged,) = run("stage", "--from", "mine.csv", "--target", "y", "--clients", "2", "--register")
    assert [client["samples"] for client in staged["clients"]] == [5, 5]
    assert (staged["registered"], staged["job"]["data"]["dataset"]) == (True, "mine")

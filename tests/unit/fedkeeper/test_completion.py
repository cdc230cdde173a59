"""What the shell completes, and that it is silent where nobody answers."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer.completion

from broker.messages.job_record import JobRecord
from broker.messages.register import ClientRecord
from broker.support import logs
from fedkeeper import completion
from fedkeeper.exit_codes import ExitCode
from fedkeeper.sdk import Client
from tests.support import fakes
from tests.support.command import run_here


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDKEEPER_URL", raising=False)
    monkeypatch.setattr(logs, "configure", lambda **_: None)


def context(url: str = "") -> Any:
    return SimpleNamespace(params={"url": url})


async def jobs(_: Client) -> list[JobRecord]:
    return [JobRecord(id=job, job=fakes.job()) for job in ("demo-1", "other-2", "demo-3")]


async def clients(_: Client) -> list[ClientRecord]:
    return [ClientRecord(id=f"board-{i}", platform=f"site-{i % 2}", function="f", data_loc="") for i in range(3)]


def test_jobs_clients_and_sites_of_the_broker_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "jobs", jobs)
    monkeypatch.setattr(Client, "clients", clients)
    here = context("memory://completion")
    assert completion.job_ids(here, "de") == ["demo-3", "demo-1"]
    assert completion.client_ids(here, "") == ["board-0", "board-1", "board-2"]
    assert completion.sites(here, "site") == ["site-0", "site-1"]
    monkeypatch.setenv("FEDKEEPER_URL", "memory://completion")
    assert completion.job_ids(context(), "o") == ["other-2"]


def test_nothing_is_completed_without_a_broker_and_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    assert completion.job_ids(context(), "") == []
    assert completion.job_ids(context("nats://127.0.0.1:1"), "") == []
    assert completion.job_ids(context("no address"), "") == []
    assert capfd.readouterr() == ("", "")


def test_a_broker_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: Client) -> list[JobRecord]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(Client, "jobs", never)
    begin_s = time.monotonic()
    assert completion.job_ids(context("memory://silent"), "") == []
    assert time.monotonic() - begin_s >= completion.LIMIT_S


def test_job_files_are_completed_by_their_folder_and_by_their_name() -> None:
    for name in ("job.toml", "job.json", "notes.txt", "more/deep.toml"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    assert completion.job_files("jo") == ["job.json", "job.toml"]
    assert completion.job_files("./jo") == ["./job.json", "./job.toml"]
    assert completion.job_files("m") == ["more/", "mnist-cnn", "mnist-nn"]
    assert completion.job_files("more/") == ["more/deep.toml"]
    assert completion.job_files("nowhere/x") == []


def test_the_shell_gets_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "jobs", jobs)
    words = {"_FEDKEEPER_COMPLETE": "complete_bash", "FEDKEEPER_URL": "memory://words"}
    done = run_here(COMP_WORDS="fedkeeper cancel o", COMP_CWORD="2", **words)
    assert done.output.split() == ["other-2"]
    done = run_here(COMP_WORDS="fedkeeper su", COMP_CWORD="1", **words)
    assert done.output.split() == ["submit"]


@pytest.mark.parametrize(("shell", "of_it"), [("fish", "complete --command fedkeeper"), ("zsh", "#compdef fedkeeper")])
def test_the_script_is_that_of_the_shell_that_is_named(shell: str, of_it: str) -> None:
    for named in (("--show-completion", shell), (f"--show-completion={shell}",)):
        shown = run_here(*named)
        assert (shown.exit_code, of_it in shown.stdout) == (0, True), shown.output


@pytest.mark.parametrize("named", [("tcsh",), ("fish", "jobs")])
@pytest.mark.parametrize("option", ["--show-completion", "--install-completion"])
def test_another_shell_is_a_mistake_in_the_arguments(option: str, named: tuple[str, ...]) -> None:
    shown = run_here(option, *named)
    assert (shown.exit_code, shown.stdout) == (ExitCode.USAGE, "")
    assert f"for {option}: expected bash, zsh, fish, powershell or pwsh; nothing: the current shell" in shown.stderr


def test_completion_is_installed_for_the_shell_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[object] = []
    monkeypatch.setattr(typer.completion, "install_callback", lambda _ctx, _param, shell: named.append(shell))
    assert run_here("--install-completion", "fish").exit_code == 0
    assert named == ["fish"]

"""What the options of a command change in the server and in the workers."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridges.local import Settings
from client_fn import site as sites
from client_fn.code import archive
from client_fn.data import datasets
from client_fn.site import Site
from fedkeeper.errors import FedKeeperError
from fedkeeper.services import bridging, system
from tests.support.command import run_here

URL = ("--url", "memory://nowhere")


class Started:
    """What a command has started before it was stopped."""

    site: Site
    workers: Settings
    output: str

    @property
    def worker_site(self) -> Site:
        return sites.read(self.workers.env)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Started]:
    """Start a command in an empty folder, with a server and a bridge that do nothing and end it."""
    started = Started()

    async def run_server(_: str, site: Site, *__: Any) -> None:
        started.site = site
        await asyncio.Event().wait()

    async def run_bridge(_: Any, file: Any, *__: Any) -> None:
        started.workers = file.platform
        await asyncio.sleep(0)
        raise FedKeeperError("the end of the test")

    for name in ("ALLOW", "CODE", "DEVICE", "REVEAL", "METRICS", "TRAINER_MEMORY_MB", "SITE_SECRET_FILE", "TOGETHER"):
        monkeypatch.delenv(f"FEDKEEPER_{name}", raising=False)
    monkeypatch.setattr(system, "run_server", run_server)
    monkeypatch.setattr(bridging, "run_bridge", run_bridge)
    monkeypatch.setattr(datasets, "ensure", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **environ: str) -> Started:
        result = run_here(*arguments, **environ)
        started.output = result.output
        assert "the end of the test" in result.output, (result.output, result.exception)
        return started

    return run


@pytest.mark.parametrize("command", [("run", "quickstart"), ("up",), ("bridge", "local")])
def test_workers_train_on_the_device_of_the_environment_or_of_the_option(
    command: tuple[str, ...], start: Callable[..., Started]
) -> None:
    assert start(*command, *URL).workers.device == ""
    assert start(*command, *URL, FEDKEEPER_DEVICE="cuda:1").workers.device == "cuda:1"
    assert start(*command, *URL, "--device", "cuda:2", FEDKEEPER_DEVICE="cuda:1").workers.device == "cuda:2"


def test_clients_are_trained_together_as_the_option_the_environment_or_the_device_says(
    start: Callable[..., Started],
) -> None:
    def settings(*options: str, **environ: str) -> tuple[int, int, bool]:
        """Return the clients that a worker trains at once, the tasks in progress, and whether there is one worker."""
        started = start("bridge", "local", *URL, *options, **environ)
        workers = started.workers
        assert started.worker_site.most_together == workers.together
        return workers.together, workers.concurrency, workers.workers == 1

    assert settings("--workers", "2") == (1, 4, False)
    assert settings("--workers", "2", "--device", "cuda") == (64, 130, False)
    assert settings("--device", "cuda:1") == (64, 65, True)
    assert settings("--device", "cuda", "--together", "1", "--workers", "2") == (1, 4, False)
    assert settings("--together", "4", "--workers", "1", FEDKEEPER_TOGETHER="8") == (4, 5, True)
    assert settings("--workers", "1", FEDKEEPER_TOGETHER="auto") == (64, 65, True)


@pytest.mark.parametrize("command", [("run", "quickstart"), ("up",), ("bridge", "local")])
def test_code_and_allowed_names_reach_server_and_workers(
    command: tuple[str, ...], start: Callable[..., Started], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").touch()
    started = start(*command, *URL, "--code", "mine.py", "--allow", "torchvision", "--allow", "timm:Net")
    site = started.worker_site
    assert (site.code, site.code_is_allowed, site.allow) == (tmp_path / "mine.py", True, ("torchvision", "timm:Net"))
    assert site.code_store == tmp_path / ".fedkeeper" / "code"
    assert site.secret == (tmp_path / ".fedkeeper" / "site-secret").read_bytes()
    if command != ("bridge", "local"):
        assert (started.site.code, started.site.allow) == (Path("mine.py"), site.allow)
        assert archive.pack(tmp_path / "mine.py").summary() in started.output
    from_environment = start(*command, *URL, FEDKEEPER_CODE="mine.py", FEDKEEPER_ALLOW="a,b").worker_site
    assert (from_environment.code, from_environment.allow) == (tmp_path / "mine.py", ("a", "b"))


def test_run_allows_the_model_that_the_user_names(start: Callable[..., Started], tmp_path: Path) -> None:
    (tmp_path / "mine.py").touch()
    started = start("run", "quickstart", *URL, "--set", "model.type=mine:Net")
    assert (started.site.code, started.site.allow, started.site.code_is_allowed) == (Path(), ("mine:Net",), False)
    assert (started.worker_site.allow, started.worker_site.code_is_allowed) == (("mine:Net",), False)
    assert "code " in started.output


def test_up_says_which_models_jobs_may_name(start: Callable[..., Started], tmp_path: Path) -> None:
    assert "models: nn, cnn; give --code DIR for models of your own\n" in start("up", *URL).output
    (tmp_path / "mine.py").touch()
    digest = archive.pack(tmp_path).digest
    assert f"models: nn, cnn; code {digest[:8]} from . (mine)\n" in start("up", *URL, "--code", ".").output


@pytest.mark.parametrize(
    ("arguments", "environ", "reveal"),
    [
        (("run", "quickstart", "--url", "nats://broker.example"), {"FEDKEEPER_REVEAL": "class"}, "text"),
        (("up", "--url", "memory://here"), {}, "text"),
        (("up", "--url", "nats://127.0.0.1:4222"), {}, "text"),
        (("up", "--url", "nats://broker.example"), {}, "class"),
        (("up", "--url", "nats://broker.example", "--reveal", "text"), {}, "text"),
        (("up", "--url", "memory://here"), {"FEDKEEPER_REVEAL": "class"}, "class"),
        (("bridge", "local", "--url", "memory://here"), {}, "class"),
        (("bridge", "local", "--url", "memory://here", "--reveal", "text"), {}, "text"),
    ],
)
def test_the_text_of_an_error_stays_where_others_could_read_it(
    arguments: tuple[str, ...], environ: dict[str, str], reveal: str, start: Callable[..., Started]
) -> None:
    assert start(*arguments, **environ).worker_site.reveal == reveal


@pytest.mark.parametrize("command", [("up",), ("bridge", "local")])
def test_clients_metrics_may_be_shown_as_a_mean_only(command: tuple[str, ...], start: Callable[..., Started]) -> None:
    assert start(*command, *URL).worker_site.metrics == "client"
    assert start(*command, *URL, "--metrics", "sum").worker_site.metrics == "sum"


@pytest.mark.parametrize(("command", "trainers"), [(("run", "quickstart"), 4), (("up",), 4), (("bridge", "local"), 3)])
def test_the_memory_is_shared_by_all_that_train_or_evaluate(
    command: tuple[str, ...], trainers: int, start: Callable[..., Started]
) -> None:
    assert start(*command, *URL, "--workers", "3").worker_site.memory_mb == Site().memory_mb // trainers
    explicit = start(*command, *URL, "--workers", "3", FEDKEEPER_TRAINER_MEMORY_MB="77")
    assert explicit.worker_site.memory_mb == 77


def test_a_server_alone_has_a_site_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sites_of_servers: list[Site] = []

    async def run_server(_: str, site: Site, *__: Any) -> None:
        sites_of_servers.append(site)

    monkeypatch.setattr(system, "run_server", run_server)
    monkeypatch.chdir(tmp_path)
    result = run_here("server", *URL, "--code", ".", "--allow", "a")
    assert result.exit_code == 0, result.output
    (site,) = sites_of_servers
    assert (site.code, site.allow, site.reveal) == (Path(), ("a",), "class")
    assert site.code_store == tmp_path / ".fedkeeper" / "code"
    assert not (tmp_path / ".fedkeeper").exists()

"""The site of a command, from its options and its environment."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from client_fn.errors import BadSettings
from client_fn.site import Site
from fedkeeper.errors import BadOption
from fedkeeper.options import Metrics, Reveal
from fedkeeper.services import site_settings

ENVIRON = {
    "FEDKEEPER_ALLOW": "a,b",
    "FEDKEEPER_CODE": "/code",
    "FEDKEEPER_DEVICE": "cuda",
    "FEDKEEPER_REVEAL": "text",
    "FEDKEEPER_TRAINER_MEMORY_MB": "1000",
}


def test_options_have_priority_over_the_environment() -> None:
    assert site_settings.read(ENVIRON) == Site(
        allow=("a", "b"), code=Path("/code"), device="cuda", reveal="text", memory_mb=1000
    )
    site = site_settings.read(
        ENVIRON,
        code=Path("mine"),
        allow=["c.d, e", "f:G"],
        device="cpu",
        reveal=Reveal.CLASS,
        metrics=Metrics.SUM,
    )
    assert site == Site(
        allow=("c.d", "e", "f:G"), code=Path("mine"), device="cpu", reveal="class", metrics="sum", memory_mb=1000
    )


@pytest.mark.parametrize("environ", [{"FEDKEEPER_ALLOW": "a.*"}, {"FEDKEEPER_REVEAL": "all"}])
def test_a_wrong_value_ends_the_command(environ: dict[str, str]) -> None:
    with pytest.raises(BadSettings):
        site_settings.read(environ)


def test_the_memory_is_shared_and_a_variable_has_priority(tmp_path: Path) -> None:
    site = replace(Site(), memory_mb=1000)
    assert site_settings.prepare(site, tmp_path, trainers=3, environ={}).memory_mb == 333
    assert site_settings.prepare(site, tmp_path, trainers=3, environ=ENVIRON).memory_mb == 1000


def test_copies_of_the_code_are_in_the_folder(tmp_path: Path) -> None:
    assert site_settings.prepare(Site(), tmp_path, trainers=1, environ={}).code_store == tmp_path / "code"
    assert site_settings.with_store(Site(code_store=Path("/elsewhere")), tmp_path).code_store == Path("/elsewhere")


def test_the_secret_is_random_private_and_never_replaced(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        files = set(threads.map(site_settings.secret_file, [tmp_path / "new"] * 8))
    (file,) = files
    secret = file.read_text()
    assert len(bytes.fromhex(secret)) == 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["site-secret"]
    assert site_settings.secret_file(tmp_path / "new").read_text() == secret
    assert site_settings.secret_file(tmp_path / "other").read_text() != secret


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadOption, match=r"--dir .*file: "):
        site_settings.secret_file(tmp_path / "file")


def test_workers_get_the_site_and_the_file_with_its_secret(tmp_path: Path) -> None:
    variables = site_settings.worker_environment(Site(allow=("a",)), tmp_path)
    assert variables["FEDKEEPER_ALLOW"] == "a"
    assert variables["FEDKEEPER_SITE_SECRET_FILE"] == str(tmp_path / "site-secret")
    own_secret = site_settings.worker_environment(Site(secret=b"s3cret"), tmp_path)
    assert not [name for name, value in own_secret.items() if "SECRET" in name or "s3cret" in value]


@pytest.mark.parametrize("layout", ["mine.py", "mine/__init__.py", "mine/deep/nets.py"])
def test_the_users_own_model_is_found_beside_the_job(layout: str, tmp_path: Path) -> None:
    (tmp_path / layout).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / layout).touch()
    site = site_settings.with_own_code(Site(allow=("a",)), ("mine.deep:Model",), tmp_path)
    assert site == replace(Site(), allow=("a", "mine.deep:Model"), code=tmp_path, code_is_allowed=False)


def test_the_users_own_model_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    assert site_settings.with_own_code(Site(), ("mine:Model",), Path("/nowhere")).code == Path()


def test_a_class_of_an_installed_library_needs_no_code(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    site = site_settings.with_own_code(Site(), ("torchvision.models:ResNet",), tmp_path)
    assert (site.code, site.code_is_allowed, site.allow) == (None, True, ("torchvision.models:ResNet",))


def test_code_that_is_given_stays_allowed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").touch()
    site = site_settings.with_own_code(Site(code=Path("/code")), ("mine:Model",), tmp_path)
    assert (site.code, site.code_is_allowed, site.allow) == (Path("/code"), True, ("mine:Model",))


@pytest.mark.parametrize("types", [(), ("mine.__main__:Model",)])
def test_other_names_change_nothing(types: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mine.py").touch()
    assert site_settings.with_own_code(Site(), types, tmp_path) == Site()


def test_all_that_a_job_names_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").touch()
    site = site_settings.with_own_code(Site(), ("torchvision.models:ResNet", "mine:loss"), tmp_path)
    assert (site.code, site.allow) == (tmp_path, ("torchvision.models:ResNet", "mine:loss"))


def test_one_line_says_which_models_jobs_may_name(tmp_path: Path) -> None:
    assert site_settings.describe_models(Site(), None) == "models: nn, cnn; give --code DIR for models of your own"
    assert site_settings.describe_models(Site(allow=("a", "b:C")), None) == "models: nn, cnn; allowed: a, b:C"
    for name in ("mine.py", "utils.py"):
        (tmp_path / name).touch()
    site = Site(code=tmp_path, allow=("a",))
    packed = site_settings.pack(site)
    assert packed is not None
    code = f"code {packed.digest[:8]} from {tmp_path} (mine, utils)"
    assert site_settings.describe_models(site, packed) == f"models: nn, cnn; {code}; allowed: a"
    assert "code" not in site_settings.describe_models(replace(site, code_is_allowed=False), packed)
    assert site_settings.pack(Site()) is None


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("memory://here", True),
        ("nats://127.0.0.1:4222", True),
        ("mqtt://localhost", True),
        ("nats://[::1]:4222", True),
        ("nats://127.0.0.1:4222,localhost:4223", True),
        ("nats://127.0.0.1:4222,10.0.0.1", False),
        ("nats://10.0.0.1", False),
        ("nats://127.0.0.1.example.org", False),
        ("tls://broker.example", False),
    ],
)
def test_loopback_addresses_are_this_machine(url: str, answer: bool) -> None:  # noqa: FBT001 (a case)
    assert site_settings.is_this_machine(url) is answer

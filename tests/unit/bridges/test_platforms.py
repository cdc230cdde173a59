"""The table of platforms: ours are complete, others are checked, errors say what to do."""

import dataclasses
import subprocess
import sys
import tomllib
from importlib import metadata
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest

from bridges import platforms
from bridges.errors import BadPlatform, LibraryMissing, PlatformFailed, UnknownPlatform
from bridges.platform import BasePlatform
from bridges.platforms import Kind
from bridges.settings import PlatformSettings
from broker.messages.data_report import DataCheck
from fedkeeper.errors import NoBridge
from tests.support.paths import REPOSITORY

ACME = Kind(name="acme", module="acme", about="A platform of another distribution.")


def adds(monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    """Add entry points of another distribution, by name. An exception type is one that can't be loaded."""
    acme = ModuleType("acme_points")
    vars(acme).update({name: value for name, value in values.items() if not isinstance(value, type)})
    monkeypatch.setitem(sys.modules, "acme_points", acme)
    points = [EntryPoint(name, f"acme_points:{name}", platforms.GROUP) for name in values]
    monkeypatch.setattr(platforms, "entry_points", lambda *, group: points if group == platforms.GROUP else ())


@pytest.mark.parametrize("kind", platforms.KINDS, ids=lambda kind: kind.name)
def test_every_platform_of_ours_has_the_same_parts(kind: Kind) -> None:
    package = kind.load()
    name = package.__name__ if isinstance(package, ModuleType) else ""
    assert name == kind.module
    folder = REPOSITORY.joinpath(*kind.module.split("."))
    files = {"settings.py", "platform.py", *(("functions.py", "api.py") if kind.has_functions else ())}
    assert files <= {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("kind", platforms.KINDS, ids=lambda kind: kind.name)
def test_an_extra_installs_what_a_platform_needs(kind: Kind) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert not kind.extra or kind.extra in extras
    assert not kind.extra or kind.extra in extras["fabric"][0]


def test_the_table_imports_no_platform() -> None:
    program = "import sys, bridges.platforms as p; p.known(); print({'httpx', 'google.auth', 'grpc'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert run.stdout == "set()\n"


def test_the_error_for_an_unknown_platform_names_all_platforms() -> None:
    with pytest.raises(UnknownPlatform) as unknown:
        platforms.find("lambda")
    assert str(unknown.value) == "unknown platform 'lambda': use one of local, openfaas, openwhisk, gcf"
    assert unknown.value.known == ("local", "openfaas", "openwhisk", "gcf")


def test_the_error_for_a_missing_library_names_the_extra_that_installs_it() -> None:
    program = (
        "import sys\nsys.modules['httpx'] = None\nfrom fedkeeper import cli\n"
        "sys.argv = ['fedkeeper', 'bridge', 'openfaas', '--config', 'configs/bridges/openfaas.toml']\ncli.main()"
    )
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
    message = "the platform 'openfaas' needs httpx, which is not installed: pip install '.[openfaas]'"
    assert run.returncode == 1
    assert message in run.stdout + run.stderr
    assert "Traceback" not in run.stderr


def test_the_error_names_the_package_of_a_platform_without_an_extra() -> None:
    with pytest.raises(LibraryMissing, match=r"needs no_such_package.* install what no_such_package\.kind needs"):
        dataclasses.replace(ACME, module="no_such_package.kind").load()


def test_the_error_names_an_incomplete_module() -> None:
    with pytest.raises(BadPlatform, match="its module json has no `Settings`"):
        dataclasses.replace(ACME, module="json").load()


def test_other_distributions_add_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    zebra = dataclasses.replace(ACME, name="zebra")
    adds(monkeypatch, zebra=zebra, acme=ACME)
    assert platforms.known() == (*platforms.KINDS, ACME, zebra)
    assert platforms.find("zebra") is zebra
    assert "`fedkeeper bridge openfaas|openwhisk|gcf|acme|zebra --config FILE`" in str(NoBridge("acme", "list", 1.0))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("acme", ModuleNotFoundError, "its entry point acme_points:acme can't be loaded"),
        ("acme", "a text", "is not a Kind of that name"),
        ("acme", dataclasses.replace(ACME, name="other"), "is not a Kind of that name"),
        ("Acme", dataclasses.replace(ACME, name="Acme"), "a-z"),
        ("gcf", dataclasses.replace(ACME, name="gcf"), "has a command of that name itself"),
        ("relay", dataclasses.replace(ACME, name="relay"), "has a command of that name itself"),
    ],
)
def test_the_error_names_an_invalid_platform(
    monkeypatch: pytest.MonkeyPatch, name: str, value: Any, reason: str
) -> None:
    adds(monkeypatch, **{name: value})
    with pytest.raises(BadPlatform, match=reason) as bad:
        platforms.known()
    assert bad.value.platform == name
    assert platforms.find("openfaas").name == "openfaas"


def test_the_group_is_the_one_that_the_documents_name() -> None:
    assert platforms.GROUP in (REPOSITORY / "docs" / "fabric.md").read_text()
    assert not metadata.entry_points(group=platforms.GROUP)


async def test_a_bridge_to_functions_says_why_it_can_not_look_at_their_data() -> None:
    platform = BasePlatform(PlatformSettings(name="cloud"), None)
    with pytest.raises(PlatformFailed, match=r"cloud could not look at the data of c-1: only the client's function"):
        await platform.check(DataCheck(id="1", client="c-1", data_loc="gs://bucket/a.csv"))

"""A board's containers, as far as they can be checked without Docker: images, services and the unit fit together."""

import re
from pathlib import Path
from typing import Any, Final

import pytest
import typer
import yaml

from broker.url import BrokerUrl
from fedkeeper import cli
from tests.support.paths import REPOSITORY

EDGE: Final = REPOSITORY / "configs" / "edge"
CONTAINERS: Final = EDGE / "containers"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((CONTAINERS / "compose.yml").read_text())
UNIT: Final = (CONTAINERS / "fedkeeper-bridge@.service").read_text().replace("\\\n", "")
VALUES: Final = dict(re.findall(r"^(\w+)=(.*)$", (CONTAINERS / "bridge.env").read_text(), re.MULTILINE))

services = pytest.mark.parametrize("service", COMPOSE["services"].values(), ids=COMPOSE["services"])


def dockerfile(service: dict[str, Any]) -> Path:
    """The Dockerfile of a service's image."""
    return CONTAINERS / f"{service['image'].rpartition(':')[2]}.Dockerfile"


def instructions(file: Path) -> dict[str, str]:
    """The last of each kind of instruction in a Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text().replace("\\\n", ""), flags=re.MULTILINE)
    return dict(re.findall(r"^([A-Z]+) +(.*)$", text, re.MULTILINE))


def options(command: list[str]) -> dict[str, str]:
    """The options of a command, by name; a flag has no value."""
    return {name: value for name, _, value in (word.partition("=") for word in command if word.startswith("--"))}


@services
def test_a_service_has_an_image_that_its_file_says_how_to_build(service: dict[str, Any]) -> None:
    file = dockerfile(service)
    assert f"docker build --tag {service['image']} --file {file.name} ." in file.read_text()
    assert service["pull_policy"] == "never"


@services
def test_the_command_is_one_of_the_program(service: dict[str, Any]) -> None:
    assert instructions(dockerfile(service))["ENTRYPOINT"] == '["/opt/fedkeeper/bin/fedkeeper"]'
    command: Any = typer.main.get_command(cli.app)
    words = [word for word in service["command"] if not word.startswith("--")]
    for word in words:
        command = command.get_command(None, word)
    known = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
    assert options(service["command"]).keys() <= known


@services
def test_the_command_does_what_that_of_a_bridge_without_a_container_does(service: dict[str, Any]) -> None:
    (line,) = re.findall(r"^ExecStart=/\S+ (.+)$", (EDGE / "local.conf").read_text(), re.MULTILINE)
    outside = re.sub(r" (?=[^-])", "=", line.partition("bridge local ")[2]).split()
    own = options(service["command"])
    assert own.keys() == options(outside).keys()
    assert {name: own[name] for name in ("--workers", "--no-provision")} == {"--workers": "1", "--no-provision": ""}


@services
def test_a_container_can_change_nothing_but_its_state(service: dict[str, Any]) -> None:
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["network_mode"] == "host"
    assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc"}
    state = options(service["command"])["--dir"]
    assert [volume for volume in service["volumes"] if not volume.endswith(":ro")] == [f"state:{state}"]
    assert re.search(rf"install -d -o 10001 .* {state}$", dockerfile(service).read_text(), re.MULTILINE)


@services
def test_nobody_is_root(service: dict[str, Any]) -> None:
    assert service["user"] == instructions(dockerfile(service))["USER"] == "10001:10001"


@services
def test_the_password_is_a_file_and_no_variable(service: dict[str, Any]) -> None:
    url = BrokerUrl.parse(VALUES["FEDKEEPER_URL"])
    assert url.password is None
    assert url.password_file is not None
    assert service["secrets"] == [url.password_file.name]
    assert str(url.password_file.parent) == "/run/secrets"
    assert service["environment"].keys() == {"FEDKEEPER_URL", "FEDKEEPER_DEVICE"}
    assert COMPOSE["secrets"][url.password_file.name]["file"] == f"/etc/fedkeeper/secrets/{url.password_file.name}"


def test_only_the_image_for_the_gpu_gets_it() -> None:
    cpu, gpu = COMPOSE["services"]["cpu"], COMPOSE["services"]["jetpack6"]
    assert (cpu["environment"]["FEDKEEPER_DEVICE"], gpu["environment"]["FEDKEEPER_DEVICE"]) == ("cpu", "cuda")
    assert gpu["runtime"] == "nvidia"
    assert not cpu.keys() & {"runtime", "group_add"}
    # The numbers of the board's groups. Docker refuses a list with the same number twice, also for the other service.
    assert gpu["group_add"] == ["${VIDEO_GID:-44}", "${RENDER_GID:-10001}"]
    for name in ("VIDEO", "RENDER"):
        assert f"{name}_GID=$$(getent group {name.lower()} | cut -d: -f3)" in UNIT


def test_what_a_service_asks_for_is_in_the_file_of_values_or_comes_from_the_unit() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (CONTAINERS / "compose.yml").read_text()))
    assert asked == VALUES.keys() | {"VIDEO_GID", "RENDER_GID"}
    assert f"EnvironmentFile=/etc/fedkeeper/containers/{CONTAINERS.joinpath('bridge.env').name}\n" in UNIT


def test_systemd_alone_restarts_it() -> None:
    assert "Restart=on-failure\n" in UNIT
    assert "docker compose run --rm " in UNIT
    assert {service["restart"] for service in COMPOSE["services"].values()} == {"no"}
    names = re.findall(r"docker (?:compose run .*--name|rm --force|stop --time \d+) (\S+)", UNIT)
    assert names == ["fedkeeper-bridge"] * 3
    # What systemd calls stopped in time.
    times = [re.search(pattern, UNIT) for pattern in (r"stop --time (\d+)", r"TimeoutStopSec=(\d+)")]
    docker_s, systemd_s = (int(time[1]) for time in times if time)
    assert docker_s < systemd_s


def test_arm64_gets_a_torch_without_cuda_and_nvidia_s_torch_stays() -> None:
    assert 'ARG TORCH="torch>=2.6,<2.11"\n' in (CONTAINERS / "cpu.Dockerfile").read_text()
    gpu = instructions(CONTAINERS / "jetpack6.Dockerfile")
    assert gpu["ARG"] == "BASE_IMAGE=nvcr.io/nvidia/pytorch:26.02-py3-igpu"
    assert "--system-site-packages" in (CONTAINERS / "jetpack6.Dockerfile").read_text()

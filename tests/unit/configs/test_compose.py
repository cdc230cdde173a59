"""The compose files and the Dockerfile, as far as they can be checked without Docker."""

from typing import Any, Final

import pytest
import yaml

from tests.support.paths import REPOSITORY

HAS_SHELL: Final = {"nats:2.12": False, "nats:2.12-alpine": True}
"""Published images. https://github.com/nats-io/nats-docker: a plain version is `FROM scratch`, with nothing but the
server in it."""

SERVICES: Final[dict[str, dict[str, Any]]] = {
    f"{file.name}:{name}": service
    for file in sorted(REPOSITORY.glob("docker-compose*.yml"))
    for name, service in yaml.safe_load(file.read_text())["services"].items()
}


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_service_that_needs_a_shell_has_an_image_with_one(service: dict[str, Any]) -> None:
    command = [*service.get("entrypoint", []), *service.get("command", [])]
    # Without `image` it is our own image, a Debian.
    assert "/bin/sh" not in command or "image" not in service or HAS_SHELL[service["image"]]


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_no_password_stands_in_a_command_line(service: dict[str, Any]) -> None:
    text = " ".join([*service.get("entrypoint", []), *service.get("command", [])])
    assert "--pass" not in text
    assert "secrets" in service, "the password is a secret, mounted as a file"


def test_the_image_does_not_run_as_root() -> None:
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER ")][-1] != "USER root"

"""configs/server, and what docs/deploy-openfaas.md writes beside it: valid for systemd, and one name for each file."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from bridges import platforms
from broker import BrokerUrl
from fedkeeper.services import bridging
from tests.support import documents
from tests.support.paths import REPOSITORY

KIT: Final = REPOSITORY / "configs/server"
DOCUMENT: Final = "docs/deploy-openfaas.md"
UNITS: Final = ("fedkeeper-broker.service", "fedkeeper-server.service")


def lines(start: str) -> list[str]:
    """The lines of the document's shell blocks that begin with a text."""
    blocks = documents.blocks(DOCUMENT, "sh")
    return [line for block in blocks for line in block.text.splitlines() if line.startswith(start)]


def drop_ins() -> dict[str, str]:
    """The drop-ins that the document writes with printf, by their path."""
    found = {}
    for line in lines("printf "):
        words = shlex.split(line)
        found[words[-1]] = words[1].replace("\\n", "\n")
    return found


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    assert analyze, "systemd-analyze is not installed: apt-get install systemd"
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in UNITS:
        text = re.sub(r"(?<=^ExecStart=)/opt/\S+", str(program), (KIT / name).read_text(), flags=re.MULTILINE)
        (tmp_path / name).write_text(text)
        verified = subprocess.run(
            [analyze, "verify", "--man=no", tmp_path / name], check=False, capture_output=True, text=True
        )
        wrong = [line for line in verified.stderr.splitlines() if name in line and "Unknown key" not in line]
        assert wrong == []


def test_the_broker_is_given_every_file_that_its_configuration_names() -> None:
    unit, config = (KIT / UNITS[0]).read_text(), (KIT / "nats.conf").read_text()
    given = set(re.findall(r"^LoadCredential=(\S+):", unit, re.MULTILINE))
    named = set(re.findall(r'include "(\S+)"', config)) | set(
        re.findall(r"/run/credentials/fedkeeper-broker.service/([\w.-]+)", config + unit)
    )
    assert given == named
    installed = (
        " ".join([*lines("sudo cp"), *lines("sed 's#/data")])
        + " ".join(lines("openssl req"))
        + " ".join(lines("for user"))
    )
    assert all(name in installed for name in given)


def test_the_broker_stores_where_its_unit_lets_it() -> None:
    (edit,) = lines("sed 's#/data")
    edited = subprocess.run(
        shlex.split(edit.partition(" | ")[0]), check=True, capture_output=True, text=True, cwd=REPOSITORY / "configs"
    ).stdout
    assert "store_dir: /var/lib/fedkeeper-broker" in edited
    assert "StateDirectory=fedkeeper-broker" in (KIT / UNITS[0]).read_text()


def test_the_server_s_address_names_the_password_that_its_unit_has() -> None:
    (url,) = re.findall(r"^FEDKEEPER_URL=(.*)$", (KIT / "server.env").read_text(), re.MULTILINE)
    assert str(BrokerUrl.parse(url).password_file) == "/run/credentials/fedkeeper-server.service/server-password"
    assert "LoadCredential=server-password:/etc/fedkeeper/secrets/server-password" in (KIT / UNITS[1]).read_text()
    assert lines("sed -n 's/^SERVER")[0].endswith("> secrets/server-password")


def test_the_drop_ins_set_what_the_services_read() -> None:
    faasd, bridge = drop_ins().values()
    assert faasd == "[Service]\nEnvironment=read_timeout=1900s write_timeout=1900s\n"
    assert bridge == "[Service]\nLoadCredential=function-password:/etc/fedkeeper/secrets/function-password\n"
    assert set(drop_ins()) == {
        "/etc/systemd/system/faasd-provider.service.d/timeouts.conf",
        "/etc/systemd/system/fedkeeper-bridge.service.d/function.conf",
    }


def test_the_bridge_s_file_is_that_of_the_kit_after_the_document_s_edit(tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    shutil.copy(REPOSITORY / "configs/edge/bridge.toml", file)
    (edit,) = lines("sudo sed -i 's/backbone")
    words = shlex.split(edit.replace("/etc/fedkeeper/bridge.toml", str(file)))
    subprocess.run(words[1:], check=True)
    shown = tmp_path / "shown.toml"
    shown.write_text(documents.block(DOCUMENT, "toml", "gateway = "))
    kind = platforms.find("openfaas")
    assert bridging.read(kind, file) == bridging.read(kind, shown)


@pytest.mark.parametrize("before", ["read_timeout=60s", "write_timeout=60s", "upstream_timeout=65s"])
def test_the_gateway_s_timeouts_are_longer_than_a_training_after_the_edit(before: str, tmp_path: Path) -> None:
    file = tmp_path / "docker-compose.yaml"
    file.write_text(f"    environment:\n      - {before}\n      - ack_wait=5m5s\n")
    (edit,) = lines("sudo sed -i -E")
    subprocess.run(shlex.split(edit.replace("/var/lib/faasd/docker-compose.yaml", str(file)))[1:], check=True)
    assert file.read_text() == f"    environment:\n      - {before.partition('=')[0]}=1900s\n      - ack_wait=5m5s\n"

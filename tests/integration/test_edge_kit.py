"""The files that an operator copies to a board are valid for systemd, Mosquitto, nats-server and our own reader."""

import asyncio
import configparser
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from bridges import platforms
from bridges.openfaas import Settings
from broker import BrokerUrl
from broker.nats.server import find_binary
from fedkeeper.services import bridging, relaying
from tests.support.brokers import Mosquitto
from tests.support.paths import REPOSITORY

EDGE = REPOSITORY / "configs" / "edge"
SECRETS_AT = "/run/credentials/fedkeeper-bridge.service"


class Unit(configparser.RawConfigParser):
    """A unit file: a key may come several times, and then the last one is seen."""

    def __init__(self, *names: str) -> None:
        super().__init__(strict=False, delimiters=("=",), interpolation=None)
        self.optionxform = str  # type: ignore[assignment,method-assign]
        self.read([EDGE / name for name in names], encoding="utf-8")


def credentials(name: str) -> dict[str, str]:
    lines = re.findall(r"^LoadCredential=([\w-]+):(.+)$", (EDGE / name).read_text(), re.MULTILINE)
    return dict(lines)


def test_the_unit_watches_limits_and_starts_the_bridge_again() -> None:
    unit, service = Unit("fedkeeper-bridge.service"), dict(Unit("fedkeeper-bridge.service")["Service"])
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) == 60
    assert service["Restart"] == "on-failure"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert int(service["RestartMaxDelaySec"]) > int(service["RestartSec"])
    assert int(service["MemoryMax"].removesuffix("M")) < 256
    assert service["NoNewPrivileges"] == service["DynamicUser"] == service["ProtectHome"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["SocketBindDeny"] == "any"
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_systemd_itself_takes_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.fail("systemd-analyze is not installed: apt-get install systemd")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in ("fedkeeper-bridge.service", "fedkeeper-nats.service", "fedkeeper-relay.service"):
        text = re.sub(r"/opt/fedkeeper/bin/\S+", str(program), (EDGE / name).read_text())
        (tmp_path / name).write_text(text.replace("User=fedkeeper-nats", "User=root"))
        command = (analyze, "verify", str(tmp_path / name))
        run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
        # What a newer systemd knows, an older one passes over, as the unit says.
        messages = [line for line in run.stderr.splitlines() if name in line and "RestartSteps" not in line]
        assert [line for line in messages if "RestartMaxDelaySec" not in line] == []
        assert run.returncode == 0, run.stderr


def test_the_bridge_s_file_names_secrets_that_the_unit_hands_over() -> None:
    file = bridging.read(platforms.find("openfaas"), EDGE / "bridge.toml")
    assert file.secrets == SECRETS_AT
    assert isinstance(file.platform, Settings)
    url = BrokerUrl.parse(file.url)
    assert url.password_file is not None
    assert str(url.password_file.parent) == SECRETS_AT
    expected = {url.password_file.name, file.platform.password, file.platform.key}
    given = credentials("fedkeeper-bridge.service")
    assert set(given) == expected
    assert all(path == f"/etc/fedkeeper/secrets/{name}" for name, path in given.items())


def test_the_relay_s_file_names_secrets_that_its_unit_hands_over() -> None:
    settings = relaying.read(EDGE / "relay.toml")
    files = [BrokerUrl.parse(url).password_file for url in (settings.backbone, settings.site)]
    assert all(file is not None and str(file.parent) == "/run/credentials/fedkeeper-relay.service" for file in files)
    given = credentials("fedkeeper-relay.service")
    assert set(given) == {file.name for file in files if file is not None}
    assert all(path == f"/etc/fedkeeper/secrets/{name}" for name, path in given.items())


def test_the_host_service_trains_on_the_gpu_with_data_of_its_own() -> None:
    service = Unit("fedkeeper-bridge.service", "local.conf")["Service"]
    command = service["ExecStart"].split()
    assert command[1:5] == ["bridge", "local", "--platform", "${FEDKEEPER_PLATFORM}"]
    assert service["SupplementaryGroups"] == "video render"
    assert "--no-provision" in command
    assert service["PrivateDevices"] == "no"
    assert service["MemoryMax"] == "75%"
    assert set(credentials("local.conf")) == {"broker-password"}
    variables = dict(re.findall(r"^(\w+)=(.*)$", (EDGE / "local.env").read_text(), re.MULTILINE))
    assert variables["FEDKEEPER_DEVICE"] == "cpu"
    assert str(BrokerUrl.parse(variables["FEDKEEPER_URL"]).password_file) == f"{SECRETS_AT}/broker-password"


async def test_mosquitto_takes_its_file_and_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    text = (EDGE / "mosquitto.conf").read_text()
    expected = {"persistence": "true", "autosave_on_changes": "true", "autosave_interval": "1"}
    settings = dict(re.findall(r"^(\w+) (.+)$", text, re.MULTILINE))
    assert settings.items() >= {**expected, "allow_anonymous": "false", "max_queued_messages": "0"}.items()
    assert "message_size_limit" not in settings
    # The test's broker has lines of its own for these.
    own = r"^(listener|allow_anonymous|persistence\w*|autosave_\w+|max_queued_messages|set_tcp_nodelay) .*\n"
    rest = re.sub(own, "", text, flags=re.MULTILINE)
    assert "max_packet_size" in rest
    rest = rest.replace("/etc/mosquitto/fedkeeper.passwd", str(passwords))
    server = Mosquitto(tmp_path / "mosquitto", rest, on_changes=True, anonymous=False)
    await server.start()
    await server.kill()


@pytest.mark.parametrize("name", ["nats-leaf.conf", "nats-backbone.conf"])
async def test_nats_server_takes_its_files(name: str, tmp_path: Path) -> None:
    shutil.copy(EDGE / name, tmp_path)
    (tmp_path / "nats-leaf.secret").write_text('BACKBONE: "tls://site-1:pw@127.0.0.1:7422"\nLOCAL_PASSWORD: "pw"\n')
    process = await asyncio.create_subprocess_exec(
        find_binary(), "-t", "-c", tmp_path / name, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 20.0)
    assert (process.returncode, b"is valid" in output) == (0, True), output


def test_nothing_that_is_shipped_holds_a_secret() -> None:
    for file in (path for path in EDGE.rglob("*") if path.is_file()):
        assert not re.search(r"://[^@/\s]+:(?!PASSWORD@)[^@/\s]+@", file.read_text()), file.name
    assert "password_file" in tomllib.loads((EDGE / "bridge.toml").read_text())["url"]

"""Units of the kit, read as systemd reads them."""

from tests.board import units

UNIT = """
[Unit]
Description=FedKeeper bridge
[Service]
Environment=A=1 "B=two words"
ExecStart=/opt/fedkeeper/bin/fedkeeper bridge openfaas --config /etc/fedkeeper/bridge.toml
LoadCredential=broker-password:/etc/fedkeeper/secrets/broker-password
LoadCredential=openfaas-key:/etc/fedkeeper/secrets/openfaas-key
StateDirectory=fedkeeper
DynamicUser=yes
[Install]
ExecStart=no such key here
"""

DROP_IN = """
[Service]
# A comment=with an equals sign
Environment=FEDKEEPER_PLATFORM=%l HOME=%S/fedkeeper
EnvironmentFile=-/etc/fedkeeper/local.env
ExecStart=
ExecStart=/opt/fedkeeper/bin/fedkeeper bridge local --platform ${FEDKEEPER_PLATFORM} \\
  --dir %S/fedkeeper --share 100%%
LoadCredential=
LoadCredential=broker-password:/etc/fedkeeper/secrets/broker-password
"""


def test_a_unit_says_what_is_started_with_what() -> None:
    service = units.read(UNIT, host="pi")
    assert service.command[1:3] == ("bridge", "openfaas")
    assert service.environment == {"A": "1", "B": "two words"}
    assert list(service.credentials) == ["broker-password", "openfaas-key"]
    assert service.state == "/var/lib/fedkeeper"
    assert service.is_dynamic
    assert not units.read("[Service]\nExecStart=/bin/true\n", host="pi").is_dynamic


def test_a_drop_in_adds_and_an_empty_value_forgets_the_former_ones() -> None:
    service = units.read(UNIT, DROP_IN, host="pi")
    assert service.command[1:] == (
        *("bridge", "local", "--platform", "${FEDKEEPER_PLATFORM}"),
        *("--dir", "/var/lib/fedkeeper", "--share", "100%"),
    )
    assert service.environment["A"] == "1"
    assert service.environment["HOME"] == "/var/lib/fedkeeper"
    assert service.environment["FEDKEEPER_PLATFORM"] == "pi"
    assert service.environment_files == ("-/etc/fedkeeper/local.env",)
    assert list(service.credentials) == ["broker-password"]


def test_variables_come_from_lines_of_a_file_and_go_into_the_command() -> None:
    text = "# a comment\n; another\n\nFEDKEEPER_URL=nats://edge@h:4222?password_file=/x\nFEDKEEPER_PLATFORM=board-1\n"
    variables = units.read_environment(text)
    assert variables == {"FEDKEEPER_URL": "nats://edge@h:4222?password_file=/x", "FEDKEEPER_PLATFORM": "board-1"}
    assert units.expand(("--platform", "${FEDKEEPER_PLATFORM}", "a${NOBODY}b"), variables) == (
        *("--platform", "board-1", "ab"),
    )

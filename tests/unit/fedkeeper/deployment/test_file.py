"""Deployment files: their clients and functions, and the errors for mistakes in them."""

from collections import Counter
from pathlib import Path

import pytest

from fedkeeper.deployment import deploying
from fedkeeper.deployment import file as deployment_file
from fedkeeper.errors import BadConfigFile
from tests.support.paths import REPOSITORY

FABRIC = """
name = "test"

[broker]
url = "nats://client@broker.example:4222"
password = "broker-password"

[data]
deal = { dataset = "mnist", partition = "shards", clients = 100, shards_per_client = 2 }
at = "/data"

[platforms.openfaas]
clients = 3
image = "registry.example/client:1"
key = "openfaas-key"

[platforms.cluster]
kind = "openwhisk"
clients = 7
options = { kind = "python:3.11" }

[platforms.gcf]
clients = 90
at = "gs://bucket/shards"

[[clients]]
id = "hospital"
platform = "cluster"
data_loc = "file:///data/own.safetensors"
labels = { data = "xray" }
"""


def file(tmp_path: Path, text: str = FABRIC) -> Path:
    path = tmp_path / "fabric.toml"
    path.write_text(text)
    return path


def test_every_client_of_the_partition_has_a_platform(tmp_path: Path) -> None:
    deployment = deployment_file.read(file(tmp_path))
    placements = list(deployment_file.placements(deployment))
    assert len(placements) == len({client for client, _ in placements}) == 100
    assert [platform for _, platform in placements] == ["openfaas"] * 3 + ["cluster"] * 7 + ["gcf"] * 90
    assert placements[0][0] == "mnist-shards2-c100-s0-000"


def test_a_record_has_the_place_of_the_client_s_personal_layers(tmp_path: Path) -> None:
    text = FABRIC.replace("clients = 7", 'clients = 7\nstate_loc = "s3://bucket/layers"')
    text = text.replace('id = "hospital"', 'id = "hospital"\nstate_loc = "/layers"')
    deployment = deployment_file.read(file(tmp_path, text))
    places = Counter(record.state_loc for record in deployment_file.client_records(deployment, {}))
    assert places == {"": 93, "s3://bucket/layers": 7, "/layers": 1}


def test_a_record_has_the_client_s_data_and_labels(tmp_path: Path) -> None:
    deployment = deployment_file.read(file(tmp_path))
    records = {
        record.id: record for record in deployment_file.client_records(deployment, {"mnist-shards2-c100-s0-000": 600})
    }
    first, last = records["mnist-shards2-c100-s0-000"], records["mnist-shards2-c100-s0-099"]
    assert (first.data_loc, first.samples, first.secret) == (
        "file:///data/mnist-shards2-c100-s0-000/shard.safetensors",
        600,
        "openfaas-key",
    )
    assert last.data_loc == "gs://bucket/shards/mnist-shards2-c100-s0-099/shard.safetensors"
    assert last.labels == {"data": "mnist-shards2-c100-s0", "fabric": "test"}
    own = records["hospital"]
    assert (own.platform, own.data_loc, own.labels) == (
        "cluster",
        "file:///data/own.safetensors",
        {"data": "xray", "fabric": "test"},
    )


def test_a_function_has_names_of_secrets_but_no_values(tmp_path: Path) -> None:
    deployment = deployment_file.read(file(tmp_path))
    record = deployment_file.client_records(deployment, {})[0]
    address = deployment_file.functions_url(deployment, "nats://own@127.0.0.1:4222?password_file=secret")
    function = deploying.make_function(deployment, record, None, address)
    assert (function.broker, function.password, function.key) == (
        "nats://client@broker.example:4222",
        "broker-password",
        "openfaas-key",
    )
    assert address == deployment_file.functions_url(deployment, "nats://elsewhere")


@pytest.mark.parametrize(
    ("own", "functions"),
    [
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
        ("nats://own@127.0.0.1:4222?password_file=here", "nats://own@127.0.0.1:4222?password_file=here"),
        ("tls://broker.example", "tls://broker.example"),
        ("nats://own:hunter2@127.0.0.1:4222", None),
        ("nats://own:hunter2@broker.example:4222", None),
        ("nats://own@broker.example:4222?password_file=/home/me/secret", None),
        ("nats://own@127.0.0.1,broker.example?password_env=MINE", None),
    ],
)
def test_functions_get_the_commands_own_address_if_no_password_comes_with_it(
    tmp_path: Path, own: str, functions: str | None
) -> None:
    section = FABRIC[FABRIC.index("[broker]") : FABRIC.index("[data]")]
    deployment = deployment_file.read(file(tmp_path, FABRIC.replace(section, "")))
    if functions is not None:
        assert deployment_file.functions_url(deployment, own) == functions
        return
    with pytest.raises(BadConfigFile, match=r"broker.url = .*NAME OF A SECRET.*url = \"none\"") as refused:
        deployment_file.functions_url(deployment, own)
    assert "hunter2" not in str(refused.value)


def test_functions_without_a_route_to_the_broker_get_no_address(tmp_path: Path) -> None:
    deployment = deployment_file.read(file(tmp_path, FABRIC.replace("nats://client@broker.example:4222", "none")))
    assert deployment_file.functions_url(deployment, "nats://own:hunter2@127.0.0.1:4222") == ""


@pytest.mark.parametrize("password", ["hunter2", "1/hunter2", "1?hunter2", "1#hunter2", "1@2/hunter2", "hunter2/@"])
def test_a_password_in_the_address_for_functions_is_refused(tmp_path: Path, password: str) -> None:
    text = FABRIC.replace("nats://client@broker", f"nats://client:{password}@broker")
    with pytest.raises(BadConfigFile, match="name its secret in `password`") as refused:
        deployment_file.read(file(tmp_path, text))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("clients = 90", "clients = 91"), "the platforms have 101 clients, the partition has 100"),
        (('kind = "openwhisk"', 'kind = "openwhiskey"'), "platforms"),
        (('kind = "openwhisk"\n', ""), "platforms.cluster.kind"),
        (("key = ", "keys = "), r"platforms\.\w+\.keys = .*did you mean 'key'"),
        (("partition = ", "partitions = "), r"data\.deal\.partitions = .*did you mean 'partition'"),
        (('platform = "cluster"', 'platform = "moon"'), "one of openfaas, cluster, gcf"),
        (("clients = 3", 'clients = "3"'), "clients"),
        (("[data]", "[data"), "TOML"),
    ],
)
def test_a_mistake_is_an_error_that_names_the_field(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in FABRIC
    with pytest.raises(BadConfigFile, match=message):
        deployment_file.read(file(tmp_path, FABRIC.replace(*change)))


def test_all_mistakes_are_told_each_with_its_table_value_and_line(tmp_path: Path) -> None:
    text = """
name = "test"
[platforms.openfaas]
memory = 512
clients = "three"
[platforms.cluster]
kind = "openwhisk"
timeout_s = 0
[[clients]]
id = "a"
platform = "openfaas"
data_loc = "/data/a"
[[clients]]
id = "b"
platfrom = "cluster"
data_loc = 5
labels = { data = 1 }
"""
    with pytest.raises(BadConfigFile) as refused:
        deployment_file.read(file(tmp_path, text))
    assert str(refused.value).splitlines() == [
        "7 mistakes",
        "fabric.toml:4: platforms.openfaas.memory = 512: no such key; did you mean 'memory_mb'?",
        "fabric.toml:5: platforms.openfaas.clients = 'three': expected a whole number >= 0",
        "fabric.toml:8: platforms.cluster.timeout_s = 0: expected a whole number >= 1",
        "fabric.toml:13: clients[1].platform: missing; expected a text",
        "fabric.toml:15: clients[1].platfrom = 'cluster': no such key; did you mean 'platform'?",
        "fabric.toml:16: clients[1].data_loc = 5: expected a text",
        "fabric.toml:17: clients[1].labels.data = 1: expected a text",
    ]
    assert [error.line for error in refused.value.errors] == [4, 5, 8, 13, 15, 16, 17]


def test_values_that_contradict_each_other_are_told_with_their_lines_too(tmp_path: Path) -> None:
    text = FABRIC.replace('name = "test"', 'name = "Test"').replace('platform = "cluster"', 'platform = "moon"')
    with pytest.raises(BadConfigFile) as refused:
        deployment_file.read(file(tmp_path, text.replace("[platforms.gcf]", "[platforms.cloud]")))
    assert str(refused.value).splitlines()[1:] == [
        "fabric.toml:2: name = 'Test': use 1 to 40 of a-z, 0-9 and '-'",
        "fabric.toml:22: platforms.cloud.kind = '': say which kind it is: one of openfaas, openwhisk, gcf",
        "fabric.toml:28: clients[0].platform = 'moon': expected one of openfaas, cluster, cloud",
    ]


def test_rules_are_told_beside_fields_of_a_wrong_type(tmp_path: Path) -> None:
    wrong = FABRIC.replace('name = "test"', 'name = "My Fabric"').replace('id = "hospital"', 'id = "Ward 1"')
    wrong = wrong.replace("clients = 3", 'clients = "three"').replace('platform = "cluster"', 'platform = "nowhere"')
    with pytest.raises(BadConfigFile) as refused:
        deployment_file.read(file(tmp_path, wrong))
    fields = [each.field for each in refused.value.errors]
    assert fields == ["name", "platforms.openfaas.clients", "clients[0].id", "clients[0].platform"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
def test_a_file_may_be_json_and_begin_with_a_byte_order_mark(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "fabric.json"
    path.write_bytes(mark + b'{"name": "test", "platforms": {"gcf": {"clients": 10}}}')
    assert deployment_file.read(path).platforms["gcf"].clients == 10
    path.write_bytes(mark + FABRIC.encode())
    assert deployment_file.read(path).name == "test"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadConfigFile, match="can be read"):
        deployment_file.read(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("name", "clients"),
    [("paper", {"openfaas": 3, "openwhisk": 7, "gcf": 90}), ("dev", {"openfaas": 3, "openwhisk": 3, "gcf": 4})],
)
def test_the_shipped_deployment_files_have_their_clients(name: str, clients: dict[str, int]) -> None:
    deployment = deployment_file.read(REPOSITORY / "configs" / f"fabric-{name}.toml")
    assert Counter(platform for _, platform in deployment_file.placements(deployment)) == clients

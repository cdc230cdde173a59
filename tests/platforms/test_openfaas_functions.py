"""The OpenFaaS bridge creates, updates, deletes and lists functions."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridges.errors import InvocationFailed, PlatformAway, PlatformDenied, PlatformFailed, SecretMissing
from broker import topics
from broker.messages.function import Deployed, Function
from emulators.openfaas.scripted import IMAGE
from tests.support.fakes import soon
from tests.support.openfaas_site import KEY, Site, function, site, task

NATS_PASSWORD = "of the broker"  # noqa: S105 (of no broker)
SOON_S = 1.0
URL = "nats://c-1@broker.example:4222?ca_file=/ca.pem"


@pytest.fixture(params=["faas-netes", "faasd"])
async def faas(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """An OpenFaaS without functions."""
    settings, secrets = {"key": "openfaas-key"}, {"nats": NATS_PASSWORD}
    async with site(tmp_path, kind=request.param, settings=settings, secrets=secrets) as faas:
        yield faas


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Site]:
    """An OpenFaaS on Kubernetes, without secrets."""
    async with site(tmp_path) as small:
        yield small


def full(**changes: Any) -> Function:
    return function(**{"broker": URL, "password": "nats", "key": "openfaas-key", "timeout_s": 7, **changes})


def content(path: str) -> str:
    return Path(path).read_text()


def wait(small: Site, ready_s: float) -> None:
    """Set the time limit until a new function can be called."""
    functions = small.platform.functions
    functions.settings = msgspec.structs.replace(functions.settings, ready_s=ready_s)


async def environment(faas: Site) -> dict[str, str]:
    """Return the environment of a function's process."""
    with pytest.raises(InvocationFailed) as caught:
        await faas.invoke(do="env")
    variables: dict[str, str] = json.loads(caught.value.reason)
    return variables


async def test_a_function_is_created_once_and_can_be_called_at_once(faas: Site) -> None:
    faas.gateway.provider.available_after_s, faas.gateway.provider.cold_s = 0.2, 0.4
    change, deployed = await faas.platform.functions.create(full(), None)
    assert [each.state for each in await faas.invoke()] == ["called", "succeeded"]
    assert change == "created"
    assert deployed == Deployed(name="c-1", fabric="test", digest=full().digest, url="c-1")
    starts, before = faas.gateway.watchdog("c-1").starts, faas.gateway.watchdog("c-1")
    assert await faas.platform.functions.create(full(), None) == ("same", deployed)
    assert faas.gateway.watchdog("c-1") is before
    assert before.starts == starts


async def test_a_function_that_should_be_otherwise_is_updated(faas: Site) -> None:
    await faas.platform.functions.create(full(), None)
    spec = full(env={"OMP_NUM_THREADS": "1"})
    change, deployed = await faas.platform.functions.create(spec, None)
    assert (change, deployed.digest) == ("updated", spec.digest)
    assert (await environment(faas))["OMP_NUM_THREADS"] == "1"


async def test_a_function_finds_everything_in_its_environment(faas: Site) -> None:
    await faas.platform.functions.create(full(env={"MINE": "yes"}), None)
    env = await environment(faas)
    joined, _, path = env["FEDKEEPER_URL"].partition("&password_file=")
    assert joined == URL
    assert content(path) == NATS_PASSWORD
    assert content(env["FEDKEEPER_KEY_FILE"]) == KEY
    assert (env["FEDKEEPER_CLIENT"], env["MINE"], env["ready_path"]) == ("c-1", "yes", "/healthz")
    assert (env["exec_timeout"], env["write_timeout"], env["read_timeout"]) == ("7s", "12s", "12s")
    mounted = faas.gateway.provider.functions["c-1"].spec["envVars"]["FEDKEEPER_KEY_FILE"]
    assert mounted == "/var/openfaas/secrets/fedkeeper-c-1-key"


async def test_a_function_without_a_password_gets_the_bare_address(small: Site) -> None:
    await small.platform.functions.create(function(broker="nats://broker.example:4222"), None)
    env = small.gateway.provider.functions["c-1"].spec["envVars"]
    assert env["FEDKEEPER_URL"] == "nats://broker.example:4222"
    assert "FEDKEEPER_KEY_FILE" not in env
    assert not small.gateway.provider.secrets


async def test_a_function_without_a_route_to_the_broker_gets_no_address(small: Site) -> None:
    await small.platform.functions.create(function(), None)
    assert "FEDKEEPER_URL" not in small.gateway.provider.functions["c-1"].spec["envVars"]


async def test_an_existing_secret_gets_its_new_value(faas: Site, tmp_path: Path) -> None:
    await faas.platform.functions.create(full(), None)
    (tmp_path / "secrets" / "nats").write_text("new")
    await faas.platform.functions.create(full(memory_mb=512), None)
    assert faas.gateway.provider.secrets["fedkeeper-c-1-password"] == b"new"


async def test_options_reach_the_platform(small: Site) -> None:
    options = {
        "constraints": ["node.platform.os == linux"],
        "labels": {"site": "north"},
        "limits": {"cpu": "500m"},
        "requests": {"memory": "64Mi"},
    }
    await small.platform.functions.create(function(memory_mb=512, options=options), None)
    spec = small.gateway.provider.functions["c-1"].spec
    assert {key: spec[key] for key in options} == options | {"limits": {"memory": "512Mi", "cpu": "500m"}}
    assert spec["annotations"]["com.openfaas.health.http.path"] == "/_/health"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": ""}, "it has no `image`"),
        ({"image": "private.example/x"}, "only allows public images"),
        ({"options": {"replicas": 3}}, "its options: .*`replicas`"),
        ({"options": {"labels": {"com.openfaas.scale.zero": "true"}}}, "scale.zero not available"),
        ({"options": {"namespace": "elsewhere"}}, "namespace not allowed"),
    ],
)
async def test_the_error_says_why_a_function_can_not_be_created(
    small: Site, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(PlatformFailed, match=f"^openfaas could not create c-1: .*{reason}"):
        await small.platform.functions.create(function(**changes), None)
    assert not small.gateway.provider.functions


@pytest.mark.parametrize("name", ["../secrets", "c-1?x", "C-1", "", "-c", "c/1"])
async def test_what_is_no_functions_name_is_not_asked_for(small: Site, name: str) -> None:
    for refused in (small.platform.functions.create(function(name), None), small.platform.functions.delete(name)):
        with pytest.raises(PlatformFailed, match="is no function's name"):
            await refused


async def test_a_missing_secret_is_an_error_before_any_change(small: Site) -> None:
    with pytest.raises(SecretMissing, match="no-such"):
        await small.platform.functions.create(function(password="no-such", broker=URL, key="openfaas-key"), None)  # noqa: S106
    assert not small.gateway.provider.functions
    assert not small.gateway.provider.secrets


async def test_a_full_gateway_is_reported(small: Site) -> None:
    small.gateway.provider.limit = 1
    await small.gateway.provider.deploy({"service": "theirs", "image": IMAGE})
    with pytest.raises(PlatformFailed, match="maximum number of functions reached"):
        await small.platform.functions.create(function(), None)


async def test_an_update_that_is_accepted_and_not_done_is_no_success(small: Site) -> None:
    await small.platform.functions.create(function(), None)
    small.gateway.provider.lost_updates = 1
    wait(small, SOON_S)
    with pytest.raises(PlatformFailed, match="after 1 s the gateway does not show what it accepted"):
        await small.platform.functions.create(function(memory_mb=1), None)
    wait(small, 240.0)
    assert (await small.platform.functions.create(function(memory_mb=1), None))[0] == "updated"


async def test_a_function_whose_process_never_listens_is_not_ready(small: Site) -> None:
    small.gateway.provider.cold_s = 60.0
    wait(small, SOON_S)
    with pytest.raises(PlatformFailed, match=r"after 1 s cold start: the process of .* does not listen yet"):
        await small.platform.functions.create(function(), None)


async def test_a_function_without_a_replica_is_not_ready(small: Site) -> None:
    small.gateway.provider.available_after_s = 60.0
    wait(small, SOON_S)
    with pytest.raises(PlatformFailed, match="after 1 s no replica is available"):
        await small.platform.functions.create(function(), None)


async def test_a_function_that_was_not_ready_is_waited_for_again(small: Site) -> None:
    small.gateway.provider.available_after_s = 60.0
    wait(small, SOON_S)
    with pytest.raises(PlatformFailed):
        await small.platform.functions.create(function(), None)
    small.gateway.provider.functions["c-1"].available_s = 0.0
    wait(small, 240.0)
    assert (await small.platform.functions.create(function(), None))[0] == "same"
    assert await small.invoke()


async def test_a_function_of_somebody_elses_is_left_alone(faas: Site) -> None:
    await faas.gateway.provider.deploy({"service": "c-1", "image": IMAGE})
    before = faas.gateway.watchdog("c-1")
    for refused in (faas.platform.functions.create(full(), None), faas.platform.functions.delete("c-1")):
        with pytest.raises(PlatformFailed, match="a function of that name is somebody else's"):
            await refused
    assert faas.gateway.watchdog("c-1") is before
    assert not faas.gateway.provider.secrets


async def test_a_function_is_deleted_with_its_secrets_and_no_others(faas: Site) -> None:
    await faas.platform.functions.create(full(), None)
    faas.gateway.provider.secrets["theirs"] = b"x"
    assert await faas.platform.functions.delete("c-1") == "deleted"
    assert not faas.gateway.provider.functions
    assert set(faas.gateway.provider.secrets) == {"theirs"}
    assert await faas.platform.functions.delete("c-1") == "absent"


async def test_a_deleted_function_can_be_created_again(faas: Site) -> None:
    await faas.platform.functions.create(full(), None)
    await faas.gateway.vanish("c-1")
    assert (await faas.platform.functions.create(full(), None))[0] == "created"
    assert await faas.invoke()


async def test_all_functions_are_listed_with_what_others_want(faas: Site) -> None:
    assert await faas.platform.functions.list() == []
    await faas.platform.functions.create(full(), None)
    await faas.gateway.provider.deploy({"service": "theirs", "image": IMAGE, "annotations": {"topic": "fl/progress/#"}})
    assert sorted(await faas.platform.functions.list(), key=lambda each: each.name) == [
        Deployed(name="c-1", fabric="test", digest=full().digest, url="c-1"),
        Deployed(name="theirs", url="theirs", topics=("fl.progress.>",)),
    ]


async def test_without_prometheus_the_functions_of_bridges_are_looked_up_one_by_one(small: Site) -> None:
    small.gateway.prometheus = False
    await small.platform.functions.create(function(), None)
    await small.invoke()
    for name in ("c-1", "c-2"):  # retained by the bridge after it has created a function; c-2 is gone
        await small.bus.put(topics.function("openfaas", name), b"the function as it should be")
    assert [each.name for each in await small.platform.functions.list()] == ["c-1"]
    with pytest.raises(PlatformAway, match=r"is the gateway's Prometheus up\?"):
        await small.platform.functions.list_all()
    assert small.gateway.dropped == 6
    await small.platform.connector.rebuild()
    assert await small.platform.functions.delete("c-1") == "deleted"


async def test_a_list_that_was_dropped_is_asked_for_again(small: Site) -> None:
    await small.platform.functions.create(function(), None)
    small.gateway.prometheus = False

    async def recovers() -> None:
        await soon(lambda: small.gateway.dropped == 1)
        small.gateway.prometheus = True

    listed, _ = await asyncio.gather(small.platform.functions.list(), recovers())
    assert [each.name for each in listed] == ["c-1"]


async def test_a_gateway_that_is_down_may_be_back_later(small: Site) -> None:
    await small.gateway.down()
    for spec in (
        small.platform.functions.create(function(), None),
        small.platform.functions.delete("c-1"),
        small.platform.functions.list(),
    ):
        with pytest.raises(PlatformAway, match="ConnectError"):
            await spec
    await small.gateway.up()
    assert (await small.platform.functions.create(function(), None))[0] == "created"


async def test_a_password_that_is_refused_later_is_an_error(small: Site) -> None:
    small.gateway.password = "another"  # noqa: S105 (of an emulator)
    for refused in (
        small.platform.functions.create(function(), None),
        small.platform.functions.delete("c-1"),
        small.platform.functions.list(),
    ):
        with pytest.raises(PlatformDenied):
            await refused


async def test_the_emulator_clamps_replicas(small: Site) -> None:
    await small.platform.functions.create(function(), None)
    deployed = small.gateway.provider.functions["c-1"]
    for requested, replicas in ((0, 1), (99, 5), (3, 3)):
        body = {"serviceName": "c-1", "replicas": requested}
        answer = await small.platform.api.system("POST", "/scale-function/c-1", "scale", body=body)
        assert (answer.status, deployed.replicas) == (202, replicas)


async def test_a_call_during_a_restart_of_the_process_is_a_cold_start(small: Site) -> None:
    await small.platform.functions.create(function(), None)
    watchdog = small.gateway.watchdog("c-1")
    # However slow this machine is, the new process still imports.
    watchdog.cold_s = 600.0
    await watchdog.stop()
    with pytest.raises(InvocationFailed, match="cold start"):
        await small.invoke(task())

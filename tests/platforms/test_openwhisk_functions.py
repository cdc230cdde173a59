"""The OpenWhisk bridge creates, lists and deletes functions, and reads its settings and the namespace's limits."""

import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import broker
from bridges.errors import (
    BadSettings,
    BridgeError,
    NotStarted,
    PlatformAway,
    PlatformDenied,
    PlatformFailed,
    SecretMissing,
)
from bridges.openwhisk import OpenWhiskPlatform, Settings, opened
from bridges.secrets import SecretStore
from broker.messages.function import Deployed
from emulators.openwhisk.controller import AUTH, Whisk, emulated
from tests.support.openwhisk_site import NAME, answering, bridged, function, package, run, secrets, settings
from tests.support.paths import REPOSITORY

CONFIG = REPOSITORY / "configs" / "bridges" / "openwhisk.toml"

THEIRS: dict[str, Any] = {"exec": {"kind": "python:3.11", "code": "def main(args): return args"}}

TELLS_ENVIRONMENT = answering("report(args, state='failed', reason=__import__('json').dumps(dict(os.environ)))")


@pytest.fixture
async def whisk() -> AsyncIterator[Whisk]:
    async with emulated() as platform:
        yield platform


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    return secrets(tmp_path, **{"broker-password": "p-4711", "sign-key": "k-4711"})


@pytest.fixture(params=["trigger", "action"])
async def platform(
    request: pytest.FixtureRequest, whisk: Whisk, store: SecretStore
) -> AsyncIterator[OpenWhiskPlatform]:
    async with bridged(whisk, store, invoke=request.param) as platform:
        yield platform


@pytest.fixture
async def bridge(whisk: Whisk, store: SecretStore) -> AsyncIterator[OpenWhiskPlatform]:
    async with bridged(whisk, store) as platform:
        yield platform


def changing(whisk: Whisk) -> list[str]:
    """Return the requests so far that changed something, and forget them."""
    done = [request for request in whisk.requests if not request.startswith("GET")]
    whisk.requests.clear()
    return [request.replace("/api/v1/namespaces/_/", "") for request in done]


async def test_a_function_is_created_once_and_updated_when_it_differs(
    whisk: Whisk, platform: OpenWhiskPlatform
) -> None:
    change, deployed = await platform.functions.create(function(), package())
    assert change == "created"
    assert deployed == Deployed(name=NAME, fabric="test", digest=function().digest, url=deployed.url)
    assert changing(whisk)
    assert await platform.functions.create(function(), package()) == ("same", deployed)
    assert changing(whisk) == []
    for changed, code in ((function(memory_mb=256), package()), (function(memory_mb=256), package("main = dict"))):
        assert (await platform.functions.create(changed, code))[0] == "updated"
        assert changing(whisk) == ["PUT actions/client-01?overwrite=true"]
    assert [each.digest for each in await platform.functions.list()] == [function(memory_mb=256).digest]


async def test_another_secret_is_another_version(whisk: Whisk, bridge: OpenWhiskPlatform, tmp_path: Path) -> None:
    signed = function(key="sign-key")
    await bridge.functions.create(signed, package())
    assert (await bridge.functions.create(signed, package()))[0] == "same"
    (tmp_path / "sign-key").write_text("k-4712", encoding="utf-8")
    assert (await bridge.functions.create(signed, package()))[0] == "updated"
    assert "k-4712" not in str(await bridge.functions.list()) + str(whisk.entities.get("actions", NAME)["annotations"])


async def test_an_action_has_the_function_s_settings(whisk: Whisk, bridge: OpenWhiskPlatform) -> None:
    await bridge.functions.create(function(timeout_s=90, options={"kind": "python:3.12"}), package())
    action = whisk.entities.get("actions", NAME)
    assert action["limits"] == {"timeout": 90_000, "memory": 512, "logs": 10, "concurrency": 1}
    assert (action["exec"]["kind"], action["exec"]["main"], action["exec"]["binary"]) == ("python:3.12", "main", True)
    assert {"key": "provide-api-key", "value": False} in action["annotations"]
    assert whisk.entities.get("rules", "client-01.rule")["status"] == "active"


async def test_a_function_has_its_environment_and_no_other(bridge: OpenWhiskPlatform) -> None:
    spec = function(password="broker-password", key="sign-key", env={"OMP_NUM_THREADS": "1"})  # noqa: S106 (a name)
    await bridge.functions.create(spec, TELLS_ENVIRONMENT)
    with pytest.raises(BridgeError) as caught:
        await run(bridge)
    env = msgspec.json.decode(str(caught.value), type=dict[str, str])
    ours = {name: value for name, value in env.items() if not name.startswith(("__OW_", "LC_CTYPE"))}
    assert ours == {
        "FEDKEEPER_URL": "nats://client-01@127.0.0.1:4222?password_env=FEDKEEPER_SECRET_BROKER_PASSWORD",
        "FEDKEEPER_SECRET_BROKER_PASSWORD": "p-4711",
        "FEDKEEPER_CLIENT": NAME,
        "FEDKEEPER_KEY": "k-4711",
        "OMP_NUM_THREADS": "1",
    }
    assert {"__OW_ACTIVATION_ID", "__OW_DEADLINE", "__OW_NAMESPACE"} <= env.keys()
    assert "__OW_API_KEY" not in env


async def test_a_broker_address_may_have_options_already(whisk: Whisk, bridge: OpenWhiskPlatform) -> None:
    address = "tls://client-01@broker.example.org?ca_file=ca.pem"
    await bridge.functions.create(function(broker=address, password="broker-password"), package())  # noqa: S106 (a name)
    parameters = {each["key"]: each for each in whisk.entities.get("actions", NAME)["parameters"]}
    assert parameters["FEDKEEPER_URL"] == {
        "key": "FEDKEEPER_URL",
        "value": f"{address}&password_env=FEDKEEPER_SECRET_BROKER_PASSWORD",
        "init": True,
    }


@pytest.mark.parametrize(("collection", "missing"), [("rules", "client-01.rule"), ("triggers", "client-01.trigger")])
async def test_what_is_half_made_counts_as_not_made_and_is_completed(
    whisk: Whisk, bridge: OpenWhiskPlatform, collection: str, missing: str
) -> None:
    await bridge.functions.create(function(), package())
    whisk.entities.delete(collection, missing)
    assert [(each.fabric, each.digest) for each in await bridge.functions.list()] == [("test", "")]
    changing(whisk)
    assert (await bridge.functions.create(function(), package()))[0] == "updated"
    assert not [request for request in changing(whisk) if "actions" in request]
    assert [each.digest for each in await bridge.functions.list()] == [function().digest]
    assert (await run(bridge))[-1].state == "succeeded"


async def test_a_platform_may_answer_a_put_without_a_body(whisk: Whisk, platform: OpenWhiskPlatform) -> None:
    whisk.empty_puts = True
    assert (await platform.functions.create(function(), package()))[0] == "created"
    assert (await run(platform))[-1].state == "succeeded"


async def test_deleting_leaves_nothing_behind(whisk: Whisk, platform: OpenWhiskPlatform) -> None:
    await platform.functions.create(function(), package())
    changing(whisk)
    assert await platform.functions.delete(NAME) == "deleted"
    order = ["DELETE rules/client-01.rule", "DELETE triggers/client-01.trigger", "DELETE actions/client-01"]
    assert changing(whisk) == (order if platform.settings.uses_triggers else order[2:])
    assert await platform.functions.delete(NAME) == "absent"
    assert await platform.functions.list() == []


async def test_deleting_goes_on_where_it_was_broken_off(whisk: Whisk, bridge: OpenWhiskPlatform) -> None:
    await bridge.functions.create(function(), package())
    whisk.entities.delete("rules", "client-01.rule")
    assert await bridge.functions.delete(NAME) == "deleted"
    assert changing(whisk)[-2:] == ["DELETE triggers/client-01.trigger", "DELETE actions/client-01"]


@pytest.mark.parametrize(
    ("collection", "name", "content"),
    [("actions", NAME, THEIRS), ("triggers", "client-01.trigger", {}), ("triggers", NAME, {})],
)
async def test_what_others_made_is_left_alone(
    whisk: Whisk, bridge: OpenWhiskPlatform, collection: str, name: str, content: dict[str, Any]
) -> None:
    before = dict(whisk.entities.put(collection, name, content, overwrite=False))
    with pytest.raises(PlatformFailed, match=r"somebody else's|not in this collection"):
        await bridge.functions.create(function(), package())
    with pytest.raises(PlatformFailed, match=r"somebody else's|not in this collection"):
        await bridge.functions.delete(NAME)
    assert whisk.entities.get(collection, name) == before
    assert changing(whisk) == []


async def test_an_action_that_appears_meanwhile_is_not_overwritten(whisk: Whisk, bridge: OpenWhiskPlatform) -> None:
    async def be_first(request: httpx.Request) -> None:
        if request.method == "PUT" and whisk.entities.find("actions", NAME) is None:
            whisk.entities.put("actions", NAME, dict(THEIRS), overwrite=False)

    bridge.api.http.event_hooks["request"] = [be_first]
    with pytest.raises(PlatformAway, match="resource already exists"):
        await bridge.functions.create(function(), package())
    assert whisk.entities.get("actions", NAME)["annotations"] == []


async def test_functions_of_others_are_listed_too(whisk: Whisk, bridge: OpenWhiskPlatform) -> None:
    notes = [{"key": "topic", "value": "fl/progress/+, fl.tasks.openwhisk.*"}]
    whisk.entities.put("actions", "theirs", {**THEIRS, "annotations": notes}, overwrite=False)
    await bridge.functions.create(function(), package())
    assert {each.name: (each.fabric, each.url, each.topics) for each in await bridge.functions.list()} == {
        "theirs": ("", "theirs", ("fl.progress.*", "fl.tasks.openwhisk.*")),
        NAME: ("test", "client-01.trigger", ()),
    }


async def test_a_long_list_is_read_to_its_end(whisk: Whisk, platform: OpenWhiskPlatform) -> None:
    for i in range(401):
        whisk.entities.put("actions", f"action-{i}", dict(THEIRS), overwrite=False)
    assert len({each.name for each in await platform.functions.list()}) == 401


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({"memory_mb": 2048}, True, r"memory_mb = 2048 .*memory 2048 MB exceeds allowed threshold of 512 MB"),
        ({"timeout_s": 600}, True, r"timeout_s = 600: .*exceeds allowed threshold of 300000 milliseconds"),
        ({"options": {"kind": "python:2"}}, True, "kind 'python:2' not in"),
        ({"broker": ""}, True, "no broker address"),
        ({}, False, "neither a package nor an image"),
    ],
)
async def test_the_error_says_what_the_platform_can_t_create(
    bridge: OpenWhiskPlatform, *, changes: dict[str, Any], code: bool, reason: str
) -> None:
    with pytest.raises(PlatformFailed, match=f"(?s)openwhisk could not create client-01.*{reason}") as caught:
        await bridge.functions.create(function(**changes), package() if code else None)
    assert not isinstance(caught.value, PlatformAway)


async def test_a_secret_that_is_not_here_stops_it_before_anything_is_made(
    whisk: Whisk, bridge: OpenWhiskPlatform
) -> None:
    with pytest.raises(SecretMissing):
        await bridge.functions.create(function(key="no-such-key"), package())
    assert changing(whisk) == []


async def test_a_platform_that_is_away_may_be_back_later(store: SecretStore) -> None:
    async with emulated() as whisk:
        pass
    async with bridged(whisk, store) as bridge:
        for attempt in (
            bridge.functions.create(function(), package()),
            bridge.functions.delete(NAME),
            bridge.functions.list(),
        ):
            with pytest.raises(PlatformAway, match="out of reach"):
                await attempt


@pytest.mark.parametrize("namespace", ["_", "guest"])
async def test_a_namespace_has_a_name(whisk: Whisk, store: SecretStore, namespace: str) -> None:
    async with bridged(whisk, store, namespace=namespace) as bridge:
        await bridge.functions.create(function(), package())
        assert (await run(bridge))[-1].state == "succeeded"


async def test_a_namespace_of_others_is_refused(whisk: Whisk, store: SecretStore) -> None:
    with pytest.raises(PlatformDenied, match="not authorized to access this resource"):
        async with bridged(whisk, store, namespace="whisk.system"):
            pass


async def test_a_refused_key_is_an_error_at_once_that_does_not_contain_the_key(whisk: Whisk, tmp_path: Path) -> None:
    wrong = secrets(tmp_path, **{"whisk-key": "uuid-4711:key-4711"})
    with pytest.raises(PlatformDenied, match=r"the secret 'whisk-key' must be the namespace's `uuid:key`") as caught:
        async with bridged(whisk, wrong):
            pass
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("document", "invoke", "expected"),
    [
        (None, "trigger", (30, 60)),
        ({"concurrentInvocations": 5, "firesPerMinute": 90, "invocationsPerMinute": 200}, "trigger", (5, 90)),
        ({"concurrentInvocations": 500, "firesPerMinute": 90, "invocationsPerMinute": 200}, "action", (30, 200)),
        ({"concurrentInvocations": None, "invocationsPerMinute": 40, "maxActionMemory": 512}, "trigger", (30, 40)),
        ({"some": "other document"}, "trigger", (30, 0)),
        (["no document"], "trigger", (30, 0)),
    ],
)
async def test_the_namespace_s_limits_hold(
    whisk: Whisk, store: SecretStore, document: Any, invoke: str, expected: tuple[int, int]
) -> None:
    whisk.limits_document = document
    async with bridged(whisk, store, invoke=invoke) as bridge:
        assert (bridge.concurrency, bridge.per_minute) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("host", "openwhisk.example.org"),
        ("host", "ftp://openwhisk.example.org"),
        ("host", "https://uuid:key-4711@openwhisk.example.org"),
        ("host", "https://openwhisk.example.org:port"),
        ("auth", "no-pair"),
        ("ca_file", "no/such/file"),
    ],
)
async def test_settings_that_can_t_be_used_are_named(whisk: Whisk, tmp_path: Path, field: str, value: str) -> None:
    unusable = msgspec.structs.replace(settings(whisk), **{field: value})
    store = secrets(tmp_path, **{"no-pair": "key-4711"})
    async with broker.connect("memory://settings") as bus:
        with pytest.raises(BadSettings, match=f"^{field} = ") as caught:
            async with opened(unusable, store, bus):
                pass
    assert "4711" not in str(caught.value)


def test_the_example_s_comments_are_the_defaults() -> None:
    content = CONFIG.read_text(encoding="utf-8")
    written = msgspec.convert(tomllib.loads(content), Settings)
    options = [line.removeprefix("# ") for line in content.splitlines() if line.startswith("# ") and " = " in line]
    full = tomllib.loads("\n".join([content, *options]))
    assert (full.pop("url"), full.pop("secrets")) == ("", ""), "settings of every bridge's file"
    assert full.keys() == {field.name for field in msgspec.structs.fields(Settings)}
    assert msgspec.structs.replace(msgspec.convert(full, Settings), ca_file="") == written


async def test_a_bridge_announces_how_long_its_functions_may_take(whisk: Whisk, store: SecretStore) -> None:
    async with bridged(whisk, store, timeout_s=100.0, settle_s=30.0, start_s=7.0) as bridge:
        assert (bridge.name, bridge.start_s, bridge.run_s) == ("openwhisk", 7.0, 230.0)


async def test_an_emulator_refuses_a_request_without_a_key(whisk: Whisk) -> None:
    async with httpx.AsyncClient() as client:
        response = await client.get(f"{whisk.url}/api/v1/namespaces/_/limits")
    assert response.status_code == 401
    assert set(response.json()) == {"error", "code"}
    assert AUTH not in response.text


async def test_a_platform_that_was_away_at_the_start_is_used_when_it_is_back(store: SecretStore) -> None:
    async with emulated() as whisk:
        port = int(whisk.url.rpartition(":")[2])
    async with bridged(whisk, store, invoke="action") as bridge:
        with pytest.raises(NotStarted):
            await run(bridge)
        async with emulated(port=port):
            await bridge.functions.create(function(), package())
            assert (await run(bridge))[-1].state == "succeeded"

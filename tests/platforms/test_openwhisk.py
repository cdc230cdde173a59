"""The OpenWhisk bridge invokes functions, and handles every response of the platform."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from bridges.errors import FunctionGone, InvocationFailed, NotStarted, OutcomeUnknown, PlatformDenied
from bridges.openwhisk import OpenWhiskPlatform
from bridges.openwhisk.activations import decode_record, raise_for_failure
from bridges.secrets import SecretStore
from emulators.openwhisk.controller import AUTH, Whisk, emulated
from tests.support.openwhisk_site import answering, bridged, function, package, run, secrets, task


@pytest.fixture
async def whisk() -> AsyncIterator[Whisk]:
    async with emulated() as platform:
        yield platform


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    return secrets(tmp_path)


@pytest.fixture
async def bridge(whisk: Whisk, store: SecretStore) -> AsyncIterator[OpenWhiskPlatform]:
    """The platform of a bridge that fires triggers, the default."""
    async with bridged(whisk, store) as platform:
        yield platform


@pytest.fixture
async def direct(whisk: Whisk, store: SecretStore) -> AsyncIterator[OpenWhiskPlatform]:
    """The platform of a bridge that invokes actions."""
    async with bridged(whisk, store, invoke="action") as platform:
        yield platform


@pytest.fixture(params=["trigger", "action"])
async def platform(
    request: pytest.FixtureRequest, whisk: Whisk, store: SecretStore
) -> AsyncIterator[OpenWhiskPlatform]:
    async with bridged(whisk, store, invoke=request.param) as platform:
        yield platform


async def failing(platform: OpenWhiskPlatform, code: bytes, **changes: Any) -> InvocationFailed:
    """Deploy and run a function, and return its failure."""
    await platform.functions.create(function(**changes), code)
    with pytest.raises(InvocationFailed) as caught:
        await run(platform)
    return caught.value


async def test_a_run_is_accepted_and_succeeds_first_cold_then_warm(whisk: Whisk, platform: OpenWhiskPlatform) -> None:
    _, deployed = await platform.functions.create(function(), package())
    for cold in (True, False):
        accepted, succeeded = await run(platform, task(url=deployed.url))
        assert (accepted.state, succeeded.state, succeeded.cold) == ("accepted", "succeeded", cold)
        assert accepted.id == succeeded.id
        assert whisk.activations[accepted.id]["name"] == "client-01"
    assert whisk.pool.started == 1


async def test_without_an_address_the_client_s_own_trigger_or_action_is_meant(platform: OpenWhiskPlatform) -> None:
    await platform.functions.create(function(), package())
    assert (await run(platform))[-1].state == "succeeded"


async def test_records_may_come_late_and_the_platform_be_away_while_it_is_asked(
    whisk: Whisk, bridge: OpenWhiskPlatform
) -> None:
    await bridge.functions.create(function(), package())
    whisk.delay_s, whisk.failing_polls = 0.2, 2
    assert (await run(bridge))[-1].state == "succeeded"
    assert whisk.failing_polls == 0


async def test_the_outcome_of_a_fired_trigger_without_a_record_is_unknown(whisk: Whisk, store: SecretStore) -> None:
    async with bridged(whisk, store, settle_s=0.3) as bridge:
        await bridge.functions.create(function(), package())
        whisk.lose_fires = 1
        with pytest.raises(OutcomeUnknown, match="no record") as caught:
            await run(bridge)
    assert len(caught.value.activation) == 32
    assert caught.value.activation not in whisk.activations


async def test_the_outcome_of_a_run_without_a_record_is_unknown(whisk: Whisk, store: SecretStore) -> None:
    async with bridged(whisk, store, invoke="action", settle_s=0.1, timeout_s=0.1) as direct:
        await direct.functions.create(function(), package())
        whisk.lose_runs = 1
        activations = direct.invoke(task(), 1)
        accepted = await anext(activations)
        with pytest.raises(OutcomeUnknown, match="no record") as caught:
            await anext(activations)
    assert (accepted.id, accepted.state) == (caught.value.activation, "accepted")


async def test_a_trigger_without_an_active_rule_starts_nothing(whisk: Whisk, bridge: OpenWhiskPlatform) -> None:
    await bridge.functions.create(function(), package())
    whisk.entities.set_status("client-01.rule", "inactive")
    with pytest.raises(FunctionGone, match="no active rule"):
        await run(bridge)
    assert (await bridge.functions.create(function(), package()))[0] == "updated"
    assert (await run(bridge))[-1].state == "succeeded"


async def test_what_the_platform_does_not_know_is_gone(platform: OpenWhiskPlatform) -> None:
    with pytest.raises(FunctionGone, match="does not exist"):
        await run(platform)


async def test_an_action_that_was_deleted_behind_its_rule_is_gone(whisk: Whisk, bridge: OpenWhiskPlatform) -> None:
    await bridge.functions.create(function(), package())
    whisk.entities.delete("actions", "client-01")
    with pytest.raises(FunctionGone, match="does not exist"):
        await run(bridge)
    assert (await bridge.functions.create(function(), package()))[0] == "created"
    assert (await run(bridge))[-1].state == "succeeded"


async def test_another_rule_of_the_trigger_is_not_ours(whisk: Whisk, bridge: OpenWhiskPlatform) -> None:
    await bridge.functions.create(function(), package())
    await bridge.functions.create(function(name="client-02"), package())
    ends = {"trigger": "/_/client-01.trigger", "action": "/_/client-02"}
    whisk.entities.put("rules", "watcher", ends, overwrite=False)
    whisk.entities.get("triggers", "client-01.trigger")["rules"] = dict(
        reversed(whisk.entities.get("triggers", "client-01.trigger")["rules"].items())
    )
    activation = (await run(bridge))[-1]
    assert whisk.activations[activation.id]["name"] == "client-01"
    whisk.entities.delete("rules", "client-01.rule")
    with pytest.raises(FunctionGone, match="no rule for the action 'client-01'"):
        await run(bridge)


@pytest.mark.parametrize("limit", ["fires_per_minute", "invocations_per_minute", "concurrent_invocations"])
async def test_too_many_requests_start_nothing(whisk: Whisk, bridge: OpenWhiskPlatform, limit: str) -> None:
    await bridge.functions.create(function(), package())
    setattr(whisk.limits, limit, 0)
    with pytest.raises(NotStarted, match="Too many"):
        await run(bridge)
    assert whisk.pool.started == 0


async def test_an_action_that_is_invoked_too_often_does_not_start(whisk: Whisk, direct: OpenWhiskPlatform) -> None:
    await direct.functions.create(function(), package())
    whisk.limits.invocations_per_minute = 0
    with pytest.raises(NotStarted, match=r"429: Too many requests in the last minute \(count: 1, allowed: 0\)"):
        await run(direct)


async def test_a_task_that_is_too_large_is_not_sent(whisk: Whisk, platform: OpenWhiskPlatform) -> None:
    with pytest.raises(InvocationFailed, match="1048576") as caught:
        await run(platform, task(args={"text": "x" * (1 << 20)}))
    assert not caught.value.retryable
    assert not any(request.startswith("POST") for request in whisk.requests)


async def test_a_task_that_the_caller_s_headers_make_too_large_fails_for_good(
    whisk: Whisk, bridge: OpenWhiskPlatform
) -> None:
    await bridge.functions.create(function(), package())
    empty = len(msgspec.json.encode(task(args={"text": ""})))
    with pytest.raises(InvocationFailed, match="larger than allowed") as caught:
        await run(bridge, task(args={"text": "x" * ((1 << 20) - empty - 40)}))
    assert not caught.value.retryable
    assert whisk.pool.started == 0


@pytest.mark.parametrize("status", [500, 503])
async def test_a_controller_that_can_t_start_it_now_has_not_started_it(
    whisk: Whisk, platform: OpenWhiskPlatform, status: int
) -> None:
    whisk.faults.append(status)
    with pytest.raises(NotStarted, match=str(status)):
        await run(platform)


@pytest.mark.parametrize("status", [0, 502, 504])
async def test_without_an_answer_of_the_controller_it_may_have_started(
    whisk: Whisk, platform: OpenWhiskPlatform, status: int
) -> None:
    whisk.faults.append(status)
    with pytest.raises(OutcomeUnknown, match="gave no answer" if status == 0 else str(status)):
        await run(platform)


async def test_a_platform_that_is_away_has_not_started_it(store: SecretStore) -> None:
    async with emulated() as whisk:
        pass
    async with bridged(whisk, store) as bridge:
        assert (bridge.concurrency, bridge.per_minute) == (30, 0)
        with pytest.raises(NotStarted, match="out of reach"):
            await run(bridge)


async def test_the_error_for_a_revoked_key_does_not_contain_the_key(whisk: Whisk, platform: OpenWhiskPlatform) -> None:
    whisk.auth = "another:key"
    with pytest.raises(PlatformDenied, match="whisk-key") as caught:
        await run(platform)
    assert AUTH.partition(":")[2] not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("1 / 0", "application error: division by zero"),
        ("{'error': {'code': 7}}", 'application error: {"code":7}'),
        ("report(args, text='x' * (1 << 20))", "application error: The action produced a response that exceeded"),
        ("report(args, loss=float('nan'))", "action developer error: The action did not return a dictionary or array"),
        ("'text'", "action developer error: The action did not return a dictionary or array"),
        ("os._exit(3)", "action developer error: command exited"),
        ("report(args, state='training')", "it ended while training"),
        ("report(args, id='another.1.client-02')", "the action answered for another.1.client-02"),
        ("report(args, state='failed', reason='no data')", "no data"),
    ],
)
async def test_a_run_that_fails_can_be_tried_again(direct: OpenWhiskPlatform, answer: str, reason: str) -> None:
    failure = await failing(direct, answering(answer))
    assert failure.reason.startswith(reason)
    assert failure.retryable
    assert len(failure.activation) == 32


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("report(args, state='failed', reason='no such model', retryable=False)", "no such model"),
        ("{'hello': 'world'}", "the action is not ours"),
    ],
)
async def test_a_run_that_can_only_fail_is_not_tried_again(direct: OpenWhiskPlatform, answer: str, reason: str) -> None:
    failure = await failing(direct, answering(answer))
    assert failure.reason.startswith(reason)
    assert not failure.retryable


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (package("def main(:"), "invalid syntax"),
        (package("import no_such_module"), "ModuleNotFoundError: No module named 'no_such_module'"),
        (b"no archive", "File is not a zip file"),
    ],
)
async def test_code_that_can_t_be_loaded_fails_with_the_end_of_its_log(
    direct: OpenWhiskPlatform, code: bytes, why: str
) -> None:
    failure = await failing(direct, code)
    assert failure.reason.startswith("action developer error: ")
    assert f"logs for details. The log of activation {failure.activation} ends: {why}" in failure.reason
    assert failure.retryable


def test_without_a_log_the_activation_is_named() -> None:
    result = msgspec.json.encode({"error": "Cannot start action. Check logs for details."})
    content = b'{"response": {"status": "action developer error", "result": %s}}' % result
    with pytest.raises(InvocationFailed, match=r"details\. \(activation a1\)$"):
        raise_for_failure(decode_record(content, "a1"), task(), "a1")


async def test_a_run_whose_container_dies_can_be_tried_again_in_another(
    whisk: Whisk, bridge: OpenWhiskPlatform
) -> None:
    whisk.pool.kill_next = 1
    failure = await failing(bridge, package())
    assert "exited unexpectedly" in failure.reason
    assert failure.retryable
    assert (await run(bridge))[-1].cold
    assert whisk.pool.started == 2


async def test_a_run_that_takes_too_long_can_be_tried_again(direct: OpenWhiskPlatform) -> None:
    failure = await failing(direct, answering("__import__('time').sleep(60)"), timeout_s=1)
    assert failure.reason == "action developer error: The action exceeded its time limits of 1000 milliseconds."
    assert failure.retryable


async def test_an_image_runs_what_is_in_it_and_one_that_can_t_be_pulled_fails(
    whisk: Whisk, direct: OpenWhiskPlatform
) -> None:
    await direct.functions.create(function(image="example.org/client:1"), None)
    with pytest.raises(InvocationFailed, match="whisk internal error: Failed to pull container image") as caught:
        await run(direct)
    assert caught.value.retryable
    whisk.images["example.org/client:1"] = base64.b64encode(package()).decode()
    assert (await run(direct))[-1].state == "succeeded"


async def test_an_action_receives_the_key_of_a_fired_trigger_but_not_of_a_direct_call(
    whisk: Whisk, store: SecretStore
) -> None:
    code = answering("report(args, state='failed', reason=str(args.get('__ow_headers', {}).get('authorization')))")
    reasons = []
    for invoke in ("trigger", "action"):
        async with bridged(whisk, store, invoke=invoke) as platform:
            reasons.append((await failing(platform, code)).reason)
    assert reasons[0].startswith("Basic ")
    assert reasons[1] == "None"


@pytest.mark.slow
async def test_runs_at_the_same_time_have_containers_of_their_own(whisk: Whisk, direct: OpenWhiskPlatform) -> None:
    slow = answering("__import__('time').sleep(2) or report(args)")
    await direct.functions.create(function(), slow)
    await asyncio.gather(*(run(direct) for _ in range(3)))
    assert whisk.pool.started == 3
    assert not (await run(direct))[-1].cold


async def test_a_blocking_call_that_fails_is_502_with_its_activation(whisk: Whisk, direct: OpenWhiskPlatform) -> None:
    """The bridge makes no blocking calls. Such a call gets an id too, and the bridge would read it."""
    await direct.functions.create(function(), answering("1 / 0"))
    path = "actions/client-01?blocking=true"
    response = await direct.api.http.post(path, json={"order": {}})
    assert response.status_code == 502
    assert response.json()["response"] == {
        "status": "application error",
        "success": False,
        "result": {"error": "division by zero"},
        "size": 29,
    }
    assert await direct.api.start(path, b'{"order":{}}') in whisk.activations


async def test_a_blocking_call_that_takes_too_long_becomes_one_that_does_not_block(
    whisk: Whisk, direct: OpenWhiskPlatform
) -> None:
    await direct.functions.create(function(), answering("__import__('time').sleep(5) or report(args)"))
    response = await direct.api.http.post("actions/client-01?blocking=true&timeout=10", json={})
    assert response.status_code == 202
    assert list(response.json()) == ["activationId"]
    assert whisk.in_flight == 1


async def test_a_platform_with_its_own_certificate_is_trusted_by_it_alone(tmp_path: Path, store: SecretStore) -> None:
    async with emulated(tls=tmp_path) as whisk:
        assert whisk.url.startswith("https://")
        async with bridged(whisk, store) as bridge:
            await bridge.functions.create(function(), package())
            assert (await run(bridge))[-1].state == "succeeded"
        async with bridged(whisk, store, ca_file="") as bridge:
            with pytest.raises(NotStarted, match="CERTIFICATE_VERIFY_FAILED"):
                await run(bridge)


async def test_what_an_action_prints_is_in_its_record(whisk: Whisk, direct: OpenWhiskPlatform) -> None:
    await direct.functions.create(function(), answering("print('on line', 1) or report(args)"))
    for _ in range(2):
        activation = (await run(direct))[-1]
        (line,) = whisk.activations[activation.id]["logs"]
        assert line.endswith("Z stdout: on line 1")
    async with httpx.AsyncClient(auth=httpx.BasicAuth(*AUTH.split(":"))) as client:
        logs = await client.get(f"{whisk.url}/api/v1/namespaces/guest/activations/{activation.id}/logs")
    assert logs.json() == {"logs": [line]}

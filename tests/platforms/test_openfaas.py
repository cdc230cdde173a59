"""The bridge calls functions behind an OpenFaaS gateway, and handles every status of the gateway."""

import asyncio
import re
import time
import tomllib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from bridges import Invoker, RetryPolicy, openfaas
from bridges.errors import (
    BadSettings,
    FunctionGone,
    InvocationFailed,
    NotStarted,
    OutcomeUnknown,
    PlatformDenied,
    SecretMissing,
)
from bridges.openfaas import Settings
from bridges.openfaas.responses import AT_ONCE_S
from bridges.platform import Activation
from bridges.reports import RunEvents
from broker import topics
from broker.base import Broker
from broker.messages.invocation import Outcome
from broker.messages.round import BlobRef
from emulators.openfaas.gateway import Call
from emulators.openfaas.scripted import HANDLER, IMAGE
from tests.support.fakes import running, soon
from tests.support.openfaas_site import KEY, Site, site, task, write_secrets
from tests.support.paths import REPOSITORY

UPDATE = "fl.updates.job.1.c-1.ATTEMPT"


@pytest.fixture
async def faas(tmp_path: Path) -> AsyncIterator[Site]:
    """An OpenFaaS with one function, `c-1`."""
    async with site(tmp_path) as faas:
        await faas.deploy()
        yield faas


def calls_of(faas: Site, name: str) -> list[Call]:
    return [call for call in faas.gateway.calls if call.function == name and call.method == "POST"]


async def test_a_function_that_is_done_has_succeeded(faas: Site) -> None:
    called, activation = await faas.invoke()
    call = calls_of(faas, "c-1")[-1]
    assert called == Activation(call.headers["X-Call-Id"], "called")
    assert activation == Activation(called.id, "succeeded", cold=True)
    assert uuid.UUID(activation.id)
    assert call.path == "/"


async def test_the_gateways_password_never_reaches_a_function(faas: Site) -> None:
    await faas.invoke()
    await faas.platform.functions.list()
    assert faas.gateway.calls
    assert not [call for call in faas.gateway.calls if "Authorization" in call.headers]


async def test_every_call_has_an_id_of_its_own(faas: Site) -> None:
    first, second = await faas.invoke(), await faas.invoke()
    assert first[0].id != second[0].id


@pytest.mark.parametrize("retryable", [True, False])
async def test_a_function_that_reports_failure_has_failed_as_it_says(faas: Site, *, retryable: bool) -> None:
    report = {"state": "failed", "reason": "BadShard: no data", "retryable": retryable}
    with pytest.raises(InvocationFailed, match=r"^BadShard: no data$") as caught:
        await faas.invoke(report=report)
    assert caught.value.retryable is retryable
    assert uuid.UUID(caught.value.activation)


async def test_a_function_that_raises_has_failed_and_may_be_called_again(faas: Site) -> None:
    with pytest.raises(InvocationFailed, match=r"^c-1 raised \(500\)$") as caught:
        await faas.invoke(do="raise")
    assert type(caught.value) is InvocationFailed
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("fine", "its answer is no report"),
        ("{}", "its answer is no report"),
        ('{"id": "job.1.c-2", "state": "done"}', "it answers for another task"),
        ('{"id": "job.1.c-1", "state": "training"}', "it answered that it is training"),
        ("x" * 100_000, "an answer of more than 65536 bytes"),
    ],
)
async def test_an_answer_that_is_no_report_of_the_end_is_a_failure(faas: Site, body: str, reason: str) -> None:
    with pytest.raises(InvocationFailed, match=reason) as caught:
        await faas.invoke(do="say", status=200, body=body)
    assert type(caught.value) is InvocationFailed


async def test_a_busy_function_did_not_start(faas: Site) -> None:
    faas.gateway.refuse("c-1", 1)
    with pytest.raises(NotStarted, match=r"no room for the call \(429\)"):
        await faas.invoke()
    assert await faas.invoke()


async def test_more_calls_than_max_inflight_do_not_start(tmp_path: Path) -> None:
    async with site(tmp_path) as faas:
        await faas.deploy(envVars={"max_inflight": "1"})
        results = await asyncio.gather(faas.invoke(sleep=0.3), faas.invoke(sleep=0.3), return_exceptions=True)
        assert {type(result) for result in results} == {list, NotStarted}


async def test_a_cold_start_is_reported_as_not_started(tmp_path: Path) -> None:
    async with site(tmp_path) as faas:
        faas.gateway.provider.cold_s = 60.0
        await faas.gateway.provider.deploy({"service": "c-1", "image": IMAGE})
        with pytest.raises(NotStarted, match=r"cold start: the process of c-1 does not listen yet \(500\)"):
            await faas.invoke()


async def test_a_real_process_that_still_imports_is_a_cold_start(tmp_path: Path) -> None:
    go = tmp_path / "go"
    waiting = f"import os, time\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.01)\n"
    async with site(tmp_path) as faas:
        (tmp_path / "code" / "handler.py").write_text(waiting + HANDLER)
        await faas.gateway.provider.deploy({"service": "c-1", "image": IMAGE})
        with pytest.raises(NotStarted, match="cold start"):
            await faas.invoke()
        go.touch()
        await faas.ready("c-1")
        assert await faas.invoke()


async def test_a_process_that_ends_in_the_middle_has_cost_an_attempt(faas: Site) -> None:
    with pytest.raises(InvocationFailed, match=r"the process of c-1 ended while it worked \(500\)") as caught:
        await faas.invoke(do="die", sleep=1.05)
    assert type(caught.value) is InvocationFailed
    assert caught.value.retryable


async def test_a_function_that_outlives_its_time_is_out_of_sight_and_goes_on(tmp_path: Path) -> None:
    note = tmp_path / "note"
    async with site(tmp_path) as faas:
        await faas.deploy(envVars={"exec_timeout": "200ms"})
        with pytest.raises(OutcomeUnknown, match=r"outlived its exec_timeout .* \(504\)"):
            await faas.invoke(sleep=0.6, note=str(note))
        await soon(lambda: note.exists() and note.read_text() == "begun;done;")


async def test_a_gateway_that_gives_up_waiting_has_lost_sight(tmp_path: Path) -> None:
    async with site(tmp_path, upstream_timeout_s=1.05) as faas:
        await faas.deploy()
        with pytest.raises(OutcomeUnknown, match=r"upstream_timeout \(502\)"):
            await faas.invoke(sleep=3.0)


async def test_a_gateway_without_its_provider_starts_nothing(faas: Site) -> None:
    faas.gateway.provider_away = True
    with pytest.raises(NotStarted, match=r"does not reach its provider \(502\)"):
        await faas.invoke()


async def test_a_gateway_that_is_down_starts_nothing_and_comes_back(faas: Site) -> None:
    await faas.gateway.down()
    with pytest.raises(NotStarted, match="out of reach"):
        await faas.invoke()
    await faas.gateway.up()
    assert await faas.invoke()


async def test_a_connection_that_breaks_during_the_call_has_lost_sight(faas: Site, tmp_path: Path) -> None:
    note = tmp_path / "note"

    async def breaks() -> None:
        await soon(note.exists)
        await faas.gateway.down()

    with pytest.raises(OutcomeUnknown, match="connection broke"):
        await asyncio.gather(faas.invoke(sleep=30, note=str(note)), breaks())


async def test_an_answer_that_takes_too_long_has_lost_sight(tmp_path: Path) -> None:
    async with site(tmp_path, settings={"start_s": 0.1, "run_s": 0.2}) as faas:
        await faas.deploy(envVars={"exec_timeout": "30s"})
        faas.gateway.hang("c-1", 1)
        with pytest.raises(OutcomeUnknown, match=r"no answer of c-1 within 0\.3"):
            await faas.invoke()


async def test_an_address_that_answers_nobody_starts_nothing_however_late_that_is_known(tmp_path: Path) -> None:
    async with site(tmp_path) as faas:
        await faas.deploy()
        faas.gateway.unreachable_s = AT_ONCE_S
        with pytest.raises(NotStarted, match=r"proxy does not reach c-1 \(500\)"):
            await faas.invoke()


async def test_a_call_of_a_frozen_container_is_given_up_when_no_training_is_reported(faas: Site) -> None:
    faas.gateway.watchdog("c-1").frozen = True

    async def record(outcome: Outcome, **_: object) -> None:
        raise AssertionError(outcome)

    with pytest.raises(InvocationFailed, match=r"nothing was heard of it for 0\.01 s: no report that it trains"):
        await Invoker(faas.platform, RetryPolicy(start_s=0.01)).invoke(task(), 1, RunEvents(), record)


async def test_refused_credentials_fail_a_client_whose_function_seems_to_be_gone(faas: Site) -> None:
    """A function needs no credentials to be called, but the gateway's own API does to look for one."""
    await faas.gateway.vanish("c-1")
    faas.gateway.password = "another"  # noqa: S105 (of an emulator)
    with pytest.raises(InvocationFailed, match=r"can't be looked up: .* refuses the credentials") as caught:
        await faas.invoke()
    assert not caught.value.retryable


@pytest.mark.parametrize("scale_from_zero", [True, False])
async def test_a_function_that_was_deleted_is_gone(faas: Site, *, scale_from_zero: bool) -> None:
    faas.gateway.scale_from_zero = scale_from_zero
    await faas.gateway.vanish("c-1")
    with pytest.raises(FunctionGone, match="404" if scale_from_zero else "503"):
        await faas.invoke()


async def test_a_function_without_a_replica_is_not_gone(faas: Site) -> None:
    faas.gateway.provider.functions["c-1"].available_s = time.monotonic() + 60.0
    with pytest.raises(NotStarted, match=r"c-1 has no endpoint \(503\)"):
        await faas.invoke()


async def test_a_function_that_refuses_the_signature_is_not_asked_again(tmp_path: Path) -> None:
    async with site(tmp_path) as faas:
        faas.gateway.provider.secrets["k"] = b"another key"
        await faas.deploy(secrets=["k"], envVars={"FEDKEEPER_KEY_FILE": "/var/openfaas/secrets/k"})
        with pytest.raises(InvocationFailed, match=r"refuses the call's signature \(401\): .*`key`") as caught:
            await faas.invoke()
        assert not caught.value.retryable


async def test_a_signed_call_is_accepted_with_the_same_key(tmp_path: Path) -> None:
    async with site(tmp_path, settings={"key": "openfaas-key"}) as faas:
        faas.gateway.provider.secrets["k"] = KEY.encode()
        await faas.deploy(secrets=["k"], envVars={"FEDKEEPER_KEY_FILE": "/var/openfaas/secrets/k"})
        assert [each.state for each in await faas.invoke()] == ["called", "succeeded"]
        assert [each.state for each in await faas.invoke()] == ["called", "succeeded"]


@pytest.mark.parametrize("url", ["../system/functions", "c-1/x", "C-1", "a.b.c", "http://127.0.0.1/"])
async def test_what_is_no_functions_name_is_never_called(tmp_path: Path, url: str) -> None:
    async with site(tmp_path) as faas:
        with pytest.raises(InvocationFailed, match="is no function's name") as caught:
            await faas.invoke(task(url=url))
        assert not caught.value.retryable
        assert not faas.gateway.calls


async def test_a_tasks_url_names_the_function(faas: Site) -> None:
    await faas.invoke(task("client-77", url="c-1.openfaas-fn"))
    assert len(calls_of(faas, "c-1.openfaas-fn")) == 1


async def test_functions_are_called_in_the_bridges_own_namespace(tmp_path: Path) -> None:
    async with site(tmp_path, settings={"namespace": "lab"}) as faas:
        with pytest.raises(FunctionGone):
            await faas.invoke()
        assert len(calls_of(faas, "c-1.lab")) == 1


@pytest.mark.parametrize("topic", ["fl.tasks.openfaas.c-9", "fl/tasks/+/c-9", "fl.tasks.openfaas.>", "x , fl/tasks/#"])
async def test_a_function_of_others_serves_the_clients_that_it_is_annotated_with(tmp_path: Path, topic: str) -> None:
    async with site(tmp_path, kind="faasd") as faas:
        await faas.deploy("theirs", annotations={"topic": topic})
        async with running(faas.platform.serve()):
            await soon(lambda: faas.platform.connector.serving("fl.tasks.openfaas.c-9") is not None)
            await faas.invoke(task("c-9"))
        assert len(calls_of(faas, "theirs")) == 1


async def test_a_function_that_watches_everything_serves_nobody(faas: Site) -> None:
    await faas.deploy("theirs", annotations={"topic": "#"})
    await faas.platform.connector.rebuild()
    await faas.invoke()
    assert len(calls_of(faas, "c-1")) == 1


async def carried(bus: Broker, faas: Site, topics_of_reply: list[str]) -> list[Activation]:
    """Run a task whose model and update travel inside the call."""
    model, state = task().model, BlobRef("fl.state.job.c-1.0.1.opt", "cd" * 32, 5)
    await bus.put(model.topic, b"model")
    await bus.put(state.topic, b"state")
    return await faas.invoke(task(states={"opt": state}, args={"topics": topics_of_reply}), attempt=2)


async def test_a_function_without_a_route_to_the_broker_gets_and_gives_all_with_the_call(tmp_path: Path) -> None:
    topics_of_reply = [UPDATE, "fl.state.job.c-1.1.ATTEMPT.opt"]
    async with site(tmp_path, settings={"reply": "response", "key": "openfaas-key"}) as faas:
        await faas.deploy()
        assert [each.state for each in await carried(faas.bus, faas, topics_of_reply)] == ["succeeded"]
        update = await faas.bus.get(topics.update("job", 1, "c-1", 2))
        state = await faas.bus.get(topics.client_state("job", "c-1", 1, 2, "opt"))
    assert update is not None
    assert update.payload == b"update of model"
    assert state is not None
    assert state.payload == b"state of state"


async def test_a_model_of_many_megabytes_travels(tmp_path: Path) -> None:
    model = b"\x00\xff" * (10 << 20)
    async with site(tmp_path, settings={"reply": "response"}) as faas:
        await faas.deploy()
        work = task(model=BlobRef("fl.models.job.big", "ab" * 32, len(model)), args={"topics": [UPDATE]})
        await faas.bus.put(work.model.topic, model)
        await faas.invoke(work)
        update = await faas.bus.get(topics.update("job", 1, "c-1", 1))
    assert update is not None
    assert update.payload == b"update of " + model


async def test_a_function_without_a_route_to_the_broker_that_is_out_of_sight_has_failed(tmp_path: Path) -> None:
    async with site(tmp_path, settings={"reply": "response", "start_s": 0.1, "run_s": 0.2}) as faas:
        await faas.deploy()
        faas.gateway.hang("c-1", 1)
        with pytest.raises(InvocationFailed, match="no answer") as caught:
            await carried(faas.bus, faas, [UPDATE])
        assert type(caught.value) is InvocationFailed


async def test_a_wrong_password_is_an_error_at_the_start_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(PlatformDenied, match="`username`, and the secret that `password` names") as caught:
        async with site(tmp_path, secrets={"gateway": "wrong-one"}):
            pass
    assert "wrong-one" not in str(caught.value)


async def test_a_gateway_that_is_down_at_the_start_is_waited_for(tmp_path: Path) -> None:
    async with site(tmp_path) as faas:
        await faas.gateway.down()
        settings = Settings(gateway=faas.gateway.url, password="gateway")  # noqa: S106 (its name)
        async with openfaas.opened(settings, write_secrets(tmp_path / "other"), faas.bus) as platform:
            await faas.gateway.up()
            assert await platform.functions.list() == []


async def test_a_missing_secret_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SecretMissing, match="no-such"):
        async with site(tmp_path, settings={"key": "no-such"}):
            pass


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"gateway": "http://admin:hunter2@127.0.0.1:1"}, "gateway"),
        ({"gateway": "127.0.0.1:8080"}, "gateway"),
        ({"gateway": "ftp://127.0.0.1"}, "gateway"),
        ({"gateway": "http://127.0.0.1:port"}, "gateway"),
        ({"ca_file": "/no/such/file.pem"}, "ca_file"),
    ],
)
async def test_unusable_settings_are_errors(tmp_path: Path, settings: dict[str, str], field: str) -> None:
    with pytest.raises(BadSettings) as caught:
        async with site(tmp_path, settings=settings):
            pass
    assert caught.value.field == field
    assert "hunter2" not in str(caught.value)


def test_the_shipped_configuration_shows_the_defaults() -> None:
    lines = (REPOSITORY / "configs" / "bridges" / "openfaas.toml").read_text().splitlines()
    msgspec.convert(tomllib.loads("\n".join(lines)), Settings)
    values = tomllib.loads("\n".join(line[2:] for line in lines if re.match(r"# \w+ = ", line)))
    assert (values.pop("url"), values.pop("secrets")) == ("", ""), "settings of every bridge's file"
    assert msgspec.convert(values, Settings) == Settings()
    assert {*values, "gateway", "password", "key"} == set(Settings.__struct_fields__)

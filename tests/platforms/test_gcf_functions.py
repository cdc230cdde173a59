"""The Cloud Functions bridge creates, deletes and lists functions."""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import grpc
import pytest
from google.pubsub_v1.types import pubsub

from bridges.errors import PlatformAway, PlatformDenied, PlatformFailed
from bridges.gcf import GcfPlatform
from broker.messages.function import Deployed
from emulators.gcf.cloud import Cloud
from tests.support.gcf_site import archive, bridge, function, running, settings

PARENT = "projects/test-project/locations/europe-west1"
NAME = f"{PARENT}/functions/client-00"
TOPIC = "projects/test-project/topics/fedkeeper-client-00"
FOREIGN: dict[str, Any] = {"name": NAME, "state": "ACTIVE", "environment": "GEN_2", "labels": {"team": "other"}}


@pytest.fixture
async def cloud(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cloud]:
    async with running(monkeypatch) as both:
        both.functions.secrets = {"broker-password": "pw", "gcf-key": "key"}
        yield both


@pytest.fixture
async def platform(cloud: Cloud) -> AsyncIterator[GcfPlatform]:
    async with bridge(settings(cloud)) as platform:
        yield platform


def changes(cloud: Cloud) -> list[str]:
    """Return the calls that changed something."""
    return [call.partition(" ")[0] for call in cloud.functions.calls if not call.startswith("GET ")]


async def test_a_function_is_created_as_it_was_asked_for(cloud: Cloud, platform: GcfPlatform) -> None:
    spec = function(password="broker-password", key="gcf-key", env={"A": "B", "FEDKEEPER_URL": "mine"})  # noqa: S106 (its name)
    change, deployed = await platform.functions.create(spec, archive())
    assert (change, deployed) == ("created", Deployed(name="client-00", fabric="test", digest=spec.digest, url=TOPIC))
    resource = cloud.functions.functions[NAME]
    source = resource["buildConfig"].pop("source")
    assert set(source["storageSource"]) == {"bucket", "object"}
    assert resource == {
        "name": NAME,
        "state": "ACTIVE",
        "environment": "GEN_2",
        "labels": {
            "fedkeeper-fabric": "test",
            "fedkeeper-digest": spec.digest,
            "fedkeeper-client": "client-00",
        },
        "buildConfig": {"runtime": "python311", "entryPoint": "train"},
        "serviceConfig": {
            "timeoutSeconds": 300,
            "availableMemory": "2048Mi",
            "maxInstanceCount": 1,
            "maxInstanceRequestConcurrency": 1,
            "minInstanceCount": 0,
            "environmentVariables": {
                "A": "B",
                "FEDKEEPER_URL": "nats://fl@broker:4222?password_env=FEDKEEPER_SECRET_BROKER_PASSWORD",
                "FEDKEEPER_CLIENT": "client-00",
            },
            "secretEnvironmentVariables": [
                {
                    "key": "FEDKEEPER_SECRET_BROKER_PASSWORD",
                    "projectId": "test-project",
                    "secret": "broker-password",
                    "version": "latest",
                },
                {"key": "FEDKEEPER_KEY", "projectId": "test-project", "secret": "gcf-key", "version": "latest"},
            ],
            "ingressSettings": "ALLOW_INTERNAL_ONLY",
        },
        "eventTrigger": {
            "eventType": "google.cloud.pubsub.topic.v1.messagePublished",
            "pubsubTopic": TOPIC,
            "retryPolicy": "RETRY_POLICY_RETRY",
        },
    }


async def test_settings_and_options_shape_the_function(cloud: Cloud) -> None:
    account = "fl@test-project.iam.gserviceaccount.com"
    changed = settings(cloud, service_account=account, retry_policy="RETRY_POLICY_DO_NOT_RETRY", topic="t-{client}.x")
    options = {"runtime": "python312", "entry_point": "other", "min_instances": 1, "vpc_connector": "connector"}
    async with bridge(changed) as platform:
        await platform.functions.create(
            function(options=options, broker="tls://fl@broker:4222?ca_file=/ca.pem"), archive()
        )
    resource = cloud.functions.functions[NAME]
    assert (resource["buildConfig"]["runtime"], resource["buildConfig"]["entryPoint"]) == ("python312", "other")
    assert (resource["serviceConfig"]["minInstanceCount"], resource["serviceConfig"]["vpcConnector"]) == (
        1,
        "connector",
    )
    assert (
        resource["serviceConfig"]["serviceAccountEmail"] == resource["eventTrigger"]["serviceAccountEmail"] == account
    )
    assert resource["eventTrigger"]["pubsubTopic"] == "projects/test-project/topics/t-client-00.x"
    assert resource["eventTrigger"]["retryPolicy"] == "RETRY_POLICY_DO_NOT_RETRY"
    assert resource["serviceConfig"]["environmentVariables"]["FEDKEEPER_URL"] == "tls://fl@broker:4222?ca_file=/ca.pem"


async def test_a_query_in_the_brokers_address_is_kept(cloud: Cloud, platform: GcfPlatform) -> None:
    spec = function(broker="tls://fl@broker:4222?ca_file=/ca.pem", password="broker-password")  # noqa: S106 (its name)
    await platform.functions.create(spec, archive())
    url = cloud.functions.functions[NAME]["serviceConfig"]["environmentVariables"]["FEDKEEPER_URL"]
    assert url == "tls://fl@broker:4222?ca_file=/ca.pem&password_env=FEDKEEPER_SECRET_BROKER_PASSWORD"


async def test_creating_it_again_changes_nothing(cloud: Cloud, platform: GcfPlatform) -> None:
    _, first = await platform.functions.create(function(), archive())
    before = changes(cloud)
    assert await platform.functions.create(function(), archive()) == ("same", first)
    assert changes(cloud) == before


async def test_what_is_not_as_it_should_be_is_updated(cloud: Cloud, platform: GcfPlatform) -> None:
    await platform.functions.create(function(), archive())
    cloud.functions.functions[NAME]["labels"]["team"] = "fl"
    spec = function(memory_mb=4096)
    change, deployed = await platform.functions.create(spec, archive())
    resource = cloud.functions.functions[NAME]
    assert (change, deployed.digest) == ("updated", spec.digest)
    assert (resource["serviceConfig"]["availableMemory"], resource["labels"]["team"]) == ("4096Mi", "fl")
    assert changes(cloud)[-1] == "PATCH"
    assert await platform.functions.list() == [deployed]


async def test_a_function_whose_topic_is_missing_is_created_again(cloud: Cloud, platform: GcfPlatform) -> None:
    """Its trigger belongs to the deleted topic, and a new topic of the same name does not restore it."""
    _, first = await platform.functions.create(function(), archive())
    await cloud.pubsub.delete_topic(pubsub.DeleteTopicRequest(topic=TOPIC))
    assert await platform.functions.create(function(), archive()) == ("updated", first)
    assert changes(cloud)[-3:] == ["POST", "DELETE", "POST"]
    assert await platform.functions.create(function(), archive()) == ("same", first)


async def test_a_function_that_somebody_deleted_is_created(cloud: Cloud, platform: GcfPlatform) -> None:
    await platform.functions.create(function(), archive())
    await cloud.functions.remove(NAME)
    change, _ = await platform.functions.create(function(), archive())
    assert change == "created"


async def test_a_failed_build_is_reported_and_can_be_repeated(cloud: Cloud, platform: GcfPlatform) -> None:
    cloud.functions.fail_next = ["Build failed: no such module"]
    with pytest.raises(PlatformFailed, match="create client-00: Build failed: no such module"):
        await platform.functions.create(function(), archive())
    (left,) = await platform.functions.list()
    assert (left.name, left.digest) == ("client-00", "")
    await platform.functions.create(function(), archive())
    (resource,) = await platform.functions.list()
    assert resource.digest == function().digest


async def test_a_failed_update_is_reported_and_can_be_repeated(cloud: Cloud, platform: GcfPlatform) -> None:
    await platform.functions.create(function(), archive())
    cloud.functions.fail_next = ["quota exceeded"]
    with pytest.raises(PlatformFailed, match="quota exceeded"):
        await platform.functions.create(function(memory_mb=4096), archive())
    change, _ = await platform.functions.create(function(memory_mb=4096), archive())
    assert change == "updated"


async def test_an_invalid_package_is_an_error(cloud: Cloud, platform: GcfPlatform) -> None:
    with pytest.raises(PlatformFailed, match="no zip"):
        await platform.functions.create(function(), b"no zip")
    assert cloud.functions.functions[NAME]["state"] == "FAILED"


async def test_a_secret_that_secret_manager_lacks_is_an_error(platform: GcfPlatform) -> None:
    with pytest.raises(PlatformFailed, match="secrets/nowhere was not found"):
        await platform.functions.create(function(password="nowhere"), archive())  # noqa: S106 (its name)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"timeout_s": 541}, "may take 540 s at most, not 541 s"),
        ({"broker": ""}, "must reach the broker"),
        ({"fabric": "My Fabric"}, "no label"),
        ({"options": {"kind": "python"}}, "kind"),
        ({"options": {"min_instances": "one"}}, "min_instances"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_changed(
    cloud: Cloud, platform: GcfPlatform, wrong: dict[str, Any], why: str
) -> None:
    with pytest.raises(PlatformFailed, match=why):
        await platform.functions.create(function(**wrong), archive())
    assert changes(cloud) == []
    assert not cloud.pubsub.has_topic(TOPIC)


async def test_a_function_without_code_is_refused(cloud: Cloud, platform: GcfPlatform) -> None:
    with pytest.raises(PlatformFailed, match="needs a package"):
        await platform.functions.create(function(), None)
    assert changes(cloud) == []


async def test_what_is_somebody_elses_is_left_alone(cloud: Cloud, platform: GcfPlatform) -> None:
    cloud.functions.functions[NAME] = dict(FOREIGN)
    with pytest.raises(PlatformFailed, match="somebody else's"):
        await platform.functions.create(function(), archive())
    with pytest.raises(PlatformFailed, match="somebody else's"):
        await platform.functions.delete("client-00")
    assert cloud.functions.functions[NAME] == FOREIGN
    assert await platform.functions.list() == [Deployed(name="client-00")]


async def test_a_function_is_deleted_with_its_topic(cloud: Cloud, platform: GcfPlatform) -> None:
    await platform.functions.create(function(), archive())
    assert await platform.functions.delete("client-00") == "deleted"
    assert cloud.functions.functions == {}
    assert not cloud.pubsub.has_topic(TOPIC)
    assert await platform.functions.delete("client-00") == "absent"


async def test_a_topic_that_was_left_behind_is_deleted_too(cloud: Cloud, platform: GcfPlatform) -> None:
    await platform.functions.create(function(), archive())
    await cloud.functions.remove(NAME)
    assert await platform.functions.delete("client-00") == "absent"
    assert not cloud.pubsub.has_topic(TOPIC)


async def test_a_topic_of_somebody_elses_is_not_deleted(cloud: Cloud, platform: GcfPlatform) -> None:
    await cloud.pubsub.create_topic(pubsub.Topic(name=TOPIC, labels={"team": "other"}))
    assert await platform.functions.delete("client-00") == "absent"
    assert cloud.pubsub.has_topic(TOPIC)


async def test_every_page_is_listed(cloud: Cloud, platform: GcfPlatform) -> None:
    cloud.functions.page = 2
    names = [f"client-{number:02d}" for number in range(5)]
    await asyncio.gather(*(platform.functions.create(function(name), archive()) for name in names))
    cloud.functions.functions[f"{PARENT}/functions/other"] = {**FOREIGN, "name": f"{PARENT}/functions/other"}
    listed = await platform.functions.list()
    assert [each.name for each in listed] == [*names, "other"]
    assert [each.fabric for each in listed] == ["test"] * 5 + [""]


async def test_a_clients_id_that_no_function_may_have_is_kept_as_a_label(cloud: Cloud, platform: GcfPlatform) -> None:
    await platform.functions.create(function("007-"), archive())
    assert list(cloud.functions.functions) == [f"{PARENT}/functions/fk-007--x"]
    assert [each.name for each in await platform.functions.list()] == ["007-"]
    assert await platform.functions.delete("007-") == "deleted"


async def test_an_operation_is_waited_for(cloud: Cloud, platform: GcfPlatform) -> None:
    cloud.functions.operation_s = 0.2
    await platform.functions.create(function(), archive())
    assert cloud.functions.functions[NAME]["state"] == "ACTIVE"
    assert sum("/operations/" in call for call in cloud.functions.calls) >= 2


async def test_an_operation_that_does_not_end_is_a_timeout(cloud: Cloud) -> None:
    cloud.functions.operation_s = 30.0
    async with bridge(settings(cloud, deploy_s=0.2)) as platform:
        with pytest.raises(PlatformAway, match=r"not done in 0\.2 s"):
            await platform.functions.create(function(), archive())
        with pytest.raises(PlatformAway, match="409"):  # the operation still runs
            await platform.functions.delete("client-00")


async def test_an_operation_is_asked_for_again_when_the_platform_is_away(cloud: Cloud, platform: GcfPlatform) -> None:
    cloud.functions.operation_s = 0.1
    cloud.functions.refuse_polls = [HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS]
    change, _ = await platform.functions.create(function(), archive())
    assert (change, cloud.functions.refuse_polls) == ("created", [])


async def test_an_operation_that_is_forgotten_has_failed(cloud: Cloud, platform: GcfPlatform) -> None:
    cloud.functions.operation_s = 0.1
    cloud.functions.refuse_polls = [HTTPStatus.NOT_FOUND]
    with pytest.raises(PlatformFailed, match="is forgotten"):
        await platform.functions.create(function(), archive())


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, PlatformDenied),
        (403, PlatformDenied),
        (409, PlatformAway),
        (429, PlatformAway),
        (500, PlatformAway),
        (503, PlatformAway),
        (400, PlatformFailed),
    ],
)
async def test_an_error_of_the_api_is_passed_on_unchanged(
    cloud: Cloud, platform: GcfPlatform, status: int, error: type[Exception]
) -> None:
    cloud.functions.refuse = HTTPStatus(status)
    for call in (
        platform.functions.create(function(), archive()),
        platform.functions.delete("client-00"),
        platform.functions.list(),
    ):
        with pytest.raises(error) as failed:
            await call
        assert failed.type is error


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, PlatformDenied),
        (grpc.StatusCode.UNAVAILABLE, PlatformAway),
        (grpc.StatusCode.INVALID_ARGUMENT, PlatformFailed),
    ],
)
async def test_an_error_of_pubsub_is_passed_on_unchanged(
    cloud: Cloud, code: grpc.StatusCode, error: type[Exception]
) -> None:
    # The bridge retries a temporary error until the time limit of the call.
    async with bridge(settings(cloud, call_s=0.3 if error is PlatformAway else 60.0)) as platform:
        for call in (platform.functions.create(function(), archive()), platform.functions.delete("client-00")):
            cloud.pubsub.refusals.extend([code] * 50)
            with pytest.raises(error) as failed:
                await call
            assert failed.type is error


async def test_the_error_for_a_refused_upload_contains_no_signature(cloud: Cloud, platform: GcfPlatform) -> None:
    """Everyone who knows the signed URL can upload."""
    cloud.functions.forget_uploads = True
    with pytest.raises(PlatformDenied) as denied:
        await platform.functions.create(function(), archive())
    assert "Signature=" not in str(denied.value)


async def test_an_unreachable_api_is_reported_as_away(cloud: Cloud) -> None:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as closed:
        port = closed.sockets[0].getsockname()[1]
    async with bridge(settings(cloud, api=f"http://127.0.0.1:{port}")) as platform:
        with pytest.raises(PlatformAway, match="no answer"):
            await platform.functions.list()


async def test_an_api_that_does_not_answer_is_away(cloud: Cloud) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        async with bridge(settings(cloud, api=f"http://127.0.0.1:{port}", call_s=0.2)) as platform:
            with pytest.raises(PlatformAway, match="ReadTimeout"):
                await platform.functions.list()


async def test_a_page_of_some_proxy_is_no_answer(cloud: Cloud) -> None:
    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(page, "127.0.0.1", 0) as proxy:
        api = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        with pytest.raises(PlatformFailed, match="no JSON"):
            async with bridge(settings(cloud, api=api)):
                pass

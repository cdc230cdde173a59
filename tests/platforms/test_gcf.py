"""The Cloud Functions bridge opens, and triggers functions."""

import asyncio
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import google.auth
import grpc
import msgspec
import pytest
from google.auth import exceptions as auth
from google.auth.credentials import Credentials
from structlog.testing import capture_logs

from bridges.errors import (
    BadSettings,
    FunctionGone,
    InvocationFailed,
    NotStarted,
    PlatformAway,
    PlatformDenied,
    PlatformFailed,
)
from bridges.gcf import Settings
from bridges.gcf import pubsub as gcf_topics
from bridges.gcf.platform import event_bytes
from broker.messages import codec, invocation
from broker.messages.invocation import InvocationRequest
from emulators.gcf.cloud import Cloud
from emulators.gcf.push import envelope
from emulators.gcf.subscription import Message, Subscription
from tests.support.gcf_site import archive, bridge, function, publish, running, settings, task
from tests.support.paths import REPOSITORY

PARENT = "projects/test-project/locations/europe-west1"
TOPIC = "projects/test-project/topics/fedkeeper-client-00"


@pytest.fixture
async def cloud(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cloud]:
    async with running(monkeypatch) as both:
        yield both


async def triggered(cloud: Cloud, topic: str = TOPIC) -> None:
    """Create a topic with a subscription."""
    async with gcf_topics.connected(settings(cloud), None) as topics:
        await topics.create(topic, {})
    cloud.pubsub.subscribe(Subscription("projects/test-project/subscriptions/pulled", topic))


async def test_a_request_is_published_to_the_clients_topic(cloud: Cloud) -> None:
    await triggered(cloud)
    async with bridge(settings(cloud)) as platform:
        sent = await publish(platform, task(), 2)
    ((topic, message),) = cloud.pubsub.published
    assert (topic, message.id) == (TOPIC, sent)
    assert message.attributes == {"client": "client-00", "job": "job", "round": "3", "attempt": "2"}
    assert codec.decode(InvocationRequest, message.data) == invocation.InvocationRequest(task(), 2)


@pytest.mark.parametrize("url", ["projects/test-project/topics/elsewhere", "elsewhere"])
async def test_a_task_may_name_another_topic(cloud: Cloud, url: str) -> None:
    await triggered(cloud, "projects/test-project/topics/elsewhere")
    async with bridge(settings(cloud)) as platform:
        await publish(platform, task(url=url))
    assert [topic for topic, _ in cloud.pubsub.published] == ["projects/test-project/topics/elsewhere"]


async def test_a_hundred_requests_are_published_at_once(cloud: Cloud) -> None:
    await triggered(cloud)
    cloud.pubsub.delay_s = 1.0
    async with bridge(settings(cloud)) as platform, asyncio.timeout(60):
        ids = await asyncio.gather(*(publish(platform, task(round=number)) for number in range(100)))
    assert len(set(ids)) == len(cloud.pubsub.published) == 100


async def test_an_event_that_is_too_large_is_never_published(cloud: Cloud) -> None:
    await triggered(cloud)
    # Below the limit as bytes, and above it in base64.
    large = task(args={"text": "x" * 400_000})
    async with bridge(settings(cloud)) as platform:
        with pytest.raises(InvocationFailed, match="the limit is 512000") as failed:
            await publish(platform, large)
    assert not failed.value.retryable
    assert cloud.pubsub.published == []


def test_an_events_size_is_never_underrated() -> None:
    longest = Subscription(f"projects/{'p' * 30}/subscriptions/{'s' * 255}", f"projects/{'p' * 30}/topics/{'t' * 255}")
    attributes = {"client": "c" * 40, "job": "j" * 40, "round": "9" * 9, "attempt": "9" * 9}
    for size in (1, 2, 3, 100_000):
        message = Message("9" * 20, b"x" * size, attributes)
        real = len(json.dumps(envelope(longest, message)))
        assert real <= event_bytes(message.data, attributes) <= real + 2048


async def test_a_topic_that_is_gone_is_a_function_that_is_gone(cloud: Cloud) -> None:
    async with bridge(settings(cloud)) as platform:
        with pytest.raises(FunctionGone, match=TOPIC):
            await publish(platform, task())


async def test_a_second_attempt_finds_out_that_nothing_is_triggered(cloud: Cloud) -> None:
    """A function that another user deleted leaves its topic, and Pub/Sub then drops the messages."""
    async with bridge(settings(cloud)) as platform:
        await platform.functions.create(function(), archive())
        await cloud.functions.remove(f"{PARENT}/functions/client-00")
        await publish(platform, task(), 1)
        with pytest.raises(FunctionGone, match="nothing is triggered"):
            await publish(platform, task(), 2)


async def test_a_user_with_only_the_right_to_publish_can_publish_a_second_attempt(cloud: Cloud) -> None:
    await triggered(cloud)
    async with bridge(settings(cloud)) as platform:
        cloud.pubsub.refusals.append(grpc.StatusCode.PERMISSION_DENIED)
        await publish(platform, task(), 2)
    assert len(cloud.pubsub.published) == 1


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.NOT_FOUND, FunctionGone),
        (grpc.StatusCode.PERMISSION_DENIED, PlatformDenied),
        (grpc.StatusCode.UNAUTHENTICATED, PlatformDenied),
        (grpc.StatusCode.UNAVAILABLE, NotStarted),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, NotStarted),
        (grpc.StatusCode.DEADLINE_EXCEEDED, NotStarted),
        (grpc.StatusCode.INTERNAL, NotStarted),
        (grpc.StatusCode.ABORTED, NotStarted),
        (grpc.StatusCode.UNKNOWN, NotStarted),
    ],
)
async def test_an_error_of_pubsub_is_passed_on_unchanged(
    cloud: Cloud, code: grpc.StatusCode, error: type[Exception]
) -> None:
    await triggered(cloud)
    # The bridge retries a temporary error until the time limit of the call.
    async with bridge(settings(cloud, call_s=0.5 if error is NotStarted else 60.0)) as platform:
        cloud.pubsub.refusals.extend([code] * 50)
        with pytest.raises(error):
            await publish(platform, task())


async def test_what_pubsub_calls_wrong_is_not_tried_again(cloud: Cloud) -> None:
    await triggered(cloud)
    async with bridge(settings(cloud)) as platform:
        cloud.pubsub.refusals.append(grpc.StatusCode.INVALID_ARGUMENT)
        with pytest.raises(InvocationFailed) as failed:
            await publish(platform, task())
    assert not failed.value.retryable


async def test_a_short_absence_is_bridged(cloud: Cloud) -> None:
    await triggered(cloud)
    async with bridge(settings(cloud)) as platform:
        cloud.pubsub.refusals.extend([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
        await publish(platform, task())
    assert len(cloud.pubsub.published) == 1


async def test_a_pubsub_that_does_not_answer_has_not_started_anything(cloud: Cloud) -> None:
    await triggered(cloud)
    async with bridge(settings(cloud, call_s=0.3)) as platform:
        cloud.pubsub.delay_s = 30.0
        with pytest.raises(NotStarted):
            await publish(platform, task())


async def test_an_unreachable_pubsub_has_started_nothing(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as closed:
        port = closed.sockets[0].getsockname()[1]
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{port}")
    async with bridge(settings(cloud, call_s=0.5)) as platform:
        with pytest.raises(NotStarted):
            await publish(platform, task())


async def test_an_invocation_that_is_given_up_ends_at_once(cloud: Cloud) -> None:
    await triggered(cloud)
    cloud.pubsub.delay_s = 30.0
    async with bridge(settings(cloud)) as platform, asyncio.timeout(20.0):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await publish(platform, task())


async def test_what_failed_once_may_work_the_next_time(cloud: Cloud) -> None:
    await triggered(cloud)
    async with bridge(settings(cloud)) as platform:
        cloud.pubsub.refusals.append(grpc.StatusCode.INVALID_ARGUMENT)
        with pytest.raises(InvocationFailed):
            await publish(platform, task())
        await publish(platform, task())


async def test_the_platforms_facts_are_those_of_the_settings(cloud: Cloud) -> None:
    async with bridge(settings(cloud, name="google", concurrency=7, start_s=8.0, run_s=9.0)) as platform:
        assert (platform.name, platform.concurrency, platform.per_minute, platform.start_s, platform.run_s) == (
            "google",
            7,
            0,
            8.0,
            9.0,
        )


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_are_an_error_at_the_start(cloud: Cloud, status: int) -> None:
    cloud.functions.refuse_next = [HTTPStatus(status)]
    with pytest.raises(PlatformDenied, match="roles/cloudfunctions"):
        async with bridge(settings(cloud)):
            pass


async def test_a_missing_project_is_an_error_at_the_start(cloud: Cloud) -> None:
    cloud.functions.refuse_next = [HTTPStatus(404)]
    with pytest.raises(PlatformFailed, match="there is no projects/test-project"):
        async with bridge(settings(cloud)):
            pass


async def test_a_platform_that_is_away_at_the_start_may_come_later(cloud: Cloud) -> None:
    cloud.functions.refuse_next = [HTTPStatus(503)]
    with capture_logs() as logs:
        async with bridge(settings(cloud)) as platform:
            assert await platform.functions.list() == []
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == [
        "the platform is out of reach for now"
    ]


class Account(Credentials):
    """Credentials like those of google-auth.

    Attributes:
        tokens: the next ones; what is no text is raised.
        refreshed: number of requests for a token.
    """

    def __init__(self, *tokens: str | Exception) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tokens = list(tokens)
        self.refreshed = 0

    def refresh(self, _: Any) -> None:
        self.refreshed += 1
        token = self.tokens.pop(0)
        if isinstance(token, Exception):
            raise token
        self.token = token


@pytest.fixture
def google_cloud(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """The emulators, used like the real services: with credentials."""
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST")
    cloud.functions.bearer = "token-1"
    return cloud


async def test_a_token_goes_with_every_call_until_it_expires(
    google_cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = Account("token-1", "token-2")
    monkeypatch.setattr(google.auth, "default", lambda **_: (account, "test-project"))
    async with bridge(settings(google_cloud)) as platform:
        await asyncio.gather(*(platform.functions.list() for _ in range(5)))
        assert account.refreshed == 1
        account.token, google_cloud.functions.bearer = None, "token-2"
        await asyncio.gather(*(platform.functions.list() for _ in range(5)))
        assert account.refreshed == 2


async def test_a_token_that_is_refused_is_no_error_message(
    google_cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google.auth, "default", lambda **_: (Account("secret-token"), "test-project"))
    with pytest.raises(PlatformDenied) as denied:
        async with bridge(settings(google_cloud)):
            pass
    assert "secret-token" not in str(denied.value)


async def test_an_account_that_gets_no_token_is_denied(google_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account(auth.RefreshError("it was deleted"))  # type: ignore[no-untyped-call]
    monkeypatch.setattr(google.auth, "default", lambda **_: (account, "test-project"))
    with pytest.raises(PlatformDenied, match="gcloud auth"):
        async with bridge(settings(google_cloud)):
            pass


async def test_a_token_service_that_is_away_may_come_later(
    google_cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = auth.TransportError("no route")  # type: ignore[no-untyped-call]
    account = Account(away, away, "token-1")
    monkeypatch.setattr(google.auth, "default", lambda **_: (account, "test-project"))
    async with bridge(settings(google_cloud)) as platform:
        with pytest.raises(PlatformAway, match="no route"):
            await platform.functions.list()
        assert await platform.functions.list() == []


async def test_the_error_for_missing_credentials_says_how_to_get_some(
    google_cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with pytest.raises(PlatformDenied, match="gcloud auth application-default login"):
        async with bridge(settings(google_cloud)):
            pass


@pytest.mark.parametrize(
    "wrong",
    [
        {"topic": "fedkeeper"},
        {"topic": "{client}/x"},
        {"topic": "goog-{client}"},
        {"api": "http://cloudfunctions.googleapis.com"},
    ],
)
def test_settings_that_cannot_be_used_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadSettings, match=next(iter(wrong))):
        msgspec.convert({"project": "test-project", **wrong}, Settings)


@pytest.mark.parametrize(
    ("client", "name"), [("abc", "abc"), ("1", "fk-1-x"), ("a-", "fk-a--x"), ("fk-1-x", "fk-fk-1-x-x")]
)
def test_a_function_has_a_name_of_its_own_that_is_legal(client: str, name: str) -> None:
    assert Settings(project="test-project").function_name(client) == f"{PARENT}/functions/{name}"


def test_the_example_for_operators_is_one() -> None:
    text = (REPOSITORY / "configs/bridges/gcf.toml").read_text(encoding="utf-8")
    assert msgspec.toml.decode(text, type=Settings).project
    uncommented = "\n".join(line.removeprefix("# ") if " = " in line else "" for line in text.splitlines())
    raw = msgspec.toml.decode(uncommented)
    assert (raw.pop("url"), raw.pop("secrets")) == ("", ""), "settings of every bridge's file"
    assert msgspec.convert(raw, Settings) == Settings(project=raw["project"])
    assert set(raw) == set(Settings.__struct_fields__)

import nats.errors
import pytest

from broker.errors import BrokerError, Disconnected, PayloadTooLarge, StorageFull, Unsupported
from broker.nats.errors import (
    ApiError,
    ConsumerExists,
    NoJetStream,
    NotFound,
    StoreFull,
    StreamMissing,
    Taken,
    WrongRevision,
    api_error,
    denied_subject,
)


@pytest.mark.parametrize(
    ("code", "description", "meaning"),
    [
        (10077, "maximum messages per subject exceeded", Taken),
        (10077, "maximum bytes exceeded", StorageFull),
        (10077, "maximum messages exceeded", StorageFull),
        (10047, "insufficient storage resources available", StoreFull),
        (10002, "resource limits exceeded for account", StoreFull),
        (10023, "insufficient resources", StoreFull),
        (10167, "too many requests", Disconnected),
        (10008, "jetstream system temporarily unavailable", Disconnected),
        (10071, "wrong last sequence: 3", WrongRevision),
        (10148, "consumer already exists", ConsumerExists),
        (10059, "stream not found", StreamMissing),
        (10014, "consumer not found", NotFound),
        (10051, "write 2.blk: no space left on device", StorageFull),
        (10054, "message size exceeds maximum allowed", PayloadTooLarge),
        (10100, "filtered consumer not unique on workqueue stream", Unsupported),
        (10076, "jetstream not enabled", NoJetStream),
        (1, "something new", BrokerError),
    ],
)
def test_errors_of_jetstream_are_mapped(code: int, description: str, meaning: type[BrokerError]) -> None:
    error = api_error("fl.topic", ApiError(400, code, description))
    assert type(error) is meaning
    assert "fl.topic" in str(error)


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ('nats: permissions violation for publish to "fl.jobs.submit"', "fl.jobs.submit"),
        ('nats: Permissions Violation for Subscription to "_INBOX.x.*"', "_inbox.x.*"),
        ('nats: permissions violation for subscription to "fl.a" using queue "q"', "fl.a"),
        ("nats: slow consumer", None),
    ],
)
def test_the_denied_subject_is_found(text: str, subject: str | None) -> None:
    assert denied_subject(nats.errors.Error(text)) == subject

"""The codec, on functions, requests, replies, invocation requests and reports."""

from typing import Any

import msgspec
import pytest

from broker.messages import codec
from broker.messages.errors import DecodeError, SchemaTooNew
from broker.messages.function import Deployed, Function, Reply, Request
from broker.messages.invocation import InvocationRequest, Report, RequestName
from broker.messages.job_sections import Model, Training
from broker.messages.register import Presence
from broker.messages.round import BlobRef, RoundTask

FUNCTION = Function(
    name="client-000",
    fabric="home",
    broker="nats://function@broker.example:4222",
    password="broker-password",  # noqa: S106 (the secret's name)
    key="bridge-key",
    package=BlobRef("fl.packages.ab", "ab" * 32, 300_000),
    env={"OMP_NUM_THREADS": "1"},
    options={"kind": "python:3.11", "constraints": ["a", "b"]},
)

TASK = RoundTask(
    client_id="client-000",
    client_type="openwhisk",
    url="",
    model_configuration=Model(),
    data_loc="",
    training_hyperparameters=Training(),
    job="job",
    round=3,
    model=BlobRef("fl.models.job.x", "ab" * 32, 5),
    token="t",  # noqa: S106 (no password)
    seed=2**62,
    deadline_s=1_700_000_000.5,
    max_attempts=3,
)

MESSAGES: list[Any] = [
    FUNCTION,
    Request(id="r-1", deadline_s=1.5, function=FUNCTION),
    Request(id="r-2", deadline_s=1.5, name="client-000"),
    Request(id="r-3", deadline_s=1.5),
    Reply(change="created", functions=(Deployed(name="a"), Deployed(name="b", topics=("t", "u")))),
    Reply(error="no secret 'x' here"),
    InvocationRequest(TASK, 2),
    Report("job.3.client-000", "training", cold=True, attempt=2, activation="a-1"),
    Report("job.3.client-000", "failed", reason="BadModel: x", retryable=False),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_comes_back(message: object) -> None:
    assert codec.decode(type(message), codec.encode(message)) == message


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"null", b"\xff", b"5", b"[" * 100_000, b'"\\ud800"'])
@pytest.mark.parametrize("kind", [Function, Request, Reply, InvocationRequest, Report])
def test_garbage_is_refused(kind: type[object], garbage: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.decode(kind, garbage)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Function, {"name": "a"}),
        (Function, {"name": "a", "fabric": "b", "env": {"A": 1}}),
        (Reply, {"change": "exploded"}),
        (InvocationRequest, {"task": msgspec.to_builtins(TASK)}),
        (InvocationRequest, {"task": {**msgspec.to_builtins(TASK), "round": "3"}, "attempt": 1}),
        (Report, {"id": "a", "state": "asleep"}),
    ],
)
def test_a_wrong_field_is_refused(kind: type[object], wrong: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        codec.decode(kind, msgspec.json.encode(wrong))


def test_an_error_names_the_field_and_shows_no_value() -> None:
    wrong = {"task": {**msgspec.to_builtins(TASK), "token": ["hunter2"]}, "attempt": 1}
    with pytest.raises(DecodeError, match=r"\$\.task\.token") as refused:
        codec.decode(InvocationRequest, msgspec.json.encode(wrong))
    assert "hunter2" not in str(refused.value)


def test_a_function_s_digest_is_a_legal_label_and_the_same_in_every_release() -> None:
    assert Function(name="client-000", fabric="home").digest == "92c39c9098b8fd54ce1c6331f021bf35"
    assert len(FUNCTION.digest) == 32


@pytest.mark.parametrize(
    "change",
    [
        {"name": "client-001"},
        {"broker": ""},
        {"password": ""},
        {"key": "other"},
        {"image": "img:2"},
        {"package": BlobRef("fl.packages.cd", "cd" * 32, 300_000)},
        {"env": {}},
        {"memory_mb": 512},
        {"timeout_s": 60},
        {"options": {"kind": "python:3.11", "constraints": ["b", "a"]}},
    ],
)
def test_every_change_of_a_function_changes_its_digest(change: dict[str, Any]) -> None:
    assert msgspec.structs.replace(FUNCTION, **change).digest != FUNCTION.digest


def test_a_function_s_digest_does_not_depend_on_the_order_of_its_variables_and_options() -> None:
    first, other = ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    assert (
        Function(name="a", fabric="b", env=first, options={"o": first}).digest
        == Function(name="a", fabric="b", env=other, options={"o": other}).digest
    )


def test_a_request_fits_into_every_platform_s_trigger_and_a_report_into_a_line() -> None:
    assert len(msgspec.json.encode(InvocationRequest(TASK, 1))) < 2000
    assert msgspec.json.encode(Report("a", "done")) == b'{"id":"a","state":"done"}'


@pytest.mark.parametrize(
    ("kind", "raw", "remedy"),
    [
        (RoundTask, {"schema": 2}, "upgrade this bridge to the version of the server"),
        (InvocationRequest, {"task": {"schema": 2, "client": "renamed"}}, "package and deploy the functions"),
        (Function, {"schema": 2, "name": 7}, "upgrade this bridge to the version that deploys"),
        (Request, {"function": {"schema": 2}}, "upgrade this bridge to the version that deploys"),
        (Presence, {"schema": 2}, "upgrade the server to the version of the bridge"),
    ],
)
def test_a_newer_message_is_refused_with_the_side_to_upgrade(
    kind: type[object], raw: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(SchemaTooNew, match=remedy) as refused:
        codec.decode(kind, msgspec.json.encode(raw))
    assert (refused.value.kind, refused.value.got, refused.value.known) == (kind.__name__, 2, 1)


def test_a_newer_message_whose_fields_would_fit_is_refused_too() -> None:
    newer = msgspec.structs.replace(TASK, schema=2)
    with pytest.raises(SchemaTooNew):
        codec.decode(InvocationRequest, codec.encode(InvocationRequest(newer, 1)))


def test_a_message_without_a_schema_has_the_first_schema() -> None:
    raw = msgspec.to_builtins(TASK)
    del raw["schema"]
    assert codec.decode(RoundTask, msgspec.json.encode(raw)).schema == 1


@pytest.mark.parametrize("schema", ["2", 1.5, None, [2]])
def test_a_schema_that_is_not_a_number_is_a_wrong_field(schema: object) -> None:
    raw = {**msgspec.to_builtins(TASK), "schema": schema}
    with pytest.raises(DecodeError, match=r"\$\.schema"):
        codec.decode(RoundTask, msgspec.json.encode(raw))


def test_the_name_of_the_task_is_read_from_a_request_of_any_schema() -> None:
    name = {"job": "j", "round": 3, "client_id": "c", "client_type": "gcf"}
    request = codec.decode_partial(
        RequestName, msgspec.json.encode({"task": {**name, "schema": 9, "model": 1}, "attempt": 2})
    )
    assert request is not None
    assert (request.task.id, request.attempt) == ("j.3.c", 2)
    for other in (b"", b"{}", b'{"task": {}}', msgspec.json.encode({"task": name}), b"[" * 100_000):
        assert codec.decode_partial(RequestName, other) is None


def test_any_json_is_decoded() -> None:
    assert codec.decode_any('{"a": [1, null]}') == {"a": [1, None]}
    with pytest.raises(DecodeError, match="not JSON"):
        codec.decode_any(b"{")


def test_an_error_shows_no_part_of_the_message() -> None:
    with pytest.raises(DecodeError) as refused:
        codec.decode(InvocationRequest, b'{"task": "hunter2"}')
    assert "hunter2" not in str(refused.value)

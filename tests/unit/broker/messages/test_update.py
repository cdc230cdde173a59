"""A round's messages: an update's metadata, tokens, seeds."""

import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from broker.messages import cloudevents, tensor_header
from broker.messages.cloudevents import Envelope
from broker.messages.errors import DecodeError, SchemaTooNew
from broker.messages.invocation import Invocation
from broker.messages.job_sections import Model, Training
from broker.messages.register import ClientRecord
from broker.messages.round import BlobRef, RoundTask, nonce, seed, token
from broker.messages.strategy import FedAvg, FedProx
from broker.messages.update import UpdateHeader, checked_processor, own_states, read_header

STATE = BlobRef("fl.state.demo.c-0.3.2.opt", "cd" * 32, 9)
OLD_STATE = BlobRef("fl.state.demo.c-0.3.2", "cd" * 32, 9)
"""Where older versions kept it."""

HEADER = UpdateHeader(
    job="demo",
    round=3,
    attempt=2,
    client="c-0",
    samples=600,
    base="ab" * 32,
    token="12345",  # noqa: S106 (a text that looks like a number)
    metrics={"loss": 0.1, "accuracy": 1.0},
    states={"opt": STATE},
    fetched=1_590_040,
    seconds={"train": 1.5},
    code="12" * 32,
    shard="34" * 32,
    metrics_scope="sum",
    update="delta",
    strategy="fedprox",
    processor="x86-64 Intel AVX512",
)

TASK = RoundTask(
    client_id="c-0",
    client_type="local",
    url="",
    model_configuration=Model(args={"hidden": 5}),
    data_loc="file:///shards/c-0",
    training_hyperparameters=Training(),
    job="demo",
    round=3,
    model=BlobRef("fl.models.demo.x", "ab" * 32, 5),
    token="t",  # noqa: S106 (no password)
    seed=2**62,
    deadline_s=1_700_000_000.5,
    max_attempts=3,
    states={"opt": STATE},
    along=BlobRef("fl.models.demo.y", "ef" * 32, 6),
    strategy=FedProx(mu=0.1),
)


def bare(**changes: str) -> dict[str, str]:
    required = {"job": "demo", "round": "3", "attempt": "1", "client": "c-0", "samples": "5", "base": "b", "token": "t"}
    return required | changes


def test_metadata_are_texts_that_come_back() -> None:
    metadata = HEADER.to_metadata()
    assert {type(value) for value in metadata.values()} == {str}
    assert (metadata["token"], metadata["samples"]) == ("12345", "600")
    assert UpdateHeader.from_metadata(metadata) == HEADER


def test_metadata_may_leave_out_what_has_a_default() -> None:
    got = UpdateHeader.from_metadata(bare())
    assert (got.metrics, got.states, got.fetched, got.seconds) == ({}, {}, 0, {})
    assert (got.update, got.strategy) == ("weights", "fedavg"), "what functions of older versions did"
    assert got.processor == "", "they do not tell it"


def test_a_processor_is_a_text_that_no_metadata_is_mistaken_for() -> None:
    assert UpdateHeader.from_metadata(bare(processor="9")).processor == "9"


@pytest.mark.parametrize(
    ("told", "believed"),
    [
        *((kind, kind) for kind in ("x86-64 Intel AVX512", "aarch64 NEON", "cuda sm_87", "mps", "a" * 48)),
        *(
            (text, "")
            for text in ("", " x86", "x\x1b[31m", "x\ny", "x\u202ey", "a" * 49, "[red]", "x\n", None, 9, ["x"])
        ),
    ],
)
def test_a_processor_s_kind_is_believed_if_it_is_a_short_plain_text(told: object, believed: str) -> None:
    assert checked_processor(told) == believed


def test_the_state_of_an_older_update_gets_the_optimizer_s_name() -> None:
    old = bare(state=msgspec.json.encode(OLD_STATE).decode())
    assert UpdateHeader.from_metadata(old).states == {"opt": OLD_STATE}
    assert UpdateHeader.from_metadata(bare(state="null")).states == {}
    assert UpdateHeader.from_metadata(HEADER.to_metadata() | old).states == {"opt": STATE}
    assert "state" not in HEADER.to_metadata()


@pytest.mark.parametrize(
    ("name", "topic", "is_own"),
    [
        ("opt", "fl.state.demo.c-0.3.2.opt", True),
        ("opt", "fl.state.demo.c-0.3.2", True),
        ("scaffold", "fl.state.demo.c-0.3.2.scaffold", True),
        ("scaffold", "fl.state.demo.c-0.3.2", False),
        ("scaffold", "fl.state.demo.c-0.3.2.opt", False),
        ("opt", "fl.state.demo.c-1.3.2.opt", False),
        ("opt", "fl.state.demo.c-0.3.1.opt", False),
        ("opt", "fl.secrets.demo", False),
        ("*", "fl.state.demo.c-0.3.2.*", False),
        ("a.b", "fl.state.demo.c-0.3.2.a.b", False),
        ("", "fl.state.demo.c-0.3.2.", False),
    ],
)
def test_a_state_is_an_update_s_own_only_under_a_topic_of_its_own(name: str, topic: str, *, is_own: bool) -> None:
    states = {name: BlobRef(topic, "cd" * 32, 9)}
    assert own_states(msgspec.structs.replace(HEADER, states=states)) == (states if is_own else {})


def test_an_update_of_no_valid_client_has_no_states_of_its_own() -> None:
    assert own_states(msgspec.structs.replace(HEADER, client="a.b")) == {}


@pytest.mark.parametrize("name", ["job", "client", "base", "token", "strategy"])
@pytest.mark.parametrize("text", ["null", "5", '"x"', "", "\0"])
def test_text_fields_are_not_decoded(name: str, text: str) -> None:
    assert getattr(UpdateHeader.from_metadata(bare(**{name: text})), name) == text


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": ""},
        {"samples": "five"},
        {"samples": "5.5"},
        {"samples": "true"},
        {"samples": "null"},
        {"samples": '"5"'},
        {"samples": "9" * 5000},
        {"samples": "[" * 50_000},
        {"samples": "\ud800"},
        {"round": "1e3"},
        {"metrics": '{"loss": "low"}'},
        {"metrics": '{"loss": NaN}'},
        {"metrics": "[]"},
        {"state": '{"topic": "t"}'},
        {"state": "no JSON"},
        {"states": '{"opt": null}'},
        {"states": "[]"},
        {"update": "difference"},
    ],
)
def test_malformed_metadata_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(DecodeError, match="not an update's metadata"):
        UpdateHeader.from_metadata(bare(**changes))


@pytest.mark.parametrize("text", ["1", "", "no JSON", "\ud800"])
def test_unknown_metadata_are_ignored(text: str) -> None:
    assert UpdateHeader.from_metadata(bare(more=text)) == UpdateHeader.from_metadata(bare())


def test_an_update_of_a_newer_schema_is_refused_before_its_fields_are_read() -> None:
    with pytest.raises(SchemaTooNew, match="upgrade the server to the version of the functions") as refused:
        UpdateHeader.from_metadata({"schema": "2"})
    assert (refused.value.kind, refused.value.got, refused.value.known) == ("UpdateHeader", 2, 1)


def test_the_header_of_an_update_is_read_without_its_tensors() -> None:
    blob = safetensors.numpy.save({"w": np.zeros(3, np.float32)}, HEADER.to_metadata())
    assert read_header(blob) == HEADER
    assert read_header(blob[:-1]) == HEADER
    with pytest.raises(DecodeError):
        read_header(blob[:40])


def test_a_header_that_is_too_large_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_header, "_parse_header", pytest.fail)
    with pytest.raises(DecodeError, match="at most 8388608 are accepted"):
        read_header((9 << 20).to_bytes(8, "little") + bytes(9 << 20))


@pytest.mark.parametrize("name", ["job", "round", "attempt", "client", "samples", "base", "token"])
def test_metadata_need_every_required_field(name: str) -> None:
    metadata = bare()
    del metadata[name]
    with pytest.raises(DecodeError, match=name):
        UpdateHeader.from_metadata(metadata)


def test_a_minimal_client_record_has_defaults() -> None:
    client = ClientRecord(id="c-0", platform="local")
    assert (client.samples, client.paused, client.labels, client.secret) == (0, False, {}, "")


def test_a_nonce_depends_on_the_secret_the_job_and_the_round() -> None:
    inputs = [(secret, job, round_) for secret in ("s1", "s2") for job in ("j1", "j1-1") for round_ in (1, 11)]
    nonces = [nonce(*parts) for parts in inputs]
    assert len(set(nonces)) == len(inputs)
    assert nonces == [nonce(*parts) for parts in inputs]
    assert not any(secret in result for (secret, *_), result in zip(inputs, nonces, strict=True))


def test_a_token_depends_on_the_nonce_and_the_client() -> None:
    tokens = [token(of_round, client) for of_round in ("n1", "n2") for client in ("c-0", "c-1")]
    assert len(set(tokens)) == 4
    assert {len(token) for token in tokens} == {64}


def test_a_token_is_hmac_sha256() -> None:
    # RFC 4231, test case 2.
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert token("Jefe", "what do ya want for nothing?") == expected


def test_a_seed_is_the_same_in_every_release_and_fits_an_int64() -> None:
    assert seed(1, "model") == 2857051937757529520
    seeds = {seed(a, b) for a, b in itertools.product(range(50), ("x", "y"))}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**61


def test_a_seed_depends_on_the_order_of_its_parts() -> None:
    assert len({seed(1, 2, "c"), seed(2, 1, "c"), seed(12, "c"), seed(1, "2c")}) == 4


def test_a_task_comes_back_from_its_event_and_is_small() -> None:
    blob = cloudevents.encode(Envelope(TASK.id, "/server", "round.task", 1.0), TASK)
    assert cloudevents.data_of(blob, RoundTask) == TASK
    assert len(blob) < 2000
    assert TASK.id == "demo.3.c-0"


def test_a_task_of_an_older_server_names_the_optimizer_s_state_alone() -> None:
    raw = msgspec.to_builtins(msgspec.structs.replace(TASK, state=OLD_STATE))
    for field in ("states", "along", "strategy"):
        del raw[field]
    task = msgspec.convert(raw | {"client_config": {}}, RoundTask)
    assert (task.initial_states, task.strategy) == ({"opt": OLD_STATE}, FedAvg())
    assert task.blobs == (TASK.model, OLD_STATE)
    assert msgspec.structs.replace(task, state=None).initial_states == {}


def test_a_task_names_all_that_its_function_needs() -> None:
    task = msgspec.structs.replace(TASK, state=STATE)
    assert task.initial_states == {"opt": STATE}
    assert task.blobs == (TASK.model, TASK.along, STATE)


def test_a_task_has_the_fields_of_the_paper_s_listing() -> None:
    listing = ("client_id", "client_type", "url", "model_configuration", "data_loc", "training_hyperparameters")
    assert RoundTask.__struct_fields__[:6] == listing


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (Invocation, {"outcome": "exploded"}),
        (Invocation, {"outcome": None}),
        (ClientRecord, {"id": 5}),
        (ClientRecord, {"labels": {"data": 3}}),
    ],
)
def test_a_message_with_a_wrong_value_is_refused(kind: type[Any], raw: dict[str, Any]) -> None:
    good = {"job": "demo", "round": 1, "client": "c", "platform": "local", "attempt": 1, "outcome": "failed", "id": "c"}
    msgspec.convert(good, kind)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(good | raw, kind)


def test_unknown_fields_of_a_task_are_ignored() -> None:
    raw = msgspec.to_builtins(TASK)
    raw |= {"priority": 1}
    raw["training_hyperparameters"] |= {"proximal_mu": 0.1}
    raw["model_configuration"] |= {"compile": True}
    assert msgspec.convert(raw, RoundTask) == TASK

"""Which updates the gate accepts and refuses, each with its code. Any bytes are either accepted or refused."""

import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from broker import topics
from broker.messages import tensor_header
from broker.messages import tensors as payload
from broker.messages.round import BlobRef, token
from broker.messages.tensors import FLOATS, Tensors
from broker.topics import UpdateTopic
from server import aggregator, gate
from server.aggregator import Aggregate
from server.errors import Refused
from server.gate import CODES
from tests.support.gate_updates import (
    EXPECTED,
    HEADER,
    MEMBERS,
    MODEL,
    NONCE,
    PLAN,
    code_of,
    encode,
    header_of,
    pass_gate,
    update,
)


def rewrite_header(change: Callable[[dict[str, Any]], object]) -> bytes:
    """An update with a changed JSON header."""
    blob = update()
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + size])
    change(header)
    # Sorted: safetensors writes metadata in another order every time.
    return frame(json.dumps(header, sort_keys=True).encode(), blob[8 + size :])


def frame(text: bytes, body: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text + body


def metadata(**changes: str) -> bytes:
    return rewrite_header(lambda header: header["__metadata__"].update(changes))


def with_tensor(name: str, value: Any) -> Tensors:
    return {**MODEL, name: np.asarray(value, MODEL[name].dtype)}


def replace_element(code: str, value: float, place: int = 0) -> Tensors:
    tensor = MODEL[code].copy()
    tensor.reshape(-1)[place] = value
    return {**MODEL, code: tensor}


def without(name: str) -> Tensors:
    return {key: tensor for key, tensor in MODEL.items() if key != name}


@functools.cache
def bomb() -> bytes:
    """A header of 100,000 empty tensors: 7 MB for the sender, and slow to parse."""
    empties = {f"t{i:06}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}
    return frame(json.dumps({**empties, "__metadata__": HEADER.to_metadata()}).encode(), b"")


STATE = BlobRef("fl.state.demo.c-0.3.1.opt", "cd" * 32, 100)


def states(topic: str = STATE.topic, sha256: str = STATE.sha256, name: str = "opt") -> dict[str, BlobRef]:
    return {name: BlobRef(topic, sha256, 1)}


REFUSED: dict[str, tuple[str, Callable[[], str]]] = {
    "an earlier round": ("late", lambda: code_of(update(), "fl.updates.demo.2.c-0.1")),
    "a later round": ("early", lambda: code_of(update(), "fl.updates.demo.4.c-0.1")),
    "not trained as the strategy asks": (
        "strategy",
        lambda: code_of(update(), expected=replace(EXPECTED, strategy="fedprox")),
    ),
    "a metric that the strategy needs is missing": (
        "strategy",
        lambda: code_of(update(), expected=replace(EXPECTED, needs=("steps",))),
    ),
    "no digest of the personal layers": (
        "personal",
        lambda: code_of(update(), expected=replace(EXPECTED, has_personal=True)),
    ),
    "a digest of the personal layers that is none": (
        "personal",
        lambda: code_of(update(personal="../" * 20), expected=replace(EXPECTED, has_personal=True)),
    ),
    "another job": ("foreign", lambda: code_of(update(), "fl.updates.other.3.c-0.1")),
    "a client outside the cohort": ("foreign", lambda: code_of(update("c-9"), "fl.updates.demo.3.c-9.1")),
    "a client counted already": ("duplicate", lambda: code_of(update(), counted=("c-1", "c-0"))),
    "another job in its header": ("foreign", lambda: code_of(update(job="other"))),
    "another round in its header": ("foreign", lambda: code_of(update(round=2))),
    "another attempt in its header": ("foreign", lambda: code_of(update(attempt=2))),
    "another client's update, replayed": ("foreign", lambda: code_of(update("c-1"))),
    "a state under another topic": ("foreign", lambda: code_of(update(states=states("fl.updates.>")))),
    "a state under another name": ("foreign", lambda: code_of(update(states=states(name="scaffold")))),
    "a state under a name that is none": (
        "foreign",
        lambda: code_of(update(states=states("fl.state.demo.c-0.3.1.*", name="*"))),
    ),
    "a state without a name that is not the optimizer's": (
        "foreign",
        lambda: code_of(update(states=states("fl.state.demo.c-0.3.1", name="scaffold"))),
    ),
    "a state under no digest": ("foreign", lambda: code_of(update(states=states(sha256="../" * 20)))),
    "another client's token": ("token", lambda: code_of(update(token=token(NONCE, "c-1")))),
    "another round's token": ("token", lambda: code_of(update(token=token("other", "c-0")))),
    "no token": ("token", lambda: code_of(update(token=""))),
    "another base": ("base", lambda: code_of(update(base="cd" * 32))),
    "no samples": ("samples", lambda: code_of(update(samples=0))),
    "negative samples": ("samples", lambda: code_of(update(samples=-30))),
    "one sample more than the client has": ("samples", lambda: code_of(update(samples=601))),
    "a thousand million samples": ("samples", lambda: code_of(update(samples=10**9))),
    "samples without end": ("samples", lambda: code_of(metadata(samples="9" * 4000))),
    "half a sample": ("malformed", lambda: code_of(metadata(samples="0.5"))),
    "a missing tensor": ("layout", lambda: code_of(update(tensors=without("F32")))),
    "no tensors": ("layout", lambda: code_of(update(tensors={}))),
    "one tensor more": ("layout", lambda: code_of(update(tensors={**MODEL, "more": np.zeros(1)}))),
    "another name": ("layout", lambda: code_of(update(tensors={**without("F64"), "F46": MODEL["F64"]}))),
    "another shape": ("layout", lambda: code_of(update(tensors={**MODEL, "F32": MODEL["F32"].T}))),
    "another dtype": ("layout", lambda: code_of(update(tensors={**MODEL, "F64": MODEL["F64"].view(np.int64)}))),
    "empty tensors of 2^50 sides": (
        "layout",
        lambda: code_of(rewrite_header(lambda header: header["none"].update(shape=[0, 2**50]))),
    ),
    "empty tensors of 2^63 sides": (
        "malformed",
        lambda: code_of(rewrite_header(lambda header: header["none"].update(shape=[0, 2**63]))),
    ),
    "no safetensors file": ("malformed", lambda: code_of(b"garbage")),
    "no metadata": ("malformed", lambda: code_of(payload.encode(MODEL))),
    "a newer schema": ("schema", lambda: code_of(metadata(schema="2", samples="many"))),
    "metadata of text": ("malformed", lambda: code_of(metadata(samples="many"))),
    "metadata nested too deeply": ("malformed", lambda: code_of(metadata(metrics="[" * 50_000))),
    "a lone surrogate": ("malformed", lambda: code_of(metadata(base="\ud800"))),
    "a metric that is no number": ("malformed", lambda: code_of(metadata(metrics='{"loss": NaN}'))),
    "a metric that is null": ("malformed", lambda: code_of(update(metrics={"loss": float("nan")}))),
    "a metric that is too large": ("malformed", lambda: code_of(metadata(metrics='{"loss": 1e999}'))),
    "a metric of 400 digits": ("malformed", lambda: code_of(metadata(metrics='{"loss": 1%s}' % ("0" * 400)))),
    "a metric whose sum over samples is infinite": ("magnitude", lambda: code_of(update(metrics={"loss": 1e308}))),
    "a huge negative metric": ("magnitude", lambda: code_of(update(metrics={"loss": -1e31}))),
    "a huge metric of held-out samples": ("magnitude", lambda: code_of(update(evaluation={"loss": 1e308}))),
    "too many metrics": ("malformed", lambda: code_of(update(metrics={f"m{n}": 1.0 for n in range(2001)}))),
    "a metric with a long name": ("malformed", lambda: code_of(update(metrics={"m" * 129: 1.0}))),
    "seconds without end": ("magnitude", lambda: code_of(update(seconds={"train": 1.7e308}))),
    "negative seconds": ("magnitude", lambda: code_of(update(seconds={"train": -1.0}))),
    "too many steps": ("malformed", lambda: code_of(update(seconds={f"s{n}": 1.0 for n in range(33)}))),
    "bytes without end": ("magnitude", lambda: code_of(update(fetched=2**45))),
    "negative bytes": ("magnitude", lambda: code_of(update(fetched=-1))),
    "an attempt that can't be": ("flood", lambda: code_of(update(attempt=65), "fl.updates.demo.3.c-0.65")),
    "seconds that are no numbers": ("malformed", lambda: code_of(update(seconds={"train": float("inf")}))),
    "a key twice": ("malformed", lambda: code_of(update().replace(b'"F16":{', b'"F32":{', 1))),
    "a header bomb": ("malformed", lambda: code_of(bomb())),
    "trailing bytes": ("malformed", lambda: code_of(update() + b"\0")),
    "NaN": ("finite", lambda: code_of(update(tensors=replace_element("F32", np.nan, 5)))),
    "infinity": ("finite", lambda: code_of(update(tensors=replace_element("F64", -np.inf, 1)))),
    "absurdly large": ("magnitude", lambda: code_of(update(tensors=replace_element("F32", 1e30)))),
}


@pytest.mark.parametrize("what", REFUSED)
def test_is_refused_with_its_code(what: str) -> None:
    want, attempt = REFUSED[what]
    assert attempt() == want


def test_a_digest_of_personal_layers_is_asked_for_only_where_there_are_some() -> None:
    has_personal = replace(EXPECTED, has_personal=True)
    assert pass_gate(update(personal="ab" * 32), expected=has_personal)[0].personal == "ab" * 32
    assert pass_gate(update(personal="nonsense"))[0].personal == "nonsense"
    judging = {**MEMBERS, "c-0": msgspec.structs.replace(MEMBERS["c-0"], purpose="evaluate")}
    pass_gate(update(), expected=replace(has_personal, members=judging))


def test_every_code_is_produced() -> None:
    assert {code for code, _ in REFUSED.values()} == set(CODES)


def test_a_refused_update_changes_nothing() -> None:
    counted: list[str] = []
    aggregate, undisturbed = Aggregate(PLAN), Aggregate(PLAN)
    for client in MEMBERS:
        for _, attempt in REFUSED.values():
            attempt()
        blob = update(client, with_tensor("F64", [0.25, len(counted)]), samples=50)
        header, tensors = pass_gate(blob, f"fl.updates.demo.3.{client}.1", tuple(counted))
        counted.append(header.client)
        aggregate.add(tensors, header.samples)
        undisturbed.add(payload.decode(blob)[0], 50)
    assert payload.encode(aggregate.mean()) == payload.encode(undisturbed.mean())
    assert counted == ["c-0", "c-1", "c-2"]


def test_a_good_update_comes_out_as_it_went_in() -> None:
    header, tensors = pass_gate(update(samples=600, states={"opt": STATE}))
    assert header == header_of(samples=600, states={"opt": STATE})
    assert payload.encode(tensors) == payload.encode(MODEL)


def test_a_client_with_unknown_samples_may_claim_the_job_s_maximum() -> None:
    topic = "fl.updates.demo.3.c-1.1"
    assert pass_gate(update("c-1", samples=1000), topic)[0].samples == 1000
    assert code_of(update("c-1", samples=1001), topic) == "samples"


def test_one_sample_is_enough() -> None:
    assert pass_gate(update(samples=1))[0].samples == 1


def test_a_refusal_names_the_tensors_that_differ() -> None:
    for tensors, reason in (
        (without("F32"), r"missing: \['F32'\], not asked for: \[\]"),
        ({**MODEL, "more": np.zeros(1)}, r"missing: \[\], not asked for: \['more'\]"),
        ({**MODEL, "F32": MODEL["F32"].T}, r"F32 is \('F32', \(4, 3\)\), the model's is \('F32', \(3, 4\)\)"),
        (replace_element("F64", 2048.0), r"F64 reaches 2048, at most 1024 is accepted"),
    ):
        with pytest.raises(Refused, match=reason):
            pass_gate(update(tensors=tensors))


def test_a_replay_of_the_same_update_is_a_duplicate_before_it_is_read() -> None:
    assert code_of(b"not even read", counted=("c-0",)) == "duplicate"


@pytest.mark.parametrize(
    "topic",
    [
        "fl.updates.demo.3.c-0",
        "fl.updates.demo.3.c-0.1.1",
        "fl.updates.demo.three.c-0.1",
        "fl.updates.demo.3_0.c-0.1",
        "fl.updates.demo.+3.c-0.1",
        "fl.updates.demo.03.c-0.1",
        "fl.updates.demo.3.c-0.01",
        "fl.updates.demo.3.c-0. 1",
        "fl.updates.demo.٣.c-0.1",
        f"fl.updates.demo.{'9' * 5000}.c-0.1",
        "fl.updates.DEMO.3.c-0.1",
        "fl.state.demo.3.c-0.1",
        "",
    ],
)
def test_a_topic_that_no_update_has_is_refused(topic: str) -> None:
    with pytest.raises(Refused) as refused:
        gate.parse_topic(topic)
    assert refused.value.code == "foreign"


def test_an_update_s_topic_is_read() -> None:
    assert gate.parse_topic(topics.update("demo", 3, "c-0", 2)) == UpdateTopic("demo", 3, "c-0", 2)


@pytest.mark.parametrize("code", sorted(FLOATS))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_float_gets_through_that_is_not_finite(code: str, value: float) -> None:
    for place in range(MODEL[code].size):
        assert code_of(update(tensors=replace_element(code, value, place))) == "finite"


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("code", sorted(FLOATS))
def test_the_bound_is_the_largest_magnitude_that_gets_through(code: str, sign: int) -> None:
    bound, dtype = PLAN.bounds[code], MODEL[code].dtype
    assert bound == 1024.0
    pass_gate(update(tensors=replace_element(code, sign * bound)))
    beyond = float(np.nextafter(np.array(bound, dtype), np.array(np.inf, dtype)))
    assert code_of(update(tensors=replace_element(code, sign * beyond))) == "magnitude"


@pytest.mark.parametrize("code", sorted(FLOATS - {"F16"}))
def test_1e30_is_absurd(code: str) -> None:
    assert code_of(update(tensors=replace_element(code, 1e30))) == "magnitude"


def test_a_header_bomb_is_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(bomb()) > 6_500_000
    monkeypatch.setattr(tensor_header, "_parse_header", pytest.fail)
    assert code_of(bomb()) == "malformed"


def test_the_largest_update_has_room_for_long_names_and_little_more() -> None:
    tensors = {f"{'encoder.layer.' * 20}{i}.weight": np.zeros(100, np.float32) for i in range(300)}
    plan = aggregator.plan(tensors, frozenset(), 1000)
    expectation = replace(EXPECTED, plan=plan)
    metrics = {f"metric-{i}": 1 / 3 for i in range(200)}
    blob = encode(tensors, header_of(metrics=metrics, states={"opt": STATE}))
    gate.check(blob, UpdateTopic("demo", 3, "c-0", 1), expectation)
    assert len(blob) <= expectation.max_bytes < len(blob) + 400_000


def test_the_largest_update_of_a_small_model_has_room_for_many_metrics() -> None:
    blob = update(metrics={f"metric-{i}": 1 / 3 for i in range(1800)})
    assert 50_000 < len(blob) <= EXPECTED.max_bytes
    pass_gate(blob)


def test_the_largest_update_of_the_paper_s_network_is_little_more_than_its_weights() -> None:
    shapes = {"hidden.weight": (500, 784), "hidden.bias": (500,), "out.weight": (10, 500), "out.bias": (10,)}
    tensors: Tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    plan = aggregator.plan(tensors, frozenset(), 1000)
    assert 1_590_040 < replace(EXPECTED, plan=plan).max_bytes < 1.05 * 1_590_040


def test_a_truncated_update_is_malformed_wherever_it_ends() -> None:
    blob = update()
    assert {code_of(blob[:size]) for size in range(len(blob))} == {"malformed"}


def verdict(blob: bytes) -> str:
    """The code of the refusal, `accepted` or `poisoned`. Any other error ends the test."""
    try:
        _, tensors = pass_gate(blob)
    except Refused as refused:
        msgspec.json.encode(refused.reason)
        return refused.code
    Aggregate(PLAN).add(tensors, 1)
    return "accepted" if all(np.isfinite(tensors[name]).all() for name in PLAN.bounds) else "poisoned"


def test_random_bytes_are_refused_or_finite() -> None:
    rng = np.random.default_rng(1)
    blob = np.frombuffer(rewrite_header(dict), np.uint8)
    body = 8 + int.from_bytes(blob[:8].tobytes(), "little")
    verdicts: Counter[str] = Counter()
    for number in range(2000):
        copied = blob.copy()
        places = rng.integers(body if number % 2 else 0, len(blob), size=rng.integers(1, 4))
        copied[places] = rng.integers(0, 256, size=len(places))
        verdicts[verdict(copied.tobytes())] += 1
    assert verdicts.keys() <= {*CODES, "accepted"}
    # Otherwise the bytes would not have reached the checks behind the first one.
    assert verdicts["accepted"] > 300
    assert verdicts["malformed"] > 300
    assert min(verdicts[code] for code in ("finite", "magnitude", "token", "base")) > 0


NASTY: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    2**31,
    2**63,
    2**64,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "\ud800",
    "\0",
    "F32",
    "nan",
    "1e999",
    "-0",
    "[" * 5000,
    '{"topic":"fl.>","sha256":"","bytes":-1}',
    [],
    [0],
    [0, 2**63],
    [1] * 70,
    [-1],
    [[]],
    {},
    {"dtype": "F32", "shape": [], "data_offsets": [0, 0]},
)


def test_headers_with_nasty_values_are_refused_or_finite() -> None:
    blob = update(states={"opt": STATE})
    size = int.from_bytes(blob[:8], "little")
    header: dict[str, Any] = json.loads(blob[8 : 8 + size])
    changed = [(outer, {**header[outer], inner: bad}) for outer in header for inner in header[outer] for bad in NASTY]
    changed += itertools.product(header, NASTY)
    texts = (json.dumps({**header, outer: fields}).encode() for outer, fields in changed)
    verdicts = Counter(verdict(frame(text, blob[8 + size :])) for text in texts)
    assert verdicts.keys() <= {*CODES, "accepted"}
    assert verdicts["malformed"] > 900
    assert min(verdicts["foreign"], verdicts["token"], verdicts["base"]) > 0

"""The job: which values are refused with which message, and that TOML and JSON mean the same."""

import json
import math
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import inspect

from broker.messages import codec, job_file
from broker.messages.errors import DecodeError, JobError
from broker.messages.job import Job
from broker.messages.job_sections import Cohort, Data, Evaluation, Learner, Model, Override, Stop, Training
from broker.messages.schedule import Cosine
from broker.messages.strategy import FedAdam, FedProx
from tests.support.paths import REPOSITORY
from tests.support.refused_jobs import REFUSED

FILES = (REPOSITORY / "configs").glob("*.toml")
CONFIGS = sorted(path for path in FILES if not path.stem.startswith("fabric-"))


def nested(field: str, value: Any) -> dict[str, Any]:
    for key in reversed(field.split(".")):
        value = {key: value}
    return dict(value)


def refusal(raw: object) -> JobError:
    with pytest.raises(JobError) as refused:
        job_file.from_dict(raw)
    return refused.value


def fields(kind: inspect.Type, path: str = "") -> dict[str, inspect.Type]:
    if not isinstance(kind, inspect.StructType):
        return {path: kind}
    parts = [fields(field.type, f"{path}.{field.encode_name}".strip(".")) for field in kind.fields]
    return {name: part for group in parts for name, part in group.items()}


@pytest.mark.parametrize(("field", "value", "allowed"), REFUSED)
def test_a_wrong_value_is_refused_with_its_field_and_the_allowed_values(field: str, value: Any, allowed: str) -> None:
    refused = refusal(nested(field, value))
    assert refused.field == field
    assert refused.value is value or repr(refused.value) == repr(value)
    assert refused.allowed == allowed
    assert str(refused) == (f"{field}: {allowed}" if value is None else f"{field} = {value!r}: {allowed}")


def test_the_table_above_has_every_field_that_has_a_rule() -> None:
    ruled = {name for name, kind in fields(inspect.type_info(Job)).items() if not isinstance(kind, inspect.BoolType)}
    assert ruled <= {field for field, _, _ in REFUSED}


def test_rules_between_fields() -> None:
    crowded = {"cohort": {"clients": 8, "over_select": 3}, "data": {"clients": 10}}
    assert refusal(crowded).allowed == "with over_select at most data.clients, which is 10"
    blind = refusal({"stop": {"target_accuracy": 0.9}, "evaluation": {"every": 0}})
    assert (blind.field, blind.value) == ("stop.target_accuracy", 0.9)
    assert blind.allowed == "needs evaluation.every of at least 1"


def test_the_digits_are_too_small_for_the_convolutional_network() -> None:
    assert refusal({"model": {"type": "cnn"}}).field == "model.type"
    assert job_file.from_dict({"model": {"type": "cnn"}, "data": {"dataset": "mnist"}}).model.args == {"size": 28}


def test_the_paper_s_models_get_the_data_s_input_size_unless_the_job_sets_one() -> None:
    for dataset, args in (("digits", {"input_size": 64}), ("mnist", {"input_size": 784}), ("mine", {})):
        assert job_file.from_dict({"data": {"dataset": dataset}}).model.args == args
    assert job_file.from_dict({"model": {"args": {"input_size": 9, "hidden": 5}}}).model.args == {
        "input_size": 9,
        "hidden": 5,
    }
    assert job_file.from_dict({"model": {"args": {"hidden": 5}}}).model.args == {"hidden": 5, "input_size": 64}
    assert job_file.from_dict({"model": {"type": "my.models:Net"}}).model.args == {}


def test_a_cohort_s_samples_fit_the_exact_sum() -> None:
    most = {"clients": 3, "over_select": 1, "max_samples": 2**30}
    assert job_file.from_dict({"cohort": most}).cohort.max_samples == 2**30
    refused = refusal({"cohort": most | {"max_samples": 2**30 + 1}})
    assert str(refused) == "cohort.max_samples = 1073741825: at most 1073741824 for 4 clients"


def test_a_boolean_field_accepts_only_booleans() -> None:
    assert refusal({"training": {"dry": "yes"}}).field == "training.dry"


SECTIONS = ["", *(name for name, part in msgspec.structs.asdict(Job()).items() if isinstance(part, msgspec.Struct))]


def test_every_table_is_a_section() -> None:
    assert SECTIONS == ["", "model", "learner", "training", "cohort", "strategy", "data", "evaluation", "stop"]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_misspelt_key_is_refused_with_the_key_that_was_meant(section: str) -> None:
    table = getattr(Job(), section) if section else Job()
    for name in (name for name in table.__struct_encode_fields__ if len(name) > 3):
        wrong = f"{section}.{name}s".strip(".")
        refused = refusal(nested(wrong, 1))
        assert refused.field == wrong
        assert refused.allowed == f"no such key; did you mean '{name}'?"


def test_an_unknown_key_is_refused_with_the_list_of_keys() -> None:
    allowed = "no such key; known are type, args"
    assert refusal({"learner": {"xyz": 1}}).allowed == allowed


@pytest.mark.parametrize("raw", [None, [], 3, "job", [{}], {1: 2}, {"name": b"x"}, {"model": {"args": {1: 2}}}])
def test_a_job_that_is_not_a_table_of_tables_is_refused(raw: object) -> None:
    refusal(raw)


def test_an_error_shows_only_a_part_of_a_giant_value() -> None:
    assert len(str(refusal({"name": ["x" * 100_000]}))) < 300
    assert "thousands of digits" in str(refusal({"seed": -(10**5000)}))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_jobs_mean_the_same_in_toml_and_json_and_back(path: Path) -> None:
    text = path.read_text()
    got = job_file.from_text(text)
    assert job_file.from_json(json.dumps(tomllib.loads(text)).encode()) == got
    assert job_file.from_json(msgspec.json.encode(got)) == got
    assert job_file.from_text(job_file.to_toml(got)) == got
    assert got.name == path.stem


def test_there_are_shipped_jobs() -> None:
    assert "quickstart" in [path.stem for path in CONFIGS]


def test_a_job_without_any_default_comes_back_from_text_and_json() -> None:
    got = Job(
        id="mine-1",
        name="mine",
        seed=9,
        model=Model(
            type="my.models:Net",
            args={"sizes": [1, 2], "deep": {"a": 1.5, "b": "x\"\n\0'"}, "on": True},
            code="ab" * 32,
            start="job:base-1@7",
            personal=("head.*",),
            frozen="site",
            keep_every=5,
        ),
        learner=Learner(type="mine:Diabetes", args={"k": [1, {"a": True}]}),
        training=Training(
            optimizer="sgd",
            learning_rate=0.5,
            batch_size=3,
            local_epochs=1,
            optimizer_state="reset",
            dry=True,
            update="weights",
            headroom={"*.running_var": 40, "out [0]": 0},
            optimizer_args={"momentum": 0.9, "nesterov": True},
            loss="huber",
            loss_args={"delta": 2.0},
            schedule=Cosine(warmup=2, floor=0.1),
            scheduler="OneCycleLR",
            scheduler_args={"max_lr": 0.1},
            clip_norm=1.0,
            clip_value=0.5,
            order="balanced",
            drop_last=True,
            precision="bfloat16",
            compile=True,
            device="cuda:1",
        ),
        cohort=Cohort(
            clients=3, over_select=1, quorum=2, grace_s=0.0, on_failure="skip", max_samples=10, where={"site": "a"}
        ),
        strategy=FedAdam(rate=0.5, beta1=0.0, beta2=0.5, tau=1e-9),
        data=Data(dataset="my-data", partition="dirichlet", clients=4, alpha=1e-5, seed=2**53 - 1),
        evaluation=Evaluation(
            every=2,
            batch_size=7,
            metrics=("auroc", "mine:Brier"),
            directions={"brier": "min"},
            best="brier",
            holdout=0.2,
            clients=3.0,
        ),
        stop=Stop(rounds=3, target_accuracy=0.99, metric="auroc", target=0.9, patience=4),
        override=(Override(where={"platform": "edge"}, batch_size=4, local_epochs=1, learning_rate=0.1, device="cpu"),),
    )
    assert job_file.from_text(job_file.to_toml(got)) == got
    assert job_file.from_json(msgspec.json.encode(got)) == got


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (Data(), "digits-shards2-c10-s0"),
        (Data(dataset="mnist", partition="iid", clients=100, seed=3), "mnist-iid-c100-s3"),
        (Data(partition="dirichlet", alpha=0.25), "digits-dir0p25-c10-s0"),
        (Data(partition="dirichlet", alpha=1.0), "digits-dir1-c10-s0"),
    ],
)
def test_a_partition_has_a_key(data: Data, key: str) -> None:
    assert data.key == key


@pytest.mark.parametrize("text", ["[", "a = ", "= 1", "seed = 1\nseed = 2", "a = " + "[" * 50_000, "\0"])
def test_invalid_toml_is_refused(text: str) -> None:
    with pytest.raises(JobError, match=r"^not a TOML file: "):
        job_file.from_text(text)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"garbage",
        b"{",
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b'{"a":' * 50_000,
        b"9" * 5000,
        b'{"seed":NaN}',
    ],
)
def test_invalid_json_is_refused(payload: bytes) -> None:
    with pytest.raises(JobError, match=r"^not a JSON job object: "):
        job_file.from_json(payload)


def test_deep_arguments_are_refused() -> None:
    deep = b'{"model":{"args":{"a":' + b"[" * 100 + b"]" * 100 + b"}}}"
    with pytest.raises(JobError, match=r"^model.args.a: expected less deeply nested"):
        job_file.from_json(deep)


NASTY: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3, 2**31, 2**53, 2**64, -(10**30), 10**400, 0.0, -0.0, 0.5, 1.0, 1e-300, 1e300),
    *(math.nan, math.inf, -math.inf, "", "nn", "a-b", "\0", "\x7f", "ü", "\\", '"""', "x" * 50, "a:b", date(1, 1, 1)),
    *([], [None], [[[]]], [1, "a"], {}, {"": 1}, {"a b": {"c.d": [1.5]}}, {"a": None}, {"x": math.inf}, b"x"),
)


def test_random_jobs_are_refused_or_mean_the_same_in_toml_and_json() -> None:
    rng = np.random.default_rng(1)
    names = [
        *fields(inspect.type_info(Job)),
        *SECTIONS[1:],
        "more",
        "cohort.more",
        *["model.args.a", "model.args.b"] * 5,
    ]
    accepted = 0
    for _ in range(3000):
        raw: dict[str, Any] = {}
        for name in rng.choice(names, size=rng.integers(1, 3)):
            merge(raw, nested(name, NASTY[rng.integers(len(NASTY))]))
        try:
            got = job_file.from_dict(raw)
        except JobError as refused:
            str(refused).encode()
            continue
        accepted += 1
        assert job_file.from_text(job_file.to_toml(got)) == got
        assert job_file.from_json(msgspec.json.encode(got)) == got
        assert 1 <= got.cohort.needed <= got.cohort.clients
    assert 200 < accepted < 2000


def merge(table: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            merge(table[key], value)
        else:
            table[key] = value


def test_a_job_in_a_message_may_have_keys_of_a_newer_version() -> None:
    assert codec.decode(Job, b'{"seed": 9, "privacy": 1, "cohort": {"select": 2}}') == Job(seed=9)
    newer = b'{"strategy": {"name": "fedprox", "mu": 0.5, "schedule": "cosine"}}'
    assert codec.decode(Job, newer) == Job(strategy=FedProx(mu=0.5))
    for text in (b'{"seed": -1}', b'{"strategy": {"name": "newer"}}', b"no JSON"):
        with pytest.raises(DecodeError, match="not a valid Job"):
            codec.decode(Job, text)


def test_a_median_needs_more_than_two_updates() -> None:
    median = {"strategy": {"name": "median"}}
    refused = refusal({**median, "cohort": {"clients": 10, "quorum": 0.2}})
    allowed = "needs cohort.quorum of at least 3: the median of fewer updates is their mean"
    assert str(refused) == f"strategy.name = 'median': {allowed}"
    assert job_file.from_dict({**median, "cohort": {"clients": 3}}).cohort.needed == 3


def test_the_target_can_t_be_a_column_that_is_left_out() -> None:
    refused = refusal({"data": {"target": "y", "drop": ["id", "y"]}})
    assert str(refused) == "data.drop = ['id', 'y']: columns without data.target, which is 'y'"

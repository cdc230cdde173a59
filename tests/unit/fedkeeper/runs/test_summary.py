"""What a person reads when a job has ended."""

from pathlib import Path
from typing import Any

import pytest

from broker.messages import job_file
from broker.messages.job_record import BestModel, JobRecord
from broker.messages.round import BlobRef
from fedkeeper.display import measured
from fedkeeper.runs import summary

MODEL = BlobRef("fl.models.j.x", "ab" * 32, 5)
OWN = {"data": {"dataset": "own"}}


def record(tables: dict[str, Any], **facts: Any) -> JobRecord:
    return JobRecord(id="demo", job=job_file.from_dict(tables), model=MODEL, done=3, **facts)


def row(**metrics: float) -> dict[str, Any]:
    return {"client_metrics": metrics}


@pytest.mark.parametrize(
    ("tables", "metrics", "text"),
    [
        ({}, {"loss": 0.25, "accuracy": 0.9611}, "demo: 3 rounds, test accuracy 0.9611, loss 0.2500"),
        (
            {**OWN, "evaluation": {"holdout": 0.2, "metrics": ["auroc"]}},
            {"loss": 0.25, "auroc": 0.75},
            "demo: 3 rounds, held-out auroc 0.7500, loss 0.2500",
        ),
        (
            OWN,
            {},
            f"demo: 3 rounds, training loss 0.5000; {summary.UNJUDGED}",
        ),
    ],
)
def test_the_last_sentence_says_what_was_measured(tables: dict[str, Any], metrics: dict[str, float], text: str) -> None:
    lines = summary.lines(record(tables, metrics=metrics), [row(loss=0.5)])
    assert lines == ["", text, f"model digest  {'ab' * 32}"]


def test_clients_that_judge_the_last_model_are_told_by_their_mean_and_their_worst() -> None:
    spread = {"accuracy": {"mean": 0.8, "median": 0.9, "worst_decile": 0.25}}
    judged = {"metrics": {"accuracy": 0.8, "loss": 0.5}, "clients": 10, "spread": spread}
    got = summary.lines(record({}, metrics={"accuracy": 0.75}), [{**row(loss=0.5), "evaluation_clients": judged}])
    assert got[1] == ("demo: 3 rounds, test accuracy 0.7500; at 10 clients: mean accuracy 0.8000, worst tenth 0.2500")


def test_the_best_model_is_named() -> None:
    best = BestModel(2, "accuracy", 0.97, MODEL)
    got = summary.lines(record({}, metrics={"accuracy": 0.96}, best=best), [row()])
    assert got[1] == "demo: 3 rounds, test accuracy 0.9600; best accuracy 0.9700 in round 2"


def test_an_optimizer_that_starts_afresh_each_round_is_told() -> None:
    got = summary.lines(record(OWN), [row(loss=0.5, fresh_optimizer=1.0)])
    assert any(line == f"note: {summary.FRESH}" for line in got)


def test_clients_that_were_trained_together_make_no_promise_of_a_digest() -> None:
    trained = record(OWN, phase="completed", processors={"x86-64 Intel AVX512": 30})
    got = summary.lines(trained, [row(loss=0.5, together=4.0), row(loss=0.5)])
    assert got[-2:] == ["trained on    x86-64 Intel AVX512", f"note: {summary.TOGETHER}"]


def test_tensors_that_are_not_in_the_file_are_told() -> None:
    got = summary.lines(record(OWN, frozen=("a", "b"), frozen_digest="cd" * 32), [row(loss=0.5)])
    assert "note: 2 tensors that each site makes itself are not in the model's file" in got


@pytest.mark.parametrize(
    ("processors", "expected"),
    [
        ({}, []),
        (
            {"x86-64 Intel AVX512": 30},
            ["trained on    x86-64 Intel AVX512", "note: the same job gives this digest on such processors"],
        ),
        (
            {"x86-64 Intel AVX512": 6, "aarch64 NEON": 2},
            [
                "trained on    aarch64 NEON (2 updates), x86-64 Intel AVX512 (6)",
                "note: the same job gives this digest only if each client's kind stays the same",
            ],
        ),
    ],
)
def test_the_digest_is_told_with_the_processors_that_have_trained(
    processors: dict[str, int], expected: list[str]
) -> None:
    got = summary.lines(record(OWN, processors=processors, phase="completed"), [row(loss=0.5)])
    assert got[2:] == [f"model digest  {'ab' * 32}", *expected]
    stopped = summary.lines(record(OWN, processors=processors, phase="cancelled"), [row(loss=0.5)])
    assert stopped[2:] == [f"model digest  {'ab' * 32}", *expected[:1]]
    assert max(len(line) for line in got[2:]) <= 80


@pytest.mark.parametrize(
    ("tables", "facts", "text"),
    [
        ({}, {}, ""),
        ({}, {"accuracy": 0.5}, "accuracy 0.5000"),
        ({}, {"metrics": {"loss": 0.5, "accuracy": 0.75}}, "accuracy 0.7500"),
        ({"evaluation": {"metrics": ["f1", "auroc"], "best": "auroc"}}, {"metrics": {"auroc": 0.5}}, "auroc 0.5000"),
        ({"training": {"loss": "mse"}}, {"metrics": {"loss": 12_345.678}}, "loss 1.235e+04"),
    ],
)
def test_a_list_of_jobs_shows_one_metric(tables: dict[str, Any], facts: dict[str, Any], text: str) -> None:
    assert measured.headline(record(tables, **facts)) == text


def test_files_are_listed_in_lines_that_break_only_between_names() -> None:
    folder = Path("runs") / ("2026-11-28-" + "a-long-name-" * 8)
    names = ("model.safetensors", "best.safetensors", "metrics.jsonl", "accuracy-and-loss.png", "log.txt", "x" * 90)
    assert summary.written(folder, names) == [
        f"written to    {folder}/",
        "              model.safetensors  best.safetensors  metrics.jsonl",
        "              accuracy-and-loss.png  log.txt",
        f"              {'x' * 90}",
    ]

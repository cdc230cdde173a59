"""Names in a sweep's jobs that nothing has."""

import importlib.util
from typing import Any

import pytest

from broker.messages import job_file
from fedkeeper.sweeps import names


def told(*tables: dict[str, Any], trains_here: bool = True) -> list[tuple[str, object, str]]:
    found = names.mistakes(map(job_file.from_dict, tables), trains_here=trains_here)
    return [(each.field, each.value, each.allowed.partition("? ")[0]) for each in found]


def test_each_unknown_name_is_told_once_with_a_similar_one() -> None:
    good = {"training": {"optimizer": "AdamW", "scheduler": "OneCycleLR"}, "evaluation": {"metrics": ["top_3", "f1"]}}
    bad = {"training": {"optimizer": "adamm", "scheduler": "StepRL"}, "evaluation": {"metrics": ["mean:It", "auruc"]}}
    assert told(good) == []
    assert told(bad, good, bad) == [
        ("training.optimizer", "adamm", "did you mean 'adam'"),
        ("training.scheduler", "StepRL", "did you mean 'steplr'"),
        ("evaluation.metrics", "auruc", "did you mean 'auroc'"),
    ]


def test_a_scheduler_that_needs_objects_is_not_known() -> None:
    (found,) = told({"training": {"scheduler": "LambdaLR"}})
    assert found[:2] == ("training.scheduler", "LambdaLR")


def test_another_torch_and_a_learner_decide_themselves() -> None:
    names = {"training": {"optimizer": "newest"}, "evaluation": {"metrics": ["f2"]}}
    assert [field for field, *_ in told(names, trains_here=False)] == ["evaluation.metrics"]
    assert told({**names, "learner": {"type": "mine:Learner"}}) == []


def test_without_torch_no_optimizer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert told({"training": {"optimizer": "newest", "scheduler": "later"}}) == []

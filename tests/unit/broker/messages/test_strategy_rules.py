"""What can't be combined with a strategy is refused, with a sentence that says why."""

from typing import Any

import pytest

from broker.messages import job_file
from broker.messages.errors import JobError

SGD = {"optimizer": "sgd"}
NEEDS_SGD = "needs training.optimizer = 'sgd', and it is 'adam'"
FEDDYN = "feddyn needs 'delta': clients add up their exact changes, and the server must add up the same"


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"strategy": {"name": "scaffold"}}, f"strategy.name = 'scaffold': {NEEDS_SGD}"),
        ({"strategy": {"name": "qfedavg"}}, f"strategy.name = 'qfedavg': {NEEDS_SGD}"),
        ({"strategy": {"name": "fednova"}}, f"strategy.name = 'fednova': {NEEDS_SGD}"),
        (
            {"strategy": {"name": "fedadam", "over": {"name": "fednova"}}},
            f"strategy.over.name = 'fednova': {NEEDS_SGD}",
        ),
        (
            {"strategy": {"name": "scaffold"}, "training": {**SGD, "optimizer_args": {"momentum": 0.9}}},
            (
                "strategy.name = 'scaffold': its arithmetic holds for sgd without momentum: remove "
                "training.optimizer_args.momentum"
            ),
        ),
        (
            {"strategy": {"name": "fednova"}, "training": {**SGD, "optimizer_args": {"weight_decay": 0.1}}},
            (
                "strategy.name = 'fednova': its arithmetic holds for sgd without weight_decay: remove "
                "training.optimizer_args.weight_decay"
            ),
        ),
        (
            {"strategy": {"name": "fednova"}, "training": {**SGD, "scheduler": "LinearLR"}},
            "strategy.name = 'fednova': needs one learning rate in a round: remove training.scheduler",
        ),
        (
            {"strategy": {"name": "qfedavg"}, "training": SGD, "override": [{"learning_rate": 0.1}]},
            "strategy.name = 'qfedavg': needs the same learning rate at all clients: remove override.learning_rate",
        ),
        (
            {"strategy": {"name": "krum", "faulty": 4}},
            "strategy.name = 'krum': with faulty = 4 and keep = 1 a quorum of at least 11 is needed, and it is 10",
        ),
        (
            {"strategy": {"name": "fedavg", "over": {"name": "krum", "keep": 9, "faulty": 3}}},
            "strategy.over.name = 'krum': with faulty = 3 and keep = 9 a quorum of at least 12 is needed, and it is 10",
        ),
        (
            {"strategy": {"name": "median"}, "cohort": {"quorum": 2}},
            "strategy.name = 'median': needs cohort.quorum of at least 3: the median of fewer updates is their mean",
        ),
        (
            {"strategy": {"name": "trimmed_mean", "share": 0.05}},
            "strategy.share = 0.05: leaves out none of the 10 updates of a quorum: at least 0.1",
        ),
        (
            {"strategy": {"name": "fedavg", "guard": {"name": "median"}}, "training": {"update": "weights"}},
            "training.update = 'weights': strategy.guard needs 'delta'",
        ),
        (
            {"strategy": {"name": "krum"}, "training": {"update": "weights"}},
            "training.update = 'weights': krum needs 'delta'",
        ),
        (
            {"strategy": {"name": "feddyn"}, "training": {"update": "int8"}},
            "training.update = 'int8': " + FEDDYN,
        ),
        (
            {"strategy": {"name": "scaffold"}, "training": {**SGD, "dry": True}},
            "training.dry = True: the strategy 'scaffold' needs a training",
        ),
        (
            {"strategy": {"name": "scaffold", "guard": {"name": "fixed", "norm": 1}}, "training": SGD},
            "strategy.guard.name = 'fixed': one norm can't bound both the changes and the controls: use 'median'",
        ),
        (
            {"strategy": {"name": "fedavg", "over": {"name": "median", "guard": {"name": "median"}}}},
            "strategy.over.guard: belongs to the strategy itself: strategy.guard",
        ),
    ],
    ids=str,
)
def test_what_can_not_be_combined_is_refused(job: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as refused:
        job_file.from_dict(job)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "job",
    [
        {"strategy": {"name": "fednova"}, "training": {**SGD, "optimizer_args": {"momentum": 0.9}}},
        {"strategy": {"name": "scaffold", "guard": {"name": "median"}}, "training": SGD},
        {"strategy": {"name": "scaffold"}, "training": {**SGD, "scheduler": "LinearLR"}},
        {"strategy": {"name": "feddyn"}, "training": {"optimizer": "adam"}},
        {"strategy": {"name": "fedyogi", "over": {"name": "trimmed_mean"}, "local": {"name": "fedprox"}}},
    ],
    ids=str,
)
def test_what_can_be_combined_is_accepted(job: dict[str, Any]) -> None:
    job_file.from_dict(job)

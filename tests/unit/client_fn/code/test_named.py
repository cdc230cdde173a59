"""What a job names of its users' code."""

import pytest

from broker.messages import job_file as jobs
from broker.messages.job_sections import Evaluation, Learner, Model, Training
from client_fn.code import named
from client_fn.code.named import Names


def test_a_job_of_ours_names_nothing() -> None:
    assert named.of_job(jobs.from_dict({"training": {"loss": "mse"}, "evaluation": {"metrics": ["mae"]}})) == Names(())


def test_everything_of_the_user_s_is_named_once() -> None:
    names = named.names(
        Model("a.b:Net", code="c0de"),
        Learner("mine:How"),
        Training(loss="mine:loss"),
        Evaluation(metrics=("auroc", "more:Metric", "mine:loss")),
    )
    assert names == Names(("a.b:Net", "mine:How", "mine:loss", "more:Metric"), "c0de")


@pytest.mark.parametrize("type_", ["os", "subprocess"])
def test_a_type_without_a_colon_is_named_so_that_it_is_refused(type_: str) -> None:
    assert named.names(Model(type_), Learner(), Training(), None).types == (type_,)
    assert named.names(Model(), Learner(type_), Training(), None).types == (type_,)

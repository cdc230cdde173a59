"""Overrides on the command line: `--set section.key=value`."""

import pytest

from broker.messages import job_file
from broker.messages.errors import JobError
from broker.messages.job_sections import Model


def test_overrides_are_toml_values_and_bare_words_are_texts() -> None:
    got = job_file.from_text(
        "[cohort]\nclients = 3\n[training]\nbatch_size = 5",
        (
            "name=quick",
            'data.dataset="mnist"',
            "cohort.clients = 4",
            "cohort.quorum=0.5",
            "training.dry=true",
            "model.type=my.models:Net",
            "model.args.sizes=[1, 2]",
            "model.args.deep={a = 1}",
            "model.args.path=a=b",
        ),
    )
    assert (got.name, got.data.dataset, got.training.dry, got.training.batch_size) == ("quick", "mnist", True, 5)
    assert (got.cohort.clients, got.cohort.quorum) == (4, 0.5)
    assert got.model == Model(type="my.models:Net", args={"sizes": [1, 2], "deep": {"a": 1}, "path": "a=b"})


def test_the_last_override_wins() -> None:
    assert job_file.from_text("", ("seed=1", "seed=2")).seed == 2


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("", "write an override as section.key=value"),
        ("seed", "seed: write an override as section.key=value"),
        ("=3", "=3: write an override as section.key=value"),
        ("cohort.=3", "cohort.=3: write an override as section.key=value"),
        ("cohort=3", "cohort = 3: expected a table"),
        ("seed.x=3", "seed.x: seed is no table"),
        ("chort.clients=3", "did you mean 'cohort'"),
        ("cohort.clints=3", "did you mean 'clients'"),
        ("cohort..clients=3", "no such key"),
        ("seed=", "seed = '': expected a whole number >= 0"),
        ("seed=[1", "seed = '[1': expected a whole number >= 0"),
        ("seed=" + "[" * 9000, "seed = '[[["),
    ],
)
def test_a_bad_override_is_refused(override: str, reason: str) -> None:
    with pytest.raises(JobError) as refused:
        job_file.from_text("seed = 1", (override,))
    assert reason in str(refused.value)

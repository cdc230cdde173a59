"""A job's defaults, and its form without them."""

import tomllib
from pathlib import Path

import pytest

from broker.messages import job_file
from broker.messages.job import Job
from broker.messages.job_sections import Cohort, Model
from tests.support.paths import REPOSITORY

FILES = (REPOSITORY / "configs").glob("*.toml")
CONFIGS = sorted(path for path in FILES if not path.stem.startswith("fabric-"))
DEFAULTS = """
name = "job"
seed = 1
model = { type = "nn", args = {}, code = "", from = "", personal = [], frozen = "send", keep_every = 0 }
learner = { type = "", args = {} }
override = []
strategy = { name = "fedavg", weights = "samples" }
stop = { rounds = 20, metric = "", patience = 0 }
[data]
dataset = "digits"
partition = "shards"
clients = 10
shards_per_client = 2
alpha = 0.5
seed = 0
min_samples = 1
target = ""
drop = []
labels = []
format = ""
[cohort]
clients = 10
over_select = 0
quorum = 1.0
grace_s = 5.0
deadline_s = 300.0
max_attempts = 3
on_failure = "retry"
max_failures = 3
wait_s = 600.0
max_samples = 100_000
presence = "required"
where = {}
draw = "own"
[evaluation]
every = 1
batch_size = 1000
data = ""
metrics = []
directions = {}
best = ""
holdout = 0.0
clients = 0.0
[training]
optimizer = "adam"
optimizer_args = {}
loss = "cross_entropy"
loss_args = {}
schedule = { name = "constant", warmup = 0 }
scheduler = ""
scheduler_args = {}
order = "shuffle"
drop_last = false
precision = "full"
compile = false
device = ""
batch_size = 10
local_epochs = 5
optimizer_state = "carry"
dry = false
update = "delta"
headroom = {}
"""


def test_the_defaults_are_the_paper_s() -> None:
    assert tomllib.loads(job_file.to_toml(Job())) == tomllib.loads(DEFAULTS)


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.1), ("adam", 1e-3), ("nadam", 1e-3)])
def test_the_learning_rate_defaults_to_the_paper_s(optimizer: str, rate: float) -> None:
    assert job_file.from_dict({"training": {"optimizer": optimizer}}).training.rate == rate
    assert job_file.from_dict({"training": {"optimizer": optimizer, "learning_rate": 0.5}}).training.rate == 0.5


def test_fields_with_their_default_are_left_out() -> None:
    assert job_file.without_defaults(Job()) == {}
    smaller = Job(seed=9, model=Model(args={"hidden": 5}), cohort=Cohort(clients=3, quorum=2))
    assert job_file.without_defaults(smaller) == {
        "seed": 9,
        "model": {"args": {"hidden": 5}},
        "cohort": {"clients": 3, "quorum": 2},
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_job_without_its_defaults_is_the_same_job(path: Path) -> None:
    got = job_file.from_text(path.read_text())
    assert job_file.from_dict(job_file.without_defaults(got)) == got

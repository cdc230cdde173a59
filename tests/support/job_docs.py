"""Generates docs/job.md, the reference of a job file's fields, from the types and docstrings (scripts/wire-docs)."""

from typing import Final, get_args

from broker.messages import metrics
from broker.messages.job import Job
from broker.messages.job_sections import Cohort, Data, Evaluation, Learner, Model, Override, Stop, Training
from broker.messages.learning_rules import LOSSES
from broker.messages.schedule import Schedule
from broker.messages.strategy import Guard, Strategy
from tests.support import wire_docs
from tests.support.paths import REPOSITORY

PAGE: Final = REPOSITORY / "docs/job.md"

INTRODUCTION: Final = """\
# The job file

`scripts/wire-docs` generates this page from the types in `broker/messages`, and a test compares the two.

A job is a TOML file, or the same fields as JSON. Every field has a default, so an empty file is a job. An unknown key,
a wrong value, and values that contradict each other are refused before anything starts, with the field, its value and
what is allowed instead. `fedkeeper run job.toml --set training.local_epochs=1` overrides a field.

```toml
name = "diabetes"

[learner]
type = "mine:Diabetes"                  # a class in mine.py beside this file

[training]
optimizer = "adamw"
optimizer_args = { weight_decay = 0.01 }
learning_rate = 0.01
schedule = { name = "cosine", warmup = 2 }

[data]
dataset = "diabetes"                    # the clients' label
clients = 5

[cohort]
clients = 5

[evaluation]
holdout = 0.2                           # each client judges on a fifth of its samples
metrics = ["mae", "r2"]
best = "r2"

[stop]
rounds = 50
patience = 10

[[override]]
where = { platform = "edge" }
batch_size = 8
```
"""

SECTIONS: Final[tuple[tuple[str, wire_docs.Kind], ...]] = (
    ("model", Model),
    ("learner", Learner),
    ("training", Training),
    ("override", Override),
    ("cohort", Cohort),
    ("data", Data),
    ("evaluation", Evaluation),
    ("stop", Stop),
)


def job_md() -> str:
    """Return the content of docs/job.md."""
    parts = [INTRODUCTION, _part("## The job", Job)]
    for name, kind in SECTIONS:
        header = f"[[{name}]]" if kind is Override else f"[{name}]"
        parts.append(_part(f"## `{header}`", kind))
        if kind is Training:
            parts += [_part(f"### {each.__name__}", each) for each in get_args(Schedule)]
        if kind is Cohort:
            parts += ["## `[strategy]`\n\nHow the counted updates become the next global model.\n"]
            parts += [_part(f"### {each.__name__}", each) for each in (*get_args(Strategy), *get_args(Guard))]
        if kind is Evaluation:
            parts.append(_metrics())
    return "\n".join(parts)


def _part(title: str, kind: wire_docs.Kind) -> str:
    # A TOML file has no null: such a field is left out.
    table = "".join(wire_docs.rows(kind)).replace(" or null, default `null`", ", not set by default")
    table = table.replace("null:", "not set:")
    heading = f"{title}\n\n{wire_docs.summary_of(kind)}\n"
    return f"{heading}\n| field | type | meaning |\n|---|---|---|\n{table}" if table else heading


def _metrics() -> str:
    more = ", ".join(f"`{name}`" for name, better in metrics.DIRECTIONS.items() if better == "max")
    less = ", ".join(f"`{name}`" for name, better in metrics.DIRECTIONS.items() if better == "min")
    losses = ", ".join(f"`{name}`" for name in LOSSES)
    return (
        "### Metrics that `best` and `stop` know\n\n"
        f"- More is better: {more}, and `top_2`, `top_3` ...\n"
        f"- Less is better: {less}.\n"
        '- Any other one needs its direction: `directions = { brier = "min" }`. A class of yours gives its\n'
        "  name in small letters: the metric of `mine:Brier` is `brier`.\n\n"
        f"Losses without code: {losses}.\n"
    )


if __name__ == "__main__":
    PAGE.write_text(job_md(), encoding="utf-8")

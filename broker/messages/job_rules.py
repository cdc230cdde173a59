"""The rules of a job that no single field's type can express."""

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from broker.errors import BadTopic
from broker.messages import judging_rules, learning_rules, strategy_rules
from broker.messages.errors import JobError
from broker.messages.job import Job
from broker.messages.job_sections import QUORUM_RULE
from broker.support import partly_known, validation
from broker.support.validation import Mistake
from broker.topics import MAX_ID, checked_id

LARGEST_INTEGER = 2**53 - 1
"""Largest integer that JSON programs exchange exactly (RFC 8259, section 6)."""

MAX_COHORT_SAMPLES = 2**32
"""Most samples that a cohort can claim: with more, the exact sum has too few bits left for the weights."""

LARGEST_NUMPY_SEED = 2**32 - 1
"""Largest seed that `numpy.random.seed` takes (its documentation)."""

_MAX_DEPTH = 16
"""Most levels of nested tables and lists in a job."""


def mistakes(job: Job, known: Sequence[Mistake] = ()) -> list[Mistake]:
    """Return the rules that a job breaks and that no single field's type can express; at most one of each rule.

    Args:
        job: the job. A rule that needs a field which is `partly_known.UNKNOWN` is left out.
        known: mistakes that are known already: what follows from them is none of its own.
    """
    try:
        _check_value("", job, _MAX_DEPTH)
    except JobError as exc:
        return list(exc.errors)
    found: list[Mistake] = []
    for rule in (*_RULES, *learning_rules.RULES, *strategy_rules.RULES, *judging_rules.RULES):
        try:
            rule(job)
        except JobError as exc:
            found += [each for each in exc.errors if not validation.is_named(each.field, known)]
        except partly_known.NotKnown:
            pass
    return found


def _check_own_id(job: Job) -> None:
    if job.id is not None:
        check_id("id", str(job.id))


def _check_name(job: Job) -> None:
    check_id("name", str(job.name))


def _check_dataset(job: Job) -> None:
    check_id("data.dataset", str(job.data.dataset))


def _check_quorum(job: Job) -> None:
    cohort = job.cohort
    if cohort.quorum > 1 and cohort.quorum != cohort.needed:
        raise JobError("cohort.quorum", cohort.quorum, f"expected {QUORUM_RULE}")
    if cohort.needed > cohort.clients:
        raise JobError("cohort.quorum", cohort.quorum, f"at most cohort.clients, which is {cohort.clients}")


def _check_cohort(job: Job) -> None:
    cohort, data = job.cohort, job.data
    if cohort.invited > data.clients:
        raise JobError(
            "cohort.clients", cohort.clients, f"with over_select at most data.clients, which is {data.clients}"
        )


def _check_draw(job: Job) -> None:
    if job.cohort.draw == "numpy" and job.draw_seed > LARGEST_NUMPY_SEED:
        field = "seed" if job.cohort.seed is None else "cohort.seed"
        raise JobError(field, job.draw_seed, f"at most {LARGEST_NUMPY_SEED} with cohort.draw = 'numpy'")


def _check_max_samples(job: Job) -> None:
    cohort = job.cohort
    if cohort.invited * cohort.max_samples > MAX_COHORT_SAMPLES:
        most = MAX_COHORT_SAMPLES // cohort.invited
        raise JobError("cohort.max_samples", cohort.max_samples, f"at most {most} for {cohort.invited} clients")


def _check_drop(job: Job) -> None:
    data = job.data
    if data.target and data.target in data.drop:
        raise JobError("data.drop", list(data.drop), f"columns without data.target, which is {data.target!r}")


def _check_labels(job: Job) -> None:
    data = job.data
    if len({*data.labels}) < len(data.labels):
        raise JobError("data.labels", list(data.labels), "each class once: its position is its number")


def _check_value(path: str, value: object, depth: int) -> None:
    """Check that JSON and TOML can both express a value. TOML has no null, so None is legal only for an omitted field.

    Args:
        path: dotted name of the field.
        value: the field's value.
        depth: how many more levels of tables and lists are allowed.
    """
    if depth == 0:
        raise JobError(path, None, "expected less deeply nested tables and lists")
    match value:
        case msgspec.Struct():
            _check_value(path, dict(validation.fields_of(value)), depth)
        case dict():
            for key, part in value.items():
                _check_value(f"{path}.{key}" if path else key, part, depth - 1)
        case list() | tuple():
            for part in value:
                _check_value(path, part, depth - 1)
        case int() | float() if abs(value) > LARGEST_INTEGER if isinstance(value, int) else not math.isfinite(value):
            raise JobError(path, value, "expected a finite number; whole ones up to 2^53 - 1")
        case None if "args." not in path:
            pass
        case _ if not isinstance(value, str | int | float | partly_known.Unknown):
            raise JobError(path, value, "expected texts, numbers, true or false, and tables and lists of these")


def check_id(field: str, name: str) -> None:
    """Check a name that becomes part of topics.

    Args:
        field: what it is the name of.
        name: the name.

    Raises:
        JobError: it breaks the rule of names; a similar one is suggested.
    """
    try:
        checked_id(name)
    except BadTopic as exc:
        close = similar_id(name)
        raise JobError(field, name, exc.rule + (f"; did you mean {close!r}?" if close else "")) from exc


def similar_id(name: str) -> str:
    """Return the id that is most like a name; empty: none is."""
    plain = unicodedata.normalize("NFKD", name[:MAX_ID].casefold())
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.sub("[^a-z0-9]+", "-", plain)[:MAX_ID].strip("-")


_RULES: Final[tuple[Callable[[Job], None], ...]] = (
    _check_own_id,
    _check_name,
    _check_dataset,
    _check_quorum,
    _check_cohort,
    _check_draw,
    _check_max_samples,
    _check_drop,
    _check_labels,
)

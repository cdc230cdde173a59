"""What a round expects of updates, and the events of its end. No broker, no clock."""

from typing import Any

import msgspec
import numpy as np
import pytest

from broker.messages.job import Job
from broker.messages.job_record import JobRecord, Member
from broker.messages.job_sections import Cohort, Evaluation
from broker.messages.progress import JobCompleted, RoundFailed
from broker.messages.reports import Split
from broker.messages.round import BlobRef, PersonalRef
from broker.messages.state_table import ClientState
from broker.messages.tensors import Tensors
from broker.messages.update import UpdateHeader
from server import round_facts, rounds, strategies
from server.aggregator import Aggregate
from server.collection import Collection
from server.gate import Expectation

MODEL = BlobRef("fl.models.demo.x", "ab" * 32, 5)
NEXT = BlobRef("fl.models.demo.y", "cd" * 32, 5)

WEIGHTS: Tensors = {
    "backbone": np.ones(3, np.float32),
    "head": np.ones(2, np.float32),
    "norm.mean": np.zeros(2, np.float32),
}

RECORD = JobRecord(
    id="demo",
    job=Job(cohort=Cohort(clients=3, quorum=2, max_samples=500, on_failure="skip")),
    phase="running",
    round=4,
    model=MODEL,
    frozen=("backbone",),
    buffers=("norm.mean",),
    cohort=(Member("c-0", "local", "", "", 600), Member("c-1", "gcf", "", "", 0), Member("c-2", "gcf", "", "", 30)),
    opened_s=1000.0,
    deadline_s=1300.0,
)


def expect(record: JobRecord = RECORD) -> Expectation:
    return round_facts.expectation(record, WEIGHTS, "nonce", strategies.create(record.job))


def header(client: str, samples: int, *, state: BlobRef | None = None, processor: str = "") -> UpdateHeader:
    return UpdateHeader(
        job="demo",
        round=4,
        attempt=1,
        client=client,
        samples=samples,
        base=MODEL.sha256,
        token="",
        metrics={"loss": samples / 100},
        states={} if state is None else {"opt": state},
        fetched=7,
        seconds={"train": 1.5, "fetch": 9.0},
        processor=processor,
    )


def collect(*headers: UpdateHeader) -> Collection:
    """A round that has counted updates with these headers."""
    expectation = expect()
    round_ = rounds.opened(list(expectation.members), (), needed=2, grace_s=5.0, deadline_s=1300.0)
    collection = Collection(round_, Aggregate(expectation.plan))
    for each in headers:
        collection.aggregate.add({"head": WEIGHTS["head"], "norm.mean": WEIGHTS["norm.mean"]}, each.samples)
        collection.headers[each.client] = each
        collection.bytes_in += 100
    collection.opened_s, collection.invited_s = 1000.0, 1002.0
    collection.training_s, collection.last_s = 1003.0, 1010.0
    return collection


def test_an_update_is_expected_to_hold_what_clients_train() -> None:
    expectation = expect()
    assert (expectation.job, expectation.round, expectation.base, expectation.nonce) == (
        "demo",
        4,
        MODEL.sha256,
        "nonce",
    )
    assert set(expectation.members) == {"c-0", "c-1", "c-2"}
    assert set(expectation.plan.layout) == {"head", "norm.mean"}, "a frozen tensor is not sent"


def test_the_scale_follows_from_the_job_and_not_from_the_register() -> None:
    assert expect().plan.max_weight == 3 * 500


def test_statistics_may_go_further_from_the_base_than_weights() -> None:
    plan = expect().plan
    assert plan.bounds["norm.mean"] > plan.bounds["head"]
    as_weights = msgspec.structs.replace(RECORD, buffers=())
    plan = expect(as_weights).plan
    assert plan.bounds["norm.mean"] == plan.bounds["head"]


def test_a_job_without_a_model_expects_nothing() -> None:
    with pytest.raises(ValueError, match="demo has no model yet"):
        expect(msgspec.structs.replace(RECORD, model=None))


def test_a_completed_round_names_its_clients_and_its_times() -> None:
    collection = collect(header("c-2", 30), header("c-0", 10))
    event = round_facts.completed_event(RECORD, collection, NEXT, committed_s=1012.0)
    assert (event.round, event.counted, event.missing, event.samples) == (4, ("c-0", "c-2"), ("c-1",), 40)
    assert event.model == NEXT
    assert event.split == Split(invocation_s=2.0, clients_start_s=1.0, training_s=7.0, aggregation_s=2.0, round_s=12.0)
    assert (event.trained_s, event.bytes_in, event.bytes_out) == (3.0, 200, 14)
    assert event.metrics == {"loss": pytest.approx((30 * 0.3 + 10 * 0.1) / 40)}


def test_clients_that_only_judge_are_neither_counted_nor_missing() -> None:
    judge = Member("c-7", "gcf", "", "", 5, purpose="evaluate")
    record = msgspec.structs.replace(RECORD, cohort=(*RECORD.cohort, judge))
    opened = round_facts.opened_event(record)
    assert (opened.cohort, opened.evaluators, opened.quorum) == (("c-0", "c-1", "c-2"), ("c-7",), 2)
    assert not round_facts.is_to_judge(record)
    event = round_facts.completed_event(record, collect(header("c-2", 30)), NEXT, committed_s=2.0)
    assert (event.counted, event.missing) == (("c-2",), ("c-0", "c-1"))
    only = msgspec.structs.replace(record, cohort=(judge,))
    assert round_facts.is_to_judge(only)
    assert round_facts.opened_event(only).cohort == ()
    assert not round_facts.is_to_judge(msgspec.structs.replace(record, cohort=()))


def test_sums_over_held_out_samples_are_expected_if_the_job_has_a_hold_out() -> None:
    held_out = msgspec.structs.replace(RECORD.job, evaluation=Evaluation(holdout=0.2))
    assert expect(msgspec.structs.replace(RECORD, job=held_out)).takes_sums
    assert not expect().takes_sums


def test_a_failed_round_names_the_missing_updates_and_the_policy() -> None:
    event = round_facts.failed_event(RECORD, collect(header("c-2", 30)))
    reason = "1 of 2 needed updates and too few clients are left; no word of: c-0, c-1"
    assert event == RoundFailed(round=4, reason=reason, counted=("c-2",), missing=("c-0", "c-1"), policy="skip")


def test_a_failed_round_names_the_failures_of_its_clients() -> None:
    collection = collect(header("c-2", 30))
    collection.failures = {"c-0": "TrainingFailed: x", "c-1": "TrainingFailed: x", "c-3": "DataMissing: y"}
    reason = "TrainingFailed: x (c-0, c-1); 1 of 2 needed updates and too few clients are left"
    assert round_facts.failed_event(RECORD, collection).reason == reason


def test_a_round_that_fails_at_its_deadline_says_so_and_who_was_refused_who_still_trained_and_who_was_silent() -> None:
    members = tuple(Member(f"c-{i}", "local", "", "", 0) for i in range(8))
    record = msgspec.structs.replace(RECORD, cohort=members)
    collection = collect(header("c-2", 30))
    collection.round = rounds.tick(collection.round, 1300.0)
    collection.failures = {"c-0": "its update was refused (samples): 9 are too many: correct cohort.max_samples"}
    collection.training = {"c-0", "c-1", "c-2"}
    assert round_facts.failed_event(record, collection).reason == (
        "its update was refused (samples): 9 are too many: correct cohort.max_samples (c-0); "
        "1 of 2 needed updates when the deadline passed; "
        "still training: c-1; no word of: c-3, c-4, c-5 and 2 more"
    )


def test_the_most_frequent_failure_comes_first_whatever_the_files_are_called() -> None:
    collection = collect()
    collection.failures = {
        client: f"BadData: /srv/{client}/7.npz: y has no labels: name them" for client in ("c-1", "c-2")
    }
    collection.failures["c-0"] = "Away: the site was away"
    reason = round_facts.failed_event(RECORD, collection).reason
    assert reason.startswith(
        "BadData: /srv/c-1/7.npz: y has no labels: name them (c-1, c-2); Away: the site was away (c-0); "
    )


def test_a_cause_is_one_bounded_line_with_its_remedy() -> None:
    collection = collect()
    collection.failures = {"c-0": "BadData:\n" + "x" * 5000 + "\x1b[2J: do this"}
    reason = round_facts.failed_event(RECORD, collection).reason
    assert len(reason) < 500
    assert reason.startswith("BadData: xxx")
    assert "do this (c-0); 0 of 2 needed updates" in reason
    assert not {"\n", "\x1b"}.intersection(reason)


@pytest.mark.parametrize(
    ("on_failure", "failures", "hopeless", "end"),
    [
        ("stop", 0, set[str](), "; round 4 failed, 1 in a row"),
        ("retry", 2, set[str](), "; round 4 failed, 3 in a row"),
        ("retry", 0, {"c-0", "c-1", "c-2"}, "; round 4 failed, and another one would fail in the same way"),
        ("retry", 1, set[str](), None),
        ("skip", 0, {"c-0"}, None),
    ],
)
def test_a_job_s_reason_begins_with_the_cause(
    on_failure: Any, failures: int, hopeless: set[str], end: str | None
) -> None:
    rules = msgspec.structs.replace(RECORD.job.cohort, on_failure=on_failure)
    job = msgspec.structs.replace(RECORD.job, cohort=rules)
    record = msgspec.structs.replace(RECORD, job=job, failures=failures)
    collection = collect()
    collection.failures = dict.fromkeys(("c-0", "c-1", "c-2"), "BadData: y")
    collection.hopeless = hopeless
    event, changes = round_facts.after_failure(record, collection, ("c-0", "c-1", "c-2"))
    assert event.reason == "BadData: y (c-0, c-1, c-2); 0 of 2 needed updates and too few clients are left"
    assert (changes["cohort"], changes["failures"], changes["failed"]) == ((), failures + 1, event)
    assert event.policy == (on_failure if end is None else "stop")
    assert changes.get("phase") == (None if end is None else "failed")
    assert changes.get("reason") == (None if end is None else event.reason + end)


@pytest.mark.parametrize(
    ("hopeless", "done", "holders", "expected"),
    [
        ({"c-0", "c-1"}, 0, ("c-0", "c-1", "c-2"), True),  # one client is left, the quorum is 2
        ({"c-0"}, 0, ("c-0", "c-1", "c-2"), False),
        ({"c-0", "c-1", "c-2"}, 0, ("c-0", "c-1", "c-2", "c-3", "c-4"), False),  # others may do better
        ({"c-0", "c-1"}, 7, ("c-0", "c-1", "c-2"), False),  # it has trained before
        ({"c-0", "c-1", "c-2"}, 7, ("c-0", "c-1", "c-2"), True),
    ],
)
def test_no_further_round_follows_if_it_would_fail_in_the_same_way(
    hopeless: set[str], done: int, holders: tuple[str, ...], *, expected: bool
) -> None:
    collection = collect()
    collection.hopeless = hopeless
    record = msgspec.structs.replace(RECORD, done=done)
    assert round_facts.is_hopeless(record, collection, holders) is expected
    answered = collect(header("c-2", 30))
    answered.hopeless = hopeless
    assert not round_facts.is_hopeless(record, answered, holders), "somebody has answered"


def test_a_log_says_how_a_job_ended() -> None:
    ended = msgspec.structs.replace(
        RECORD, phase="completed", done=4, metrics={"loss": 0.5, "accuracy": 0.75}, reason="4 rounds are done"
    )
    assert round_facts.end_facts(ended) == {
        "phase": "completed",
        "rounds": 4,
        "result": "accuracy 0.7500",
        "reason": "4 rounds are done",
    }
    assert round_facts.end_facts(msgspec.structs.replace(RECORD, phase="cancelled")) == {
        "phase": "cancelled",
        "rounds": 0,
    }


def test_a_clients_next_task_names_the_state_of_its_last_counted_update() -> None:
    state = BlobRef("fl.state.demo.c-1.4.1.opt", "ef" * 32, 9)
    collection = collect(header("c-0", 10), header("c-1", 5, state=state))
    left = round_facts.client_states(RECORD, collection)
    assert left == {"c-0": ClientState(), "c-1": ClientState({"opt": state})}


def test_a_clients_next_task_names_the_personal_layers_of_its_last_counted_update() -> None:
    new = "ef" * 32
    record = msgspec.structs.replace(RECORD, personal=("head.weight",))
    counted = msgspec.structs.replace(header("c-1", 5), personal=new, attempt=2)
    left = round_facts.client_states(record, collect(counted))
    assert left == {"c-1": ClientState(own=PersonalRef(4, 2, new))}
    assert expect(record).has_personal


def test_a_job_without_personal_layers_remembers_none_that_an_update_names() -> None:
    named = msgspec.structs.replace(header("c-1", 5), personal="ef" * 32)
    assert round_facts.client_states(RECORD, collect(named)) == {"c-1": ClientState()}
    assert not expect().has_personal


def test_the_processors_of_counted_updates_are_added_up_over_the_rounds() -> None:
    record = msgspec.structs.replace(RECORD, processors={"aarch64 NEON": 2})
    headers = header("c-0", 1, processor="aarch64 NEON"), header("c-1", 1, processor="cuda sm_87"), header("c-2", 1)
    assert round_facts.processors(record, collect(*headers)) == {"aarch64 NEON": 3, "cuda sm_87": 1, "": 1}
    assert round_facts.processors(RECORD, collect()) == {}


def test_what_is_no_kind_of_processor_is_not_told() -> None:
    assert round_facts.processors(RECORD, collect(header("c-0", 1, processor="\x1b[31mred"))) == {"": 1}


def test_invented_processors_do_not_make_a_record_grow_whatever_the_order_of_the_updates() -> None:
    full = msgspec.structs.replace(RECORD, processors={f"kind {i}": 1 for i in range(round_facts.MAX_PROCESSORS - 1)})
    headers = header("c-1", 1, processor="one more"), header("c-0", 1, processor="the last")
    got = round_facts.processors(full, collect(*headers))
    assert got == round_facts.processors(full, collect(*reversed(headers)))
    assert got == {**full.processors, "the last": 1, "": 1}


def test_the_end_of_a_job_names_the_processors() -> None:
    record = msgspec.structs.replace(RECORD, phase="completed", processors={"aarch64 NEON": 2})
    event = round_facts.end_event(record)
    assert isinstance(event, JobCompleted)
    assert event.processors == {"aarch64 NEON": 2}

"""The transition table of a round, and when a round is over."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from server import rounds
from server.errors import IllegalTransition
from server.rounds import Round, RoundEvent, State

TABLE = """
            ANSWER      LOSS        QUORUM  LAST    HOPELESS  GRACE_OVER  DEADLINE  CANCEL
COLLECTING  COLLECTING  COLLECTING  GRACE   CLOSED  FAILED    -           FAILED    CANCELLED
GRACE       GRACE       GRACE       -       CLOSED  -         CLOSED      CLOSED    CANCELLED
CLOSED      -           -           -       -       -         -           -         -
FAILED      -           -           -       -       -         -           -         -
CANCELLED   -           -           -       -       -         -           -         -
"""


def cells() -> list[tuple[State, RoundEvent, State | None]]:
    head, *rows = (line.split() for line in TABLE.strip().splitlines())
    return [
        (State[name], RoundEvent[event], None if target == "-" else State[target])
        for name, *targets in rows
        for event, target in zip(head, targets, strict=True)
    ]


def opened(*clients: str, needed: int = 2, grace_s: float = 5.0, deadline_s: float = 100.0) -> Round:
    return rounds.opened(clients or "abc", (), needed=needed, grace_s=grace_s, deadline_s=deadline_s)


def missing(round_: Round) -> set[str]:
    return set(round_.cohort - round_.counted)


@pytest.mark.parametrize(("state", "event", "target"), cells())
def test_each_pair_of_state_and_event_moves_or_raises(state: State, event: RoundEvent, target: State | None) -> None:
    before = replace(opened(), state=state)
    if target is not None:
        assert rounds._step(before, event, 1.0).state is target
        return
    with pytest.raises(IllegalTransition) as failed:
        rounds._step(before, event, 1.0)
    assert (failed.value.state, failed.value.event) == (state, event)
    assert before == replace(opened(), state=state)


def test_the_table_above_has_every_pair() -> None:
    assert len(cells()) == len(State) * len(RoundEvent) == 40


@pytest.mark.parametrize("state", [State.CLOSED, State.FAILED, State.CANCELLED])
def test_nothing_happens_to_a_round_that_is_over(state: State) -> None:
    over = replace(opened(), state=state)
    assert not over.is_open
    steps: tuple[Callable[[], Round], ...] = (
        lambda: rounds.add_answer(over, "a", 1.0),
        lambda: rounds.add_loss(over, "a", 1.0),
        lambda: rounds.tick(over, 100.0),
        lambda: rounds.cancel(over, 1.0),
    )
    for step in steps:
        with pytest.raises(IllegalTransition):
            step()
    assert over == replace(opened(), state=state)


def test_an_illegal_transition_reads_as_a_sentence() -> None:
    with pytest.raises(IllegalTransition, match=r"^a cancellation can't happen to a round that is closed$"):
        rounds.cancel(replace(opened(), state=State.CLOSED), 1.0)


def test_a_step_returns_a_new_round_and_leaves_the_old_one() -> None:
    before = opened()
    after = rounds.add_answer(before, "a", 1.0)
    assert before == opened()
    assert set(after.counted) == {"a"}
    assert missing(after) == {"b", "c"}


def test_all_answered_closes_at_once() -> None:
    round_ = opened()
    for client in "abc":
        assert round_.is_open
        round_ = rounds.add_answer(round_, client, 1.0)
    assert round_.state is State.CLOSED
    assert set(round_.counted) == {"a", "b", "c"}
    assert not missing(round_)


def test_the_quorum_starts_a_grace_that_later_answers_do_not_extend() -> None:
    round_ = opened(*"abcd", grace_s=5.0)
    round_ = rounds.add_answer(round_, "a", 10.0)
    assert (round_.state, round_.next_tick_s) == (State.COLLECTING, 100.0)
    round_ = rounds.add_answer(round_, "b", 11.0)
    assert (round_.state, round_.next_tick_s) == (State.GRACE, 16.0)
    round_ = rounds.add_answer(round_, "c", 15.0)
    assert (round_.state, round_.next_tick_s) == (State.GRACE, 16.0)
    assert rounds.tick(round_, 15.999) is round_
    closed = rounds.tick(round_, 16.0)
    assert (closed.state, missing(closed)) == (State.CLOSED, {"d"})


def test_the_deadline_ends_the_grace() -> None:
    round_ = opened(grace_s=50.0, deadline_s=100.0)
    for client in "ab":
        round_ = rounds.add_answer(round_, client, 90.0)
    assert round_.next_tick_s == 100.0
    assert rounds.tick(round_, 99.9).is_open
    assert rounds.tick(round_, 100.0).state is State.CLOSED


def test_the_deadline_without_a_quorum_fails() -> None:
    round_ = rounds.add_answer(opened(), "a", 1.0)
    assert rounds.tick(round_, 100.0).state is State.FAILED


def test_early_ticks_change_nothing() -> None:
    round_ = opened()
    assert rounds.tick(round_, 0.0) is round_
    assert rounds.tick(round_, 99.999) is round_


def test_a_loss_that_puts_the_quorum_out_of_reach_fails_at_once() -> None:
    round_ = rounds.add_loss(opened(), "a", 1.0)
    assert round_.state is State.COLLECTING
    assert rounds.add_loss(round_, "b", 2.0).state is State.FAILED


def test_the_same_loss_twice_counts_once() -> None:
    round_ = rounds.add_loss(rounds.add_loss(opened(), "a", 1.0), "a", 2.0)
    assert round_.state is State.COLLECTING
    assert set(round_.lost) == {"a"}


def test_the_last_outstanding_loss_closes_a_round_with_a_quorum() -> None:
    round_ = opened()
    for client in "ab":
        round_ = rounds.add_answer(round_, client, 1.0)
    closed = rounds.add_loss(round_, "c", 2.0)
    assert (closed.state, missing(closed)) == (State.CLOSED, {"c"})


def test_the_last_outstanding_answer_after_a_loss_closes() -> None:
    round_ = rounds.add_loss(opened(), "c", 1.0)
    round_ = rounds.add_answer(round_, "a", 2.0)
    assert rounds.add_answer(round_, "b", 3.0).state is State.CLOSED


def test_a_loss_after_the_update_and_of_an_uninvited_client_change_nothing() -> None:
    round_ = rounds.add_answer(opened(), "a", 1.0)
    assert rounds.add_loss(round_, "a", 2.0) is round_
    assert rounds.add_loss(round_, "uninvited", 2.0) is round_


def test_an_answer_after_the_loss_counts() -> None:
    round_ = rounds.add_loss(opened(), "a", 1.0)
    round_ = rounds.add_answer(round_, "a", 2.0)
    assert (set(round_.counted), set(round_.lost)) == ({"a"}, set())
    # With the loss taken back, a second loss leaves the quorum in reach.
    assert rounds.add_loss(round_, "b", 3.0).state is State.COLLECTING


def test_a_quorum_of_one_of_one_closes_with_the_answer() -> None:
    assert rounds.add_answer(opened("a", needed=1), "a", 1.0).state is State.CLOSED


def test_a_quorum_of_one_of_many_starts_the_grace() -> None:
    assert rounds.add_answer(opened(needed=1), "b", 1.0).state is State.GRACE


def test_without_grace_the_next_tick_closes() -> None:
    round_ = rounds.add_answer(opened(needed=1, grace_s=0.0), "b", 7.0)
    assert rounds.tick(round_, 7.0).state is State.CLOSED


def test_everyone_lost_fails_though_one_would_do() -> None:
    round_ = opened(needed=1)
    for client in "ab":
        round_ = rounds.add_loss(round_, client, 1.0)
        assert round_.is_open
    assert rounds.add_loss(round_, "c", 1.0).state is State.FAILED


@pytest.mark.parametrize("needed", [1, 2])
def test_a_cancellation_ends_a_round_with_and_without_quorum(needed: int) -> None:
    round_ = rounds.add_answer(opened(needed=needed), "a", 1.0)
    cancelled = rounds.cancel(round_, 2.0)
    assert (cancelled.state, cancelled.is_open) == (State.CANCELLED, False)


def is_over(counted: int, lost: int, size: int, needed: int, *, grace_over: bool, late: bool) -> State:
    """The closing rules, written in another way than in the module."""
    if size - lost < needed:
        return State.FAILED
    if counted < needed:
        return State.FAILED if late else State.COLLECTING
    return State.CLOSED if late or grace_over or counted + lost == size else State.GRACE


def test_random_rounds_close_by_the_rules() -> None:
    rng = np.random.default_rng(7)
    seen: set[State] = set()
    for _ in range(2000):
        size = int(rng.integers(1, 7))
        clients = [f"c{i}" for i in range(size)]
        needed = int(rng.integers(1, size + 1))
        round_ = opened(*clients, needed=needed, grace_s=float(rng.integers(0, 9)), deadline_s=20.0)
        now_s, quorum_s = 0.0, float("inf")
        while round_.is_open:
            now_s += float(rng.integers(0, 5))
            client = clients[rng.integers(size)]
            match rng.integers(3):
                case 0 if client not in round_.counted:
                    round_ = rounds.add_answer(round_, client, now_s)
                case 1:
                    round_ = rounds.add_loss(round_, client, now_s)
                case _:
                    round_ = rounds.tick(round_, now_s)
                    ticked = round_.deadline_s <= now_s, quorum_s + round_.grace_s <= now_s
                    counted, lost = len(round_.counted), len(round_.lost)
                    want = is_over(counted, lost, size, needed, late=ticked[0], grace_over=ticked[1])
                    assert round_.state is want
                    continue
            counted, lost = len(round_.counted), len(round_.lost)
            quorum_s = min(quorum_s, now_s) if counted >= needed else quorum_s
            assert round_.state is is_over(counted, lost, size, needed, late=False, grace_over=False)
        seen.add(round_.state)
        assert not round_.lost & round_.counted
    assert seen == {State.CLOSED, State.FAILED}


def with_evaluators(*evaluators: str, grace_s: float = 5.0) -> Round:
    return rounds.opened("abc", evaluators, needed=2, grace_s=grace_s, deadline_s=100.0)


def to_judge(evaluators: str, needed: int) -> Round:
    return rounds.to_judge(evaluators, needed=needed, grace_s=5.0, deadline_s=100.0)


def test_a_round_waits_for_those_who_only_judge() -> None:
    round_ = with_evaluators("x", "y")
    for client in "abc":
        round_ = rounds.add_answer(round_, client, 1.0)
    assert round_.state is State.GRACE
    assert set(round_.outstanding) == {"x", "y"}
    round_ = rounds.add_loss(rounds.add_answer(round_, "x", 2.0), "y", 3.0)
    assert (round_.state, set(round_.counted), set(round_.judged)) == (State.CLOSED, set("abc"), {"x"})
    assert not missing(round_)


def test_judgements_make_no_quorum() -> None:
    round_ = with_evaluators("x", "y", "z")
    for client in "xyz":
        round_ = rounds.add_answer(round_, client, 1.0)
    assert (round_.state, round_.next_tick_s) == (State.COLLECTING, 100.0)
    assert rounds.tick(round_, 100.0).state is State.FAILED


def test_the_loss_of_all_who_only_judge_does_not_end_a_round() -> None:
    round_ = with_evaluators("x", "y")
    assert round_.can_do_without("x")
    for client in "xy":
        round_ = rounds.add_loss(round_, client, 1.0)
    assert round_.state is State.COLLECTING
    assert round_.can_do_without("a")
    round_ = rounds.add_loss(round_, "a", 2.0)
    assert not round_.can_do_without("b")
    assert rounds.add_loss(round_, "b", 3.0).state is State.FAILED


def test_the_grace_ends_for_those_who_only_judge_too() -> None:
    round_ = with_evaluators("x", grace_s=5.0)
    for client in "abc":
        round_ = rounds.add_answer(round_, client, 1.0)
    assert rounds.tick(round_, 6.0).state is State.CLOSED


def test_a_round_that_only_judges_closes_with_the_last_answer_or_loss() -> None:
    round_ = to_judge("xyz", 3)
    round_ = rounds.add_loss(rounds.add_answer(round_, "x", 1.0), "y", 2.0)
    assert (round_.is_open, round_.next_tick_s) == (True, 100.0)
    assert rounds.add_answer(round_, "z", 3.0).state is State.CLOSED
    assert rounds.add_loss(round_, "z", 3.0).state is State.CLOSED


def test_a_round_that_only_judges_closes_at_its_deadline_and_never_fails() -> None:
    assert rounds.tick(to_judge("xy", 2), 99.0).is_open
    assert rounds.tick(to_judge("xy", 2), 100.0).state is State.CLOSED
    assert rounds.cancel(to_judge("xy", 2), 1.0).state is State.CANCELLED


def test_in_a_round_that_only_judges_the_last_ones_have_a_grace() -> None:
    round_ = to_judge("wxyz", 2)
    round_ = rounds.add_answer(round_, "w", 10.0)
    assert round_.next_tick_s == 100.0
    round_ = rounds.add_answer(round_, "x", 11.0)
    assert round_.next_tick_s == 16.0
    round_ = rounds.add_answer(round_, "y", 12.0)
    assert rounds.tick(round_, 15.9).is_open
    assert rounds.tick(round_, 16.0).state is State.CLOSED


def test_those_who_only_judge_change_no_verdict_of_random_rounds() -> None:
    """The same answers, losses and ticks of trainers: with evaluators a round fails if, and only if, it did without."""
    rng = np.random.default_rng(11)
    states: Counter[State] = Counter()
    for _ in range(2000):
        size = int(rng.integers(1, 6))
        trainers, evaluators = [f"c{i}" for i in range(size)], [f"e{i}" for i in range(int(rng.integers(1, 5)))]
        needed = int(rng.integers(1, size + 1))
        alone = opened(*trainers, needed=needed, grace_s=3.0, deadline_s=20.0)
        judged = rounds.opened(trainers, evaluators, needed=needed, grace_s=3.0, deadline_s=20.0)
        for now_s in range(40):
            client = str(rng.choice(trainers + evaluators))
            step = int(rng.integers(3))
            if judged.is_open:
                judged = random_step(judged, client, step, float(now_s))
            if alone.is_open and client in trainers:
                alone = random_step(alone, client, step, float(now_s))
            if alone.is_open:
                alone = rounds.tick(alone, float(now_s))
            if judged.is_open:
                judged = rounds.tick(judged, float(now_s))
            assert not (judged.state is State.CLOSED and alone.is_open), "nobody closes before the trainers are done"
            assert (judged.state is State.FAILED) == (alone.state is State.FAILED)
            assert set(alone.counted) <= set(judged.counted)
        states[judged.state] += 1
        assert not judged.is_open
        assert set(judged.counted) <= set(trainers)
        assert set(judged.judged) <= set(evaluators)
    assert min(states[State.CLOSED], states[State.FAILED]) > 100


def random_step(round_: Round, client: str, step: int, now_s: float) -> Round:
    if step == 0 and client not in (*round_.counted, *round_.judged):
        return rounds.add_answer(round_, client, now_s)
    return rounds.add_loss(round_, client, now_s) if step == 1 else round_

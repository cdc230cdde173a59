"""The tasks of a round."""

import msgspec
import pytest

import broker
from broker import topics
from broker.errors import PayloadTooLarge
from broker.messages import cloudevents
from broker.messages.cloudevents import Envelope
from broker.messages.job_record import JobRecord, Member
from broker.messages.round import BlobRef, token
from broker.messages.state_table import ClientState
from server import invitations
from server.state_tables import StateTables
from tests.support import fakes

MODEL = BlobRef("fl.models.job-1.x", "ab" * 32, 5)
MEMBERS = tuple(Member(f"c-{n}", "fake", "", f"/shards/c-{n}", 10) for n in (1, 2))
NONCE = "of round 3"
RECORD = JobRecord(id="job-1", job=fakes.job(), created_s=1.0, round=3, cohort=MEMBERS, model=MODEL, deadline_s=9.0)


def test_a_task_has_the_values_of_the_record() -> None:
    state = BlobRef(topics.client_state("job-1", "c-1", 2, 1, "opt"), "cd" * 32, 7)
    states = StateTables(RECORD)
    states.take({"c-1": ClientState({"opt": state})})
    first, second = (invitations.task_for(member, RECORD, NONCE, None, states) for member in MEMBERS)
    assert (first.id, first.client_type, first.data_loc) == ("job-1.3.c-1", "fake", "/shards/c-1")
    assert (first.model, first.states, second.states) == (MODEL, {"opt": state}, {})
    assert (first.state, second.state) == (state, None), "functions of older versions read it there"
    assert (first.token, first.deadline_s) == (token(NONCE, "c-1"), 9.0)
    assert first.seed != second.seed


def test_a_task_to_judge_has_the_model_and_no_states_of_a_training() -> None:
    state = BlobRef(topics.client_state("job-1", "c-1", 2, 1, "opt"), "cd" * 32, 7)
    record = msgspec.structs.replace(
        RECORD,
        job=fakes.job(evaluation={"holdout": 0.2}),
        states={"c-1": state},
        along=BlobRef("fl.models.job-1.y", "ef" * 32, 5),
    )
    judge = invitations.task_for(msgspec.structs.replace(MEMBERS[0], purpose="evaluate"), record, NONCE)
    assert (judge.purpose, judge.blobs, judge.state) == ("evaluate", (MODEL,), None)
    assert judge.evaluation == record.job.evaluation
    train = invitations.task_for(MEMBERS[0], record, NONCE)
    assert (train.purpose, train.states, train.along) == ("train", {"opt": state}, record.along)


def test_a_job_without_a_model_invites_nobody() -> None:
    with pytest.raises(ValueError, match="job-1 has no model yet"):
        invitations.task_for(MEMBERS[0], msgspec.structs.replace(RECORD, model=None), NONCE)


async def test_every_member_gets_one_task_however_often_they_are_sent(memory_url: str) -> None:
    async with broker.connect(memory_url) as bus:
        for _ in range(2):
            await invitations.send(bus, RECORD, NONCE)
        after = cloudevents.encode(Envelope("after", "/test", "round.task", 0.0), {})
        await bus.publish(topics.task("fake", "c-9"), after)
        async with bus.subscribe(topics.platform_tasks("fake"), durable="bridge-fake") as deliveries:
            invited = [(await anext(deliveries)).topic for _ in range(len(MEMBERS) + 1)]
    assert sorted(invited) == [topics.task("fake", client) for client in ("c-1", "c-2", "c-9")]


async def test_each_member_of_a_large_cohort_is_invited(memory_url: str) -> None:
    members = tuple(Member(f"c-{n}", "fake", "", "", 10) for n in range(3 * invitations.AT_ONCE // 2))
    async with broker.connect(memory_url) as bus:
        await invitations.send(bus, msgspec.structs.replace(RECORD, cohort=members), NONCE)
        async with bus.subscribe(topics.platform_tasks("fake"), durable="bridge-fake") as deliveries:
            invited = []
            for _ in members:
                invited.append((delivery := await anext(deliveries)).topic)
                await delivery.ack()
    assert sorted(invited) == sorted(topics.task("fake", member.id) for member in members)


async def test_a_task_that_is_larger_than_a_trigger_may_be_is_refused(memory_url: str) -> None:
    large = msgspec.structs.replace(RECORD, cohort=(Member("c-1", "fake", "", "x" * 100_001, 10),))
    async with broker.connect(memory_url) as bus:
        with pytest.raises(PayloadTooLarge):
            await invitations.send(bus, large, NONCE)

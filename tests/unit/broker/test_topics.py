import pytest

from broker import topics
from broker.errors import BadTopic
from broker.topics import FAMILIES, Keep, family_of, matches

SHA = "ab" * 32

NAMES = {
    topics.SUBMIT: "fl.jobs.submit",
    topics.submission("j"): "fl.jobs.j.submit",
    topics.cancellation("j"): "fl.jobs.j.cancel",
    topics.task("p", "c"): "fl.tasks.p.c",
    topics.platform_tasks("p"): "fl.tasks.p.>",
    topics.update("j", 3, "c", 2): "fl.updates.j.3.c.2",
    topics.round_updates("j", 3): "fl.updates.j.3.>",
    topics.job_updates("j"): "fl.updates.j.>",
    topics.model("j", SHA): f"fl.models.j.{SHA}",
    topics.optimizer_state("j", "c", 3, 2): "fl.state.j.c.3.2",
    topics.job_states("j"): "fl.state.j.>",
    topics.pointer("j"): "fl.rounds.j",
    topics.secret("j"): "fl.secrets.j",
    topics.client("c"): "fl.clients.c",
    topics.invocation("p", "c"): "fl.invocations.p.c",
    topics.progress("j", "round", "completed"): "fl.progress.j.round.completed",
    topics.job_progress("j"): "fl.progress.j.>",
    topics.job_progress(topics.ANY): "fl.progress.*.>",
    topics.dead("p", "c"): "fl.dead.p.c",
    topics.chunk("fl.models.j.m", SHA, 0): f"fl.chunks.models.j.m.{SHA}.0",
    topics.chunks_of("fl.models.j.m"): "fl.chunks.models.j.m.>",
    topics.chunks_of("fl.updates.j.>"): "fl.chunks.updates.j.>",
}


@pytest.mark.parametrize(("built", "name"), NAMES.items())
def test_names_are_as_documented_and_kept_somewhere(built: str, name: str) -> None:
    assert built == name
    assert family_of(name) in FAMILIES


@pytest.mark.parametrize("job", ["", "a" * 41, "A", "a.b", "a*", ">", "a b", "ä", "a\n", "a/b"])
def test_what_is_no_id_is_refused(job: str) -> None:
    with pytest.raises(BadTopic, match="1 to 40"):
        topics.pointer(job)


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("fl.a", "fl.a", True),
        ("fl.a", "fl.b", False),
        ("fl.a", "fl.a.b", False),
        ("fl.a.b", "fl.a", False),
        ("fl.*", "fl.a", True),
        ("fl.*", "fl.a.b", False),
        ("fl.*", "fl.>", False),
        ("fl.*", "fl.*", True),
        ("fl.>", "fl.a.b", True),
        ("fl.>", "fl", False),
        ("fl.>", "fl.*.b", True),
        ("fl.*.b", "fl.a.b", True),
        ("fl.a.b", "fl.*.b", False),
    ],
)
def test_matching(pattern: str, topic: str, *, expected: bool) -> None:
    assert matches(pattern, topic) is expected


def test_every_topic_has_one_family() -> None:
    for name in NAMES.values():
        assert sum(any(matches(pattern, name) for pattern in family.filters) for family in FAMILIES) == 1


def test_chunks_of_one_job_are_none_of_anothers() -> None:
    assert not matches(topics.chunks_of(topics.job_updates("j1")), topics.chunk("fl.updates.j2.1.c.1", SHA, 0))
    assert matches(topics.chunks_of(topics.job_updates("j1")), topics.chunk("fl.updates.j1.1.c.1", SHA, 0))


@pytest.mark.parametrize("topic", ["fl.nowhere", "fl.>", "fl.jobs.>", "other.tasks.p.c", "", "fl.tasks"])
def test_what_is_kept_nowhere_is_refused(topic: str) -> None:
    with pytest.raises(BadTopic):
        family_of(topic)


def test_what_must_not_be_lost_or_doubled_is_kept_so() -> None:
    keeps = {topic: family_of(topic).keep for topic in NAMES.values()}
    assert keeps["fl.tasks.p.c"] is Keep.QUEUE
    assert keeps["fl.updates.j.3.c.2"] is Keep.FIRST
    assert keeps["fl.rounds.j"] is Keep.LAST
    assert keeps["fl.secrets.j"] is Keep.FIRST
    assert keeps["fl.progress.j.>"] is Keep.LOG
    assert keeps["fl.jobs.submit"] is Keep.INBOX

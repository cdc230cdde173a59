import pytest

from broker import topics
from broker.errors import BadTopic
from broker.families import FAMILIES, Keep, family_of
from broker.support.filters import matches

SHA = "ab" * 32

NAMES = {
    topics.submission(): topics.SUBMIT,
    topics.submission("j"): "fl.jobs.j.submit",
    topics.cancellation("j"): "fl.jobs.j.cancel",
    topics.task("p", "c"): "fl.tasks.p.c",
    topics.platform_tasks("p"): "fl.tasks.p.>",
    topics.update("j", 3, "c", 2): "fl.updates.j.3.c.2",
    topics.round_updates("j", 3): "fl.updates.j.3.>",
    topics.job_updates("j"): "fl.updates.j.>",
    topics.model("j", SHA): f"fl.models.j.{SHA}",
    topics.client_state("j", "c", 3, 2, "opt"): "fl.state.j.c.3.2.opt",
    topics.client_state("j", "c", 3, 2, None): "fl.state.j.c.3.2",
    topics.job_states("j"): "fl.state.j.>",
    topics.job_record("j"): "fl.rounds.j",
    topics.secret("j"): "fl.secrets.j",
    topics.client("c"): "fl.clients.c",
    topics.invocation("p", "c"): "fl.invocations.p.c",
    topics.progress("j", "round", "completed"): "fl.progress.j.round.completed",
    topics.job_progress("j"): "fl.progress.j.>",
    topics.job_progress(topics.ANY): "fl.progress.*.>",
    topics.dead("p", "c"): "fl.dead.p.c",
    topics.client_stats("p", "c"): "fl.tallies.p.c",
    topics.presence("p", "b"): "fl.presence.p.b",
    topics.submission(tenant="acme"): "flt.acme.jobs.submit",
    topics.submission("j", tenant="acme"): "flt.acme.jobs.j.submit",
    topics.cancellation("j", tenant="acme"): "flt.acme.jobs.j.cancel",
    topics.model("j", SHA, tenant="acme"): f"flt.acme.models.j.{SHA}",
    topics.job_record("j", tenant="acme"): "flt.acme.rounds.j",
    topics.progress("j", "round", "completed", tenant="acme"): "flt.acme.progress.j.round.completed",
    topics.job_progress(topics.ANY, tenant=topics.ANY): "flt.*.progress.*.>",
    topics.chunk("flt.acme.models.j.m", SHA, 0): f"flt.acme.chunks.models.j.m.{SHA}.0",
    topics.chunks_of("flt.acme.models.j.m"): "flt.acme.chunks.models.j.m.>",
    topics.chunk("fl.models.j.m", SHA, 0): f"fl.chunks.models.j.m.{SHA}.0",
    topics.chunks_of("fl.models.j.m"): "fl.chunks.models.j.m.>",
    topics.chunks_of("fl.updates.j.>"): "fl.chunks.updates.j.>",
}


@pytest.mark.parametrize(("built", "name"), NAMES.items())
def test_names_are_as_documented_and_belong_to_a_family(built: str, name: str) -> None:
    assert built == name
    assert family_of(name) in FAMILIES


@pytest.mark.parametrize("job", ["", "a" * 41, "A", "a.b", "a*", ">", "a b", "ä", "a\n", "a/b"])
def test_an_invalid_id_is_refused(job: str) -> None:
    with pytest.raises(BadTopic, match="1 to 40"):
        topics.job_record(job)


def test_every_topic_has_one_family() -> None:
    for name in NAMES.values():
        assert sum(any(matches(pattern, name) for pattern in family.filters) for family in FAMILIES) == 1


def test_the_chunk_filter_of_a_job_excludes_other_jobs() -> None:
    assert not matches(topics.chunks_of(topics.job_updates("j1")), topics.chunk("fl.updates.j2.1.c.1", SHA, 0))
    assert matches(topics.chunks_of(topics.job_updates("j1")), topics.chunk("fl.updates.j1.1.c.1", SHA, 0))


@pytest.mark.parametrize("topic", ["fl.nowhere", "fl.>", "fl.jobs.>", "other.tasks.p.c", "", "fl.tasks"])
def test_a_topic_without_family_is_refused(topic: str) -> None:
    with pytest.raises(BadTopic):
        family_of(topic)


def test_families_keep_topics_as_designed() -> None:
    keeps = {topic: family_of(topic).keep for topic in NAMES.values()}
    assert keeps["fl.tasks.p.c"] is Keep.QUEUE
    assert keeps["fl.updates.j.3.c.2"] is Keep.FIRST
    assert keeps["fl.rounds.j"] is Keep.LAST
    assert keeps["fl.secrets.j"] is Keep.FIRST
    assert keeps["fl.progress.j.>"] is Keep.LOG
    assert keeps["fl.jobs.submit"] is Keep.INBOX


def test_parsers_invert_builders() -> None:
    assert topics.parse_update(topics.update("j", 3, "c", 2)) == ("j", 3, "c", 2)
    assert topics.parse_task(topics.task("p", "c")) == ("p", "c")
    assert topics.parse_fabric(topics.fabric("p", "create")) == ("p", "create")
    assert topics.parse_presence(topics.presence("p", "b")) == ("p", "b")
    assert topics.parse_submission(topics.SUBMIT) == ("default", None)
    assert topics.parse_submission(topics.submission("j")) == ("default", "j")
    assert topics.parse_submission(topics.submission(tenant="acme")) == ("acme", None)
    assert topics.parse_submission(topics.submission("j", tenant="acme")) == ("acme", "j")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "fl",
        "flt",
        "flt.acme",
        "fl.jobs.J.submit",
        "fl.jobs.submit.j",
        "flt.default.jobs.submit",
        "flt.A.jobs.submit",
    ],
)
def test_another_topic_is_no_submission(topic: str) -> None:
    with pytest.raises(BadTopic):
        topics.parse_submission(topic)


@pytest.mark.parametrize("topic", ["fl.tasks.p", "fl.tasks.p.c.d", "fl.dead.p.c", "flt.acme.tasks.p.c", "fl.tasks.P.c"])
def test_another_topic_is_no_task(topic: str) -> None:
    with pytest.raises(BadTopic):
        topics.parse_task(topic)


def test_one_permission_covers_all_topics_of_a_tenant() -> None:
    assert all(matches("flt.acme.>", name) for name in NAMES.values() if ".acme." in name)
    assert not matches("flt.acme.>", "flt.other.rounds.j")


def test_each_family_has_a_unique_name_and_writers() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert all(family.writers for family in FAMILIES)

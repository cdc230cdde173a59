"""What is said to a person who stops can be pasted."""

import shlex

from fedkeeper.display import hints


def test_a_job_that_goes_on_can_be_followed_fetched_and_ended() -> None:
    text = hints.goes_on("demo-1", " --url 'nats://user@host:4222?password_file=/a b'")
    assert text.startswith("stopped; job demo-1 goes on")
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("  ")]
    url = ["--url", "nats://user@host:4222?password_file=/a b"]
    assert commands == [["fedkeeper", verb, "demo-1", *url] for verb in ("watch", "fetch", "cancel")]
    assert "  fedkeeper cancel demo-1" in hints.goes_on("demo-1", "").splitlines()


def test_a_job_that_has_ended_meanwhile_can_be_fetched() -> None:
    assert hints.has_ended("demo-1", "").splitlines()[-1] == "  fedkeeper fetch demo-1"

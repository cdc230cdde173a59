"""What people write as options."""

from pathlib import Path

import pytest

from broker import BrokerUrl
from fedkeeper.errors import BadOption
from fedkeeper.options import KEEP, KEEP_BYTES, URL_VARIABLE, broker_url, duration_s, retention, url_option


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("500000000", 500_000_000), ("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), ("2k", 2000)],
)
def test_a_size_is_a_number_of_bytes_with_or_without_a_unit(text: str, size: int) -> None:
    assert retention(1.0, 2, text).bytes == size


@pytest.mark.parametrize("text", ["", "many", "-1", "5 PB", "5 MBit"])
def test_another_text_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(BadOption, match="--keep-bytes"):
        retention(1.0, 2, text)


def test_the_size_that_is_shown_as_the_default_is_the_default() -> None:
    assert retention(KEEP.days, KEEP.jobs, KEEP_BYTES) == KEEP


@pytest.mark.parametrize("url", ["nats://a,b,c", "nats://u@a,b,c?password_file=p", "nats://a?replicas=2"])
def test_replicas_become_part_of_the_address(url: str) -> None:
    assert BrokerUrl.parse(broker_url(url, replicas=3)).replicas == 3
    assert broker_url(url) == url


def test_without_a_broker_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadOption, match="which broker"):
        broker_url("")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10min", 600), ("1.5 h", 5400), ("30d", 2_592_000)])
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert duration_s("--since", text) == seconds


@pytest.mark.parametrize("text", ["", "10", "-1h", "5 weeks", "min"])
def test_what_is_no_duration_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(BadOption, match=r"--since = .*such as 10min"):
        duration_s("--since", text)


def test_a_command_to_paste_names_the_broker_only_if_it_was_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    assert url_option("") == ""
    assert url_option("nats://u@h:1?password_file=/a b") == " --url 'nats://u@h:1?password_file=/a b'"
    monkeypatch.setenv(URL_VARIABLE, "nats://h:1")
    assert url_option("nats://h:1") == ""
    assert url_option("nats://h:2") == " --url nats://h:2"
    assert "s3cret" not in url_option("nats://u:s3cret@h:1")

from pathlib import Path

import pytest

from broker import BrokerUrl
from fedkeeper.errors import BadOption
from fedkeeper.options import broker_url


@pytest.mark.parametrize("url", ["nats://a,b,c", "nats://u@a,b,c?password_file=p", "nats://a?replicas=2"])
def test_replicas_become_part_of_the_address(url: str) -> None:
    assert BrokerUrl.parse(broker_url(url, replicas=3)).replicas == 3
    assert broker_url(url) == url


def test_without_a_broker_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadOption, match="which broker"):
        broker_url("")

"""What our streams and the calls of JetStream's API are called, which a broker's address may change."""

from broker.families import family_of
from broker.url import BrokerUrl


def stream_of(address: BrokerUrl, topic: str) -> str:
    """The name of the stream that keeps a topic, or a filter's topics.

    Args:
        address: the broker's; says what the names of streams begin with.
        topic: a topic or filter.

    Raises:
        BadTopic: nothing of ours is kept under that name.
    """
    return stream_name(address, family_of(topic).name)


def stream_name(address: BrokerUrl, family: str) -> str:
    """The name of the stream that keeps a family, by the family's name."""
    return f"{address.streams}_{family}"


def api_subject(address: BrokerUrl, call: str) -> str:
    """Where JetStream takes a call, such as `STREAM.INFO.<stream>`."""
    return f"{address.js}.{call}"

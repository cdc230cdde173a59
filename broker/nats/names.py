"""The names of our streams and of JetStream's API calls; options of the broker URL change their prefixes."""

from broker.families import family_of
from broker.url import BrokerUrl


def stream_of(address: BrokerUrl, topic: str) -> str:
    """Return the name of the stream that keeps a topic, or the topics of a filter.

    Args:
        address: the broker's address, with the prefix of the stream names.
        topic: a topic or filter.

    Raises:
        BadTopic: the topic belongs to no family.
    """
    return stream_name(address, family_of(topic).name)


def stream_name(address: BrokerUrl, family: str) -> str:
    """Return the name of the stream that keeps a family.

    Args:
        address: the broker's address, with the prefix of the stream names.
        family: name of the family.
    """
    return f"{address.streams}_{family}"


def api_subject(address: BrokerUrl, call: str) -> str:
    """Return the subject of an API call.

    Args:
        address: the broker's address, with the prefix of the API.
        call: the call without prefix, such as `STREAM.INFO.<stream>`.
    """
    return f"{address.js}.{call}"

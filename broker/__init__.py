"""Transport of messages: events and retained values over NATS, over MQTT, or inside one process.

async with broker.connect("nats://fedkeeper@127.0.0.1:4222?password_file=data/password") as bus:
    await bus.publish(topics.SUBMIT, job)
"""

from contextlib import AbstractAsyncContextManager

from broker.base import ACK_WAIT_S, Broker, Start
from broker.deliveries import Delivery, Receipt, Value, Will
from broker.url import BrokerUrl

__all__ = ["ACK_WAIT_S", "Broker", "BrokerUrl", "Delivery", "Receipt", "Start", "Value", "Will", "connect"]


def connect(
    url: str,
    *,
    name: str = "fedkeeper",
    ack_wait_s: float = ACK_WAIT_S,
    will: Will | None = None,
    provision: bool = True,
) -> AbstractAsyncContextManager[Broker]:
    """Return a connection to a broker; `async with` opens it.

    Args:
        url: `memory://NAME`, `nats://user@host:port?password_file=PATH`, or `tls://...` with `?ca_file=PATH`; for MQTT
            `mqtt://...` or `mqtts://...`, there with `&cert_file=PATH&key_file=PATH` for a client certificate. On NATS,
            `?streams=PREFIX` sets the names of our streams and `?js=SUBJECT` the prefix of JetStream's API. A NATS
            cluster has several hosts, `nats://user@host1:port,host2,host3`, and `?replicas=3` for its streams.
            `BrokerUrl` describes every option.
        name: name of this client in the broker's logs.
        ack_wait_s: time in seconds after which an unacknowledged delivery is made again. It applies to the durables
            that this connection creates.
        will: value that the broker retains when the connection ends unexpectedly; only MQTT brokers support it.
        provision: create what is missing on the broker (on NATS, the streams). Readers, and programs of a running
            system, pass False: then connecting changes nothing on the broker.

    Raises:
        BadUrl: the URL is not valid; raised by the call itself.
        ConnectFailed: on entering: the broker can't be reached, or the credentials are wrong.
        NoSystem: on entering without `provision`: no system has used the broker yet.
        OldStore: on entering: the broker holds a store of version 0.1.
        ForeignStream: on entering: a JetStream stream of another program conflicts with ours.
    """
    address = BrokerUrl.parse(url)
    if address.scheme == "memory":
        from broker.memory import broker as memory

        return memory.connect(address.host, ack_wait_s=ack_wait_s)
    if address.scheme in ("mqtt", "mqtts"):
        from broker.mqtt import broker as mqtt

        return mqtt.connect(address, name=name, ack_wait_s=ack_wait_s, will=will, provision=provision)
    from broker.nats import broker as nats

    return nats.connect(address, name=name, ack_wait_s=ack_wait_s, provision=provision)

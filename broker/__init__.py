"""How messages travel: events and retained values over NATS, over MQTT, or inside one process.

async with broker.connect("nats://fedkeeper@127.0.0.1:4222?password_file=data/password") as bus:
    await bus.publish(topics.SUBMIT, job)
"""

from contextlib import AbstractAsyncContextManager

from broker.base import ACK_WAIT_S, Broker, Delivery, Receipt, Start, Value, Will
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
    """A connection to a broker, to be entered with `async with`; nothing is opened before that.

    Args:
        url: `memory://NAME`, `nats://user@host:port?password_file=PATH`, or `tls://...` with `?ca_file=PATH`; for MQTT
            `mqtt://...` or `mqtts://...`, there with `&cert_file=PATH&key_file=PATH` for a client certificate. On NATS,
            `?streams=PREFIX` names our streams and `?js=SUBJECT` says where JetStream's API is; see BrokerUrl.
        name: who we are, in the broker's own logs.
        ack_wait_s: after how long an unacknowledged delivery is made again, for durables that this connection
            subscribes to first.
        will: what to retain for us when we vanish; a courtesy that only MQTT brokers have.
        provision: make the broker ready for us where it is not yet. Without it nothing is created or changed at
            connecting: for whoever only reads, or works for a system that runs.

    Raises:
        BadUrl: at once; the address can't be used.
        ConnectFailed: on entering; nobody answers there, or the credentials are wrong.
        NoSystem: on entering without `provision`; no system has used the broker yet.
        OldStore: on entering; the broker holds what version 0.1 stored.
        ForeignStream: on entering; someone else's JetStream stream is in our way.
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

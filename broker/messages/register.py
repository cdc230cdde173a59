"""Who is there: the client register's entries, how their invocations went, and which bridges are up."""

from typing import ClassVar

import msgspec

from broker.messages import codec
from broker.messages.invocation import Outcome


class ClientStats(msgspec.Struct, frozen=True, kw_only=True):
    """How a client's invocations went so far, as its bridge keeps count.

    Attributes:
        state: the last outcome.
        seen_s: when that was, seconds since the epoch.
        invocations: runs of the function that the platform accepted or that were heard of.
        failures: how many of them failed.
        cold: how many of them had to start the function.
        activation: the platform's id of the last run.
        run: job, round and attempt of the last run that was counted.
    """

    client: str
    platform: str
    state: Outcome
    seen_s: float
    invocations: int = 0
    failures: int = 0
    cold: int = 0
    activation: str = ""
    run: str = ""


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge says that it is there, again and again.

    Attributes:
        bridge: its name.
        platform: whose tasks it takes.
        every_s: how often it says so; one that was not heard for three times as long is not there.
        gone: it, or its broker for it, has said goodbye.
        schema: version of the message.
    """

    upgrade: ClassVar = "upgrade the server to the version of the bridge"

    bridge: str
    platform: str
    every_s: float
    gone: bool = False
    schema: int = codec.SCHEMA


class ClientRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the client register (paper, section 3.1). Secrets are named, never held.

    Attributes:
        function: name of the function on its platform.
        url: where the platform triggers the function; empty where it needs none.
        data_loc: fsspec URL of the client's shard.
        labels: what cohorts are chosen by; `data` names the deal that the shard is part of.
        samples: size of the shard; 0: not known.
        secret: name of the secret that the bridge needs.
        paused: left out of cohorts.
    """

    id: str
    platform: str
    function: str = ""
    url: str = ""
    data_loc: str = ""
    labels: dict[str, str] = {}
    samples: int = 0
    secret: str = ""
    paused: bool = False

"""The table of faults: what is done to a running system, over which brokers, with which clients, and what must follow."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.chaos import brokers
from tests.chaos.actions import (
    Do,
    cancel,
    copy_store,
    cut,
    fill_disk,
    fill_quota,
    flood,
    forge_updates,
    freeze,
    function,
    gateway_away,
    kill,
    misbehave,
    nothing,
    publish_garbage,
    restart,
    silence,
    slow_down,
    store_emptied,
    store_restored,
    submit_twice,
)
from tests.chaos.system import Setup

BOTH: Final = brokers.NAMES
NATS: Final = ("nats",)


@dataclass(frozen=True, kw_only=True)
class Expect:
    """What must be true after a fault, where that is less than everything.

    Attributes:
        phases: in which of these the job may end.
        same_digest: a completed job has the undisturbed one's model.
        all_events: each event is in the log once, and in a possible order.
        may_vanish: the broker may have forgotten the job.
        is_tidy: nothing of the job is left, and consumers and memory are as before.
        no_files: no temporary file is left.
    """

    phases: tuple[str, ...] = ("completed",)
    same_digest: bool = True
    all_events: bool = True
    may_vanish: bool = False
    is_tidy: bool = True
    no_files: bool = True


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A row of the table.

    Attributes:
        name: unique name.
        what: what is done, for people.
        do: does it.
        on: the brokers that it is tried with.
        setup: what is started.
        expect: what must be true afterwards.
        prepare: what is done before the job is submitted.
        moment: bounds of the moment, as a share of the job's events.
        job: fields of the job that differ, by section.
        then_works: whether another job is run afterwards; needless where this one completes.
        quick: the broker of the tests in CI; empty: the row takes too long for them.
        needs_root: whether the trial mounts a file system.
    """

    name: str
    what: str
    do: Do
    on: tuple[str, ...] = BOTH
    setup: Setup = Setup()
    expect: Expect = Expect()
    prepare: Do = nothing
    moment: tuple[float, float] = (0.0, 0.85)
    job: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    then_works: bool = False
    quick: str = ""
    needs_root: bool = False


# A process that is killed can't remove its temporary files.
KILLED: Final = Expect(no_files=False)

FAAS: Final = Setup(clients="openfaas")
TWO_SERVERS: Final = Setup(servers=2)
TWO_BRIDGES: Final = Setup(bridges=2)
PROXIED_SERVER: Final = Setup(proxied=("server",))
PROXIED_BRIDGE: Final = Setup(proxied=("bridge",))
PROXIED: Final = Setup(proxied=("server", "bridge"))
SILENT: Final = Setup(environment={"FEDKEEPER_TRAINER_SILENCE_S": "5"})
# The limits of the families with few bytes are reserved; this is little more.
SMALL_STORE: Final = Setup(broker={"max_file_bytes": 1 << 30})

AFTER_END: Final = Expect(phases=("completed", "cancelled"))
FORGOTTEN: Final = Expect(may_vanish=True, all_events=False)
CLOCK: Final = Expect()

# The moments of faults at the start: before the first model is built.
START: Final = (0.0, 0.03)


def _row(name: str, what: str, do: Do, **more: Any) -> Fault:
    return Fault(name=name, what=what, do=do, **more)


FAULTS: Final = (
    # Processes that are killed.
    _row("kill server", "kill -9 of the server, back after 0 to 3 s", kill("server"), expect=KILLED, quick="nats"),
    _row("kill bridge", "kill -9 of the bridge", kill("bridge"), expect=KILLED, quick="nats"),
    _row("kill worker", "kill -9 of a worker", kill("worker"), expect=KILLED, quick="mosquitto"),
    _row("kill trainer", "kill -9 of a trainer", kill("trainer"), expect=KILLED, quick="nats"),
    _row("kill broker", "kill -9 of the broker", kill("broker"), quick="nats"),
    _row(
        "kill server at start",
        "kill -9 of the server when the job begins",
        kill("server"),
        expect=KILLED,
        moment=START,
        quick="mosquitto",
    ),
    _row(
        "kill broker at start",
        "kill -9 of the broker when the job begins",
        kill("broker"),
        moment=START,
        expect=FORGOTTEN,
        then_works=True,
    ),
    _row(
        "kill server and bridge", "kill -9 of both at once", kill("server", "bridge"), expect=KILLED, quick="mosquitto"
    ),
    _row(
        "kill broker and server",
        "kill -9 of both at once",
        kill("broker", "server"),
        expect=FORGOTTEN,
        then_works=True,
        quick="nats",
    ),
    _row("kill broker and bridge", "kill -9 of both at once", kill("broker", "bridge"), expect=KILLED),
    _row(
        "kill broker, server, bridge",
        "kill -9 of all at once",
        kill("broker", "server", "bridge"),
        expect=FORGOTTEN,
        then_works=True,
    ),
    _row("kill worker and trainer", "kill -9 of both at once", kill("worker", "trainer"), expect=KILLED),
    _row(
        "kill broker thrice",
        "kill -9 of the broker, three times",
        kill("broker", times=3, back_s=(0.0, 1.0)),
        quick="mosquitto",
    ),
    _row(
        "kill server thrice",
        "kill -9 of the server, three times",
        kill("server", times=3, back_s=(0.0, 1.0)),
        expect=KILLED,
    ),
    # Processes that stand still.
    _row("freeze server", "SIGSTOP of the server for 2 to 6 s", freeze("server", for_s=(2, 6)), quick="mosquitto"),
    _row("freeze bridge", "SIGSTOP of the bridge for 2 to 6 s", freeze("bridge", for_s=(2, 6)), quick="nats"),
    _row("freeze worker", "SIGSTOP of a worker for 2 to 6 s", freeze("worker", for_s=(2, 6)), quick="nats"),
    _row("freeze trainer", "SIGSTOP of a trainer for 2 to 6 s", freeze("trainer", for_s=(2, 6)), quick="mosquitto"),
    _row("freeze broker", "SIGSTOP of the broker for 2 to 6 s", freeze("broker", for_s=(2, 6)), quick="mosquitto"),
    _row("freeze server and broker", "SIGSTOP of both for 2 to 6 s", freeze("server", "broker", for_s=(2, 6))),
    _row("freeze server long", "SIGSTOP of the server for 16 to 20 s", freeze("server", for_s=(16, 20))),
    _row("freeze bridge long", "SIGSTOP of the bridge for 16 to 20 s", freeze("bridge", for_s=(16, 20))),
    _row("freeze broker long", "SIGSTOP of the broker for 16 to 20 s", freeze("broker", for_s=(16, 20))),
    _row("freeze broker very long", "SIGSTOP of the broker for 34 to 40 s", freeze("broker", for_s=(34, 40))),
    # Orderly stops.
    _row("restart server", "SIGTERM of the server, and a new one", restart("server"), quick="nats"),
    _row("restart bridge", "SIGTERM of the bridge, and a new one", restart("bridge"), quick="mosquitto"),
    _row("restart broker", "SIGTERM of the broker, and a new one", restart("broker"), quick="mosquitto"),
    _row("restart everything", "SIGTERM of server, bridge and broker", restart("server", "bridge", "broker")),
    # More than one of a kind.
    _row(
        "one of two servers killed",
        "kill -9 of one of two servers",
        kill("server"),
        setup=TWO_SERVERS,
        expect=KILLED,
        quick="nats",
    ),
    _row(
        "one of two servers frozen",
        "SIGSTOP of one of two servers for 3 to 8 s",
        freeze("server", for_s=(3, 8)),
        setup=TWO_SERVERS,
        quick="mosquitto",
    ),
    _row("one of two servers restarted", "SIGTERM of one of two servers", restart("server"), setup=TWO_SERVERS),
    _row(
        "one of two bridges killed", "kill -9 of one of two bridges", kill("bridge"), setup=TWO_BRIDGES, expect=KILLED
    ),
    _row(
        "one of two bridges restarted",
        "SIGTERM of one of two bridges",
        restart("bridge"),
        setup=TWO_BRIDGES,
        quick="nats",
    ),
    _row(
        "one of two bridges frozen",
        "SIGSTOP of one of two bridges for 2 to 8 s",
        freeze("bridge", for_s=(2, 8)),
        setup=TWO_BRIDGES,
    ),
    # The broker's store.
    _row(
        "store older than the job",
        "the broker comes back with a copy from before the job",
        store_restored(age_s=None),
        prepare=copy_store,
        moment=(0.1, 0.8),
        expect=FORGOTTEN,
        then_works=True,
        quick="nats",
    ),
    _row(
        "store a moment older",
        "the broker comes back with a copy of 0.2 to 2 s ago",
        store_restored(age_s=(0.2, 2.0)),
        moment=(0.05, 0.6),
        expect=FORGOTTEN,
        then_works=True,
        quick="mosquitto",
    ),
    _row(
        "store emptied",
        "the broker comes back with an empty store",
        store_emptied,
        expect=FORGOTTEN,
        then_works=True,
        quick="nats",
    ),
    _row("quota full", "the broker's quota is full for 2 to 6 s", fill_quota, on=NATS, setup=SMALL_STORE, quick="nats"),
    _row("disk full", "the broker's disk is full for 2 to 6 s", fill_disk, setup=Setup(disk_mb=48), needs_root=True),
    # The network.
    _row(
        "server cut off",
        "the server's connection is cut for 0 to 4 s",
        cut("server"),
        setup=PROXIED_SERVER,
        quick="nats",
    ),
    _row(
        "bridge cut off",
        "the bridge's and its workers' connections are cut for 0 to 4 s",
        cut("bridge"),
        setup=PROXIED_BRIDGE,
        quick="mosquitto",
    ),
    _row(
        "connections cut five times",
        "all connections are cut, five times",
        cut("server", "bridge", times=5, for_s=(0.0, 0.5)),
        setup=PROXIED,
    ),
    _row(
        "server in a black hole",
        "nothing reaches the server for 4 to 14 s",
        silence("server", for_s=(4, 14)),
        setup=PROXIED_SERVER,
    ),
    _row(
        "bridge in a black hole",
        "nothing reaches the bridge and its workers for 4 to 14 s",
        silence("bridge", for_s=(4, 14)),
        setup=PROXIED_BRIDGE,
    ),
    _row(
        "slow link",
        "20 kB/s between the bridge and the broker for 3 to 6 s",
        slow_down("bridge", bytes_per_s=20_000, for_s=(3, 6)),
        setup=PROXIED_BRIDGE,
    ),
    # What anyone may publish.
    _row("garbage updates", "garbage on topics of updates", publish_garbage("updates"), quick="nats"),
    _row("garbage tasks", "garbage on topics of tasks", publish_garbage("tasks"), quick="mosquitto"),
    _row("garbage reports", "garbage on topics of reports and invocations", publish_garbage("reports"), quick="nats"),
    _row("garbage jobs", "garbage on topics of jobs", publish_garbage("jobs"), quick="mosquitto"),
    _row("garbage records", "garbage on topics of records", publish_garbage("records"), quick="nats"),
    _row(
        "garbage register", "garbage on topics of clients and functions", publish_garbage("register"), quick="mosquitto"
    ),
    _row("garbage presence", "garbage on topics of bridges' presence", publish_garbage("presence"), quick="nats"),
    _row("garbage progress", "garbage on topics of progress", publish_garbage("progress"), quick="mosquitto"),
    _row("duplicate updates", "updates are published again", forge_updates("copy"), quick="mosquitto"),
    _row("forged updates", "updates are published as another client's", forge_updates("other client"), quick="nats"),
    _row("early updates", "updates are published for the next round", forge_updates("other round")),
    _row("flood", "3,000 messages on another job's progress topic", flood, quick="nats"),
    # The user's code.
    _row("training segfaults", "the model segfaults in a training", misbehave("training", "segfaults"), quick="nats"),
    _row("training ends", "the model calls os._exit in a training", misbehave("training", "ends"), quick="mosquitto"),
    _row("training hangs", "the model hangs in a training", misbehave("training", "hangs"), setup=SILENT),
    _row(
        "training forks and hangs",
        "the model forks and hangs in a training",
        misbehave("training", "forks and hangs"),
        setup=SILENT,
    ),
    _row("training forks and ends", "the model forks and ends in a training", misbehave("training", "forks and ends")),
    _row(
        "training writes garbage",
        "the model writes garbage to every descriptor",
        misbehave("training", "writes garbage"),
        setup=SILENT,
        quick="mosquitto",
    ),
    _row(
        "training closes descriptors", "the model closes every descriptor", misbehave("training", "closes descriptors")
    ),
    _row("training kills its parent", "the model kills its parent process", misbehave("training", "kills its parent")),
    _row(
        "constructor segfaults",
        "the model segfaults where it is built",
        misbehave("constructor", "segfaults"),
        quick="nats",
    ),
    _row(
        "first constructor ends",
        "the model calls os._exit where the server builds it",
        misbehave("constructor", "ends"),
        moment=START,
    ),
    _row(
        "judgement segfaults",
        "the model segfaults where it is judged",
        misbehave("judgement", "segfaults"),
        moment=(0.0, 0.4),
        quick="nats",
    ),
    _row(
        "judgement hangs",
        "the model hangs where it is judged",
        misbehave("judgement", "hangs"),
        setup=SILENT,
        moment=(0.0, 0.4),
    ),
    # What people do.
    _row("cancel", "the job is cancelled", cancel, expect=AFTER_END, then_works=True, quick="mosquitto"),
    _row("same id twice", "another job is submitted under the same id", submit_twice, quick="nats"),
    # Clocks.
    _row(
        "server's clock behind",
        "the server's clock is ten minutes behind",
        nothing,
        setup=Setup(shift_s={"server": -600}),
        quick="nats",
    ),
    _row(
        "server's clock ahead",
        "the server's clock is ten minutes ahead",
        nothing,
        setup=Setup(shift_s={"server": 600}),
        quick="mosquitto",
    ),
    _row(
        "bridge's clock behind",
        "the bridge's clock is ten minutes behind",
        nothing,
        setup=Setup(shift_s={"bridge": -600}),
    ),
    _row(
        "bridge's clock ahead", "the bridge's clock is ten minutes ahead", nothing, setup=Setup(shift_s={"bridge": 600})
    ),
    # A platform.
    _row(
        "function killed",
        "the process of a function is killed",
        function("kill"),
        setup=FAAS,
        expect=KILLED,
        quick="nats",
    ),
    _row("function busy", "a function answers its next calls with 429", function("refuse"), setup=FAAS),
    _row("function's answer lost", "the gateway never answers a call", function("hang", (1, 1)), setup=FAAS),
    _row("function vanished", "a function is deleted on the platform", function("vanish"), setup=FAAS, expect=KILLED),
    _row("gateway away", "the gateway is away for 1 to 5 s", gateway_away, setup=FAAS, quick="mosquitto"),
    _row("platform: kill server", "kill -9 of the server", kill("server"), setup=FAAS, expect=KILLED),
    _row("platform: kill bridge", "kill -9 of the bridge to OpenFaaS", kill("bridge"), setup=FAAS, expect=KILLED),
    _row("platform: kill broker", "kill -9 of the broker", kill("broker"), setup=FAAS),
    _row("platform: restart bridge", "SIGTERM of the bridge to OpenFaaS", restart("bridge"), setup=FAAS),
    _row("platform: freeze broker", "SIGSTOP of the broker for 2 to 6 s", freeze("broker", for_s=(2, 6)), setup=FAAS),
)


def named(name: str) -> Fault:
    """Return a row by its name.

    Raises:
        KeyError: there is none.
    """
    return {fault.name: fault for fault in FAULTS}[name]


def possible(broker: str) -> list[Fault]:
    """Return the rows that can be tried with a broker by this user."""
    return [fault for fault in FAULTS if broker in fault.on and (not fault.needs_root or os.getuid() == 0)]

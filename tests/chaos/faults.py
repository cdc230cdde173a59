"""The table of faults: what is done to a running system, over which brokers, with which clients, and what may follow.

Where a row says nothing else: the job completes with the model of an undisturbed one, every event is in the log exactly
once and in a possible order, nobody is counted twice, and nothing is left behind.
"""

from typing import Final

from tests.chaos.actions import (
    cancel,
    copy_store,
    cut,
    fill_disk,
    fill_quota,
    freeze,
    function,
    gateway_away,
    kill,
    misbehave,
    misbehave_at_import,
    nothing,
    restart,
    silence,
    slow_down,
    store_emptied,
    store_restored,
    submit_twice,
)
from tests.chaos.intruders import flood, forge_updates, publish_garbage
from tests.chaos.row import Fault, Forgotten
from tests.chaos.system import Setup

FAAS: Final = Setup(clients="openfaas")
TWO_SERVERS: Final = Setup(servers=2)
TWO_BRIDGES: Final = Setup(bridges=2)
PROXIED: Final = Setup(proxied=("server", "bridge"))
SHORT_SILENCE: Final = Setup(environment={"FEDKEEPER_TRAINER_SILENCE_S": "8"})
LITTLE_MEMORY: Final = Setup(environment={"FEDKEEPER_TRAINER_MEMORY_MB": "1200"})
# Little more than what is reserved for the families of small messages.
SMALL_STORE: Final = Setup(broker={"max_file_bytes": 1 << 30})
SMALL_DISK: Final = Setup(disk_mb=48)
SERVER_BEHIND: Final = Setup(shift_s={"server": -600})
SERVER_AHEAD: Final = Setup(shift_s={"server": 600})
BRIDGE_BEHIND: Final = Setup(shift_s={"bridge": -600})
BRIDGE_AHEAD: Final = Setup(shift_s={"bridge": 600})

# Mosquitto writes its store once a second. A server that lives on puts back what the job needs.
LAST_SECOND: Final[dict[str, Forgotten]] = {"mosquitto": "events"}
LAST_JOBS: Final[dict[str, Forgotten]] = {"mosquitto": "job"}
WENT_BACK: Final[dict[str, Forgotten]] = {"nats": "job", "mosquitto": "job"}

START: Final = (0.0, 0.03)
"""Before the first model is built."""

EARLY: Final = (0.0, 0.4)
"""Before the last evaluation begins."""

SHORT: Final = (2.0, 6.0)
LONG: Final = (16.0, 20.0)
"""Longer than the brokers' pings and the ack deadline (15 s)."""

FAULTS: Final = (
    # Processes that are killed, and are back after 0 to 3 s.
    Fault("kill server", kill("server"), kills=True),
    Fault("kill bridge", kill("bridge"), kills=True, stops_reports=True),
    Fault("kill worker", kill("worker"), kills=True),
    Fault("kill trainer", kill("trainer"), kills=True),
    Fault("kill broker", kill("broker"), forgets=LAST_SECOND),
    Fault("kill server at the start", kill("server"), kills=True, moment=START),
    Fault("kill broker at the start", kill("broker"), moment=START, forgets=LAST_SECOND),
    Fault("kill server and bridge", kill("server", "bridge"), kills=True, stops_reports=True),
    Fault("kill broker and server", kill("broker", "server"), kills=True, forgets=LAST_JOBS),
    Fault("kill broker and bridge", kill("broker", "bridge"), kills=True, forgets=LAST_SECOND, stops_reports=True),
    Fault(
        "kill broker, server, bridge",
        kill("broker", "server", "bridge"),
        kills=True,
        forgets=LAST_JOBS,
        stops_reports=True,
    ),
    Fault("kill worker and trainer", kill("worker", "trainer"), kills=True),
    Fault("kill broker thrice", kill("broker", times=3, back_s=(0.0, 1.0)), forgets=LAST_SECOND),
    Fault("kill server thrice", kill("server", times=3, back_s=(0.0, 1.0)), kills=True),
    # Processes that stand still.
    Fault("freeze server", freeze("server", for_s=SHORT)),
    Fault("freeze bridge", freeze("bridge", for_s=SHORT), stops_reports=True),
    Fault("freeze worker", freeze("worker", for_s=SHORT)),
    Fault("freeze trainer", freeze("trainer", for_s=SHORT)),
    Fault("freeze broker", freeze("broker", for_s=SHORT)),
    Fault("freeze server and broker", freeze("server", "broker", for_s=SHORT)),
    Fault("freeze server long", freeze("server", for_s=LONG)),
    Fault("freeze bridge long", freeze("bridge", for_s=LONG), stops_reports=True),
    Fault("freeze broker long", freeze("broker", for_s=LONG)),
    Fault("freeze broker for over 30 s", freeze("broker", for_s=(34.0, 40.0))),
    # Orderly stops.
    Fault("restart server", restart("server")),
    Fault("restart bridge", restart("bridge")),
    Fault("restart broker", restart("broker")),
    Fault("restart server, bridge, broker", restart("server", "bridge", "broker")),
    # More than one of a kind.
    Fault("kill one of two servers", kill("a server"), setup=TWO_SERVERS, kills=True),
    Fault("freeze one of two servers", freeze("a server", for_s=(3.0, 8.0)), setup=TWO_SERVERS),
    Fault("restart one of two servers", restart("a server"), setup=TWO_SERVERS),
    Fault("kill one of two bridges", kill("a bridge"), setup=TWO_BRIDGES, kills=True, stops_reports=True),
    Fault("freeze one of two bridges", freeze("a bridge", for_s=SHORT), setup=TWO_BRIDGES, stops_reports=True),
    Fault("restart one of two bridges", restart("a bridge"), setup=TWO_BRIDGES),
    # The broker's store.
    Fault(
        "store older than the job",
        store_restored(age_s=None),
        prepare=copy_store,
        moment=(0.1, 0.8),
        forgets=WENT_BACK,
    ),
    Fault("store a moment older", store_restored(age_s=(0.2, 2.0)), moment=(0.05, 0.6), forgets=WENT_BACK),
    Fault("store emptied", store_emptied, forgets=WENT_BACK),
    Fault("quota full for some seconds", fill_quota, on=("nats",), setup=SMALL_STORE),
    Fault("disk full for some seconds", fill_disk, setup=SMALL_DISK, needs_root=True, forgets=WENT_BACK),
    # The network between a part and the broker.
    Fault("server cut off", cut("server"), setup=PROXIED),
    Fault("bridge cut off", cut("bridge"), setup=PROXIED, stops_reports=True),
    Fault(
        "all cut off five times", cut("server", "bridge", times=5, for_s=(0.0, 0.5)), setup=PROXIED, stops_reports=True
    ),
    Fault("server hears nothing", silence("server", for_s=(4.0, 14.0)), setup=PROXIED),
    Fault("bridge hears nothing", silence("bridge", for_s=(4.0, 14.0)), setup=PROXIED, stops_reports=True),
    Fault("slow link", slow_down("bridge", bytes_per_s=20_000, for_s=(3.0, 6.0)), setup=PROXIED, stops_reports=True),
    # What anyone may publish.
    Fault("garbage updates", publish_garbage("updates")),
    Fault("garbage tasks", publish_garbage("tasks")),
    Fault("garbage reports", publish_garbage("reports")),
    Fault("garbage jobs", publish_garbage("jobs")),
    Fault("garbage records", publish_garbage("records")),
    Fault("garbage register", publish_garbage("register")),
    Fault("garbage presence", publish_garbage("presence")),
    Fault("garbage progress", publish_garbage("progress")),
    Fault("updates published again", forge_updates("copy")),
    Fault("updates as another client's", forge_updates("other client")),
    Fault("updates for the next round", forge_updates("other round")),
    Fault("flood of another job's progress", flood),
    # The user's code misbehaves once. What ends by a signal is tried again; what ends by itself, or has gone beyond a
    # limit, is not: its round fails.
    Fault("training segfaults", misbehave("training", "segfaults")),
    Fault("training ends its process", misbehave("training", "ends"), fails_round=True),
    Fault("training hangs", misbehave("training", "hangs"), setup=SHORT_SILENCE, fails_round=True),
    Fault("training forks and hangs", misbehave("training", "forks and hangs"), setup=SHORT_SILENCE, fails_round=True),
    Fault("training forks and ends", misbehave("training", "forks and ends"), fails_round=True),
    Fault("training writes garbage", misbehave("training", "writes garbage"), setup=SHORT_SILENCE, fails_round=True),
    Fault("training closes descriptors", misbehave("training", "closes descriptors"), fails_round=True),
    Fault("training kills its parent", misbehave("training", "kills its parent")),
    Fault(
        "training takes memory",
        misbehave("training", "takes memory in children"),
        setup=LITTLE_MEMORY,
        fails_round=True,
    ),
    Fault("import segfaults", misbehave_at_import("segfaults"), kills=True),
    Fault("constructor segfaults", misbehave("constructor", "segfaults")),
    Fault("server's constructor ends", misbehave("constructor", "ends"), moment=START, fails_round=True),
    Fault("judgement segfaults", misbehave("judgement", "segfaults"), moment=EARLY),
    Fault(
        "judgement hangs",
        misbehave("judgement", "hangs"),
        setup=SHORT_SILENCE,
        moment=EARLY,
        phases=("completed", "failed"),
    ),
    # What people do.
    Fault("cancel", cancel, phases=("completed", "cancelled")),
    Fault("same id twice", submit_twice),
    # Clocks that are ten minutes off.
    Fault("server's clock behind", nothing, setup=SERVER_BEHIND),
    Fault("server's clock ahead", nothing, setup=SERVER_AHEAD),
    Fault("bridge's clock behind", nothing, setup=BRIDGE_BEHIND),
    Fault("bridge's clock ahead", nothing, setup=BRIDGE_AHEAD),
    # A platform.
    Fault("OpenFaaS: function killed", function("kill"), setup=FAAS, kills=True),
    Fault("OpenFaaS: function busy", function("refuse"), setup=FAAS),
    Fault("OpenFaaS: an answer is lost", function("hang", (1, 1)), setup=FAAS),
    Fault("OpenFaaS: function vanishes", function("vanish"), setup=FAAS, kills=True),
    Fault("OpenFaaS: gateway away", gateway_away, setup=FAAS),
    Fault("OpenFaaS: kill server", kill("server"), setup=FAAS, kills=True),
    Fault("OpenFaaS: kill bridge", kill("bridge"), setup=FAAS, kills=True, stops_reports=True),
    Fault("OpenFaaS: restart bridge", restart("bridge"), setup=FAAS),
    Fault("OpenFaaS: kill broker", kill("broker"), setup=FAAS, forgets=LAST_SECOND),
    Fault("OpenFaaS: freeze broker", freeze("broker", for_s=SHORT), setup=FAAS),
)


def named(name: str) -> Fault:
    """Return a row by its name.

    Raises:
        KeyError: there is none.
    """
    return {fault.name: fault for fault in FAULTS}[name]


def possible(broker: str) -> list[Fault]:
    """Return the rows that this user can try with a broker."""
    return [fault for fault in FAULTS if fault.is_possible(broker)]

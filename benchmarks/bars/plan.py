"""All bars, and what measures each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.bars import noop, server, starts, training, triggers
from benchmarks.bars.bar import Bar, Found, NotMeasured, Row
from benchmarks.bars.noop import Measure, large_updates, measuring, small_updates


@dataclass(frozen=True)
class Measurement:
    """What is measured at once.

    Attributes:
        name: what the command line calls it.
        bars: what it measures.
        measure: measures it.
    """

    name: str
    bars: tuple[Bar, ...]
    measure: Measure


@dataclass(frozen=True)
class Derived:
    """A bar that follows from the rows of others.

    Attributes:
        bar: the bar.
        of: the rows that it follows from.
        derive: returns what was found, from these rows.
    """

    bar: Bar
    of: tuple[str, ...]
    derive: Callable[[Mapping[str, Row]], Found]


def _one(bar: Bar, measure: Measure) -> Measurement:
    return Measurement(bar.name, (bar,), measure)


def _noop(bar: Bar, shape: noop.Shape) -> Measurement:
    return _one(bar, measuring(bar.name, shape))


_UPDATES: Final = "no training, 2.3 MB each"
_SMALL: Final = "no training, 1,210 parameters"

MEASUREMENTS: Final = (
    _noop(Bar("noop-10", f"{_UPDATES}: 10 clients", ratio=0.3), large_updates(10)),
    Measurement(
        "noop-100",
        (
            Bar("noop-100", f"{_UPDATES}: 100 clients", limit=0.6, ratio=0.35),
            Bar("commit-100", "from the last update to the committed model", "ms", limit=10.0),
        ),
        measuring("noop-100", large_updates(100), commit="commit-100"),
    ),
    _noop(Bar("noop-100-bf16", f"{_UPDATES}, as bf16: 100 clients", limit=0.4), large_updates(100, update="bf16")),
    _noop(Bar("noop-100-int8", f"{_UPDATES}, as int8: 100 clients", limit=0.3), large_updates(100, update="int8")),
    _one(Bar("noop-10-deployed", f"{_UPDATES}: 10, Flower deployed", ratio=0.01), noop.measure_deployed),
    _noop(Bar("clients-10", f"{_SMALL}: 10 clients"), small_updates(10)),
    _noop(Bar("clients-100", f"{_SMALL}: 100 clients"), small_updates(100)),
    _noop(Bar("clients-1000", f"{_SMALL}: 1,000 clients", limit=2.0), small_updates(1000)),
    _noop(Bar("clients-10000", f"{_SMALL}: 10,000 clients", limit=15.0), small_updates(10000)),
    *(
        _noop(Bar(f"parameters-{text}", f"no training, {text} parameters: 4 clients"), shape)
        for text, shape in (
            ("1e4", noop.of_parameters(10)),
            ("1e5", noop.of_parameters(100)),
            ("1e6", noop.of_parameters(1000)),
            ("1e7", noop.of_parameters(10_000)),
            ("1e8", noop.of_parameters(100_000)),
        )
    ),
    _one(Bar("memory-clients", "server's memory: 1,000 clients beside 10", "MB", ratio=1.1), server.measure_memory),
    Measurement(
        "large",
        (
            Bar("large-memory", "server's memory in models of 500 MB", "x", limit=5.0),
            Bar("large-down", "the model to 4 clients", "MB/s", limit=200.0, is_more_better=True),
            Bar("large-up", "4 updates to the broker", "MB/s", limit=200.0, is_more_better=True),
        ),
        server.measure_large,
    ),
    _one(
        Bar("share-carry", "MNIST round that is no training loop", "%", limit=6.0),
        training.share("share-carry", "carry"),
    ),
    _one(
        Bar("share-reset", "the same without carried optimizer states", "%", limit=3.0),
        training.share("share-reset", "reset"),
    ),
    _one(
        Bar("loop-nn", "training loop of `nn` beside plain torch", "/s", ratio=0.97, is_more_better=True),
        training.loop("loop-nn", "nn"),
    ),
    _one(
        Bar("loop-cnn", "training loop of `cnn` beside plain torch", "/s", ratio=0.97, is_more_better=True),
        training.loop("loop-cnn", "cnn"),
    ),
    Measurement(
        "quickstart",
        (
            Bar("quickstart-first", "quickstart: Enter to the first counted update", limit=2.5),
            Bar("quickstart", "quickstart: Enter to its end", limit=9.0),
        ),
        starts.measure_quickstart,
    ),
    _one(Bar("worker", "a new local worker, to its first step", limit=0.3), starts.measure_worker),
    _one(
        Bar("trigger-openfaas", "OpenFaaS beyond the function's time", "ms", limit=10.0),
        triggers.measure_openfaas,
    ),
    _one(
        Bar("trigger-openwhisk", "OpenWhisk until the function begins", "ms", limit=10.0),
        triggers.measure_openwhisk,
    ),
)


def _flat(rows: Mapping[str, Row]) -> Found:
    costs = [row["measured"] / row["clients"] for row in rows.values()]
    return Found([max(costs) / min(costs)], facts={"ms_per_client": [round(1000 * cost, 3) for cost in costs]})


DERIVED: Final = (
    Derived(
        Bar("clients-flat", "per client, 100 to 10,000: most by least", "x", limit=1.2),
        ("clients-100", "clients-1000", "clients-10000"),
        _flat,
    ),
)

BARS: Final = {
    bar.name: bar for bar in (*(bar for each in MEASUREMENTS for bar in each.bars), *(each.bar for each in DERIVED))
}


def chosen(names: Sequence[str]) -> tuple[list[Measurement], list[Derived]]:
    """Return what has to be measured for some bars.

    Args:
        names: of measurements or bars, or what these begin with; none: all.

    Raises:
        NotMeasured: there is no such bar.
    """
    known = {*BARS, *(each.name for each in MEASUREMENTS)}
    wanted = set[str]() if names else known
    for name in names:
        # A whole name is not also the beginning of others.
        found = {name} if name in known else {each for each in known if each.startswith(name)}
        if not found:
            raise NotMeasured(f"there is no bar {name!r}: {', '.join(BARS)}")
        wanted |= found
    derived = [each for each in DERIVED if each.bar.name in wanted]
    wanted |= {name for each in derived for name in each.of}
    measured = [each for each in MEASUREMENTS if wanted & {each.name, *(bar.name for bar in each.bars)}]
    return measured, derived

"""Rounds without training, beside Flower's."""

import contextlib
import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks import noop_round
from benchmarks.bars import flower
from benchmarks.bars.bar import Found
from benchmarks.bars.session import Session
from benchmarks.noop_round import SMALL, Rounds

CNN: Final = {"type": "cnn"}
"""The paper's model of 582,026 parameters."""

CNN_SHAPES: Final = ((32, 1, 5, 5), (32,), (64, 32, 5, 5), (64,), (512, 1024), (512,), (10, 512), (10,))

INPUTS: Final = 989
"""With so many inputs, `nn` has 1,000 parameters per hidden unit, and 10."""

CLIENTS_OF_LARGE: Final = 4

SMALL_COHORTS: Final = {10: 2, 100: 3, 1000: 4, 10000: 5}
"""How many clients there are instead, where all is small."""

Measure = Callable[[Session], Awaitable[dict[str, Found]]]


@dataclass(frozen=True)
class Shape:
    """A round's shape.

    Attributes:
        clients: number of clients.
        model: the section `[model]` of the job.
        tensors: shapes of the model's tensors.
        training: more of the section `[training]`.
        has_peer: whether Flower runs the same.
    """

    clients: int
    model: Mapping[str, Any]
    tensors: tuple[tuple[int, ...], ...]
    training: dict[str, Any] = field(default_factory=dict)
    has_peer: bool = True

    @property
    def parameters(self) -> int:
        """Number of the model's parameters."""
        sizes = []
        for shape in self.tensors:
            size = 1
            for each in shape:
                size *= each
            sizes.append(size)
        return sum(sizes)

    def small(self) -> "Shape":
        """Return the same with a small model and few clients."""
        clients = SMALL_COHORTS.get(self.clients, 2)
        return Shape(clients, SMALL, shapes_of(64, 16), self.training, self.has_peer)


def shapes_of(inputs: int, hidden: int) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of the tensors of `nn`.

    Args:
        inputs: its `input_size`.
        hidden: its `hidden`.
    """
    return ((hidden, inputs), (hidden,), (10, hidden), (10,))


def large_updates(clients: int, **training: Any) -> Shape:
    """Return a round with updates of 2.3 MB.

    Args:
        clients: number of clients.
        training: more of the section `[training]`. Flower has nothing like it, so there is no peer then.
    """
    return Shape(clients, CNN, CNN_SHAPES, training, has_peer=not training)


def small_updates(clients: int) -> Shape:
    """Return a round with a model of 1,210 parameters.

    Args:
        clients: number of clients.
    """
    # Flower looks at each of 10,000 nodes over and over, and needs minutes for a round.
    return Shape(clients, SMALL, shapes_of(64, 16), has_peer=clients <= 1000)


def of_parameters(thousands: int) -> Shape:
    """Return a round of a few clients with a model of so many thousand parameters."""
    model = {"type": "nn", "args": {"input_size": INPUTS, "hidden": thousands}}
    return Shape(CLIENTS_OF_LARGE, model, shapes_of(INPUTS, thousands))


def measuring(name: str, shape: Shape, *, commit: str = "") -> Measure:
    """Return what measures a round.

    Args:
        name: name of the bar for the whole round.
        shape: the round's.
        commit: name of the bar for what lies between the last counted update and the committed model, in ms; empty:
            none.
    """

    async def measure(session: Session) -> dict[str, Found]:
        this = shape.small() if session.is_small else shape
        async with contextlib.AsyncExitStack() as stack:
            peer = None
            if session.with_peers and this.has_peer:
                arguments = (session.new_folder(), this.clients, this.tensors)
                peer = await stack.enter_async_context(flower.simulation(*arguments, own=session.own))
            rounds, others = await _alternate(session, this, peer)
        facts = {
            "clients": this.clients,
            "parameters": this.parameters,
            "phases_ms": {name: _ms(rounds.phase_s(name)) for name in noop_round.PHASES},
            "cpu_ms": {role: _ms(used) for role, used in rounds.cpu_s.items()},
            **({"peer_versions": peer.versions} if peer else {}),
        }
        found = {name: Found(rounds.periods_s, others, "Flower's simulation", facts)}
        if commit:
            values = [1000 * completed.split.aggregation_s for completed in rounds.completed]
            found[commit] = Found(values, facts={"clients": this.clients, "parameters": this.parameters})
        return found

    return measure


async def _alternate(session: Session, shape: Shape, peer: flower.Simulation | None) -> tuple[Rounds, list[float]]:
    """Run our rounds and the peer's in turns. The first rounds of a turn do not count, on either side."""
    parts, others = list[Rounds](), list[float]()
    async with session.system() as sdk:
        await noop_round.register(sdk, shape.clients)
        for count in session.turns(has_peer=peer is not None):
            job = noop_round.job(shape.clients, count, shape.model, **shape.training)
            parts.append(await noop_round.measure(sdk, job))
            if peer is not None:
                await peer.rounds(noop_round.WARM_UP)
                others += await peer.rounds(count)
    roles = {role for part in parts for role in part.cpu_s}
    cpu = {role: statistics.mean(part.cpu_s.get(role, 0.0) for part in parts) for role in sorted(roles)}
    completed = [each for part in parts for each in part.completed]
    return Rounds(completed, [each for part in parts for each in part.periods_s], cpu), others


async def measure_deployed(session: Session) -> dict[str, Found]:
    """Measure ten clients beside Flower's deployment with ten nodes, whose rounds take a minute: two of them count."""
    shape = large_updates(10)
    this = shape.small() if session.is_small else shape
    others = []
    if session.with_peers:
        others = (await flower.deployment(this.clients, this.tensors, 3, own=True))[1:]
    rounds, _ = await _alternate(session, this, None)
    facts = {"clients": this.clients, "parameters": this.parameters}
    return {"noop-10-deployed": Found(rounds.periods_s, others, "Flower deployed", facts)}


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)

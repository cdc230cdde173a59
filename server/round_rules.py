"""How the updates of a round are checked and added, and what the strategy gets of them when the round is closed."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from broker.messages.job_record import JobRecord
from broker.messages.tensors import Tensors
from server import cohort, round_facts
from server.collection import Collection
from server.gate import Expectation
from server.shares import Shares
from server.spool import Reduced, Spool
from server.strategies.base import Finished, GlobalState, ModelInfo, Strategy


@dataclass(frozen=True, slots=True)
class RoundRules:
    """How the updates of a round are checked, added and finished.

    Attributes:
        record: the job's record while the round is open.
        strategy: the job's strategy.
        model: the round's model.
        expectation: what an update must be.
        shares: with which weight and factors it is added.
    """

    record: JobRecord
    strategy: Strategy
    model: ModelInfo
    expectation: Expectation
    shares: Shares

    @classmethod
    def of(cls, record: JobRecord, state: GlobalState, strategy: Strategy, nonce: str) -> "RoundRules":
        """Return the rules of the open round.

        Args:
            record: the job's record.
            state: the global model and the strategy's tensors.
            strategy: the job's strategy.
            nonce: secret text from which the round's tokens are made.
        """
        model = round_facts.model_info(record, state.weights)
        expectation = round_facts.expectation(record, state.weights, nonce, strategy)
        shares = Shares(strategy, record, expectation.plan, model.weights, state.server_state)
        return cls(record, strategy, model, expectation, shares)

    @contextlib.contextmanager
    def spooling(self, collection: Collection) -> Iterator[None]:
        """Keep the counted updates until the end of the block, if the strategy must see all at once.

        Args:
            collection: gets the updates.
        """
        trainers = cohort.ids(self.record.cohort, "train")
        if not self.strategy.needs_all or not trainers:
            yield
            return
        codec, names = self.expectation.codec, sorted(self.model.weights)
        scaled = codec.scaled if codec is not None else ()
        with Spool(self.expectation.plan, names, len(trainers), scaled) as collection.spool:
            yield
        collection.spool = None

    async def finish(self, collection: Collection) -> Finished:
        """Take the mean of the round's updates, and reduce them all at once if the strategy asks for that.

        Args:
            collection: the counted updates and their sums.
        """
        shares = {client: collection.shares[client] for client in sorted(collection.headers)}
        reduction, reduced = self.strategy.reduction(list(shares.values())), Tensors()
        if reduction is not None and collection.spool is not None:
            updates = [Reduced(client, self.shares.factors(share)) for client, share in shares.items()]
            reduced = await asyncio.to_thread(collection.spool.reduce, updates, reduction)
        told = collection.headers, collection.shares
        return Finished(self.record, self.model, collection.aggregate.mean(), self.expectation.form, *told, reduced)

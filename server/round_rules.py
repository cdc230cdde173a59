"""How the updates of a round are checked and added, and what the strategy gets of them when the round is closed."""

from dataclasses import dataclass

from broker.base import Broker
from broker.messages.job_record import JobRecord
from broker.messages.tensors import Tensors
from server import replay, round_facts
from server.collecting import Collection
from server.gate import Expectation
from server.shares import Shares
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

    async def finish(self, broker: Broker, collection: Collection) -> Finished:
        """Take the mean of the round's updates, and reduce them one by one if the strategy asks for that.

        Args:
            broker: has the updates.
            collection: the counted updates and their sums.

        Raises:
            CorruptPayload: an update is in the log no longer.
        """
        shares = {client: collection.shares[client] for client in sorted(collection.headers)}
        reduction, replayed = self.strategy.reduction(list(shares.values())), Tensors()
        if reduction is not None:
            updates = [
                replay.Update(collection.headers[client], self.shares.factors(share))
                for client, share in shares.items()
            ]
            replayed = await replay.reduce_updates(broker, updates, self.expectation, self.model.weights, reduction)
        told = collection.headers, collection.shares
        return Finished(self.record, self.model, collection.aggregate.mean(), self.expectation.form, *told, replayed)

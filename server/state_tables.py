"""The states that clients' next tasks name: a round writes as many of them as its cohort has members. Pure."""

from collections.abc import Mapping
from typing import Final

from broker.messages.job_record import JobRecord
from broker.messages.round import OPTIMIZER_STATE, BlobRef
from broker.messages.state_table import ClientState, StateTable

MOST_TABLES: Final = 16
"""After so many tables of one round each, one of all clients takes their place."""

_NOTHING: Final = ClientState()


class StateTables:
    """All entries of a job's tables.

    Args:
        record: the job's record. That of version 0.1 has the clients' optimizer states itself.
    """

    def __init__(self, record: JobRecord) -> None:
        self._clients = {client: ClientState({OPTIMIZER_STATE: ref}) for client, ref in record.states.items()}
        self._superseded: list[BlobRef] = []

    def of(self, client: str) -> ClientState:
        """Return what a client's next task names; empty: nothing."""
        return self._clients.get(client, _NOTHING)

    def read(self, table: StateTable) -> None:
        """Add a table that the record names; they come oldest first."""
        self._clients |= table.clients

    def next_table(self, record: JobRecord, new: Mapping[str, ClientState]) -> StateTable | None:
        """Return the table to write after a round; None: nothing has changed.

        Args:
            record: the job's record while the round is open.
            new: what the round's counted updates have left, by client.
        """
        changed = {client: state for client, state in new.items() if state != self.of(client)}
        if not changed:
            return None
        if is_full(record):
            # It takes the place of all tables, also if it is empty.
            changed = {client: state for client, state in (self._clients | changed).items() if state != _NOTHING}
        return StateTable(record.round, dict(sorted(changed.items())))

    def take(self, new: Mapping[str, ClientState]) -> None:
        """Take over what a round's counted updates have left, once that is on record.

        Args:
            new: by client.
        """
        for client, state in new.items():
            kept = state.states.values()
            self._superseded += [ref for ref in self.of(client).states.values() if ref not in kept]
            self._clients[client] = state

    def topics(self) -> set[str]:
        """Return where all states are that next tasks name."""
        return {ref.topic for state in self._clients.values() for ref in state.states.values()}

    def take_superseded(self) -> list[BlobRef]:
        """Return the states that no task will name any more and that were not returned before."""
        found, self._superseded = self._superseded, []
        return found


def is_full(record: JobRecord) -> bool:
    """Return whether the next table has to hold all clients."""
    return bool(record.states) or len(record.state_tables) >= MOST_TABLES

"""Whether a job's clients can keep personal layers, as far as the register tells. Pure."""

from collections.abc import Iterable
from typing import Final

from broker.messages import personal
from broker.messages.job import Job
from broker.messages.register import ClientRecord
from server.errors import JobCannotContinue

_NAMED: Final = 5
"""Most clients that a message names."""


def check(job: Job, clients: Iterable[ClientRecord]) -> None:
    """Check that each client has a place for its personal layers. Whether it can write there, only its site can tell.

    Args:
        job: says whether there are any.
        clients: the clients that may be invited.

    Raises:
        JobCannotContinue: some have no place.
    """
    if not job.model.personal:
        return
    without = [client for client in clients if not personal.folder_of(client.data_loc, client.state_loc)]
    if without:
        named = ", ".join(f"{client.id} ({_reason(client)})" for client in without[:_NAMED])
        more = f" and {len(without) - _NAMED} more" if len(without) > _NAMED else ""
        raise JobCannotContinue(
            f"model.personal needs a place that each client may write, and there is none for {named}{more}: register "
            "them with a state_loc, for example by `fedkeeper clients add --state-loc`"
        )


def _reason(client: ClientRecord) -> str:
    """Return why a client has no place. Of the place, only its scheme is shown: the rest may hold secrets."""
    loc = client.state_loc or client.data_loc
    return f"{loc.partition(':')[0]}: can't be written" if loc else "it has no data_loc"

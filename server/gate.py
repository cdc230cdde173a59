"""What an update must be before it touches the sum. Pure: bytes and expectations in, tensors or a refusal out.

An update comes from a machine that is not ours. safetensors itself accepts NaN, any shape and any name; see
`broker.messages.tensors` for what is checked of the file.
"""

import hmac
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from broker import topics
from broker.errors import BadTopic
from broker.messages import tensors as payload
from broker.messages.errors import DecodeError, SchemaTooNew
from broker.messages.job_record import Member
from broker.messages.round import BlobRef, token
from broker.messages.tensors import Tensors
from broker.messages.update import UpdateHeader
from broker.topics import UpdateTopic
from server.aggregator import Plan
from server.errors import Refused

CODES: Final = (
    "late",  # its round is over
    "early",  # its round is not open yet
    "foreign",  # another job, a client outside the cohort, or a topic that is not its own
    "token",  # it answers no task of this round
    "base",  # trained from another global model
    "duplicate",  # this client is counted already
    "malformed",  # not a safetensors file with an update's metadata
    "schema",  # a newer version's, which this server would misunderstand
    "layout",  # other names, shapes or dtypes than the model's
    "finite",  # NaN or infinity
    "magnitude",  # absurdly large
    "samples",  # none, or more than the client can have
)

_METADATA_BYTES: Final = 64 << 10

_SHA256: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Expected:
    """What the open round expects of an update.

    Attributes:
        job: the job's id.
        round: the open round's number.
        base: digest of the global model that it starts from.
        nonce: what its tokens are made from.
        members: the cohort, by client id.
        plan: names, shapes, dtypes and bounds.
        max_samples: for clients whose shard's size the register does not know.
    """

    job: str
    round: int
    base: str
    nonce: str
    members: Mapping[str, Member]
    plan: Plan
    max_samples: int

    def most_samples(self, client: str) -> int:
        """How many samples the client can claim at the most."""
        return self.members[client].samples or self.max_samples

    @property
    def largest(self) -> int:
        """Bytes that no update of this round exceeds."""
        layout = self.plan.layout
        tensors = sum(payload.DTYPES[dtype].itemsize * int(np.prod(shape)) for dtype, shape in layout.values())
        return tensors + _METADATA_BYTES + 1024 * len(layout)


def address(topic: str) -> UpdateTopic:
    """Read an update's topic.

    Raises:
        Refused: it is no update's topic.
    """
    try:
        return topics.parse_update(topic)
    except BadTopic as exc:
        raise Refused("foreign", f"{topic} is no update's topic") from exc


def admit(where: UpdateTopic, expected: Expected, counted: Container[str]) -> None:
    """Check what the topic alone tells, before the payload is fetched.

    Raises:
        Refused: the update can't count.
    """
    if where.round < expected.round:
        raise Refused("late", f"round {where.round} is over, round {expected.round} is open")
    if where.round > expected.round:
        raise Refused("early", f"round {where.round} is not open yet, round {expected.round} is")
    if where.job != expected.job or where.client not in expected.members:
        raise Refused("foreign", f"{where.client} is not in the cohort of round {expected.round}")
    if where.client in counted:
        raise Refused("duplicate", f"{where.client} is counted already")


def check(update: bytes, where: UpdateTopic, expected: Expected) -> tuple[UpdateHeader, Tensors]:
    """Check everything else.

    Returns:
        The update's metadata, and its tensors as views of `update`.

    Raises:
        Refused: it does not count, and why.
    """
    try:
        tensors, metadata = payload.decode(update, expected=len(expected.plan.layout))
        header = UpdateHeader.from_metadata(metadata)
    except SchemaTooNew as exc:
        raise Refused("schema", str(exc)) from exc
    except DecodeError as exc:
        raise Refused("malformed", str(exc)) from exc
    _check_header(header, where, expected)
    _check_layout(tensors, expected.plan)
    for name, tensor in tensors.items():
        if name in expected.plan.bounds:
            _check_values(name, tensor, expected.plan.bounds[name])
    return header, tensors


def _check_header(header: UpdateHeader, where: UpdateTopic, expected: Expected) -> None:
    claimed = UpdateTopic(header.job, header.round, header.client, header.attempt)
    if claimed != where:
        raise Refused("foreign", f"it says it is {claimed}, but was published as {where}")
    if header.state is not None:
        _check_state(header.state, where)
    if not hmac.compare_digest(header.token.encode(), token(expected.nonce, where.client).encode()):
        raise Refused("token", "its token is not the one of this round's task")
    if header.base != expected.base:
        raise Refused("base", f"trained from {header.base[:12]}, the round's model is {expected.base[:12]}")
    most = expected.most_samples(where.client)
    if not 1 <= header.samples <= most:
        raise Refused("samples", f"it claims {header.samples} samples, 1 to {most} are possible")
    if not all(np.isfinite(value) for value in header.metrics.values()):
        raise Refused("finite", "a metric is not finite")


def _check_state(state: BlobRef, where: UpdateTopic) -> None:
    """The server hands a state on, and purges its topic once it is superseded: it must be the update's own."""
    own = topics.optimizer_state(where.job, where.client, where.round, where.attempt)
    if state.topic != own or not _SHA256.fullmatch(state.sha256):
        raise Refused("foreign", "the optimizer state that it names is not its own")


def _check_layout(tensors: Tensors, plan: Plan) -> None:
    got = payload.layout(tensors)
    if got.keys() != plan.layout.keys():
        missing, extra = sorted(plan.layout.keys() - got.keys()), sorted(got.keys() - plan.layout.keys())
        raise Refused("layout", f"tensors missing: {missing[:5]}, not asked for: {extra[:5]}")
    for name, wanted in plan.layout.items():
        if got[name] != wanted:
            raise Refused("layout", f"{name} is {got[name]}, the model's is {wanted}")


def _check_values(name: str, tensor: payload.Array, bound: float) -> None:
    if not tensor.size:
        return
    # Two passes without a temporary: NaN makes both extremes NaN, and infinities show in one of them.
    with np.errstate(invalid="ignore"):  # bfloat16's NaN would be a warning on top
        low, high = float(tensor.min()), float(tensor.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Refused("finite", f"{name} holds NaN or infinity")
    if max(-low, high) > bound:
        raise Refused("magnitude", f"{name} reaches {max(-low, high):g}, at most {bound:g} is accepted")

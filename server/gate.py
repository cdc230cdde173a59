"""Checks an update before it is added to the sum. Pure: bytes and an expectation in, tensors or a refusal out.

Updates come from machines that the server does not control. safetensors itself accepts NaN, any shape and any name;
`broker.messages.tensors` checks the file format.
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
from broker.messages.round import token
from broker.messages.tensors import Tensors
from broker.messages.update import UpdateHeader
from broker.topics import UpdateTopic
from server.aggregator import Plan
from server.errors import Refused

CODES: Final = (
    "late",  # its round is over
    "early",  # its round is not open yet
    "foreign",  # another job, a client outside the cohort, or a topic that is not its own
    "token",  # not the token of a task of this round
    "base",  # trained from another global model
    "duplicate",  # this client is already counted
    "malformed",  # not a safetensors file with an update's metadata
    "schema",  # written by a newer version, which this server would misunderstand
    "layout",  # other names, shapes or dtypes than the model's
    "finite",  # NaN or infinity
    "magnitude",  # values far too large
    "samples",  # zero, or more than the client can have
)
"""The codes of refusals."""

_METADATA_BYTES: Final = 64 << 10

_SHA256: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the open round expects of an update.

    Attributes:
        job: the job's id.
        round: number of the open round.
        base: SHA-256 of the global model that the round starts from, in hex.
        nonce: secret text from which the round's tokens are made.
        members: the cohort, by client id.
        plan: names, shapes, dtypes and bounds of the tensors.
        max_samples: limit for every client, also if the register says that it has more.
    """

    job: str
    round: int
    base: str
    nonce: str
    members: Mapping[str, Member]
    plan: Plan
    max_samples: int

    def max_samples_of(self, client: str) -> int:
        """The largest number of samples that a client may claim."""
        return min(self.members[client].samples or self.max_samples, self.max_samples)

    @property
    def max_bytes(self) -> int:
        """Upper bound of an update's size in bytes."""
        layout = self.plan.layout
        tensors = sum(payload.DTYPES[dtype].itemsize * int(np.prod(shape)) for dtype, shape in layout.values())
        return tensors + _METADATA_BYTES + 1024 * len(layout)


def parse_topic(topic: str) -> UpdateTopic:
    """Parse an update's topic.

    Raises:
        Refused: the topic is not an update's.
    """
    try:
        return topics.parse_update(topic)
    except BadTopic as exc:
        raise Refused("foreign", f"{topic} is no update's topic") from exc


def admit(topic: UpdateTopic, expectation: Expectation, counted: Container[str]) -> None:
    """Check the topic of an update, before its payload is fetched.

    Args:
        topic: the update's topic.
        expectation: what the open round expects.
        counted: ids of the clients that are already counted.

    Raises:
        Refused: the update can't count.
    """
    if topic.round < expectation.round:
        raise Refused("late", f"round {topic.round} is over, round {expectation.round} is open")
    if topic.round > expectation.round:
        raise Refused("early", f"round {topic.round} is not open yet, round {expectation.round} is")
    if topic.job != expectation.job or topic.client not in expectation.members:
        raise Refused("foreign", f"{topic.client} is not in the cohort of round {expectation.round}")
    if topic.client in counted:
        raise Refused("duplicate", f"{topic.client} is counted already")


def check(update: bytes, topic: UpdateTopic, expectation: Expectation) -> tuple[UpdateHeader, Tensors]:
    """Check the payload of an update.

    Args:
        update: the safetensors file.
        topic: the update's topic.
        expectation: what the open round expects.

    Returns:
        The update's metadata, and its tensors as views of `update`.

    Raises:
        Refused: the update does not count.
    """
    try:
        tensors, metadata = payload.decode(update, expected=len(expectation.plan.layout))
        header = UpdateHeader.from_metadata(metadata)
    except SchemaTooNew as exc:
        raise Refused("schema", str(exc)) from exc
    except DecodeError as exc:
        raise Refused("malformed", str(exc)) from exc
    _check_header(header, topic, expectation)
    _check_tensors(tensors, expectation.plan)
    return header, tensors


def _check_header(header: UpdateHeader, topic: UpdateTopic, expectation: Expectation) -> None:
    claim = UpdateTopic(header.job, header.round, header.client, header.attempt)
    if claim != topic:
        raise Refused("foreign", f"it says it is {claim}, but was published as {topic}")
    if header.state is not None:
        # The server names a state in the next task and purges its topic later, so it must belong to the update.
        own = topics.optimizer_state(topic.job, topic.client, topic.round, topic.attempt)
        if header.state.topic != own or not _SHA256.fullmatch(header.state.sha256):
            raise Refused("foreign", "the optimizer state that it names is not its own")
    if not hmac.compare_digest(header.token.encode(), token(expectation.nonce, topic.client).encode()):
        raise Refused("token", "its token is not the one of this round's task")
    if header.base != expectation.base:
        raise Refused("base", f"trained from {header.base[:12]}, the round's model is {expectation.base[:12]}")
    most = expectation.max_samples_of(topic.client)
    if not 1 <= header.samples <= most:
        limit = "cohort.max_samples" if most == expectation.max_samples else "the register's number for this client"
        raise Refused("samples", f"it claims {header.samples} samples, 1 to {most} are possible: correct {limit}")
    if not all(np.isfinite(value) for value in header.metrics.values()):
        raise Refused("finite", "a metric is not finite")


def _check_tensors(tensors: Tensors, plan: Plan) -> None:
    layout = payload.layout(tensors)
    if layout.keys() != plan.layout.keys():
        missing, extra = sorted(plan.layout.keys() - layout.keys()), sorted(layout.keys() - plan.layout.keys())
        raise Refused("layout", f"tensors missing: {missing[:5]}, not asked for: {extra[:5]}")
    for name, entry in plan.layout.items():
        if layout[name] != entry:
            raise Refused("layout", f"{name} is {layout[name]}, the model's is {entry}")
    for name, tensor in tensors.items():
        if name not in plan.bounds or not tensor.size:
            continue
        # Two passes without a temporary: NaN makes both extremes NaN, and infinity is one of them.
        with np.errstate(invalid="ignore"):  # bfloat16's NaN also causes a warning
            low, high = float(tensor.min()), float(tensor.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise Refused("finite", f"{name} holds NaN or infinity")
        if max(-low, high) > plan.bounds[name]:
            raise Refused("magnitude", f"{name} reaches {max(-low, high):g}, at most {plan.bounds[name]:g} is accepted")

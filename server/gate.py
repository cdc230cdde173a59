"""Checks an update before it is added to the sum. Pure: bytes and an expectation in, tensors or a refusal out.

Updates come from machines that the server does not control. safetensors itself accepts NaN, any shape and any name;
`broker.messages.tensors` checks the file format.
"""

import hmac
import math
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from broker import topics
from broker.errors import BadTopic
from broker.messages import tensors as payload
from broker.messages.errors import DecodeError, SchemaTooNew
from broker.messages.job_record import Member
from broker.messages.round import token
from broker.messages.tensors import Layout, Tensors
from broker.messages.update import UpdateHeader, own_states
from broker.messages.update_forms import ROUNDED, Form, form_of
from broker.topics import UpdateTopic
from server import codecs, sums, values
from server.aggregator import Plan
from server.codecs import Codec
from server.errors import Refused
from server.values import Values

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
    "flood",  # more attempts than a client can have made
    "samples",  # zero, or more than the client can have
    "personal",  # does not name the digest of the personal layers that it has left at its site
    "strategy",  # trained without the client's half of the job's strategy, or without a metric that it needs
)
"""The codes of refusals."""

PERMANENT: Final = frozenset({"schema", "layout", "samples", "personal", "strategy"})
"""Codes of refusals that a client's next update would meet again: its function or its data must be changed."""

MAX_METRIC: Final = 1e30
"""Largest magnitude of a metric: sums over any number of samples and clients stay finite."""

MAX_METRICS: Final = 2000
"""Most metrics that an update may have of the training, and of its held-out samples: some for each of many classes."""

MAX_NAME: Final = 128
"""Longest name of a metric or of a step, in characters."""

MAX_SECONDS: Final = 1e7
"""Longest duration of one step, about four months."""

MAX_STEPS: Final = 32
"""Most steps whose duration an update may tell."""

MAX_FETCHED: Final = 1 << 44
"""Most bytes that one task can have fetched: 16 TiB. The sum over a million clients fits into 64 bits."""

MIN_ATTEMPTS: Final = 64
"""Attempts of one client in a round that are read at least. The log keeps one update for each attempt, so this limits
what one client can make the server read. A bridge that dies in an attempt makes the next number higher."""

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
        start: the tensors that an update has, as the clients start from them.
        form: what an update must hold of a float tensor; an update of the other form is converted.
        codec: in how many bits an update's tensors travel; None: in those of the plan.
        strategy: the strategy whose client half an update needs; empty: any update will do.
        needs: names of the metrics that an update must have.
        has_personal: whether the model has tensors that never leave a client.
        max_samples: limit for every client, also if the register says that it has more.
        takes_sums: whether clients judge the round's model, and add sums over their held-out samples.
        max_attempts: largest number of an attempt whose update is read.
    """

    job: str
    round: int
    base: str
    nonce: str
    members: Mapping[str, Member]
    plan: Plan
    max_samples: int
    start: Tensors = field(default_factory=dict)
    form: Form = "weights"
    codec: Codec | None = None
    strategy: str = ""
    needs: tuple[str, ...] = ()
    has_personal: bool = False
    takes_sums: bool = False
    max_attempts: int = MIN_ATTEMPTS

    def max_samples_of(self, client: str) -> int:
        """The largest number of samples that a client may claim."""
        return min(self.members[client].samples or self.max_samples, self.max_samples)

    @property
    def layout(self) -> Layout:
        """The tensors of an update as they travel, without the sums."""
        return self.plan.layout if self.codec is None else self.codec.layout

    @property
    def max_bytes(self) -> int:
        """Upper bound of an update's size in bytes."""
        layout = self.layout
        tensors = sum(payload.DTYPES[dtype].itemsize * math.prod(shape) for dtype, shape in layout.values())
        return tensors + _METADATA_BYTES + 1024 * len(layout) + self.takes_sums * (sums.MAX_BYTES + _METADATA_BYTES)

    @property
    def max_tensors(self) -> int:
        """Upper bound of the number of an update's tensors."""
        return len(self.layout) + self.takes_sums * sums.MAX_TENSORS


class Checked(NamedTuple):
    """An update that counts.

    Attributes:
        header: its metadata.
        tensors: its tensors in the round's form, as views of the file where nothing was converted; none if the client
            only judges the round's model. `server.values` reads them.
        sums: the sums over the client's held-out samples.
    """

    header: UpdateHeader
    tensors: Mapping[str, Values]
    sums: Tensors


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
    if topic.attempt > expectation.max_attempts:
        raise Refused("flood", f"it is attempt {topic.attempt}, at most {expectation.max_attempts} are read")


def check(update: bytes, topic: UpdateTopic, expectation: Expectation) -> Checked:
    """Check the payload of an update.

    Args:
        update: the safetensors file.
        topic: the update's topic.
        expectation: what the open round expects.

    Raises:
        Refused: the update does not count.
    """
    try:
        tensors, metadata = payload.decode(update, expected=expectation.max_tensors)
        header = UpdateHeader.from_metadata(metadata)
    except SchemaTooNew as exc:
        is_answer = _has_token(metadata.get("token", ""), topic, expectation)
        raise Refused("schema", str(exc), is_answer=is_answer) from exc
    except DecodeError as exc:
        raise Refused("malformed", str(exc)) from exc
    _check_author(header, topic, expectation)
    try:
        return _check_content(header, tensors, topic, expectation)
    except Refused as refusal:
        raise Refused(refusal.code, refusal.reason, is_answer=True) from refusal


def _check_author(header: UpdateHeader, topic: UpdateTopic, expectation: Expectation) -> None:
    """Check that the update is an answer to its task."""
    claim = UpdateTopic(header.job, header.round, header.client, header.attempt)
    if claim != topic:
        raise Refused("foreign", f"it says it is {claim}, but was published as {topic}")
    if not _has_token(header.token, topic, expectation):
        raise Refused("token", "its token is not the one of this round's task")


def _has_token(text: str, topic: UpdateTopic, expectation: Expectation) -> bool:
    return hmac.compare_digest(text.encode(), token(expectation.nonce, topic.client).encode())


def _check_content(header: UpdateHeader, tensors: Tensors, topic: UpdateTopic, expectation: Expectation) -> Checked:
    _check_header(header, expectation)
    judged: Tensors = {}
    if expectation.takes_sums:
        tensors, judged = sums.split(tensors, expectation.plan.layout)
        sums.check(judged, header, expectation.max_samples_of(topic.client))
    if expectation.members[topic.client].purpose == "evaluate":
        # A function of an older version trains instead of judging. Nobody needs its tensors.
        return Checked(header, {}, judged)
    _check_training(header, topic, expectation)
    _check_layout(tensors, expectation.layout)
    opened = _opened(header, tensors, expectation)
    _check_values(opened, expectation)
    return Checked(header, opened, judged)


def _check_header(header: UpdateHeader, expectation: Expectation) -> None:
    # The server names a state in the next task and purges its topic later, so it must belong to the update.
    own = own_states(header)
    for name, state in header.states.items():
        if name not in own or not _SHA256.fullmatch(state.sha256):
            raise Refused("foreign", f"the state {name!r} that it names is not its own")
    if header.base != expectation.base:
        raise Refused("base", f"trained from {header.base[:12]}, the round's model is {expectation.base[:12]}")
    _check_table("metrics", header.metrics, MAX_METRICS, low=-MAX_METRIC, high=MAX_METRIC)
    _check_table("evaluation", header.evaluation, MAX_METRICS, low=-MAX_METRIC, high=MAX_METRIC)
    _check_table("seconds", header.seconds, MAX_STEPS, low=0, high=MAX_SECONDS)
    if not 0 <= header.fetched <= MAX_FETCHED:
        raise Refused("magnitude", f"it claims to have fetched {header.fetched} bytes, 0 to 2^44 are possible")


def _check_table(field_: str, table: Mapping[str, float], most: int, *, low: float, high: float) -> None:
    """Check numbers that are added up over clients and go into the job's record: JSON has no infinity."""
    if len(table) > most or any(len(name) > MAX_NAME for name in table):
        raise Refused("malformed", f"{field_} has {len(table)} names, {most} of {MAX_NAME} characters are possible")
    for name, value in table.items():
        if not math.isfinite(value):
            raise Refused("finite", f"{field_}.{name} is not finite")
        if not low <= value <= high:
            raise Refused("magnitude", f"{field_}.{name} is {value:g}, {low:g} to {high:g} are possible")


def _check_training(header: UpdateHeader, topic: UpdateTopic, expectation: Expectation) -> None:
    most = expectation.max_samples_of(topic.client)
    if not 1 <= header.samples <= most:
        limit = "cohort.max_samples" if most == expectation.max_samples else "the register's number for this client"
        raise Refused("samples", f"it claims {header.samples} samples, 1 to {most} are possible: correct {limit}")
    if expectation.has_personal and not _SHA256.fullmatch(header.personal):
        raise Refused("personal", "it names no SHA-256 digest of the client's personal layers: upgrade the function")
    if expectation.strategy not in ("", header.strategy):
        reason = f"trained as {header.strategy}, the job's strategy is {expectation.strategy}"
        raise Refused("strategy", f"{reason}: upgrade the function")
    asked = "delta" if expectation.codec is None else expectation.codec.update
    if header.update != asked and not ROUNDED.isdisjoint({header.update, asked}):
        raise Refused("layout", f"it holds {header.update!r}, the job asks for {asked!r}: upgrade the function")
    if missing := [name for name in expectation.needs if name not in header.metrics]:
        raise Refused("strategy", f"the strategy needs the metrics {', '.join(missing)}, and the update has them not")


def _check_layout(tensors: Tensors, expected: Layout) -> None:
    layout = payload.layout(tensors)
    if layout.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - layout.keys()), sorted(layout.keys() - expected.keys())
        reason = f"tensors missing: {missing[:5]}, not asked for: {extra[:5]}"
        raise Refused("layout", f"{reason}: the site must have the code of the job's model")
    for name, entry in expected.items():
        if layout[name] != entry:
            raise Refused("layout", f"{name} is {layout[name]}, the model's is {entry}")


def _opened(header: UpdateHeader, tensors: Tensors, expectation: Expectation) -> Mapping[str, Values]:
    """Return the tensors in the round's form. Without a conversion, they are views of the file."""
    if expectation.codec is not None and expectation.codec.is_rounded:
        return expectation.codec.open(tensors)
    return tensors if form_of(header.update) == expectation.form else _converted(tensors, expectation)


def _converted(tensors: Tensors, expectation: Expectation) -> Tensors:
    """Return the tensors in the round's form, computed in their own dtype as a function does. Auxiliary ones stay."""
    sign = -1 if expectation.form == "delta" else 1
    with np.errstate(all="ignore"):  # what is not finite is refused afterwards
        return {
            name: np.asarray(tensor + sign * expectation.start[name])
            if name in expectation.start and name in expectation.plan.shifts
            else tensor
            for name, tensor in tensors.items()
        }


def _check_values(tensors: Mapping[str, Values], expectation: Expectation) -> None:
    plan = expectation.plan
    for name, tensor in tensors.items():
        if name not in plan.bounds:
            continue
        largest, bound = values.largest(tensor), plan.bounds[name]
        if not math.isfinite(largest):
            remedy = "try a smaller learning rate, and look at the data"
            if expectation.codec is not None and expectation.codec.update == "fp16":
                remedy += "; training.update = 'fp16' holds changes up to 65504"
            raise Refused("finite", f"{name} holds NaN or infinity: {remedy}")
        if largest > bound:
            reason = f"{name} reaches {largest:g}, at most {bound:g} is accepted"
            raise Refused("magnitude", f"{reason}: training.headroom lifts this bound")
        if largest > codecs.largest_of(plan.layout[name][0]):
            raise Refused("magnitude", f"{name} reaches {largest:g}, which is too large for the model's dtype")

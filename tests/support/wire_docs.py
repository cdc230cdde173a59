"""Generates docs/wire.md and docs/schemas/ from the messages' types and docstrings (scripts/wire-docs)."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
from msgspec import inspect as types

from broker import topics
from broker.messages import codec
from broker.messages.cloudevents import PREFIX, SCHEMAS
from broker.messages.data_report import Column, DataReport, StatePlace
from broker.messages.function import Deployed, Function, Reply, Request
from broker.messages.invocation import OPENWHISK_ARGUMENT, Invocation, InvocationRequest, Report
from broker.messages.job import Job
from broker.messages.job_record import BestModel, JobRecord, Member
from broker.messages.job_sections import Cohort, Data, Evaluation, Learner, Model, Override, Stop, Training
from broker.messages.progress import Event
from broker.messages.register import ClientRecord, ClientStats, Host, Presence
from broker.messages.reports import Split, Spread, StartReport
from broker.messages.round import BlobRef, PersonalRef, RoundTask
from broker.messages.schedule import Schedule
from broker.messages.state_table import ClientState, StateTable
from broker.messages.strategy import Guard, Strategy
from broker.messages.update import UpdateHeader
from broker.support import struct_docs
from server.submissions import SubmissionReply
from tests.support.paths import REPOSITORY

Kind = type[msgspec.Struct]


def _topic(build: Callable[..., str], *names: str) -> str:
    """Return a topic as the page shows it.

    Args:
        build: a function of `broker.topics`.
        names: the names of its arguments.
    """
    topic = build(*(topics.ANY for _ in names))
    for name in names:
        topic = topic.replace(topics.ANY, f"<{name}>", 1)
    return f"`{topic}`"


@dataclass(frozen=True)
class Message:
    """A message, and the facts that its type cannot express."""

    kind: Kind
    topic: str
    written_by: str
    read_by: str
    form: str = "JSON"


MESSAGES: Final = (
    Message(
        Job,
        f"`{topics.SUBMIT}`, {_topic(topics.submission, 'job')}",
        "anyone",
        "server",
        "JSON, bare or in a CloudEvent",
    ),
    Message(
        SubmissionReply,
        f"the reply subject, or the response topic, of a request on `{topics.SUBMIT}`",
        "server",
        "anyone",
    ),
    Message(JobRecord, _topic(topics.job_record, "job"), "server", "server, SDK"),
    Message(StateTable, _topic(topics.model, "job", "sha256"), "server", "server"),
    Message(
        RoundTask,
        _topic(topics.task, "platform", "client"),
        "server",
        "bridge, at a site through a relay",
        f"CloudEvent `{PREFIX}round.task`",
    ),
    Message(
        InvocationRequest,
        "the platform's trigger",
        "bridge",
        "function",
        f'JSON; to OpenWhisk as an argument of the action: `{{"{OPENWHISK_ARGUMENT}": ...}}`',
    ),
    Message(
        UpdateHeader,
        _topic(topics.update, "job", "round", "client", "attempt"),
        "function",
        "server",
        "the `__metadata__` of a safetensors file: each value a text; JSON, but for fields that are texts",
    ),
    Message(
        Report,
        f"{_topic(topics.report, 'platform', 'client')}, and the answer to the trigger",
        "function",
        "bridge",
    ),
    Message(
        Invocation,
        _topic(topics.invocation, "platform", "client"),
        "bridge, relay",
        "server",
        f"CloudEvent `{PREFIX}invocation.<outcome>`",
    ),
    Message(ClientStats, _topic(topics.client_stats, "platform", "client"), "bridge", "SDK"),
    Message(Presence, _topic(topics.presence, "platform", "bridge"), "bridge", "server"),
    Message(ClientRecord, _topic(topics.client, "client"), "SDK", "server"),
    Message(Function, _topic(topics.function, "platform", "client"), "bridge", "bridge"),
    Message(
        Request,
        f"{_topic(topics.fabric, 'platform', 'verb')}, the verb is `create`, `delete`, `list` or `check`",
        "SDK",
        "bridge",
    ),
    Message(Reply, _topic(topics.reply, "request"), "bridge", "SDK"),
)

STRATEGIES: Final[tuple[Kind, ...]] = (*get_args(Strategy), *get_args(Guard))

SCHEDULES: Final[tuple[Kind, ...]] = get_args(Schedule)

PARTS: Final[tuple[Kind, ...]] = (
    *(BlobRef, Model, Learner, Training),
    *SCHEDULES,
    Cohort,
    *STRATEGIES,
    *(
        Data,
        Evaluation,
        Stop,
        Override,
        Member,
        PersonalRef,
        BestModel,
        ClientState,
        Deployed,
        DataReport,
        Column,
        StatePlace,
        StartReport,
        Split,
        Spread,
        Host,
    ),
)

EVENTS: Final[tuple[Kind, ...]] = get_args(Event)

COMMON: Final = {
    "accuracy": "test accuracy on the server's test set, 0 to 1; null: not measured",
    "activation": "the platform's id of the run; empty: the platform gives none",
    "attempt": "number of the invocation within the round, from 1",
    "client": "the client's id",
    "cold": "whether the invocation was a cold start; null: not known",
    "job": "the job's id",
    "metrics": "what was measured, by metric",
    "model": "the global model",
    "name": "the name that chooses it",
    "platform": "name of the platform that hosts the client's function",
    "reason": "why, for people",
    "warmup": "number of rounds at the beginning in which the rate grows evenly to its full value",
    "round": "number of the round, from 1",
    "rounds": "number of completed rounds",
    "schema": "schema number of the message",
    "url": "where the platform triggers the function; empty: the platform needs no URL",
}
"""The meaning of a field whose class does not describe it."""

INTRODUCTION: Final = f"""\
# The wire

`scripts/wire-docs` generates this page from the types in `broker/messages`, and a test compares the two. The parts of
FedKeeper exchange these messages, and three payloads without a type:

- {_topic(topics.cancellation, "job")}: a request to cancel a job, from anyone to the server. The server does not
  read the payload; the SDK sends a CloudEvent `{PREFIX}job.cancel` with empty `data`.
- {_topic(topics.dead, "platform", "client")}: a task that a bridge gave up, as the bridge received it; the reason,
  if nothing of it can be read. `<client>` is `unreadable` if the task names no client.
- {_topic(topics.secret, "job")}: the text from which the server makes the tokens of a job's tasks. Only servers may
  read or write it.

A topic `fl.a.b` is the NATS subject `fl.a.b` and the MQTT topic `fl/a/b`; ids match `[a-z0-9-]{{1,40}}`.

- **Files that people write are strict**, and so is a submitted job: an unknown key is refused, and the error
  suggests the key that was probably meant. **Messages that programs send are tolerant**: a program ignores a field
  that it does not know.
- **`schema`** is the schema number of a message, now {codec.SCHEMA}; absent means 1. It grows only when an older
  program would misunderstand the message. A program refuses a newer message before it reads anything else of it,
  and the error says which side to upgrade. Then a bridge gives the task up and a function reports a failure, so
  that no round waits; a server refuses the update (code `schema`), and does not touch the job of a newer server.
- **Neighbouring versions work together.** `tests/wire/` holds every kind of message as each released version
  wrote it, and each version's packaged function; tests read and run them with today's code.
- **Events are CloudEvents 1.0** in structured
  [JSON](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md). `type` is
  `{PREFIX}` and the event's name (version 0.1 wrote `fedkeeper.`, which is still accepted); `dataschema` is
  `{SCHEMAS}/<schema>/<event>.json`. On MQTT 5 they have the content type
  `application/cloudevents+json`. A repeated event has the same `id` and `source`.
- [`schemas/job.json`](schemas/job.json) and [`schemas/progress.json`](schemas/progress.json) are JSON Schemas
  (2020-12) of a job and of every progress event, for clients in any language. In the second, each event's
  `data` has its `dataschema` as its `$id`.
- A payload above 4 MB, or above the broker's message limit, is split into chunks of up to 1 MB under
  `fl.chunks.<topic without fl.>.<sha256>.<n>`. Its own topic then holds a manifest: the byte `ff`, `FKCHUNKS1`, and
  `{{"sha256", "size", "chunk_bytes"}}` in JSON.
- Weights and client states are safetensors files under {_topic(topics.model, "job", "sha256")} and
  {_topic(topics.client_state, "job", "client", "round", "attempt", "name")}; the archive of a function's code is under
  {_topic(topics.package, "sha256")}.
- A function without a route to the broker receives a *bundle* (content type
  `application/vnd.fedkeeper.parcel`): the length of the head in eight bytes, little endian; the head,
  `{{"message": ..., "blobs": [[topic, bytes], ...]}}` in JSON; then the blobs one after the other. The message is an
  `InvocationRequest` on the way to the function, and a `Report` on the way back.
"""


def wire_md() -> str:
    """Return the content of docs/wire.md."""
    messages = "\n".join(_message(message) for message in MESSAGES)
    parts = "\n".join(_section(kind) for kind in PARTS)
    events = "\n".join(_section(kind, f"`{kind.what}`") for kind in EVENTS)  # type: ignore[attr-defined]
    where = f"CloudEvents `{PREFIX}<event>` on `fl.progress.<job>.<event>`, from the server to any subscriber.\n"
    return f"{INTRODUCTION}\n## Messages\n\n{messages}\n## Progress events\n\n{where}\n{events}\n## Parts\n\n{parts}"


def job_schema() -> dict[str, Any]:
    """Return the JSON Schema of a job. It is as strict as the server."""
    at = f"{SCHEMAS}/{codec.SCHEMA}/job.json"
    (job,), parts = msgspec.json.schema_components([Job], ref_template=f"{at}#/$defs/{{name}}")
    for name, part in parts.items():
        parts[name] = _described(part, name) | {"additionalProperties": False}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": at, **job, "$defs": parts}


def progress_schema() -> dict[str, Any]:
    """Return the JSON Schema of every progress event with its envelope."""
    at = f"{SCHEMAS}/{codec.SCHEMA}/progress.json"
    _, parts = msgspec.json.schema_components(EVENTS, ref_template=f"{at}#/$defs/{{name}}")
    named = {kind.__name__: f"{SCHEMAS}/{codec.SCHEMA}/{kind.what}.json" for kind in EVENTS}  # type: ignore[attr-defined]
    texts = ("id", "source", "subject", "time", "datacontenttype", "dataschema")
    either = [
        {"properties": {"type": {"const": f"{PREFIX}{kind.what}"}, "data": {"$ref": named[kind.__name__]}}}  # type: ignore[attr-defined]
        for kind in EVENTS
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": at,
        "type": "object",
        "required": ["specversion", "id", "source", "type", "data"],
        "properties": {"specversion": {"const": "1.0"}, **{name: {"type": "string"} for name in texts}},
        "oneOf": either,
        "$defs": {
            name: ({"$id": named[name]} if name in named else {}) | _described(part, name)
            for name, part in parts.items()
        },
    }


def files() -> dict[Path, str]:
    """Return the content of every file that this program writes."""
    docs = REPOSITORY / "docs"
    schemas = {"job": job_schema(), "progress": progress_schema()}
    written = {docs / f"schemas/{name}.json": _json(schema) for name, schema in schemas.items()}
    return {docs / "wire.md": wire_md()} | written


def _json(schema: dict[str, Any]) -> str:
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def _described(part: dict[str, Any], name: str) -> dict[str, Any]:
    """Add a description to a part of a schema, and to each of its fields."""
    kinds: tuple[Kind, ...] = (Job, *PARTS, *EVENTS)
    kind = next(kind for kind in kinds if kind.__name__ == name)
    summary = struct_docs.summary_of(kind)
    fields = {field: {**how, "description": meaning_of(kind, field)} for field, how in part["properties"].items()}
    return {**part, "description": summary, "properties": fields}


def _message(message: Message) -> str:
    about = f"- topic: {message.topic}\n- form: {message.form}\n- from: {message.written_by}; to: {message.read_by}"
    return _section(message.kind, f"`{message.kind.__name__}`", about)


def _section(kind: Kind, title: str = "", about: str = "") -> str:
    summary = struct_docs.summary_of(kind)
    text = "\n\n".join(filter(None, (f"### {title or f'`{kind.__name__}`'}", summary, about)))
    return f"{text}\n\n| field | type | meaning |\n|---|---|---|\n" + "".join(rows(kind))


def rows(kind: Kind) -> Iterator[str]:
    """Yield a row of a table in Markdown for each field of a type: its name, type and meaning."""
    tag_field, tag = kind.__struct_config__.tag_field, kind.__struct_config__.tag
    if tag_field is not None:
        yield f"| `{tag_field}` | `{tag}` | {meaning_of(kind, tag_field)} |\n"
    for field in struct_docs.fields_of(kind):
        kept = "" if field.required else f", default `{_default(field)}`"
        shown = f"{_shown(field.type)}{kept}".replace("|", "\\|")
        yield f"| `{field.encode_name}` | {shown} | {meaning_of(kind, field.encode_name)} |\n"


def _default(field: types.Field) -> str:
    value = struct_docs.default_of(field)
    is_table = isinstance(value, msgspec.Struct) and value.__struct_config__.tag_field is None
    return "{...}" if is_table else msgspec.json.encode(value).decode()


def meaning_of(kind: Kind, field: str) -> str:
    """Return the meaning of a field of a message.

    Raises:
        KeyError: neither the class nor the common table describes the field.
    """
    meaning = struct_docs.meaning_of(kind, field) or COMMON[field]
    # None in Python's docstrings is null in JSON.
    return re.sub(r"\bNone\b", "null", meaning)


def summary_of(kind: Kind) -> str:
    """Return the first paragraph of a type's docstring."""
    return struct_docs.summary_of(kind)


def _shown(kind: types.Type) -> str:
    return struct_docs.shown(kind, code=lambda text: f"`{text}`", table=_link)


def _link(kind: Kind) -> str:
    return f"[{kind.__name__}](#{kind.__name__.lower()})"


def main() -> None:
    """Write the files anew."""
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Reads and writes jobs: TOML files and JSON messages with the same schema."""

from typing import Any

import msgspec

from broker.errors import UNREADABLE
from broker.messages import job_rules
from broker.messages.errors import JobError
from broker.messages.job import Job
from broker.messages.job_sections import PIXELS
from broker.support import validation


def from_dict(raw: object) -> Job:
    """Build a job from decoded TOML or JSON, strictly: a person wrote it.

    Raises:
        JobError: a field is unknown, has the wrong type or an impossible value.
    """
    try:
        job = validation.strict(raw, Job)
    except validation.Invalid as exc:
        field, value, allowed = exc.mistake
        raise JobError(field or "the job", value, allowed) from exc
    job_rules.check(job)
    return _with_input_size(job)


def from_json(payload: bytes) -> Job:
    """Decode a JSON job message.

    Raises:
        JobError: the payload is not JSON, or not a valid job.
    """
    try:
        raw = msgspec.json.decode(payload)
    except UNREADABLE as exc:
        raise JobError("", None, f"not a JSON job object: {exc}") from exc
    return from_dict(raw)


def from_toml(text: str, overrides: tuple[str, ...] = ()) -> Job:
    """Decode a TOML job file.

    Args:
        text: the file's content.
        overrides: texts of the form `section.key=value`, each value in TOML (a bare word is a string); they take
            precedence over the file.

    Raises:
        JobError: the text is not TOML, an override is malformed, or the result is not a valid job.
    """
    return from_dict(table(text, overrides))


def table(text: str, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Decode a TOML job file without checking its fields: for those who change some of them first.

    Args:
        text: the file's content.
        overrides: as for `from_toml`.

    Raises:
        JobError: the text is not TOML, or an override is malformed.
    """
    try:
        raw: dict[str, Any] = msgspec.toml.decode(text)
    except UNREADABLE as exc:
        raise JobError("", None, f"not a TOML file: {exc}") from exc
    for override in overrides:
        field, eq, value = override.partition("=")
        if not eq or not field.strip().rpartition(".")[2]:
            raise JobError(override, None, "write an override as section.key=value")
        set_field(raw, field.strip(), value_of(value))
    return raw


def set_field(raw: dict[str, Any], field: str, value: object) -> None:
    """Set a field of a decoded job file; its tables are made if they are missing.

    Args:
        raw: the decoded file.
        field: the field, such as `training.batch_size`.
        value: its value.

    Raises:
        JobError: one of the field's tables is a value.
    """
    *tables, key = field.split(".")
    for name in tables:
        raw = raw.setdefault(name, {})
        if not isinstance(raw, dict):
            raise JobError(field, None, f"{name} is no table")
    raw[key] = value


def value_of(text: str) -> Any:
    """Return a value that is written as in TOML. What is not TOML is a text of its own: `sgd` for `"sgd"`."""
    try:
        return msgspec.toml.decode(f"v = {text.strip()}")["v"]
    except UNREADABLE:
        return text.strip()


def without_defaults(job: msgspec.Struct) -> dict[str, Any]:
    """Return a job, or one of its tables, without the fields that have their default.

    Programs submit this form, so that an older server does not refuse a new field that the job does not use. A strategy
    keeps its name.
    """
    config = job.__struct_config__
    table: dict[str, Any] = {} if config.tag_field is None else {config.tag_field: config.tag}
    default = type(job)()
    defaults = dict(validation.fields_of(default))
    for name, value in validation.fields_of(job):
        if value != defaults[name]:
            table[name] = without_defaults(value) if isinstance(value, msgspec.Struct) else value
    return table


def to_toml(job: Job) -> str:
    """Encode a job as a TOML file that `from_toml` reads."""
    return msgspec.toml.encode(_without_none(msgspec.to_builtins(job))).decode()


def short_toml(job: Job) -> str:
    """Return a job as a TOML file with the fields that differ from their default, and its name."""
    return msgspec.toml.encode(_without_none(msgspec.to_builtins({"name": job.name, **without_defaults(job)}))).decode()


def _without_none(value: Any) -> Any:
    """Leave out the fields that are None: TOML has no null."""
    if isinstance(value, list | tuple):
        return [_without_none(part) for part in value]
    if isinstance(value, dict):
        return {key: _without_none(part) for key, part in value.items() if part is not None}
    return value


def _with_input_size(job: Job) -> Job:
    """Set the input size of the paper's models to that of a built-in dataset, unless the job sets it."""
    pixels, model = PIXELS.get(job.data.dataset), job.model
    name = {"nn": "input_size", "cnn": "size"}.get(model.type)
    if pixels is None or name is None or name in model.args:
        return job
    size = pixels * pixels if model.type == "nn" else pixels
    return msgspec.structs.replace(job, model=msgspec.structs.replace(model, args={**model.args, name: size}))

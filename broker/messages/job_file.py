"""Reads and writes jobs: TOML files and JSON messages with the same schema."""

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from broker.messages import job_rules
from broker.messages.errors import JobError
from broker.messages.job import Job
from broker.messages.job_sections import PIXELS
from broker.support import partly_known, struct_docs, tables, text_lines, validation
from broker.support.decoding import UNREADABLE
from broker.support.validation import Mistake


def from_dict(raw: object) -> Job:
    """Build a job from decoded TOML or JSON, strictly: a person wrote it.

    Raises:
        JobError: fields are unknown, have the wrong type or an impossible value.
    """
    try:
        job = validation.strict(raw, Job)
    except validation.Invalid as exc:
        found = [each._replace(field=each.field or "the job") for each in exc.mistakes]
        found += job_rules.mistakes(partly_known.read(raw, Job), found)
        raise JobError.of(found[: validation.MOST]) from exc
    if broken := job_rules.mistakes(job):
        raise JobError.of(broken)
    return _with_input_size(job)


def from_json(payload: bytes) -> Job:
    """Decode a JSON job message.

    Raises:
        JobError: the payload is not JSON, or not a valid job.
    """
    try:
        raw = msgspec.json.decode(payload.removeprefix(codecs.BOM_UTF8))
    except UNREADABLE as exc:
        raise JobError("", None, f"not a JSON job object: {exc}") from exc
    return from_dict(raw)


def from_text(text: str, overrides: Sequence[str] = (), *, file: str = "") -> Job:
    """Decode the text of a job file.

    Args:
        text: the file's content, TOML or JSON.
        overrides: texts of the form `section.key=value`, each value in TOML (a bare word is a string); they take
            precedence over the file.
        file: the file's name, for errors; empty: they name none.

    Raises:
        JobError: the text is neither TOML nor JSON, an override is malformed, or the result is not a valid job. With a
            file's name it tells all mistakes with their lines.
    """
    raw = table(text, overrides, file=file)
    try:
        return from_dict(raw)
    except JobError as exc:
        if not file:
            raise
        raise JobError.of(_located(exc.errors, text, overrides), file) from exc


def table(text: str, overrides: Sequence[str] = (), *, file: str = "") -> dict[str, Any]:
    """Decode the text of a job file without checking its fields: for those who change some of them first.

    Args:
        text: the file's content, TOML or JSON.
        overrides: as for `from_text`.
        file: the file's name, for errors; empty: they name none.

    Raises:
        JobError: the text is neither TOML nor JSON, or an override is malformed.
    """
    try:
        raw = tables.decode(text)
    except tables.NoTable as exc:
        raise JobError.of([exc.mistake], file) from exc
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
    *sections, key = field.split(".")
    for name in sections:
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


def _located(errors: Iterable[Mistake], text: str, overrides: Iterable[str]) -> list[Mistake]:
    """Return mistakes with their lines in the text, after those of the overrides."""
    changed = {override.partition("=")[0].strip(): validation.OVERRIDDEN for override in overrides}
    lines = text_lines.find_lines(text)
    kept = {field: line for field, line in lines.items() if not text_lines.line_of(field, changed)}
    return validation.in_order(errors, {**kept, **changed})


def without_defaults(job: msgspec.Struct) -> dict[str, Any]:
    """Return a job, or one of its tables, without the fields that have their default.

    Programs submit this form, so that an older server does not refuse a new field that the job does not use. A strategy
    keeps its name.
    """
    config = job.__struct_config__
    table: dict[str, Any] = {} if config.tag_field is None else {config.tag_field: config.tag}
    for field, (name, value) in zip(msgspec.structs.fields(job), validation.fields_of(job), strict=True):
        if field.required or value != struct_docs.default_of(field):
            table[name] = without_defaults(value) if isinstance(value, msgspec.Struct) else value
    return table


def to_toml(job: Job) -> str:
    """Encode a job as a TOML file that `from_text` reads."""
    return msgspec.toml.encode(without_none(msgspec.to_builtins(job))).decode()


def short_toml(job: Job) -> str:
    """Return a job as a TOML file with the fields that differ from their default, and its name."""
    return msgspec.toml.encode(without_none(msgspec.to_builtins({"name": job.name, **without_defaults(job)}))).decode()


def without_none(value: Any) -> Any:
    """Return tables without the fields that are None, which is their default: TOML has no null."""
    if isinstance(value, list | tuple):
        return [without_none(part) for part in value]
    if isinstance(value, dict):
        return {key: without_none(part) for key, part in value.items() if part is not None}
    return value


def _with_input_size(job: Job) -> Job:
    """Set the input size of the paper's models to that of a built-in dataset, unless the job sets it."""
    pixels, model = PIXELS.get(job.data.dataset), job.model
    name = {"nn": "input_size", "cnn": "size"}.get(model.type)
    if pixels is None or name is None or name in model.args:
        return job
    size = pixels * pixels if model.type == "nn" else pixels
    return msgspec.structs.replace(job, model=msgspec.structs.replace(model, args={**model.args, name: size}))

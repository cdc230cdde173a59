"""A job's fields for people: their list, and a commented job file that has all of them."""

import difflib
import textwrap
from collections.abc import Iterator
from typing import Any, Final, get_args

import msgspec
import tomli_w
from msgspec import structs

from broker.messages import job_file
from broker.messages.job import Job
from broker.messages.job_sections import Cohort, Data, Evaluation, Learner, Model, Override, Stop, Training
from broker.messages.schedule import Schedule
from broker.messages.strategy import Guard, Strategy
from broker.support import struct_docs
from fedkeeper.errors import BadOption
from fedkeeper.results import JobField

WIDTH: Final = 80

SECTIONS: Final[dict[str, struct_docs.Kind]] = {
    "model": Model,
    "learner": Learner,
    "training": Training,
    "cohort": Cohort,
    "data": Data,
    "evaluation": Evaluation,
    "stop": Stop,
    "override": Override,
}
"""The tables of a job file whose keys do not depend on a name in them."""

CHOICES: Final[dict[str, tuple[struct_docs.Kind, ...]]] = {
    "strategy": get_args(Strategy),
    "strategy.guard": get_args(Guard),
    "training.schedule": get_args(Schedule),
}
"""The tables whose `name` says which keys they have."""

_HEAD: Final = """\
A job of FedKeeper: every field with its meaning and its default. To change one,
remove the # before it. `fedkeeper run FILE` trains the job on this machine,
`fedkeeper submit FILE` gives it to a running system.
"""


def fields(section: str = "") -> list[JobField]:
    """Return the fields of a job, or of some of its tables.

    Args:
        section: a table such as `training`, or a field such as `training.loss`; empty: all fields.

    Raises:
        BadOption: a job has no such table or field.
    """
    known = [*_top(), *(field for name in ("model", "learner", "training") for field in _of(name, SECTIONS[name]))]
    known += [
        *_choices("training.schedule"),
        *_of("cohort", Cohort),
        *_choices("strategy"),
        *_choices("strategy.guard"),
    ]
    known += [field for name in ("data", "evaluation", "stop", "override") for field in _of(name, SECTIONS[name])]
    found = [field for field in known if not section or f"{field.name}.".startswith(f"{section}.")]
    if not found:
        names = [*SECTIONS, "strategy", *(field.name for field in known)]
        close = difflib.get_close_matches(section, names, 1)
        remedy = f"did you mean {close[0]!r}?" if close else f"tables are {', '.join([*SECTIONS, 'strategy'])}"
        raise BadOption(f"a job has no table or field {section!r}: {remedy}")
    return found


def lines(field: JobField) -> list[str]:
    """Return the lines of a field in a list for people."""
    first = f"{field.name} = {field.default}" if field.default else f"{field.name}  (not set)"
    return [first, *_wrapped(f"{field.type}: {field.meaning}", "    ")]


def template(name: str) -> str:
    """Return a job file with every field: as it stands, it trains the digits with all defaults.

    Args:
        name: the job's name.
    """
    parts = [*_wrapped(_HEAD, "# "), "", f"name = {_toml(name)}", ""]
    parts += [line for field in _top() if field.name != "name" for line in _commented(field)]
    for section, kind in SECTIONS.items():
        header = f"[{section}]" if section != "override" else "#[[override]]"
        parts += ["", header, *_wrapped(struct_docs.summary_of(kind), "# ")]
        for field in _of(section, kind):
            parts += ["", *_commented(field)]
        if section == "training":
            parts += ["", *_wrapped(f"The schedules, by name: {_names('training.schedule')}.", "# ")]
        if section == "cohort":
            parts += ["", *_strategy()]
    return "\n".join(parts) + "\n"


def _top() -> Iterator[JobField]:
    return (field for field in _of("", Job) if field.name not in {*SECTIONS, *CHOICES})


def _of(section: str, kind: struct_docs.Kind) -> Iterator[JobField]:
    """Yield the fields of a table."""
    for field in struct_docs.fields_of(kind):
        name = f"{section}.{field.encode_name}" if section else field.encode_name
        default = None if field.required else struct_docs.default_of(field)
        if name in SECTIONS:
            continue
        shown = struct_docs.shown(field.type, table=_table).replace(" or null", "")
        text = "" if default is None else _toml(job_file.without_none(msgspec.to_builtins(default)))
        yield JobField(name=name, type=shown, default=text, meaning=_meaning(kind, field.encode_name))


def _choices(section: str) -> Iterator[JobField]:
    """Yield the fields of a table whose name decides which it has."""
    kinds = CHOICES[section]
    default = next(_toml(f"{kind.__struct_config__.tag}") for kind in kinds)
    names = ", ".join(f"{kind.__struct_config__.tag}" for kind in kinds)
    about = "; ".join(_choice(kind) for kind in kinds)
    yield JobField(name=f"{section}.name", type=names, default=default, meaning=about)
    for field, tags in _by_field(section, kinds).items():
        of = "all" if len(tags) == len(kinds) > 1 else ", ".join(tags)
        yield structs.replace(field, meaning=f"of {of}: {field.meaning}")


def _table(kind: struct_docs.Kind) -> str:
    """Return how a file names a table: by the name that chooses it, or else as a table."""
    return str(kind.__struct_config__.tag or kind.__name__.lower())


def _by_field(section: str, kinds: tuple[struct_docs.Kind, ...]) -> dict[JobField, list[str]]:
    """Return the fields of some tables, each with the names of the tables that have it."""
    found: dict[JobField, list[str]] = {}
    for kind in kinds:
        for field in _of(section, kind):
            found.setdefault(field, []).append(f"{kind.__struct_config__.tag}")
    return found


def _choice(kind: struct_docs.Kind) -> str:
    return f"`{kind.__struct_config__.tag}`: {struct_docs.summary_of(kind).removesuffix('.')}"


def _names(section: str) -> str:
    texts = []
    for kind in CHOICES[section]:
        keys = ", ".join(f"{field.name.rpartition('.')[2]} = {field.default}" for field in _of("", kind))
        texts.append(_choice(kind) + (f" ({keys})" if keys else ""))
    return "; ".join(texts)


def _strategy() -> list[str]:
    about = "How the counted updates become the next global model. By name, with their parameters:"
    parts = ["[strategy]", *_wrapped(about, "# "), *_listed("strategy"), "", 'name = "fedavg"']
    return [*parts, "", *_wrapped("A guard, by its name:", "# "), *_listed("strategy.guard"), "#guard =  # not set"]


def _listed(section: str) -> list[str]:
    """Return a line for each table that a name chooses, and one for each field that several of them have."""
    kinds, texts = CHOICES[section], []
    by_field = _by_field("", kinds)
    for kind in kinds:
        own = [field for field in _of("", kind) if len(by_field[field]) == 1]
        texts.append("; ".join([_choice(kind), *(_parameter(field) for field in own)]))
    for field, tags in by_field.items():
        if len(tags) > 1:
            of = "all" if len(tags) == len(kinds) else ", ".join(tags)
            texts.append(f"{_parameter(field)} (of {of})")
    return [line for text in texts for line in _wrapped(text, "# ", "#     ")]


def _parameter(field: JobField) -> str:
    return f"{field.name} = {field.default or 'not set'}: {field.meaning}"


def _commented(field: JobField) -> list[str]:
    name = field.name.rpartition(".")[2]
    value = f"#{name} = {field.default}" if field.default else f"#{name} =  # not set"
    kind = "" if field.type in {"text", "any", "table of any"} else f" ({field.type})"
    return [*_wrapped(f"{field.meaning}{kind}", "# "), value]


def _meaning(kind: struct_docs.Kind, field: str) -> str:
    # A file has no None: such a field is left out.
    return struct_docs.meaning_of(kind, field).replace("None:", "not set:")


def _toml(value: Any) -> str:
    """Return a value as TOML, on one line."""
    if isinstance(value, dict):
        inside = ", ".join(f"{key} = {_toml(part)}" for key, part in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(part) for part in value)}]"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").strip()


def _wrapped(text: str, indent: str, further: str = "") -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=further or indent,
        break_long_words=False,
        break_on_hyphens=False,
    )

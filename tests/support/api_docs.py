"""Generates docs/api.md, the reference of the Python SDK, from signatures and docstrings (scripts/wire-docs)."""

import inspect
import re
import types
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, Final, Union, get_args, get_origin

import msgspec

import fedkeeper
from broker.messages.progress import Event
from broker.messages.strategy import Guard, Strategy
from tests.support.paths import REPOSITORY

PAGE: Final = REPOSITORY / "docs/api.md"

INTRODUCTION: Final = """\
# The Python SDK

`scripts/wire-docs` generates this page from the docstrings, and a test compares the two. Everything here is a name of
the package `fedkeeper`, with types (`py.typed`). `import fedkeeper` is quick: numpy, torch and the rest are imported
where they are used.

```python
import fedkeeper
from fedkeeper import Cohort, Job, Stop

run = fedkeeper.run(Job(name="mine", cohort=Cohort(clients=5), stop=Stop(rounds=2)))
print(run.accuracy, run.folder)
weights = run.model  # numpy arrays; for torch: net.load_state_dict(run.state_dict())
```

In a notebook this is the same, and a run, a job and a list of jobs show themselves as tables. A class that a job names
(`Model(type="mine:Net")`) must be in a file, because it is imported in another process: in a notebook, write it with
`%%writefile mine.py`. What such a class imports to say how to learn is in `client_fn.learner`
([learn.md](learn.md)). `fedkeeper.Learner` is the job's table that names it.

With a running system (`fedkeeper up`), a program submits, follows and fetches jobs:

```python
import asyncio

import fedkeeper
from fedkeeper import events


async def main():
    async with fedkeeper.connect() as client:
        job = await client.submit({"name": "mine", "stop": {"rounds": 2}})
        async for progress in client.watch(job):
            match progress.event:
                case events.RoundCompleted(round=number, counted=clients):
                    print(f"round {number}: {len(clients)} updates")
                case events.ModelEvaluated(round=number, accuracy=accuracy):
                    print(f"round {number}: accuracy {accuracy}")
        model = await client.model(job)  # a safetensors file, as bytes


asyncio.run(main())
```

**Logs.** The SDK prints none. Its lines go to the loggers of `logging` below `fedkeeper`, which are silent until a
program configures logging; in a program that configures structlog, they go there.
"""

HEADINGS: Final = {
    "A job on this machine": ("run", "resume", "load_run", "Run"),
    "A running system": ("connect", "Client"),
    "Reading job files": ("read_job",),
}

SECTIONS: Final = ("Job", "Model", "Learner", "Training", "Override", "Cohort", "Data", "Evaluation", "Stop")
STRATEGIES: Final = tuple(kind.__name__ for kind in (*get_args(Strategy), *get_args(Guard)))
SCHEDULES: Final = ("Constant", "Step", "Exponential", "Cosine", "Linear")
RECORDS: Final = ("Progress", "JobRecord", "ClientRecord", "ClientStats", "DataReport", "Site", "Staged")

_SECTION: Final = re.compile(r"^(Args|Attributes|Raises|Returns):$", re.MULTILINE)
_ENTRY: Final = re.compile(r"^    (\w+): ", re.MULTILINE)
_MODULE: Final = re.compile(r"\b(?:\w+\.)+(?=[A-Z])")
_QUOTED: Final = re.compile(r"""['"]([A-Z][\w\[\], |.]*)['"]""")


def api_md() -> str:
    """Return the content of docs/api.md."""
    parts = [INTRODUCTION]
    for heading, names in HEADINGS.items():
        parts += [f"## {heading}\n", *(_described(name, getattr(fedkeeper, name)) for name in names)]
    parts += [
        "## The job\n\n[job.md](job.md) describes every field.\n",
        _table("class", SECTIONS),
        "Strategies:\n",
        _table("class", STRATEGIES),
        "Schedules of the learning rate:\n",
        _table("class", SCHEDULES),
        "## What a job and a client are\n\n[wire.md](wire.md) describes the fields of those that are messages.\n",
        _table("class", RECORDS),
        "## Events\n\n`fedkeeper.events` has these; [wire.md](wire.md#progress-events) describes their fields.\n",
        _events(),
        "## Errors\n",
        _errors(),
    ]
    return "\n".join(parts)


def errors() -> dict[str, type[BaseException]]:
    """Return the SDK's error classes by name."""
    found = {name: getattr(fedkeeper, name) for name in fedkeeper.__all__}
    return {name: kind for name, kind in found.items() if inspect.isclass(kind) and issubclass(kind, BaseException)}


def documented(value: Any) -> tuple[str, dict[str, dict[str, str]]]:
    """Return the text of a docstring, and its sections: a meaning for each name."""
    doc = inspect.getdoc(value)
    assert doc, value
    text, *rest = _SECTION.split(doc)
    sections = {title: _entries(body) for title, body in zip(rest[::2], rest[1::2], strict=True)}
    return text.strip(), sections


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties of a class, in the order of its source."""
    for name, value in vars(kind).items():
        if not name.startswith("_") and (callable(value) or isinstance(value, property) or hasattr(value, "func")):
            yield name, value


def _entries(body: str) -> dict[str, str]:
    _, *rest = _ENTRY.split(body)
    return {name: " ".join(meaning.split()) for name, meaning in zip(rest[::2], rest[1::2], strict=True)}


def _described(name: str, value: Any) -> str:
    if not inspect.isclass(value):
        return f"### `{name}`\n\n{_function(f'fedkeeper.{name}', value)}"
    text, sections = documented(value)
    parts = [f"### `{name}`\n\n{text}\n", _entries_md("", sections.get("Attributes", {}))]
    for member, what in members(value):
        if callable(what):
            parts.append(f"#### `{name}.{member}`\n\n{_function(f'{name.lower()}.{member}', what)}")
        else:
            text, sections = documented(getattr(what, "func", what))
            raises = _entries_md("Raises", sections.get("Raises", {}))
            parts.append("\n".join(filter(None, (f"#### `{name}.{member}`\n\n{text}\n", raises))))
    return "\n".join(filter(None, parts))


def _function(name: str, function: Callable[..., Any]) -> str:
    text, sections = documented(function)
    lines = [f"```text\n{_call(name, function)}\n```\n\n{text}\n", _entries_md("", sections.get("Args", {}))]
    return "\n".join(filter(None, (*lines, _entries_md("Raises", sections.get("Raises", {})))))


def _call(name: str, function: Callable[..., Any]) -> str:
    """Return how a function is called, with its parameters' types."""
    signature = inspect.signature(function)
    returns = _shown(signature.return_annotation)
    parameters = [_parameter(each) for each in signature.parameters.values() if each.name != "self"]
    stars = [index for index, each in enumerate(signature.parameters.values()) if each.kind is each.KEYWORD_ONLY]
    if stars:
        parameters.insert(stars[0] - ("self" in signature.parameters), "*")
    before, after = "", f" -> {returns}"
    if returns.startswith("AsyncIterator"):
        before, after = "async with ", f" as {returns.removeprefix('AsyncIterator[').removesuffix(']').lower()}"
    elif returns.startswith("AsyncGenerator"):
        before, after = "async for ... in ", f"  # each a {returns.partition('[')[2].partition(',')[0]}"
    elif inspect.iscoroutinefunction(function):
        before = "await "
    call = f"{before}{name}({', '.join(parameters)}){after}"
    return call if len(call) < 100 else f"{before}{name}(\n    " + ",\n    ".join(parameters) + f",\n){after}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
    text = f"{stars}{parameter.name}: {_shown(parameter.annotation)}"
    if parameter.default is parameter.empty:
        return text
    default = str(parameter.default) if isinstance(parameter.default, PurePath) else parameter.default
    return text + (f" = {default!r}" if not callable(default) else " = ...")


def _shown(annotation: Any) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join("None" if part is types.NoneType else _shown(part) for part in get_args(annotation))
    return _MODULE.sub("", _QUOTED.sub(r"\1", inspect.formatannotation(annotation)))


def _entries_md(title: str, entries: dict[str, str]) -> str:
    lines = "".join(f"- `{name}`: {meaning}\n" for name, meaning in entries.items())
    return f"{title}:\n\n{lines}" if title and lines else lines


def _table(title: str, names: tuple[str, ...]) -> str:
    rows = (f"| `{name}` | {documented(getattr(fedkeeper, name))[0].splitlines()[0]} |\n" for name in names)
    return f"| {title} | |\n|---|---|\n{''.join(rows)}"


def _events() -> str:
    kinds: tuple[type[msgspec.Struct], ...] = get_args(Event)
    rows = (f"| `{kind.__name__}` | `{kind.what}` | {documented(kind)[0].splitlines()[0]} |\n" for kind in kinds)  # type: ignore[attr-defined]
    return f"| class | event | |\n|---|---|---|\n{''.join(rows)}"


def _errors() -> str:
    rows = (
        f"| `{name}` | `{kind.__mro__[1].__name__}` | {documented(kind)[0].splitlines()[0]} |\n"
        for name, kind in errors().items()
    )
    return f"| class | is a | |\n|---|---|---|\n{''.join(rows)}"


if __name__ == "__main__":
    PAGE.write_text(api_md(), encoding="utf-8")

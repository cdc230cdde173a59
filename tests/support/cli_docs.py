"""Generates docs/cli.md and docs/schemas/cli.json from the commands and what they print (scripts/wire-docs)."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import typer
from msgspec import inspect as types

from broker.messages import codec
from broker.messages.cloudevents import SCHEMAS
from broker.support import struct_docs
from fedkeeper import results
from fedkeeper.cli import app
from fedkeeper.commands.examples import EXAMPLES
from fedkeeper.exit_codes import ExitCode
from tests.support import wire_docs
from tests.support.paths import REPOSITORY

PAGE: Final = REPOSITORY / "docs/cli.md"
SCHEMA: Final = REPOSITORY / "docs/schemas/cli.json"

RESULTS: Final[dict[str, tuple[struct_docs.Kind, ...]]] = {
    "run": (results.Fetched,),
    "submit": (results.SubmittedJob, results.Fetched),
    "watch": (results.JobEvent,),
    "fetch": (results.Fetched,),
    "export": (results.Exported,),
    "jobs": (results.ListedJob,),
    "new": (results.WrittenFile,),
    "fields": (results.JobField,),
    "cancel": (results.CancelledJob,),
    "delete": (results.DeletedJob,),
    "prune": (results.DeletedJob,),
    "sweep": (results.Swept,),
    "compare": (results.Comparison,),
    "plot": (results.Picture,),
    "clients": (results.ListedClient,),
    "clients add": (results.ChangedClient,),
    "clients check": (results.CheckedClient,),
    "clients remove": (results.ChangedClient,),
    "clients pause": (results.ChangedClient,),
    "sites": (results.SiteList,),
    "stage": (results.StagedData,),
    "deploy": (results.Deployment,),
    "package": (results.WrittenFile,),
}
"""What each command prints with --json: each line is one of these."""

TOGETHER: Final = {"submit": "with `--wait` both, a line each"}
"""Which lines a command prints together, where that is not one of its kinds for each line."""

ENDLESS: Final = frozenset({"up", "server", "bridge"})
"""Commands without --json, because they run until they are stopped. They log in JSON where no terminal is."""

INTRODUCTION: Final = """\
# The command line

`scripts/wire-docs` generates this page from the commands, and a test compares the two. `fedkeeper COMMAND -h` shows the
same on the screen, `fedkeeper -V` the version.

- **Results are on standard output, everything else is on standard error**: progress, notices, errors. So
  `model=$(fedkeeper run job.toml)` has the model's path alone.
- `--json` prints the result as JSON, a line for each ([JSON](#json)). It changes no exit code, and errors stay
  sentences on standard error.
- `-q` shows only the result and what fails, `-v` everything.
- A list fits the screen. In a pipe or a file it has all columns, with a tab between two cells.
- The broker is `--url`, or `FEDKEEPER_URL`, or that of `fedkeeper up` in this folder.
- A file that a command reads may be TOML or JSON. All its mistakes are told at once, each as
  `FILE:LINE: FIELD = VALUE: what is allowed`.
- `fedkeeper --install-completion` lets the shell (bash, zsh, fish, PowerShell) complete commands, options, job files,
  and the ids of jobs and clients, if the broker answers within a second. `--show-completion` prints the script. Both
  are for the current shell, or for the one that is named: `fedkeeper --show-completion fish`.
"""


def cli_md() -> str:
    """Return the content of docs/cli.md."""
    command: Any = typer.main.get_command(app)
    parts = [INTRODUCTION, _exit_codes(), _variables(command)]
    parts += [_command(path, found) for path, found in commands(command)]
    parts += [_json()]
    return "\n".join(parts)


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command and group with its name, those of a group after it.

    Args:
        group: a group of commands.
        path: its name; empty: that of the program.
    """
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = f"{path} {name}".strip()
        yield inner, command
        if hasattr(command, "list_commands"):
            yield from commands(command, inner)


def _exit_codes() -> str:
    found = re.findall(r'^    (\w+) = (\d+)\n    """(.*?)"""', inspect.getsource(ExitCode), re.MULTILINE | re.DOTALL)
    named = {name: " ".join(meaning.split()) for name, _, meaning in found}
    rows = "".join(
        f"| {code.value} | {named.get(code.name, 'The command did what it was to do.')} |\n" for code in ExitCode
    )
    return f"## Exit codes\n\n| code | meaning |\n|---|---|\n{rows}"


def _variables(command: Any) -> str:
    options: dict[str, list[str]] = {}
    for _, found in commands(command):
        for param in found.params:
            for name in [param.envvar] if isinstance(param.envvar, str) else param.envvar or []:
                options.setdefault(name, []).append(max(param.opts, key=len))
    rows = "".join(f"| `{name}` | `{options[name][0]}` |\n" for name in sorted(options))
    more = "Sites have more of them: [user-code.md](user-code.md), [data.md](data.md).\n"
    return f"## Environment variables\n\n| variable | stands for |\n|---|---|\n{rows}\n{more}"


def _command(path: str, command: Any) -> str:
    context = typer.Context(command, info_name=f"fedkeeper {path}")
    usage = command.get_usage(context).removeprefix("Usage: ")
    about = "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(command.help or "").split("\n\n"))
    records = [param.get_help_record(context) for param in command.params]
    rows = "".join(f"| `{_cell(name)}` | {_cell(text)} |\n" for name, text in filter(None, records))
    table = f"\n| argument, option | meaning |\n|---|---|\n{rows}" if rows else ""
    examples = "\n".join(EXAMPLES.get(path, ()))
    text = f"## fedkeeper {path}\n\n{about}\n\n    {usage}\n{table}\n```sh\n{examples}\n```\n"
    kinds = " or ".join(f"[{kind.__name__}](#{kind.__name__.lower()})" for kind in RESULTS.get(path, ()))
    together = f"; {TOGETHER[path]}" if path in TOGETHER else ""
    return text + (f"\nWith `--json`: {kinds}{together}.\n" if kinds else "")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


JSON: Final = """\
## JSON

With `--json` each line of standard output is one of these. Later versions may add fields, so programs ignore those that
they do not know. [`schemas/cli.json`](schemas/cli.json) is a JSON Schema (2020-12) of each command's lines: `#/$defs/`
and the command, with `-` for a blank.
"""


def _json() -> str:
    sections = []
    for kind in _kinds():
        rows = "".join(wire_docs.rows(kind))
        heading = f"### {kind.__name__}\n\n{struct_docs.summary_of(kind)}\n"
        sections.append(f"{heading}\n| field | type | meaning |\n|---|---|---|\n{rows}")
    return "\n".join([JSON, *sections])


def _kinds() -> list[struct_docs.Kind]:
    """Return the types of all results, and of their parts, each once."""
    found: list[struct_docs.Kind] = []
    for kinds in RESULTS.values():
        for kind in kinds:
            _add(types.type_info(kind), found)
    return found


def _add(kind: types.Type, found: list[struct_docs.Kind]) -> None:
    match kind:
        case types.StructType(cls=cls):
            if cls not in found:
                found.append(cls)
                for field in kind.fields:
                    _add(field.type, found)
        case types.UnionType(types=parts):
            for part in parts:
                _add(part, found)
        case types.ListType(item_type=item) | types.VarTupleType(item_type=item) | types.DictType(value_type=item):
            _add(item, found)
        case _:
            pass


def schema() -> dict[str, Any]:
    """Return the JSON Schema of what commands print with --json."""
    at = f"{SCHEMAS}/{codec.SCHEMA}/cli.json"
    _, parts = msgspec.json.schema_components(_kinds(), ref_template=f"{at}#/$defs/{{name}}")
    for kind in _kinds():
        part = parts[kind.__name__]
        fields = part["properties"].items()
        part["properties"] = {name: {**how, "description": wire_docs.meaning_of(kind, name)} for name, how in fields}
        part["description"] = struct_docs.summary_of(kind)
    for path, kinds in RESULTS.items():
        parts[path.replace(" ", "-")] = {
            "description": f"A line that `fedkeeper {path} --json` prints.",
            "anyOf": [{"$ref": f"{at}#/$defs/{kind.__name__}"} for kind in kinds],
        }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": at, "$defs": parts}


def command_of(arguments: tuple[str, ...]) -> str:
    """Return the name of the command that a command line runs; empty: none that has a result.

    Args:
        arguments: the words after `fedkeeper`.
    """
    words = [word for word in arguments[:2] if not word.startswith("-")]
    return next((path for path in (" ".join(words), *words[:1]) if path in RESULTS), "")


def files() -> dict[Path, str]:
    """Return the content of every file that this program writes."""
    text = msgspec.json.format(msgspec.json.encode(schema()), indent=2).decode() + "\n"
    return {PAGE: cli_md(), SCHEMA: text}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")

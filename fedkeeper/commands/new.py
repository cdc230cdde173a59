"""The command `fedkeeper new`: writes a job file with every field."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from broker.messages import job_rules
from fedkeeper import job_fields, results
from fedkeeper.display import screen
from fedkeeper.errors import BadOption
from fedkeeper.options import Json


def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The job file to write, such as job.toml.")],
    name: Annotated[str, typer.Option(help="The job's name. Default: the file's.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a job file that lists every field with its default. It says what each means, and trains as it stands."""
    if name:
        job_rules.check_id("--name", name)
    text = job_fields.template(name or job_rules.similar_id(file.stem) or "job")
    try:
        with file.open("w" if force else "x", encoding="utf-8", newline="\n") as opened:
            opened.write(text)
    except FileExistsError:
        raise BadOption(f"{file} is there already; --force replaces it") from None
    except OSError as exc:
        raise BadOption(f"{file}: {exc.strerror}") from exc
    if as_json:
        screen.print_json(results.WrittenFile(path=str(file)))
    else:
        screen.echo(str(file))
        screen.say(f"train it with: fedkeeper run {shlex.quote(str(file))}")

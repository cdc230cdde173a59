"""What `--json` prints: a struct for each command's result. Docs and JSON Schemas are made from this module."""

import msgspec

from broker.messages import codec
from fedkeeper import screen


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The root of all results."""


def print_json(result: Result) -> None:
    """Print a result on standard output, as one line of JSON."""
    screen.echo(codec.encode(result).decode())

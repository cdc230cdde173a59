"""What the shell completes: jobs and clients of the broker, and job files. The broker must answer within a second."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import typer

from broker.support import logs
from fedkeeper import broker_note, configs

LIMIT_S: Final = 0.8
"""Longest time that the broker may take. The start of Python comes on top."""

SHELLS: Final = ("bash", "zsh", "fish", "powershell", "pwsh")
"""The shells that typer knows: https://typer.tiangolo.com/tutorial/options-autocompletion/."""

SCRIPTS: Final = ("--show-completion", "--install-completion")
"""The options that show and install what lets a shell complete."""

_ENDINGS: Final = (".toml", ".json")


def of_shell(ctx: Any, option: str, names: Sequence[str]) -> None:
    """Show or install what lets a shell complete, for a shell that is named.

    Args:
        ctx: the command line, of typer.
        option: one of `SCRIPTS`.
        names: what stands behind it.

    Raises:
        typer.BadParameter: it is no name of one shell.
    """
    # Only this needs it: it asks the system for the current shell.
    from typer import completion

    if len(names) != 1 or names[0] not in SHELLS:
        allowed = f"{', '.join(SHELLS[:-1])} or {SHELLS[-1]}"
        raise typer.BadParameter(f"expected {allowed}; nothing: the current shell", ctx=ctx, param_hint=option)
    callback: Any = completion.show_callback if option == SCRIPTS[0] else completion.install_callback
    callback(ctx, None, names[0])


def job_ids(ctx: Any, incomplete: str) -> list[str]:
    """Return the ids of the broker's jobs that begin with a text, the newest first.

    Args:
        ctx: the command line up to here, of typer.
        incomplete: the text.
    """
    return [name for name in _ask(_job_ids, ctx) if name.startswith(incomplete)]


def client_ids(ctx: Any, incomplete: str) -> list[str]:
    """Return the ids of the registered clients that begin with a text.

    Args:
        ctx: the command line up to here, of typer.
        incomplete: the text.
    """
    return [name for name in _ask(_client_ids, ctx) if name.startswith(incomplete)]


def sites(ctx: Any, incomplete: str) -> list[str]:
    """Return the names of the registered clients' platforms that begin with a text.

    Args:
        ctx: the command line up to here, of typer.
        incomplete: the text.
    """
    return [name for name in _ask(_sites, ctx) if name.startswith(incomplete)]


def job_files(incomplete: str) -> list[str]:
    """Return the job files that begin with a text: those of its folder, and those that come with FedKeeper."""
    folder, name = os.path.split(incomplete)
    paths: list[Path] = []
    with contextlib.suppress(OSError):
        paths = sorted(Path(folder or ".").iterdir())
    paths = [path for path in paths if path.is_dir() or path.suffix in _ENDINGS]
    # As it was typed, with a ./ at the front.
    found = [os.path.join(folder, path.name) + "/" * path.is_dir() for path in paths if path.name.startswith(name)]  # noqa: PTH118
    return found + [job for job in configs.shipped_jobs() if job.startswith(incomplete)]


def _ask(question: Callable[[Any], Awaitable[list[str]]], ctx: Any) -> list[str]:
    """Return the broker's answer; nothing if there is none in time."""
    from broker.errors import BrokerError

    url = ctx.params.get("url") or os.environ.get("FEDKEEPER_URL") or broker_note.read()
    if not url:
        return []
    logs.configure(quiet=True)
    with contextlib.suppress(BrokerError, TimeoutError):
        return asyncio.run(_answer(url, question))
    return []


async def _answer(url: str, question: Callable[[Any], Awaitable[list[str]]]) -> list[str]:
    from fedkeeper.sdk import connect

    async with asyncio.timeout(LIMIT_S), connect(url, provision=False) as sdk:
        return await question(sdk)


async def _job_ids(sdk: Any) -> list[str]:
    return [record.id for record in reversed(await sdk.jobs())]


async def _client_ids(sdk: Any) -> list[str]:
    return [record.id for record in await sdk.clients()]


async def _sites(sdk: Any) -> list[str]:
    return sorted({record.platform for record in await sdk.clients()})

"""Pub/Sub and Cloud Functions together, on this machine.

`python -m emulators.gcf.cloud` prints `ready <host:port of Pub/Sub> <URL of the functions API>` and serves until
SIGTERM or SIGINT. Every process that it starts ends with it.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from broker.support import logs
from emulators.gcf import functions as cloud_functions
from emulators.gcf import pubsub
from emulators.gcf.functions import CloudFunctions
from emulators.gcf.pubsub import PubSub


@dataclass(frozen=True)
class Cloud:
    """Both services."""

    pubsub: PubSub
    functions: CloudFunctions


@contextlib.asynccontextmanager
async def serving(
    *,
    pubsub_port: int = 0,
    api_port: int = 0,
    most: int = 100,
    retry_first_s: float = 10.0,
    retry_most_s: float = 600.0,
) -> AsyncIterator[Cloud]:
    """Both services on the loopback interface until the end of the block.

    Args:
        pubsub_port: TCP port; 0: one that is free.
        api_port: TCP port; 0: one that is free.
        most: how many instances of functions may live at once.
        retry_first_s: before an event that was not acknowledged comes again.
        retry_most_s: no wait is longer.
    """
    async with (
        pubsub.serving(port=pubsub_port, retry_first_s=retry_first_s, retry_most_s=retry_most_s) as messages,
        cloud_functions.serving(messages, port=api_port, most=most) as functions,
    ):
        yield Cloud(messages, functions)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pubsub-port", type=int, default=0, help="TCP port of Pub/Sub; 0: a free one")
    parser.add_argument("--api-port", type=int, default=0, help="TCP port of the functions API; 0: a free one")
    parser.add_argument("--most", type=int, default=100, help="instances that may live at once")
    parser.add_argument("--operation-s", type=float, default=1.0, help="how long it takes to create a function")
    parser.add_argument("--retry-first-s", type=float, default=10.0, help="before an event comes again")
    parser.add_argument("--retry-most-s", type=float, default=600.0, help="the longest such wait")
    parser.add_argument("--secrets", type=Path, help="folder that is the Secret Manager: a file for each secret")
    logs.configure()
    asyncio.run(_serve(parser.parse_args()))


async def _serve(options: argparse.Namespace) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with serving(
        pubsub_port=options.pubsub_port,
        api_port=options.api_port,
        most=options.most,
        retry_first_s=options.retry_first_s,
        retry_most_s=options.retry_most_s,
    ) as cloud:
        cloud.functions.operation_s = options.operation_s
        cloud.functions.secrets = _secrets(options.secrets)
        sys.stdout.write(f"ready {cloud.pubsub.address} {cloud.functions.url}\n")
        sys.stdout.flush()
        await ended.wait()


def _secrets(folder: Path | None) -> dict[str, str]:
    files = [] if folder is None else [path for path in folder.iterdir() if path.is_file()]
    return {path.name: path.read_text(encoding="utf-8").rstrip("\n") for path in files}


if __name__ == "__main__":
    main()

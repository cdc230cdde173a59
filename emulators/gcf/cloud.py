"""Pub/Sub and Cloud Functions together, on this machine.

`python -m emulators.gcf.cloud` prints `ready <host:port of Pub/Sub> <URL of the functions API>` and serves until
SIGTERM or SIGINT. The processes of the functions end with it.
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
    """Both services.

    Attributes:
        pubsub: Pub/Sub.
        functions: Cloud Functions.
    """

    pubsub: PubSub
    functions: CloudFunctions


@contextlib.asynccontextmanager
async def serving(
    *,
    pubsub_port: int = 0,
    api_port: int = 0,
    max_instances: int = 100,
    retry_first_s: float = 10.0,
    retry_most_s: float = 600.0,
) -> AsyncIterator[Cloud]:
    """Run both services on the loopback interface until the end of the block.

    Args:
        pubsub_port: TCP port of Pub/Sub; 0 for a free one.
        api_port: TCP port of the functions API; 0 for a free one.
        max_instances: limit of the functions' instances at once.
        retry_first_s: delay before the first repetition of an event, in seconds; it doubles with each one.
        retry_most_s: upper limit of that delay, in seconds.
    """
    async with (
        pubsub.serving(port=pubsub_port, retry_first_s=retry_first_s, retry_most_s=retry_most_s) as messages,
        cloud_functions.serving(messages, port=api_port, max_instances=max_instances) as functions,
    ):
        yield Cloud(messages, functions)


def main() -> None:
    """Serve until SIGTERM or SIGINT, with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pubsub-port", type=int, default=0, help="TCP port of Pub/Sub; 0 for a free one")
    parser.add_argument("--api-port", type=int, default=0, help="TCP port of the functions API; 0 for a free one")
    parser.add_argument("--max-instances", type=int, default=100, help="instances of functions at once")
    parser.add_argument("--operation-s", type=float, default=1.0, help="time to create a function")
    parser.add_argument("--retry-first-s", type=float, default=10.0, help="delay before an event comes again")
    parser.add_argument("--retry-most-s", type=float, default=600.0, help="upper limit of that delay")
    parser.add_argument("--secrets", type=Path, help="folder of the Secret Manager, with a file for each secret")
    logs.configure()
    asyncio.run(_serve(parser.parse_args()))


async def _serve(options: argparse.Namespace) -> None:
    ended = asyncio.Event()
    files = [path for path in options.secrets.iterdir() if path.is_file()] if options.secrets else []
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with serving(
        pubsub_port=options.pubsub_port,
        api_port=options.api_port,
        max_instances=options.max_instances,
        retry_first_s=options.retry_first_s,
        retry_most_s=options.retry_most_s,
    ) as cloud:
        cloud.functions.operation_s = options.operation_s
        cloud.functions.secrets = {path.name: path.read_text(encoding="utf-8").rstrip("\n") for path in files}
        sys.stdout.write(f"ready {cloud.pubsub.address} {cloud.functions.url}\n")
        sys.stdout.flush()
        await ended.wait()


if __name__ == "__main__":
    main()

"""The instances of the emulated Cloud Run."""

import asyncio
from http import HTTPStatus
from pathlib import Path

import aiohttp

from emulators.gcf.cloud_run import CloudRun, Service


async def test_a_request_after_the_end_starts_no_instance(tmp_path: Path) -> None:
    """A message is delivered again while everything is stopped: nobody would stop what it starts."""
    service = Service("functions/late", tmp_path, "train", {}, timeout_s=1.0)
    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        run = CloudRun(http, group)
        await run.close()
        assert await run.request(service, {}, b"") == HTTPStatus.SERVICE_UNAVAILABLE
    assert service.starts == 0

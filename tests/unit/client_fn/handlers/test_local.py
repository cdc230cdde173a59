"""The worker process of a local bridge."""

import asyncio
import io
import os
import re
import sys
from pathlib import Path

import pytest

from broker.messages import codec
from broker.messages.invocation import Report, WorkerFault, WorkerReady
from client_fn.handlers import local
from client_fn.site import Site
from tests.support.handler_calls import Deployed, check_refused, newer_request

pytestmark = pytest.mark.torch


async def test_a_worker_reports_a_request_of_a_newer_server_and_continues(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    requests, reports = asyncio.StreamReader(), io.BytesIO()
    requests.feed_data(newer_request(deployed) + b"\n" + newer_request(deployed) + b"\n")
    requests.feed_eof()
    await local.serve(deployed.instance.settings.url, Site(), requests, reports)
    first, *others = reports.getvalue().splitlines()
    assert codec.decode(WorkerReady, first) == WorkerReady()
    decoded = [codec.decode(Report, line) for line in others]
    assert (len(decoded), ended) == (2, [0])
    check_refused(decoded[1], "")


@pytest.mark.parametrize(
    ("site", "reason"),
    [
        (Site(device="meta"), r"^FEDKEEPER_DEVICE: 'meta' can't be used here: .*; give 'cpu', or install a torch"),
        (Site(python="/nowhere/python"), r"^FEDKEEPER_TRAINER_PYTHON: '/nowhere/python' can't be started: "),
        (Site(python=sys.executable, code=Path("/nowhere/code")), r"^code /nowhere/code: "),
    ],
    ids=["device", "python", "code"],
)
async def test_a_worker_whose_site_lets_nothing_run_says_so_and_takes_no_task(site: Site, reason: str) -> None:
    reports = io.BytesIO()
    await local.serve("memory://nobody-listens", site, asyncio.StreamReader(), reports)
    (line,) = reports.getvalue().splitlines()
    assert re.match(reason, codec.decode(WorkerFault, line).reason)

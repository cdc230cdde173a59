"""Clients on several kinds of processor train one model: it repeats itself, through crashes, if each keeps its kind."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from broker.messages.job_sections import Data
from broker.nats.server import NatsServer
from fedkeeper import connect
from fedkeeper.services import provision
from tests.support import processors
from tests.support.processors import BASELINE
from tests.support.program import SHORT, Program, digest, run

pytestmark = [pytest.mark.slow, pytest.mark.torch]

DATA = Data(clients=4)
PLATFORMS = ("local", "local", "board", "board")
JOB = ("quickstart", *SHORT, "--set", "data.clients=4", "--set", "cohort.clients=4")
UPDATES = 4
"""How many each platform makes in the two rounds."""


@contextlib.asynccontextmanager
async def running(*arguments: str, ready: str, cwd: Path, **environment: str) -> AsyncIterator[Program]:
    """Run a `fedkeeper` command until the end of the block."""
    program = await Program(*arguments, cwd=cwd, **environment).start()
    try:
        await program.wait_for_line(ready)
        yield program
    finally:
        with contextlib.suppress(ProcessLookupError):
            program.send(signal.SIGTERM)
        await program.wait()


async def register(url: str, folder: Path) -> None:
    staged = await asyncio.to_thread(
        provision.stage_dataset, DATA, platform="local", shards_at=str(folder / "shards"), data_dir=None
    )
    async with connect(url) as sdk:
        pairs = zip(staged, PLATFORMS, strict=True)
        await sdk.register([msgspec.structs.replace(client, platform=platform) for client, platform in pairs])


def trained_on(folder: Path, output: str) -> dict[str, int]:
    """How many updates of a job each kind of processor has trained, as clients.jsonl has it."""
    (job,) = (path for path in (folder / "runs").glob("*-*") if f"{path.name}/" in output)
    rows = [json.loads(line) for line in (job / "clients.jsonl").read_text().splitlines()]
    kinds = [row["processor"] for row in rows]
    return {kind: kinds.count(kind) for kind in kinds}


async def test_a_mixed_cohort_gives_one_digest_also_if_the_server_dies_and_another_one_than_each_kind_alone(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    kinds = processors.kind(), processors.kind(BASELINE)
    alone = [await run("run", *JOB, cwd=tmp_path, **environment) for environment in ({}, BASELINE)]
    assert [code for code, _ in alone] == [0, 0]
    for kind, (_, output) in zip(kinds, alone, strict=True):
        assert f"trained on    {kind}\nnote: the same job gives this digest on such processors\n" in output
    url = ("--url", nats_server.url)
    server = ("server", *url)
    bridge = ("bridge", "local", "--workers", "1", "--no-provision", *url)
    submit = ("submit", *JOB, "--wait", *url)
    await register(nats_server.url, tmp_path)
    async with (
        running(*bridge, ready="is up", cwd=tmp_path),
        running(*bridge, "--platform", "board", ready="is up", cwd=tmp_path, **BASELINE),
    ):
        async with running(*server, ready="takes jobs", cwd=tmp_path) as first:
            code, mixed = await run(*submit, cwd=tmp_path)
            assert code == 0, mixed
            program = await Program(*submit, "-v", cwd=tmp_path).start()
            await program.wait_for_line("update.counted")
            first.send(signal.SIGKILL)
        async with running(*server, ready="takes jobs", cwd=tmp_path):
            assert await program.wait() == 0, program.output
    assert digest(program.output) == digest(mixed)
    assert (digest(mixed) in {digest(output) for _, output in alone}) == (kinds[0] == kinds[1])
    expected = {kind: UPDATES * kinds.count(kind) for kind in kinds}
    for output in (mixed, program.output):
        assert trained_on(tmp_path, output) == expected
        assert all(kind in output.partition("trained on    ")[2].splitlines()[0] for kind in kinds)
    if len(expected) > 1:
        assert "only if each client's kind stays the same" in mixed

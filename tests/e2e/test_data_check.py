"""`fedkeeper clients check`: a site looks at its clients' data, asked over the broker by another machine."""

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import safetensors.numpy

from broker.nats.server import NatsServer
from tests.support.program import Program, run

pytestmark = [pytest.mark.slow, pytest.mark.torch]

PLANTED: Final = ("Mustermann", "41.4717")
"""Values of a patient. They may be said nowhere."""
PATIENTS: Final = f"age,name,ill\n{PLANTED[1]},{PLANTED[0]},1\n52,Jane,0\n"
WITHOUT_RIGHTS: Final = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Runs a program of root's that may read only what its owner and group may (capabilities(7))."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


async def cli(nats: NatsServer, folder: Path, *arguments: str, code: int = 0) -> str:
    exit_code, output = await run(*arguments, cwd=folder, FEDKEEPER_URL=nats.url)
    assert exit_code == code, output
    return output


async def add(nats: NatsServer, folder: Path, client: str, place: Path) -> str:
    return await cli(
        nats, folder, "clients", "add", client, "--platform", "board", "--data-loc", str(place), "--no-check"
    )


@contextlib.asynccontextmanager
async def bridge(nats: NatsServer, folder: Path, prefix: tuple[str, ...] = ()) -> AsyncIterator[Program]:
    """A local bridge that is up."""
    arguments = ("bridge", "local", "--platform", "board", "--workers", "1", "--url", nats.url)
    site = await Program(*arguments, cwd=folder).start(*prefix)
    try:
        await site.wait_for_line("the bridge is up")
        yield site
    finally:
        site.send(signal.SIGTERM)
        await site.wait()


async def test_a_site_says_what_its_clients_data_is(nats_server: NatsServer, folder: Path, tmp_path: Path) -> None:
    (folder / "patients.csv").write_text(PATIENTS)
    shard = {"x": np.zeros((5, 3), np.float32), "y": np.array([0, 1, 1, 2, 7])}
    safetensors.numpy.save_file(shard, folder / "shard.safetensors")
    hint = await add(nats_server, tmp_path, "table", folder / "patients.csv")
    assert "fedkeeper clients check table" in hint
    await add(nats_server, tmp_path, "shard", folder / "shard.safetensors")
    await add(nats_server, tmp_path, "lost", folder / "nowhere.csv")
    early = await cli(nats_server, tmp_path, "clients", "check", "table", code=1)
    assert "platform 'board' has no bridge that answers: start or upgrade it" in early
    async with bridge(nats_server, tmp_path) as site:
        table = await cli(nats_server, tmp_path, "clients", "check", "table")
        assert "2 rows; no number is registered" in table
        assert "age: float64" in table
        assert "name: text" in table
        everything = await cli(nats_server, tmp_path, "clients", "check", "--all", "--register", code=1)
        assert "5 samples of 3 classes; registered now" not in everything
        assert "5 samples of 4 classes; registered now, before: none" in everything
        assert "DataMissing: nothing lies there" in everything
        lines = (await cli(nats_server, tmp_path, "clients", "check", "--all", "--json", code=1)).splitlines()
    reports = {report["client"]: report for report in map(json.loads, lines)}
    assert reports["shard"]["columns"] == [
        {"name": "x", "dtype": "float32", "shape": [3]},
        {"name": "y", "dtype": "int64"},
    ]
    assert (reports["table"]["samples"], reports["table"]["is_readable"]) == (2, True)
    register = (await cli(nats_server, tmp_path, "clients", "--json")).splitlines()
    samples = {client["client"]: client["samples"] for client in map(json.loads, register)}
    assert samples == {"lost": 0, "shard": 5, "table": 2}
    for said in (table, everything, *lines, site.output):
        assert not any(value in said for value in PLANTED)


async def test_a_site_that_may_not_read_a_file_says_how_to_change_that(
    nats_server: NatsServer, folder: Path, tmp_path: Path
) -> None:
    file = folder / "patients.csv"
    file.write_text(PATIENTS)
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(file, 12345, 23456)
    file.chmod(0o600 if is_root else 0)
    await add(nats_server, tmp_path, "table", file)
    async with bridge(nats_server, tmp_path, WITHOUT_RIGHTS if is_root else ()) as site:
        said = await cli(nats_server, tmp_path, "clients", "check", "table", code=1)
    assert ("12345:23456 -rw-------" in said) == is_root
    assert f"can't read {file}" in said
    assert f"do: chmod o+r {file}" in said
    assert not any(value in said + site.output for value in PLANTED)

"""The commands that edit the client register, and the errors of a deployment."""

import json
from pathlib import Path

import pytest

from broker.nats.server import NatsServer
from fedkeeper.exit_codes import ExitCode
from tests.support.program import run

FABRIC = """
name = "lonely"
[data]
deal = { dataset = "mine", clients = 2 }
[platforms.openfaas]
clients = 2
image = "client:1"
"""


HINT = "look at their data, and register its samples: fedkeeper clients check --all --register"


async def cli(nats: NatsServer, folder: Path, *arguments: str, code: int = 0) -> str:
    exit_code, output = await run(*arguments, cwd=folder, FEDKEEPER_URL=nats.url)
    assert exit_code == code, output
    return output


@pytest.mark.slow
async def test_clients_are_added_paused_listed_and_removed(nats_server: NatsServer, tmp_path: Path) -> None:
    added = await cli(
        nats_server, tmp_path, "clients", "add", "ward-7", "--platform", "openfaas", "--label", "data=xray"
    )
    assert added == "registered ward-7\n"
    assert "ward-7 is paused" in await cli(nats_server, tmp_path, "clients", "pause", "ward-7")
    line = (await cli(nats_server, tmp_path, "clients")).splitlines()[1].split()
    assert line[:7] == ["ward-7", "openfaas", "paused", "0", "0", "?", "0"]
    assert line[-1] == "data=xray"
    assert "not paused" in await cli(nats_server, tmp_path, "clients", "pause", "--resume", "ward-7")
    assert "registered" in await cli(nats_server, tmp_path, "clients")
    assert await cli(nats_server, tmp_path, "clients", "remove", "ward-7") == "removed ward-7\n"
    assert "ward-7" not in await cli(nats_server, tmp_path, "clients")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pause", "nobody"), "no client 'nobody' is registered"),
        (("remove", "nobody"), "no client 'nobody' is registered"),
        (("add", "Ward 7", "--platform", "openfaas"), "use 1 to 40 of a-z"),
        (("add", "ward-7", "--platform", "openfaas", "--label", "xray"), "write a label as KEY=VALUE"),
    ],
)
async def test_a_mistake_is_one_sentence(
    nats_server: NatsServer, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    # Commands that only read need a broker that a system has used.
    await cli(nats_server, tmp_path, "clients", "add", "ward-1", "--platform", "openfaas")
    assert message in await cli(nats_server, tmp_path, "clients", *arguments, code=ExitCode.USAGE)


async def test_a_deployment_file_with_a_mistake_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "fabric.toml"
    file.write_text(FABRIC.replace("clients = 2\nimage", "client = 2\nimage"))
    code, output = await run("deploy", str(file), "--url", "nats://127.0.0.1:1", cwd=tmp_path)
    assert code == ExitCode.USAGE
    assert "client" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('gateway = "http://127.0.0.1:8080"\nport = 1', "port"),
        ("gateway = 1", "gateway"),
        ("gateway", "TOML"),
    ],
)
async def test_a_bridges_file_with_a_mistake_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text(text)
    code, output = await run("bridge", "openfaas", "--config", str(file), "--url", "nats://127.0.0.1:1", cwd=tmp_path)
    assert code == ExitCode.USAGE
    assert message in output
    assert "Traceback" not in output


def boards(count: int) -> str:
    """A file of boards, with one client of each."""
    rows = [f"ward-{n:02},board-{n:02},/srv/xray.csv,xray,{'north' if n % 2 else 'south'}" for n in range(1, count + 1)]
    return "\n".join(["client,platform,data_loc,label.data,label.region", *rows])


@pytest.mark.slow
async def test_forty_boards_are_registered_from_one_file(nats_server: NatsServer, tmp_path: Path) -> None:
    file = tmp_path / "boards.csv"
    file.write_text(boards(39))
    add = ("clients", "add", "--from", "boards.csv")
    assert "39 clients: 39 new, 0 changed, 0 the same\n" in await cli(nats_server, tmp_path, *add)
    await cli(nats_server, tmp_path, "clients", "pause", "ward-01")

    file.write_text(boards(40).replace("ward-07,board-07", "ward-07,board-77"))
    expected = ["ward-07 board-77 changed platform", "ward-40 board-40 new"]
    for options, end in ((("--dry-run",), "; nothing was written"), ((), "")):
        lines = (await cli(nats_server, tmp_path, *add, *options)).splitlines()
        assert (HINT in lines) == (not options)
        _, *rows, last = [line for line in lines if line != HINT]
        assert [" ".join(row.split()) for row in rows] == expected
        assert last == f"40 clients: 1 new, 1 changed, 38 the same{end}"
    again = await cli(nats_server, tmp_path, *add)
    assert again == "40 clients: 0 new, 0 changed, 40 the same\n"
    listed = (await cli(nats_server, tmp_path, "clients")).splitlines()[1:]
    assert len(listed) == 40
    assert listed[0].split()[:3] == ["ward-01", "board-01", "paused"]

    document = json.loads(await cli(nats_server, tmp_path, "sites", "--json"))
    assert [site["name"] for site in document["sites"]][-1] == "board-01", "nobody waits for the one that is paused"
    assert {site["state"] for site in document["sites"]} == {"no bridge"}
    assert await cli(nats_server, tmp_path, "sites", "--check", code=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a client and its --platform, or --from FILE"),
        (("ward-1",), "give a client and its --platform, or --from FILE"),
        (("ward-1", "--platform", "a", "--dry-run"), "--dry-run goes with --from"),
        (("ward-1", "--from", "boards.csv"), "leave the client and its options out"),
        (("--samples", "3", "--from", "boards.csv"), "leave the client and its options out"),
        (("--from", "boards.csv"), "line 3, client = 'Ward 2': use 1 to 40 of a-z"),
    ],
)
async def test_a_mistake_about_a_file_of_clients_is_said_before_anything_is_sent(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "boards.csv").write_text("client,platform\nward-1,a\nWard 2,b\n")
    code, output = await run("clients", "add", *arguments, "--url", "nats://127.0.0.1:1", cwd=tmp_path)
    assert (code, "Traceback" in output) == (ExitCode.USAGE, False)
    assert message in output

"""How commands find the broker of `fedkeeper up` in their folder."""

import asyncio
import contextlib
import fcntl
import shlex
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker import BrokerUrl
from broker.errors import ConnectFailed
from fedkeeper import broker_note, running
from fedkeeper.commands import up
from fedkeeper.display import hints
from fedkeeper.errors import FedKeeperError
from fedkeeper.options import broker_url
from fedkeeper.services import system
from fedkeeper.services.system import Settings

HIDDEN = "s3cret/#?&é"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "url", ["nats://127.0.0.1:4222", "mqtt://u@h?password_file=pw", "tls://u@h?ca_file=ca.pem&password_env=PW"]
)
def test_other_commands_find_the_broker_until_up_ends(url: str, tmp_path: Path) -> None:
    broker_note.FOLDER.mkdir()
    (broker_note.FOLDER / broker_note.PASSWORD_FILE).write_text("of an `up` that was killed", encoding="utf-8")
    with broker_note.published(broker_note.FOLDER, url) as noted:
        assert broker_url("") == noted
        assert BrokerUrl.parse(noted) == BrokerUrl.parse(url).absolute()
        assert broker_url("mqtt://other") == "mqtt://other"
    assert broker_note.read() == ""
    assert [path.name for path in tmp_path.rglob("*")] == [".fedkeeper"]


def test_the_note_holds_no_password() -> None:
    url = BrokerUrl("mqtt", "broker", 1883, "site", HIDDEN)
    with broker_note.published(broker_note.FOLDER, "mqtt://site:s3cret%2F%23%3F%26%C3%A9@broker") as noted:
        assert "s3cret" not in noted + broker_note.URL_FILE.read_text()
        assert (found := BrokerUrl.parse(broker_note.read())).secret() == HIDDEN
        assert (found.user, found.address) == ("site", url.address)
        assert found.password_file
        assert stat.S_IMODE(found.password_file.stat().st_mode) == 0o600
    assert not found.password_file.exists()


def test_the_end_of_one_up_leaves_the_note_of_another() -> None:
    with broker_note.published(broker_note.FOLDER, "mqtt://first"):
        second = broker_note.published(broker_note.FOLDER, "mqtt://second")
        second.__enter__()
    assert BrokerUrl.parse(broker_note.read()).host == "second"
    second.__exit__(None, None, None)
    assert broker_note.read() == ""


def test_an_error_asks_whether_up_still_runs_if_the_address_is_that_of_its_note(
    capsys: pytest.CaptureFixture[str],
) -> None:
    broker_note.FOLDER.mkdir()
    broker_note.URL_FILE.write_text("nats://fedkeeper@127.0.0.1:4222?password_file=/pw", encoding="utf-8")
    for address, is_asked in (("nats://127.0.0.1:4222", True), ("nats://127.0.0.1:4223", False)):
        with pytest.raises(SystemExit), running.exit_on_user_error():
            raise ConnectFailed(address, "refused")
        said = "; .fedkeeper/url has this address: is `fedkeeper up` still running?" if is_asked else ""
        assert capsys.readouterr().err == f"error: can't connect to {address}: refused{said}\n"
    assert broker_note.hint(ConnectFailed("nats://127.0.0.1:4222", "wrong user or password")) == ""
    broker_note.URL_FILE.write_text("no address", encoding="utf-8")
    assert broker_note.hint(ConnectFailed("nats://127.0.0.1:4222", "refused")) == ""


async def test_up_around_another_broker_leaves_the_note_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextlib.asynccontextmanager
    async def services(url: str, _settings: Settings) -> AsyncIterator[None]:
        assert BrokerUrl.parse(url).secret() == "s3cret"
        yield

    monkeypatch.setattr(system, "services", services)
    running_up = asyncio.ensure_future(up.serve(Settings(tmp_path / ".fedkeeper", 1), "mqtt://me:s3cret@broker", 0))
    while not broker_note.read():  # noqa: ASYNC110 (a file tells nobody that it was written)
        await asyncio.sleep(0)
    said = capsys.readouterr().err
    running_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running_up
    assert "ready: mqtt://broker:1883" in said
    assert "s3cret" not in said
    assert broker_note.read() == ""


@pytest.mark.parametrize(("folder", "where"), [(Path(".fedkeeper"), "here"), (Path("other"), "in other")])
async def test_a_second_up_names_the_first_and_what_can_be_done(
    folder: Path, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "broker").mkdir(parents=True)
    with (folder / "broker" / "lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        started = f"^`fedkeeper up` is running {where} already: use it, or give another folder: --dir DIR$"
        with pytest.raises(FedKeeperError, match=started):
            await up.serve(Settings(folder, 1), "", 0)
        (folder / "url").write_text("nats://fedkeeper@127.0.0.1:4555?password_file=/x")
        ready = rf"is running {where} already \(nats://127.0.0.1:4555\): use it"
        with pytest.raises(FedKeeperError, match=ready):
            await up.serve(Settings(folder, 1), "", 0)


def test_what_up_says_can_be_pasted_into_a_shell() -> None:
    url = "nats://fedkeeper@127.0.0.1:4222?password_file=/a%20b/pass&streams=A"
    found, elsewhere = (hints.is_ready(url, is_found=is_found) for is_found in (True, False))
    for text in (found, elsewhere):
        [export] = [line for line in text.splitlines() if "export" in line]
        assert shlex.split(export) == ["export", f"FEDKEEPER_URL={url}"]
        assert "\n  fedkeeper submit quickstart --wait\n" in text
    assert found.startswith("ready: nats://127.0.0.1:4222\n")
    assert found.index("submit") < found.index("export")
    assert elsewhere.index("export") < elsewhere.index("submit")

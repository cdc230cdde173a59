from pathlib import Path

import pytest

import broker
from broker import BrokerUrl
from broker.errors import BadUrl
from broker.url import Host

HIDDEN = "s3cret"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("memory://demo", BrokerUrl("memory", "demo")),
        ("nats://host", BrokerUrl("nats", "host", 4222)),
        ("nats://host:4333/", BrokerUrl("nats", "host", 4333)),
        ("nats://u:p%40ss@host", BrokerUrl("nats", "host", 4222, "u", "p@ss")),
        ("nats://u@host?password_file=/a/b", BrokerUrl("nats", "host", 4222, "u", None, Path("/a/b"))),
        ("nats://u@host?password_env=PW", BrokerUrl("nats", "host", 4222, "u", password_env="PW")),  # noqa: S106
        ("tls://host?ca_file=ca.pem", BrokerUrl("tls", "host", 4222, ca_file=Path("ca.pem"))),
        ("nats://[::1]:4333", BrokerUrl("nats", "::1", 4333)),
        ("NATS://Host", BrokerUrl("nats", "host", 4222)),
        ("nats://a:1,b:2", BrokerUrl("nats", "a", 1, others=(Host("b", 2),))),
        (
            "nats://u:p%40s,s@a:4333,b,[::1],[::2]:1?replicas=3",
            BrokerUrl(
                "nats", "a", 4333, "u", "p@s,s", replicas=3, others=(Host("b", 4222), Host("::1", 4222), Host("::2", 1))
            ),
        ),
        ("tls://a,b/?ca_file=ca.pem", BrokerUrl("tls", "a", 4222, ca_file=Path("ca.pem"), others=(Host("b", 4222),))),
    ],
)
def test_valid_urls(text: str, expected: BrokerUrl) -> None:
    assert BrokerUrl.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("http://host", "memory://, nats://, tls://, mqtt://, mqtts://"),
        ("host:4222", "memory://, nats://, tls://"),
        ("", "not with nothing"),
        ("memory://", "a name"),
        ("memory://a?b=c", "a name"),
        ("nats://", "a host"),
        ("nats://host/path", "no path"),
        ("nats://host:99999", "port"),
        ("nats://host:port", "port"),
        ("nats://host?colour=red", "'colour'"),
        ("nats://u@host?password_file=", "'password_file'"),
        ("nats://u@host", "without a password"),
        ("nats://host?password_file=/a", "without a user"),
        ("nats://u:p@host?password_file=/a", "give one of"),
        ("nats://host?password_env=PW", "without a user"),
        ("nats://u@host?password_env=", "'password_env'"),
        ("nats://u:p@host?password_env=PW", "give one of"),
        ("nats://u@host?password_env=PW&password_file=/a", "give one of"),
        ("memory://a?password_env=PW", "a name"),
        ("nats://host?ca_file=/a", "ca_file needs tls:// or mqtts://"),
        ("nats://host?streams=", "'streams'"),
        ("nats://host?streams=fed", "use 1 to 32 of A-Z"),
        ("nats://host?streams=A.B", "use 1 to 32 of A-Z"),
        (f"nats://host?streams={'A' * 33}", "use 1 to 32 of A-Z"),
        ("mqtt://host?streams=OTHER", "streams needs nats:// or tls://"),
        ("memory://a?streams=OTHER", "a name"),
        ("nats://host?js=", "'js'"),
        ("nats://host?js=$JS.hub.API.", "such as $JS.hub.API"),
        ("nats://host?js=$JS.*.API", "such as $JS.hub.API"),
        ("nats://host?js=a%20b", "such as $JS.hub.API"),
        (f"nats://host?js={'a' * 129}", "such as $JS.hub.API"),
        ("mqtts://host?js=$JS.hub.API", "js needs nats:// or tls://"),
        ("nats://[::1", "unreadable"),
        ("nats://a,", "unreadable host"),
        ("nats://a,,b", "unreadable host"),
        ("nats://a,b:port", "nats://a: a port"),
        ("nats://a,nats://b", "host1:port,host2:port"),
        ("mqtt://a,b", "an MQTT broker has one host"),
        ("mqtts://a:1,b:2", "an MQTT broker has one host"),
        ("nats://host?replicas=0", "1 to 5 nodes"),
        ("nats://host?replicas=three", "1 to 5 nodes"),
        ("mqtt://host?replicas=3", "replicas needs nats:// or tls://"),
        ("mqtt://host?version=4", "the versions of MQTT are 5 and 3.1.1"),
        ("nats://host?version=5", "version needs mqtt:// or mqtts://"),
    ],
)
def test_the_error_names_the_mistake(text: str, complaint: str) -> None:
    with pytest.raises(BadUrl) as error:
        broker.connect(text)
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        f"nats://u:{HIDDEN}@host?colour=red",
        f"nats://u:{HIDDEN}@host?streams=other",
        f"nats://u:{HIDDEN}@host?js=a..b",
        f"nats://u:{HIDDEN}@host?ca_file=ca.pem",
        f"nats://u:{HIDDEN}@host:99999",
        f"nats://u:{HIDDEN}@host/path",
        f"nats://u:{HIDDEN}@host?password_file=/a",
        f"nats://u:{HIDDEN}@host?password_env=PW",
        f"nats://:{HIDDEN}@host",
        f"http://u:{HIDDEN}@host",
        f"memory://u:{HIDDEN}@host",
        f"nats://u:{HIDDEN}@[::1",
        f"u:{HIDDEN}@host",
        f"nats://u:{HIDDEN}",
        f"nats://u:{HIDDEN},b",
        f"nats://u:1,b:{HIDDEN}",
        f"nats://u:{HIDDEN}@a,b:port",
        f"mqtt://u:{HIDDEN}@a,b",
    ],
)
def test_no_error_shows_a_password(text: str) -> None:
    with pytest.raises(BadUrl) as error:
        BrokerUrl.parse(text)
    assert HIDDEN not in f"{error.value} {error.value!r} {error.value.__cause__}"


SPECIAL = ("/", "?", "#", "@", ":", "&", "=", "%", "%2", ",", "[", "]", "+", "://", "\n", "é", "\\", "'", ";", "")
OPTIONS = ("streams=", "js=", "password_file=", "password_env=", "ca_file=", "replicas=", "version=")


def awkward_passwords() -> list[str]:
    """Passwords of words that are the same but for a number, with any characters between them."""
    pairs = [f"{HIDDEN}1{first}{HIDDEN}2{second}{HIDDEN}3" for first in SPECIAL for second in SPECIAL]
    options = [
        f"1{first}{option}{HIDDEN}2{second}{HIDDEN}3" for first in "?/#&@" for option in OPTIONS for second in SPECIAL
    ]
    return [*pairs, *options, *(f"{mark}{HIDDEN}" for mark in SPECIAL), *(f"12{mark}{HIDDEN}" for mark in SPECIAL)]


@pytest.mark.parametrize(
    "form", ["{}://user:{}@host", "{}://user:{}@host:x", "{}://user:{}@a,b?streams=x", "{}://:{}@host"]
)
@pytest.mark.parametrize("scheme", ["nats", "tls", "mqtt", "mqtts", "memory", "http"])
def test_no_error_shows_a_piece_of_a_password_whatever_its_characters(scheme: str, form: str) -> None:
    for password in awkward_passwords():
        try:
            url = BrokerUrl.parse(form.format(scheme, password))
        except BadUrl as exc:
            shown = f"{exc} {exc!r} {exc.__cause__}"
        else:
            # Without a login, `?ca_file=a@b` is a path with an "@".
            shown = f"{url} {url!r}" if url.user else url.address
        assert HIDDEN not in shown.lower(), password


def test_a_password_that_ended_the_host_too_early_is_told_how_to_write_it() -> None:
    with pytest.raises(BadUrl, match=r"%3F for \?.*password_file=PATH"):
        BrokerUrl.parse(f"nats://site:what?is-the-{HIDDEN}@10.0.0.5")
    assert BrokerUrl.parse(f"nats://site:what%3Fis-the-{HIDDEN}@10.0.0.5").secret() == f"what?is-the-{HIDDEN}"


def test_an_address_is_the_same_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a b & c?d=e#f%20+é"
    folder.mkdir()
    monkeypatch.chdir(folder)
    relative = "mqtts://us%40er@host?ca_file=ca.pem&cert_file=c&key_file=k&password_file=secrets/pw"
    url = BrokerUrl.parse(relative).absolute()
    assert url.password_file == folder / "secrets/pw"
    assert url.ca_file == folder / "ca.pem"
    assert BrokerUrl.parse(str(url)) == url
    assert BrokerUrl.parse("memory://demo").absolute() == BrokerUrl("memory", "demo")


@pytest.mark.parametrize("scheme", ["nats", "tls"])
def test_options_for_jetstream(scheme: str) -> None:
    text = f"{scheme}://host:4222?streams=PLANT_2-B&js=$JS.hub.API"
    url = BrokerUrl.parse(text)
    assert (url.streams, url.js) == ("PLANT_2-B", "$JS.hub.API")
    assert str(url) == text
    assert BrokerUrl.parse(str(url)) == url
    default = BrokerUrl.parse(f"{scheme}://host")
    assert (default.streams, default.js) == ("FEDKEEPER", "$JS.API")
    assert str(default) == f"{scheme}://host:4222"


def test_no_representation_shows_a_password() -> None:
    url = BrokerUrl.parse(f"tls://u:{HIDDEN}@host:1?ca_file=ca.pem")
    assert str(url) == "tls://u:***@host:1?ca_file=ca.pem"
    assert HIDDEN not in f"{url!r} {url.address}"
    assert url.secret() == HIDDEN


def test_the_password_file_is_read_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "password"
    url = BrokerUrl.parse(f"nats://u@host?password_file={path}")
    assert str(url) == f"nats://u@host:4222?password_file={path}"
    with pytest.raises(BadUrl, match="can't read"):
        url.secret()
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(BadUrl, match="empty"):
        url.secret()
    path.write_text(f"{HIDDEN}\n", encoding="utf-8")
    assert url.secret() == HIDDEN


def test_the_password_variable_is_read_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    url = BrokerUrl.parse("tls://u@host?password_env=BROKER_PASSWORD&ca_file=ca.pem")
    assert str(url) == "tls://u@host:4222?ca_file=ca.pem&password_env=BROKER_PASSWORD"
    assert BrokerUrl.parse(str(url)) == url
    monkeypatch.delenv("BROKER_PASSWORD", raising=False)
    with pytest.raises(BadUrl, match="BROKER_PASSWORD"):
        url.secret()
    monkeypatch.setenv("BROKER_PASSWORD", "")
    with pytest.raises(BadUrl, match="no password in the environment's BROKER_PASSWORD"):
        url.secret()
    monkeypatch.setenv("BROKER_PASSWORD", HIDDEN)
    assert url.secret() == HIDDEN
    assert HIDDEN not in f"{url} {url!r} {url.address}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mqtt://host", BrokerUrl("mqtt", "host", 1883)),
        ("mqtts://host", BrokerUrl("mqtts", "host", 8883)),
        ("mqtt://host?version=3.1.1", BrokerUrl("mqtt", "host", 1883, version="3.1.1")),
        ("mqtts://host?version=5", BrokerUrl("mqtts", "host", 8883, version="5")),
        (
            "mqtts://host:1?ca_file=a&cert_file=b&key_file=c",
            BrokerUrl("mqtts", "host", 1, ca_file=Path("a"), cert_file=Path("b"), key_file=Path("c")),
        ),
    ],
)
def test_valid_mqtt_urls(text: str, expected: BrokerUrl) -> None:
    assert BrokerUrl.parse(text) == expected
    assert BrokerUrl.parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("mqtt://host?ca_file=a", "ca_file needs tls:// or mqtts://"),
        ("mqtts://host?cert_file=a", "go together"),
        ("tls://host?cert_file=a&key_file=b", "cert_file needs mqtts://"),
    ],
)
def test_the_error_names_a_mistake_with_certificates(text: str, complaint: str) -> None:
    with pytest.raises(BadUrl, match=complaint):
        BrokerUrl.parse(text)


def test_every_host_of_a_cluster_is_in_the_address() -> None:
    url = BrokerUrl.parse(f"tls://u:{HIDDEN}@a,[::1]:4333,c?replicas=3")
    assert url.address == "tls://a:4222,[::1]:4333,c:4222"
    assert url.hosts == (Host("a", 4222), Host("::1", 4333), Host("c", 4222))
    assert str(url) == "tls://u:***@a:4222,[::1]:4333,c:4222?replicas=3"
    assert HIDDEN not in f"{url} {url!r}"


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("nats://localhost:4222", "nats://127.0.0.1:4222/", True),
        ("nats://localhost", "nats://[::1]:4222", True),
        ("nats://Hub.example.org.", f"nats://u:{HIDDEN}@hub.example.org:4222?replicas=3", True),
        ("tls://hub", "nats://hub", True),
        ("mqtts://hub:1883", "mqtt://hub", True),
        ("nats://a,b,c", "nats://c:4222,d", True),
        ("nats://[2001:db8:0::1]", "nats://[2001:db8::1]", True),
        ("memory://a", "memory://a", True),
        ("memory://localhost", "memory://127.0.0.1", False),
        ("nats://hub", "nats://hub:4223", False),
        ("nats://hub", "nats://other", False),
        ("nats://localhost", "nats://hub", False),
        ("nats://hub:1883", "mqtt://hub", False),
        ("nats://hub", "nats://hub?streams=OTHER", True),
    ],
)
def test_addresses_of_one_broker_may_differ_in_their_text(one: str, other: str, is_same: bool) -> None:  # noqa: FBT001
    first, second = BrokerUrl.parse(one), BrokerUrl.parse(other)
    assert (first.leads_to(second), second.leads_to(first)) == (is_same, is_same)

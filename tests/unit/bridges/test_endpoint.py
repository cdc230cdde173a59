"""The address of a platform: an invalid one is refused, and no error shows a password."""

import ssl

import pytest

from bridges import endpoint
from bridges.errors import BadSettings


@pytest.mark.parametrize("address", ["http://127.0.0.1:8080", "https://host.example.org", "https://[::1]:1/path"])
def test_a_url_is_an_address(address: str) -> None:
    assert str(endpoint.parse_url("gateway", address, "without the key")) == address


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:8080", "ftp://host", "http://", "http://host:port", "http://u:hunter2@host", "http://u:hunter2@host:x"],
)
def test_an_invalid_address_is_refused_with_a_remedy(address: str) -> None:
    with pytest.raises(BadSettings, match=r"^gateway = .*use http://HOST:PORT.*, without the key") as bad:
        endpoint.parse_url("gateway", address, "without the key")
    assert bad.value.field == "gateway"
    assert "hunter2" not in str(bad.value)


def test_no_proxy_is_asked_for_this_machine() -> None:
    def may_use_proxy(address: str) -> bool:
        return endpoint.may_use_proxy(endpoint.parse_url("gateway", address, ""))

    here = ("http://127.0.0.1:8080", "http://127.0.1.1", "http://localhost:1", "http://[::1]:1")
    assert [may_use_proxy(address) for address in here] == [False] * 4
    assert [may_use_proxy(address) for address in ("https://host.example.org", "http://10.0.0.1")] == [True] * 2


def test_a_file_of_certificates_must_exist() -> None:
    assert isinstance(endpoint.ssl_context(""), ssl.SSLContext)
    with pytest.raises(BadSettings, match=r"^ca_file = '/no/such.pem': no certificates can be read"):
        endpoint.ssl_context("/no/such.pem")

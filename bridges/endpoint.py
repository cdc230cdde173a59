"""The address of a platform's HTTP API, and the certificates to trust there."""

import ssl
from typing import Final

import httpx

from bridges.errors import BadSettings

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
"""Hosts that are this machine."""


def parse_url(field: str, address: str, remedy: str) -> httpx.URL:
    """Parse an address.

    Args:
        field: name of the setting, for errors.
        address: value of the setting.
        remedy: says where credentials belong, for errors.

    Raises:
        BadSettings: the address is not an http or https URL with a host, or it holds credentials. The error never
            shows these.
    """
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as exc:
        raise BadSettings(field, "...", f"not a URL: {exc}; {_form(remedy)}") from exc
    if url.userinfo:
        raise BadSettings(field, str(url.copy_with(userinfo=b"...")), f"it must hold no credentials; {_form(remedy)}")
    if url.scheme not in {"http", "https"} or not url.host:
        raise BadSettings(field, address, _form(remedy))
    return url


def may_use_proxy(url: httpx.URL) -> bool:
    """Whether the environment's proxy (HTTP_PROXY and so on) may be asked for an address: not for this machine.

    A proxy elsewhere could not reach it, and would be sent the credentials. faas-cli does the same, as all programs in
    Go (net/http, ProxyFromEnvironment).
    """
    return url.host not in LOOPBACK and not url.host.startswith("127.")


def ssl_context(ca_file: str) -> ssl.SSLContext:
    """A TLS context that trusts the certificates of a PEM file, or those of the system if `ca_file` is empty.

    Raises:
        BadSettings: the file can't be read.
    """
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as exc:
        raise BadSettings("ca_file", ca_file, f"no certificates can be read from it: {exc}") from exc


def _form(remedy: str) -> str:
    return f"use http://HOST:PORT or https://HOST:PORT, {remedy}"

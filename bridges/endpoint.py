"""Checks the address of a platform's HTTP API, and says which certificates to trust there."""

import ssl
from typing import Final

import httpx

from bridges.errors import BadSettings

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def checked(field: str, address: str, remedy: str) -> httpx.URL:
    """The address as a URL.

    Args:
        field: the setting's name, for errors.
        address: the setting.
        remedy: where credentials belong instead, for errors.

    Raises:
        BadSettings: it is no http or https URL with a host, or it holds credentials. The error never shows these.
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


def trusted(ca_file: str) -> ssl.SSLContext:
    """The certificates of a PEM file; those that the system trusts if it is empty.

    Raises:
        BadSettings: the file can't be read.
    """
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as exc:
        raise BadSettings("ca_file", ca_file, f"no certificates can be read from it: {exc}") from exc


def _form(remedy: str) -> str:
    return f"use http://HOST:PORT or https://HOST:PORT, {remedy}"

"""Certificates for emulators that use TLS."""

import asyncio
import ssl
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Final

CERTIFICATE: Final = "certificate.pem"
KEY: Final = "key.pem"


async def loopback(folder: Path) -> ssl.SSLContext:
    """Create a self-signed certificate for 127.0.0.1 in a folder, and return a server's context that uses it.

    Raises:
        RuntimeError: openssl failed.
    """
    key_type = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1")
    files = ("-keyout", folder / KEY, "-out", folder / CERTIFICATE)
    openssl = await asyncio.create_subprocess_exec("openssl", "req", "-x509", *key_type, *subject, *files, stderr=PIPE)
    _, errors = await openssl.communicate()
    if openssl.returncode:
        raise RuntimeError(f"openssl made no certificate: {errors.decode()}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    return context

"""Certificates for emulators that speak TLS."""

import asyncio
import ssl
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Final

CERTIFICATE: Final = "certificate.pem"
KEY: Final = "key.pem"


async def loopback(folder: Path) -> ssl.SSLContext:
    """Put a self-signed certificate for 127.0.0.1 and its key into a folder, and serve with them."""
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1")
    files = ("-keyout", folder / KEY, "-out", folder / CERTIFICATE)
    made = await asyncio.create_subprocess_exec("openssl", "req", "-x509", *kind, *subject, *files, stderr=PIPE)
    said = (await made.communicate())[1]
    if made.returncode:
        raise RuntimeError(f"openssl made no certificate: {said.decode()}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    return context

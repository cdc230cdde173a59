"""Makes TLS certificates for tests."""

import asyncio
from pathlib import Path


async def certificates(folder: Path, name: str = "IP:127.0.0.1") -> None:
    """Write certificates of an authority, of a server and of a client.

    Args:
        folder: gets `ca.pem`, `server.pem`, `client.pem`, and a `.key` for each.
        name: the server's, as OpenSSL writes a subject's alternative name.
    """
    san = folder / "san"
    san.write_text(f"subjectAltName={name}\n", encoding="utf-8")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    await _openssl(
        *("req", "-x509", *key, "-subj", "/CN=ca", "-days", "2"),
        *("-keyout", str(folder / "ca.key"), "-out", str(folder / "ca.pem")),
    )
    for who in ("server", "client"):
        request, signed = str(folder / f"{who}.csr"), str(folder / f"{who}.pem")
        await _openssl("req", *key, "-subj", f"/CN={who}", "-keyout", str(folder / f"{who}.key"), "-out", request)
        authority = ("-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "ca.key"), "-CAcreateserial")
        await _openssl("x509", "-req", "-in", request, *authority, "-days", "2", "-extfile", str(san), "-out", signed)


async def _openssl(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec("openssl", *arguments, stderr=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0

# SPDX-License-Identifier: Apache-2.0
"""Opens an HTTP/2 connection to a gRPC endpoint, with or without TLS."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from pathlib import Path

from specclient.bench.wire.http2 import Connection
from specclient.channel import Tls
from specclient.errors import ConnectError, ConnectTimeout


async def connect(endpoint: str, tls: Tls | None, *, timeout: float | None) -> Connection:
    """A connection to ``endpoint`` (host:port or unix:path). Raises ConnectError and ConnectTimeout."""
    loop = asyncio.get_running_loop()
    context = None if tls is None else _context(tls)
    try:
        if endpoint.startswith("unix:"):
            opening = loop.create_unix_connection(
                Connection,
                endpoint.removeprefix("unix:"),
                ssl=context,
                server_hostname="localhost" if context else None,
            )
        else:
            host, port = endpoint.rsplit(":", 1)
            opening = loop.create_connection(Connection, host.strip("[]"), int(port), ssl=context)
        _, connection = await asyncio.wait_for(opening, timeout)
    except asyncio.TimeoutError:
        raise ConnectTimeout(f"no connection within {timeout} s") from None
    except (OSError, ssl.SSLError) as error:
        raise ConnectError(f"cannot connect: {error.strerror or error}") from error
    return connection


def _context(tls: Tls) -> ssl.SSLContext:
    roots, key, chain = tls.read()
    context = ssl.create_default_context(cadata=None if roots is None else roots.decode())
    context.set_alpn_protocols(["h2"])
    if key is not None and chain is not None:
        # OpenSSL takes a certificate from files only.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "client.pem"
            path.touch(mode=0o600)
            path.write_bytes(key + b"\n" + chain)
            context.load_cert_chain(path)
    return context

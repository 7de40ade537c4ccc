# SPDX-License-Identifier: Apache-2.0
"""Opens an HTTP/2 connection to a gRPC endpoint, with or without TLS."""

from __future__ import annotations

import asyncio
import ssl

from specclient import channel
from specclient.address import Address
from specclient.bench.wire.http2 import Connection
from specclient.channel import Tls
from specclient.errors import ConnectError, ConnectTimeout


async def connect(address: Address, tls: Tls | None, *, timeout: float | None) -> Connection:
    """A connection to a gRPC endpoint. Raises ConnectError, ConnectTimeout and InvalidRequest."""
    loop = asyncio.get_running_loop()
    context = None if tls is None else _context(tls)
    try:
        if address.host:
            opening = loop.create_connection(Connection, address.host, address.port, ssl=context)
        else:
            opening = loop.create_unix_connection(
                Connection,
                address.text.removeprefix("unix:"),
                ssl=context,
                server_hostname="localhost" if context is not None else None,
            )
        _, connection = await asyncio.wait_for(opening, timeout)
    except asyncio.TimeoutError:
        raise ConnectTimeout(f"no connection within {timeout} s") from None
    except (OSError, ssl.SSLError) as error:
        raise ConnectError(f"cannot connect: {error.strerror or error}") from error
    return connection


def _context(tls: Tls) -> ssl.SSLContext:
    context = channel.context(tls)
    context.set_alpn_protocols(["h2"])
    return context

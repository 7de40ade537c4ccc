# SPDX-License-Identifier: Apache-2.0
"""The interface between a load and a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from specclient.bench.sample import Sample
from specclient.bench.server_side import Statistics
from specclient.completion import Chunk


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says about itself; None where it does not."""

    name: str | None = None
    version: str | None = None
    platform: str | None = None


class Target(Protocol):
    """One server. It belongs to the event loop in which it is opened."""

    url: str
    protocol: Literal["grpc", "http", "openai"]
    model: str
    server: Server
    """Known once it is open."""

    async def open(self) -> None:
        """Connect. Raises SpecClientError."""

    async def send(self, sample: Sample) -> None:
        """Send one request and wait for its end; what happens is noted in ``sample``.

        Raises CancelledError only, having cancelled the request.
        """

    def decode(self, sample: Sample) -> tuple[Chunk, ...]:
        """The chunks of ``sample.receipts``; called after the measurement."""

    async def statistics(self) -> Statistics | None:
        """The server's own totals so far; None where it has none."""

    async def close(self) -> None:
        """Disconnect."""

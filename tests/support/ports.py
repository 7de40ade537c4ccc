# SPDX-License-Identifier: Apache-2.0
"""Ports for servers that are told theirs before they start."""

from __future__ import annotations

import contextlib
import os
import random
import socket

_SYSTEM = random.SystemRandom()
_FIRST, _COUNT = 10_000, 11_000


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on.

    They are below those that Linux gives to connections, and two workers that run tests side by side have a
    range each, so that a port stays free until its server has started.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST + _COUNT * (worker % 2)
    ports: list[int] = []
    while len(ports) < count:
        port = _SYSTEM.randrange(first, first + _COUNT)
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            ports += [port] if port not in ports else []
    return ports

# SPDX-License-Identifier: Apache-2.0
"""Addresses where something else than a healthy Triton answers, or nothing."""

from __future__ import annotations

import contextlib
import http.server
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

TLS = Path(__file__).with_name("tls")

CHILD = """
import sys, time
from specclient.testing import FakeServer, Hang, Say

def respond(request):
    yield Say("before ", (1,))
    yield Hang()

with FakeServer(respond) as server:
    print(server.url, server.http_url, flush=True)
    sys.stdin.read()
"""


def free_port() -> int:
    """A port that nothing listens on at present."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def mute() -> Iterator[str]:
    """Accepts connections and says nothing, as a stopped process does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def web_server() -> Iterator[str]:
    """Speaks HTTP/1.1, like Triton's HTTP port."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def child_server() -> Iterator[tuple[dict[str, str], subprocess.Popen[str]]]:
    """A server in a process of its own, which may be killed; it says one chunk and hangs.

    The addresses are those of "grpc" and "http".
    """
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            grpc, http = process.stdout.readline().split()
            yield {"grpc": grpc, "http": http}, process
        finally:
            process.kill()

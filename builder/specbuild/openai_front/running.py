# SPDX-License-Identifier: Apache-2.0
"""The front as a thread of the process that serves the deployment, for the length of a ``with`` block."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specbuild.errors import MissingDependencyError, ServerError
from specbuild.openai_front.deployment import Deployment

if TYPE_CHECKING:
    import uvicorn

STOP_GRACE_S = 10
"""How long running requests may take to finish when the front is told to stop."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunningFront:
    """A front that takes requests."""

    url: str
    _server: uvicorn.Server

    def kill(self) -> None:
        """End running requests without waiting for them; safe in a signal handler."""
        self._server.should_exit = True
        self._server.force_exit = True


@contextlib.contextmanager
def bind(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that holds the address but does not listen yet. Raises ServerError when it is taken."""
    _require_installed()
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ServerError(
            f"{host} is no address of this machine: {error.strerror}", remedy="Use for example 127.0.0.1."
        ) from None
    with bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            bound.bind(address)
        except OSError as error:
            raise ServerError(
                f"OpenAI port {port} on {host} cannot be used: {error.strerror}",
                remedy="Stop what uses it, or choose another: --openai-port NUMBER",
            ) from None
        yield bound


@contextlib.contextmanager
def running(deployment: Deployment, bound: socket.socket) -> Iterator[RunningFront]:
    """Serve ``deployment`` on ``bound`` while the block runs. Raises ServerError when it does not start."""
    import uvicorn

    from specbuild.openai_front.app import application

    server = uvicorn.Server(
        uvicorn.Config(
            application(deployment),
            log_config=None,  # the process's own logging; requests are not logged
            access_log=False,
            lifespan="on",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=STOP_GRACE_S,
        )
    )
    started = threading.Event()
    thread = threading.Thread(target=_run, args=(server, bound, started), name="openai-front")
    thread.start()
    try:
        started.wait()
        if not server.started:
            raise ServerError(
                "the OpenAI-compatible front did not start", remedy="Run with -v to see the reason."
            )
        host, port = bound.getsockname()[:2]
        yield RunningFront(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1", server)
    finally:
        server.should_exit = True
        thread.join()


def _run(server: uvicorn.Server, bound: socket.socket, started: threading.Event) -> None:
    """Run in the thread; ``started`` is set when requests are taken, or when that has failed."""
    import asyncio

    async def serve() -> None:
        task = asyncio.ensure_future(server.serve(sockets=[bound]))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        started.set()
        await task

    try:
        asyncio.run(serve())
    except SystemExit:  # how uvicorn says that it could not start
        log.error("the OpenAI-compatible front has ended")
    finally:
        started.set()


def _require_installed() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"the OpenAI-compatible front needs {error.name}",
            remedy="Install it: pip install 'specbuild[openai]'",
        ) from None

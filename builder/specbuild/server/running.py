# SPDX-License-Identifier: Apache-2.0
"""A tritonserver that answers, for the length of a ``with`` block."""

from __future__ import annotations

import contextlib
import errno
import http.client
import ipaddress
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from specbuild.config import Config, Serving
from specbuild.engines import gpus
from specbuild.errors import ServerError
from specbuild.server import canary, supervisor
from specbuild.server.installation import Installation, find, require
from specbuild.server.launch import KILL_GRACE_S, argv, environment, mode_variables
from specbuild.server.log import reason, tail

log = logging.getLogger(__name__)

_POLL_S = 0.1
_CANARY_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that has answered its canary. Addresses are ``host:port``."""

    http: str
    grpc: str
    metrics: str
    log: Path
    _process: subprocess.Popen[bytes]

    def wait(self) -> None:
        """Return only by the ServerError of a server that has ended by itself."""
        status = self._process.wait()
        raise ServerError(
            f"tritonserver ended by itself ({_status(status)}): {reason(self.log)}\n{tail(self.log)}",
            remedy=f"The whole log is in {self.log}.",
        )

    def kill(self) -> None:
        """End the server without waiting for requests; safe in a signal handler."""
        self._process.send_signal(signal.SIGQUIT)

    def alive(self) -> bool:
        """Whether the server's process still runs."""
        return self._process.poll() is None


@contextlib.contextmanager
def running(
    settings: Config, *, on: Installation | None = None, variables: Mapping[str, str] | None = None
) -> Iterator[RunningServer]:
    """Serve ``settings.repository_dir`` while the block runs; afterwards no process, port or memory is left.

    ``on`` is a tritonserver to use instead of the configured one; ``variables`` are added to its environment.

    Raises MissingDependencyError without what the runtime needs, and ServerError when a port is taken, the
    server does not come up within ``serving.startup_timeout_s``, or it does not answer an inference.
    """
    _require_repository(settings)
    for name, port in _ports(settings.serving).items():
        _require_free(settings.serving.host, port, name)
    prefix = f"specbuild-{os.getpid()}-{secrets.token_hex(4)}-"
    installation = on or find(settings.serving.tritonserver, os.environ)
    require(settings, installation, os.environ)
    _warn_if_public(settings.serving.host)
    log_file = settings.logs_dir / "tritonserver.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log.info("starting %s, log in %s", installation.executable, log_file)
    process = _start(
        argv(settings, installation, shm_prefix=prefix, gpu_count=len(gpus.detect())),
        {
            **environment(installation, os.environ),
            **mode_variables(settings, installation),
            **(variables or {}),
        },
        log_file,
        prefix,
    )
    try:
        server = _server(settings.serving, log_file, process)
        try:
            _wait_until_it_answers(server, settings.serving.startup_timeout_s)
        except BaseException:
            process.send_signal(signal.SIGQUIT)  # nothing is being served yet that could be finished first
            raise
        yield server
    finally:
        _stop(process)


def _start(
    command: list[str], variables: dict[str, str], log_file: Path, prefix: str
) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-I", supervisor.__file__, str(log_file), prefix, str(KILL_GRACE_S), "--"]
    return subprocess.Popen(
        [*program, *command],
        stdin=subprocess.PIPE,  # closes with this process, however it ends
        stdout=subprocess.DEVNULL,
        env=variables,
        start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let running requests finish, then end the server; a second Ctrl-C meanwhile kills it."""
    assert process.stdin is not None
    try:
        process.stdin.close()
        process.wait()
    except BaseException:
        process.send_signal(signal.SIGQUIT)
        process.wait()
        raise


def _require_repository(settings: Config) -> None:
    if not settings.repository_dir.is_dir():
        raise ServerError(
            f"{settings.repository_dir} does not exist",
            remedy="Write it first: `specbuild repository --config FILE`.",
        )


def _ports(serving: Serving) -> dict[str, int]:
    return {"http": serving.http_port, "grpc": serving.grpc_port, "metrics": serving.metrics_port}


def _require_free(host: str, port: int, name: str) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            probe.bind(address)
    except OSError as error:
        elsewhere = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        raise ServerError(
            f"{name} port {port} on {host} cannot be used: {error.strerror}",
            remedy="Set serving.host to an address of this machine, such as 127.0.0.1."
            if elsewhere
            else f"Stop what uses it, or choose another: --set serving.{name}_port=NUMBER",
        ) from None


def _warn_if_public(host: str) -> None:
    address = socket.getaddrinfo(host, None)[0][4][0]
    if not ipaddress.ip_address(str(address).partition("%")[0]).is_loopback:
        log.warning(
            "serving.host %s: Triton has no authentication; put it behind a proxy or a firewall", host
        )


def _server(serving: Serving, log_file: Path, process: subprocess.Popen[bytes]) -> RunningServer:
    host = f"[{serving.host}]" if ":" in serving.host else serving.host
    addresses = {name: f"{host}:{port}" for name, port in _ports(serving).items()}
    return RunningServer(**addresses, log=log_file, _process=process)


def _wait_until_it_answers(server: RunningServer, timeout_s: float) -> None:
    start = time.monotonic()
    deadline = start + timeout_s
    while not _ready(server.http):
        if not server.alive():
            raise _failure(server, f"ended while starting ({_status(server._process.wait())})", start)
        if time.monotonic() > deadline:
            raise _failure(server, f"was not ready within {timeout_s:.0f} s", start)
        time.sleep(_POLL_S)
    complaint = canary.sing(server.grpc, min(_CANARY_TIMEOUT_S, max(1.0, deadline - time.monotonic())))
    if complaint is not None:
        raise _failure(server, f"is ready but does not answer: {complaint}", start)
    log.info("first answer after %.1f s", time.monotonic() - start)


def _ready(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=1)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _failure(server: RunningServer, what: str, start: float) -> ServerError:
    return ServerError(
        f"tritonserver {what}, after {time.monotonic() - start:.1f} s: {reason(server.log)}"
        f"\n{tail(server.log)}",
        remedy=f"The whole log is in {server.log}.",
    )


def _status(code: int) -> str:
    return f"exit code {code}" if code <= 128 else f"signal {code - 128}"

# SPDX-License-Identifier: Apache-2.0
"""Options of the commands that talk to a running server, and the client's errors as specbuild's own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from specbuild import config
from specbuild.errors import ServerError

if TYPE_CHECKING:
    from specclient import AsyncSpecClient, Tls

Command = TypeVar("Command", bound=Callable[..., Any])


def addressed(command: Command) -> Command:
    """``-u``, ``-m`` and ``--config``; the command receives ``url`` and ``model``."""

    @click.option("-u", "--url", help="The server's gRPC address, or http://.  [default: 127.0.0.1:8001]")
    @click.option("-m", "--model", default="ensemble", show_default=True, help="The front model.")
    @click.option(
        "-c",
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        help="Take the address from this deployment's file.",
    )
    @functools.wraps(command)
    def wrapper(*args: Any, url: str | None, config_file: Path | None, **kwargs: Any) -> Any:
        if url is None:
            url = "127.0.0.1:8001" if config_file is None else _address(config.load(config_file).serving)
        return command(*args, url=url, **kwargs)

    return wrapper  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Server:
    """Where a command's server is, and how to speak to it."""

    url: str
    model: str
    tls: Tls | None
    token: str | None
    chat_template: Path | None

    def connect(self) -> AsyncSpecClient:
        """A client. Raises SpecClientError for what cannot work."""
        from specclient import AsyncSpecClient

        return AsyncSpecClient(
            self.url, self.model, tls=self.tls, token=self.token, chat_template=self.chat_template
        )


def connected(command: Command) -> Command:
    """``addressed`` with TLS, token and chat template; the command receives ``server: Server``."""
    pem = click.Path(path_type=Path, exists=True, dir_okay=False)

    @addressed
    @click.option("--tls-root-certificates", type=pem, help="Use TLS and trust this PEM file.")
    @click.option("--tls-certificate-chain", type=pem, help="This client's certificate, for mutual TLS.")
    @click.option("--tls-private-key", type=pem, help="Its key.")
    @click.option(
        "--token-file", type=click.Path(path_type=Path, exists=True), help="A file with a bearer token."
    )
    @click.option(
        "--chat-template",
        type=click.Path(path_type=Path, exists=True),
        help="Send the prompt as a chat message, by the template in this tokenizer's folder.",
    )
    @functools.wraps(command)
    def wrapper(
        *args: Any,
        url: str,
        model: str,
        tls_root_certificates: Path | None,
        tls_certificate_chain: Path | None,
        tls_private_key: Path | None,
        token_file: Path | None,
        chat_template: Path | None,
        **kwargs: Any,
    ) -> Any:
        tls = _tls(tls_root_certificates, tls_private_key, tls_certificate_chain)
        token = None if token_file is None else token_file.read_text(encoding="utf-8").strip()
        return command(*args, server=Server(url, model, tls, token, chat_template), **kwargs)

    return wrapper  # type: ignore[return-value]


def sampling(command: Command) -> Command:
    """The request's parameters; the command receives ``fields`` of GenerationParameters."""
    names = (
        "max_tokens",
        "min_tokens",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "stop",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "num_draft_tokens",
    )

    @click.option(
        "--max-tokens",
        type=click.IntRange(min=1),
        default=128,
        show_default=True,
        help="Most tokens to generate.",
    )
    @click.option("--temperature", type=click.FloatRange(min=0), help="0 is greedy, and so is the default.")
    @click.option(
        "--top-p", type=click.FloatRange(0, 1, min_open=True), help="Sample among this probability."
    )
    @click.option("--top-k", type=click.IntRange(min=0), help="Sample among this many tokens.")
    @click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="Makes sampling repeatable.")
    @click.option("--min-tokens", type=click.IntRange(min=0), help="No end token before that many tokens.")
    @click.option(
        "--repetition-penalty", type=click.FloatRange(0, min_open=True), help="Above 1 discourages repeats."
    )
    @click.option("--presence-penalty", type=float, help="Above 0 discourages tokens that have occurred.")
    @click.option("--frequency-penalty", type=float, help="The same for each time they have occurred.")
    @click.option("--stop", multiple=True, metavar="TEXT", help="End at this text; repeatable.")
    @click.option(
        "--num-draft-tokens",
        type=click.IntRange(min=0),
        help="Draft tokens per round; 0 turns speculation off.  [default: the deployment's]",
    )
    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        fields = {name: kwargs.pop(name) for name in names}
        return command(*args, fields=fields, **kwargs)

    return wrapper  # type: ignore[return-value]


@contextlib.contextmanager
def server_errors() -> Iterator[None]:
    """An error of the client leaves the block as a ServerError, with its remedy."""
    from specclient import SpecClientError

    try:
        yield
    except SpecClientError as error:
        raise ServerError(str(error), remedy=error.remedy) from error


def _address(serving: config.Serving) -> str:
    """Where a client on this machine reaches the server; one that listens everywhere is on loopback too."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(serving.host, serving.host)  # noqa: S104
    return f"[{host}]:{serving.grpc_port}" if ":" in host else f"{host}:{serving.grpc_port}"


def _tls(roots: Path | None, key: Path | None, chain: Path | None) -> Tls | None:
    """What the options say; None when they say nothing."""
    from specclient import InvalidRequest, Tls

    if roots is None and key is None and chain is None:
        return None
    try:
        return Tls(root_certificates=roots, private_key=key, certificate_chain=chain)
    except InvalidRequest as error:
        raise click.UsageError(
            f"{error}. Give --tls-private-key and --tls-certificate-chain together."
        ) from None

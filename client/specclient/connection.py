# SPDX-License-Identifier: Apache-2.0
"""What both clients are given, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specclient import channel
from specclient.address import Address, parse
from specclient.chat import ChatTemplate, Message
from specclient.errors import InvalidRequest
from specclient.timeouts import Timeout

Prompt = str | Sequence[Message]
"""A text, or chat messages."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where and how to reach a server."""

    address: Address
    timeout: Timeout
    tls: channel.Tls | None
    headers: tuple[tuple[str, str], ...]
    keepalive: channel.KeepAlive | None

    @classmethod
    def checked(
        cls,
        url: str,
        *,
        timeout: Timeout | None,
        tls: channel.Tls | None,
        headers: Mapping[str, str] | None,
        token: str | None,
        keepalive: channel.KeepAlive | None,
    ) -> Connection:
        """Raises InvalidRequest for what cannot work."""
        address = parse(url)
        if tls is not None and url.startswith("http://"):
            raise InvalidRequest("tls is given for an http:// address", remedy="Write https:// instead.")
        if tls is None and address.secure:
            tls = channel.Tls()
        return cls(address, timeout or Timeout(), tls, channel.headers(headers or {}, token), keepalive)

    def options(self) -> dict[str, Any]:
        """The arguments of every transport after the address."""
        return {
            "timeout": self.timeout,
            "tls": self.tls,
            "headers": self.headers,
            "keepalive": self.keepalive,
        }


def template(given: ChatTemplate | Path | str | None) -> ChatTemplate | None:
    """The chat template that a client was given, read once. Raises InvalidRequest."""
    return given if given is None or isinstance(given, ChatTemplate) else ChatTemplate.load(given)


def text(prompt: Prompt, chat_template: ChatTemplate | None) -> str:
    """``prompt`` as text: messages through the template. Raises InvalidRequest."""
    if isinstance(prompt, str):
        return prompt
    if chat_template is None:
        raise InvalidRequest(
            "messages need the model's chat template",
            remedy="Pass chat_template= with the folder of the model's tokenizer, or send text.",
        )
    return chat_template.render(prompt)

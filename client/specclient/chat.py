# SPDX-License-Identifier: Apache-2.0
"""Chat messages to the text that a model was trained on, by the template of its own tokenizer.

    template = ChatTemplate.load("build/llama8b/engines/target")       # a checkpoint's folder will do
    with SpecClient("127.0.0.1:8001", chat_template=template) as client:
        print(client.generate([{"role": "user", "content": "Why is the sky blue?"}]).text)

Triton takes text, so the template is applied here. It is a Jinja template in the tokenizer's files
(``chat_template.jinja``, or ``chat_template`` in ``tokenizer_config.json``), rendered in Jinja's sandbox
with the names that transformers gives it (``transformers/utils/chat_template_utils.py``); transformers
itself is not needed.

One thing differs: where the server's tokenizer puts the begin token by itself, the one that the template
wrote is left out, since the model has never seen two.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specclient.errors import InvalidRequest

Message = Mapping[str, Any]
"""``role`` and ``content``, and what else the template reads."""

_TEMPLATE = "chat_template.jinja"
_CONFIG = "tokenizer_config.json"
_TOKENIZER = "tokenizer.json"
_NO_TEMPLATE = "Use a model that was trained to chat, or send the prompt as text."


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template."""

    source: str
    """The Jinja template."""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """Names such as ``bos_token`` and what they stand for."""
    server_adds_bos: bool = False
    """Whether the server's tokenizer starts every prompt with the begin token."""

    @classmethod
    def load(cls, path: Path | str, *, add_special_tokens: bool = True) -> ChatTemplate:
        """The template in ``path``: a tokenizer's folder, or one of its files there.

        ``add_special_tokens`` is the deployment's setting of its preprocessing. Raises InvalidRequest.
        """
        given = Path(path)
        folder = given if given.is_dir() else given.parent
        config = _document(folder / _CONFIG)
        source = _text(given) if given.suffix == ".jinja" else _source(folder, config)
        if source is None:
            raise InvalidRequest(f"{given} has no chat template", remedy=_NO_TEMPLATE)
        tokens = {
            name: str(token["content"] if isinstance(token, dict) else token)
            for name, token in config.items()
            if name.endswith("_token") and isinstance(token, str | dict)
        }
        bos = tokens.get("bos_token")
        adds = add_special_tokens and bos is not None and _starts_with(bos, folder, config)
        return cls(source, tokens, adds)

    def render(self, messages: Sequence[Message], **variables: Any) -> str:
        """``messages`` and the start of the answer, as the prompt. Raises InvalidRequest.

        ``variables`` reach the template too (``tools``, ``enable_thinking``, ``date_string``, ...).
        """
        import jinja2

        if not messages:
            raise InvalidRequest("there are no messages", remedy="Send at least one.")
        values = {"add_generation_prompt": True, "tools": None, "documents": None} | variables
        try:
            prompt: str = self._compiled.render(
                messages=[dict(message) for message in messages], **self.special_tokens, **values
            )
        except _RefusedError as error:
            raise InvalidRequest(f"the chat template refuses the messages: {error}") from error
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise InvalidRequest(
                f"the chat template cannot be applied: {error}",
                remedy="Give every message a role and a content that this model's template knows.",
            ) from error
        bos = self.special_tokens.get("bos_token", "")
        return prompt.removeprefix(bos) if self.server_adds_bos else prompt

    @functools.cached_property
    def _compiled(self) -> Any:
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation()]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = time.strftime
        return environment.from_string(self.source)


class _RefusedError(Exception):
    """Raised from inside a template."""


def _refuse(message: str) -> None:
    raise _RefusedError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Jinja's own filter escapes characters of HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


@functools.cache
def _generation() -> Any:
    """``{% generation %}``, which marks the answers for training and leaves no trace in the text."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = frozenset({"generation"})  # type: ignore[assignment]

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    return Generation


def _source(folder: Path, config: Mapping[str, Any]) -> str | None:
    if (folder / _TEMPLATE).is_file():
        return _text(folder / _TEMPLATE)
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _starts_with(bos: str, folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the tokenizer puts ``bos`` before a text; its post-processor decides."""
    path = folder / _TOKENIZER
    if not path.is_file():
        return bool(config.get("add_bos_token", True))
    processor = _document(path).get("post_processor") or {}
    for part in processor.get("processors", [processor]):
        first = (part.get("single") or [{}])[0]
        if isinstance(first, dict) and first.get("SpecialToken", {}).get("id") == bos:
            return True
        if (
            part.get("type") in {"BertProcessing", "RobertaProcessing"}
            and (part.get("cls") or [""])[0] == bos
        ):
            return True
    return False


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}",
            remedy="Name the folder of the model's tokenizer.",
        ) from error


def _document(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(_text(path)))
    except ValueError as error:
        raise InvalidRequest(
            f"{path} is no JSON object: {error}", remedy="Download the file again."
        ) from error

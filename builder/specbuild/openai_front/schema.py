# SPDX-License-Identifier: Apache-2.0
"""The requests of OpenAI's API that this front takes; whatever it cannot honour is refused by name.

Extensions, named as in vLLM: ``top_k``, ``min_tokens``, ``repetition_penalty``, ``bad_words``,
``chat_template_kwargs``; and ``num_draft_tokens`` (0 turns speculation off).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, model_validator

from specbuild.openai_front.refusal import Refusal
from specbuild.suggest import did_you_mean
from specclient import GenerationParameters

NEUTRAL: dict[str, tuple[Any, ...]] = {
    # Field -> values that ask for nothing; any other is refused.
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "echo": (False,),
    "suffix": ("",),
    "top_logprobs": (0,),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
IGNORED = {"user", "safety_identifier", "prompt_cache_key", "metadata"}
"""They describe the caller and ask for nothing of the answer."""

MAX_CHOICES = 16
Count = Annotated[StrictInt, Field(ge=1, le=2**31 - 1)]


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(extra="forbid")
    include_usage: StrictBool = False
    include_obfuscation: Literal[False] = False


class Request(BaseModel):
    """What both endpoints share."""

    model_config = ConfigDict(extra="forbid")

    model: str
    stream: StrictBool = False
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[StrictInt, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: str | list[str] | None = None
    seed: StrictInt | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    top_k: Annotated[StrictInt, Field(ge=0)] | None = None
    min_tokens: Annotated[StrictInt, Field(ge=0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    bad_words: list[str] = []
    num_draft_tokens: Annotated[StrictInt, Field(ge=0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_honoured(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        for name, neutral in NEUTRAL.items():
            if given.get(name) is not None and given[name] not in neutral:
                raise Refusal(
                    400,
                    f"{name} is not supported by this server; leave it out",
                    param=name,
                    code="unsupported_parameter",
                )
        known = cls.model_fields.keys()
        kept = {k: v for k, v in given.items() if v is not None and k not in NEUTRAL.keys() | IGNORED}
        for name in kept.keys() - known:
            raise Refusal(
                400,
                f"unknown parameter {name}{did_you_mean(name, known)}",
                param=name,
                code="unknown_parameter",
            )
        return kept

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> Request:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream: true only")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer and are not part of it."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def wants_log_probs(self) -> bool:
        """Whether each token comes with its log-probability."""
        return False

    def parameters(self, max_tokens: int, choice: int) -> GenerationParameters:
        """What to ask the server for, for the ``choice``-th answer. Raises InvalidRequest."""
        # Several answers to one prompt differ; the same seed gives the same set again.
        seed = secrets.randbits(63) if self.seed is None else (self.seed + choice) % 2**64
        return GenerationParameters(
            max_tokens=max_tokens,
            min_tokens=self.min_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=seed,
            stop=self.stops,
            bad_words=tuple(self.bad_words),
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            num_draft_tokens=self.num_draft_tokens,
            return_log_probs=self.wants_log_probs,
        )


class CompletionRequest(Request):
    """``POST /v1/completions``."""

    prompt: str | list[str]
    logprobs: StrictInt | None = None
    best_of: StrictInt | None = None

    @model_validator(mode="after")
    def _within_reach(self) -> CompletionRequest:
        if self.logprobs not in {None, 0}:
            raise ValueError("logprobs: only the chosen tokens' are available, ask for 0")
        if self.best_of not in {None, self.n or 1}:
            raise ValueError("best_of: not supported, leave it out or give n")
        if not self.prompt or len(self.prompts) * (self.n or 1) > MAX_CHOICES:
            raise ValueError(f"prompt: 1 to {MAX_CHOICES} answers per request, prompts times n")
        return self

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def wants_log_probs(self) -> bool:
        return self.logprobs is not None


class ChatRequest(Request):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: StrictBool = False
    chat_template_kwargs: dict[str, Any] = {}

    @model_validator(mode="after")
    def _variables_are_not_the_messages(self) -> ChatRequest:
        if self.chat_template_kwargs.keys() & {"messages", "self"}:
            raise ValueError("chat_template_kwargs: the messages are a field of their own")
        return self

    @property
    def wants_log_probs(self) -> bool:
        return self.logprobs

    @property
    def limit(self) -> int | None:
        """The newer name wins."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def plain_messages(self) -> list[dict[str, Any]]:
        """The messages with their text as one string. Raises Refusal for what is no text."""
        return [self._plain(number, message) for number, message in enumerate(self.messages)]

    def _plain(self, number: int, message: dict[str, Any]) -> dict[str, Any]:
        where, content = f"messages[{number}]", message.get("content")
        if not isinstance(message.get("role"), str):
            raise Refusal(400, f"{where}.role is missing", param=f"{where}.role")
        if isinstance(content, list):
            parts = [part.get("text") if isinstance(part, dict) else None for part in content]
            if not all(isinstance(part, str) for part in parts):
                raise Refusal(400, f"{where}.content: this server takes text only", param=f"{where}.content")
            content = "".join(map(str, parts))
        if content is not None and not isinstance(content, str):
            raise Refusal(400, f"{where}.content is no text", param=f"{where}.content")
        return {**message, "content": content or ""}


Body = TypeVar("Body", bound=Request)


def validated(kind: type[Body], document: Any) -> Body:
    """``document`` as a request. Raises Refusal; its message never repeats a value, which may be a prompt."""
    try:
        return kind.model_validate(document)
    except pydantic.ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(part) for part in detail["loc"]) or None
        message = detail["msg"].removeprefix("Value error, ")
        raise Refusal(400, f"{param}: {message}" if param else message, param=param) from None

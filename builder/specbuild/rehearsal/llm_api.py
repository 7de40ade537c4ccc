# SPDX-License-Identifier: Apache-2.0
"""TensorRT-LLM's LLM API as the model ``llmapi`` sees it, on the torch runtime."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from specbuild.rehearsal.sampling_params import SamplingParams
from specbuild.rehearsal.venue import THREADS, WEIGHTS
from specbuild.torch_runtime import Chunk, Counters, Engine, Request, Sampling, Settings

_ARGUMENTS = frozenset(
    {
        *("model", "backend", "tokenizer", "revision", "dtype", "trust_remote_code", "quant_config"),
        *("tensor_parallel_size", "pipeline_parallel_size", "gpus_per_node"),
        *("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens", "max_beam_width"),
        *("kv_cache_config", "scheduler_config", "cuda_graph_config", "speculative_config"),
        *("enable_chunked_prefill", "disable_overlap_scheduler", "attn_backend", "return_perf_metrics"),
    }
)
_DECODING_TYPES = frozenset({"DraftTarget", "Draft_Target"})
_DRAFT_KEYS = ("speculative_model", "speculative_model_dir")


class LLM:
    """A loaded pair. Raises ValueError for arguments that the LLM API does not know."""

    def __init__(self, **arguments: Any) -> None:
        unknown = sorted(set(arguments) - _ARGUMENTS)
        if unknown:
            raise ValueError(f"LLM has no arguments {', '.join(unknown)}")
        speculation = arguments.get("speculative_config") or {}
        folders = _folders(arguments, speculation)
        threads = os.environ.get(THREADS)
        self._engine = Engine.load(
            folders["target"],
            folders.get("draft"),
            Settings(
                draft_length=int(speculation.get("max_draft_len", 0)),
                adaptive=False,
                max_batch_size=int(arguments.get("max_batch_size") or 8),
                max_input_len=int(arguments.get("max_input_len") or 1024),
                max_seq_len=int(arguments["max_seq_len"]),
                device="cpu",
                threads=int(threads) if threads else None,
            ),
        )

    def generate_async(
        self, inputs: Mapping[str, list[int]], sampling_params: SamplingParams, streaming: bool = False
    ) -> RequestOutput:
        """The request's growing output. Raises EngineError for a request that cannot be served."""
        return RequestOutput(self._engine, inputs["prompt_token_ids"], sampling_params, streaming)

    def shutdown(self) -> None:
        """Free the models."""
        self._engine.close()


def _folders(arguments: Mapping[str, Any], speculation: Mapping[str, Any]) -> dict[str, Path]:
    cast: dict[str, str] = json.loads(os.environ.get(WEIGHTS, "{}"))
    folders = {"target": Path(cast.get("target", arguments["model"]))}
    if speculation:
        if speculation.get("decoding_type") not in _DECODING_TYPES:
            raise ValueError(f"Invalid decoding type: {speculation.get('decoding_type')}")
        draft = next((speculation[key] for key in _DRAFT_KEYS if speculation.get(key)), None)
        if draft is None:
            raise ValueError("Draft model must be provided.")
        folders["draft"] = Path(cast.get("draft", draft))
    return folders


@dataclass
class CompletionOutput:
    """What has been generated so far."""

    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    logprobs: list[Any] = field(default_factory=list)
    request_perf_metrics: Any = None


class RequestOutput:
    """One request; iterate it in the event loop that made it."""

    def __init__(self, engine: Engine, prompt: list[int], params: SamplingParams, streaming: bool) -> None:
        self.outputs = [CompletionOutput()]
        self.decoding_iter = 0
        self._params = params
        self._streaming = streaming
        self._chunks: asyncio.Queue[Chunk | Exception] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(item: Chunk | Exception) -> None:
            loop.call_soon_threadsafe(self._chunks.put_nowait, item)

        self._ticket = engine.submit(_request(prompt, params), on_chunk=put, on_error=put)

    async def __aiter__(self) -> AsyncIterator[RequestOutput]:
        output = self.outputs[0]
        while output.finish_reason is None:
            item = await self._chunks.get()
            if isinstance(item, Exception):
                raise item
            self._add(output, item)
            if self._streaming or output.finish_reason is not None:
                yield self

    def abort(self) -> None:
        """Give the request up."""
        self._ticket.cancel()

    def _add(self, output: CompletionOutput, chunk: Chunk) -> None:
        output.token_ids += chunk.token_ids
        if self._params.logprobs is not None:
            pairs = zip(chunk.token_ids, chunk.log_probs, strict=True)
            output.logprobs += [{token: SimpleNamespace(logprob=value)} for token, value in pairs]
        self.decoding_iter = chunk.counters.rounds + 1
        output.finish_reason = chunk.finish_reason
        if self._params.return_perf_metrics:
            output.request_perf_metrics = _metrics(chunk.counters)


def _request(prompt: list[int], params: SamplingParams) -> Request:
    greedy = params.top_k == 1 or (params.temperature, params.top_k, params.top_p) == (None, None, None)
    stops = () if params.stop_token_ids is None else tuple((token,) for token in params.stop_token_ids)
    end = frozenset() if params.end_id in (None, -1) else frozenset({int(params.end_id or 0)})
    return Request(
        prompt=prompt,
        max_tokens=params.max_tokens,
        sampling=Sampling(
            temperature=0.0 if greedy else _given(params.temperature, 1.0),
            top_k=params.top_k or 0,
            top_p=_given(params.top_p, 1.0),
            repetition_penalty=_given(params.repetition_penalty, 1.0),
            presence_penalty=_given(params.presence_penalty, 0.0),
            frequency_penalty=_given(params.frequency_penalty, 0.0),
            seed=params.seed,
            bad_words=tuple((token,) for token in params.bad_token_ids or ()),
        ),
        end_ids=end,
        stop_sequences=stops,
        min_tokens=params.min_tokens or 0,
        log_probs=params.logprobs is not None,
    )


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _metrics(counters: Counters) -> Any:
    def moment(nanoseconds: int) -> timedelta:
        return timedelta(microseconds=nanoseconds / 1000)

    return SimpleNamespace(
        speculative_decoding=SimpleNamespace(
            total_draft_tokens=counters.drafted,
            total_accepted_draft_tokens=counters.accepted,
            acceptance_rate=counters.accepted / max(1, counters.drafted),
        ),
        timing_metrics=SimpleNamespace(
            arrival_time=moment(counters.arrival_ns),
            first_scheduled_time=moment(counters.first_scheduled_ns),
            first_token_time=moment(counters.first_token_ns),
            last_token_time=moment(counters.last_token_ns),
        ),
    )

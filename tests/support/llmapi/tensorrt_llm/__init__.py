# SPDX-License-Identifier: Apache-2.0
"""A stand-in for TensorRT-LLM's LLM API: what the model ``llmapi`` uses, refusing what the real one does.

The truncation of stop tokens follows tensorrt_llm/executor/result.py (NVIDIA/TensorRT-LLM, 1.2). The
"model" counts upwards from the last prompt token; a round gives one to max_draft_len + 1 tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from specbuild.rehearsal.sampling_params import SamplingParams

VOCABULARY = 200
ROUND_S = 0.01


class LLM:
    """One loaded pair; ``live`` counts the requests at work."""

    def __init__(self, model: str, speculative_config: dict[str, Any], **more: Any) -> None:
        unknown = set(more) - {"backend", "tensor_parallel_size", "max_batch_size", "max_seq_len"}
        if unknown:
            raise ValueError(f"Invalid arguments: {sorted(unknown)}")
        if speculative_config["decoding_type"] != "DraftTarget":
            raise ValueError("Invalid decoding type")
        self.drafts = speculative_config["max_draft_len"]
        self.live: set[RequestOutput] = set()
        self.params: list[SamplingParams] = []

    def generate_async(
        self, inputs: dict[str, list[int]], sampling_params: SamplingParams, streaming: bool = False
    ) -> RequestOutput:
        asyncio.get_running_loop()  # the real one needs it too, for its queue
        self.params.append(sampling_params)
        return RequestOutput(self, inputs["prompt_token_ids"], sampling_params, streaming)

    def shutdown(self) -> None:
        assert not self.live, "requests were left behind"


@dataclass(eq=False)
class RequestOutput:
    llm: LLM
    prompt: list[int]
    params: SamplingParams
    streaming: bool
    outputs: list[Any] = field(default_factory=list)
    decoding_iter: int = 0
    aborted: bool = False

    def __post_init__(self) -> None:
        self.llm.live.add(self)
        self.outputs.append(
            SimpleNamespace(token_ids=[], finish_reason=None, logprobs=[], request_perf_metrics=None)
        )

    async def __aiter__(self) -> AsyncIterator[RequestOutput]:
        output, drafted = self.outputs[0], 0
        while output.finish_reason is None:
            await asyncio.sleep(ROUND_S)
            self.decoding_iter += 1
            drafted += self.llm.drafts
            for _ in range(1 + self.decoding_iter % (self.llm.drafts + 1)):
                if output.finish_reason is None:
                    self._token(output)
            output.request_perf_metrics = self._metrics(drafted)
            if self.aborted:
                output.finish_reason = "cancelled"
            if output.finish_reason is not None:
                self.llm.live.discard(self)
            if self.streaming or output.finish_reason is not None:
                yield self

    def _token(self, output: Any) -> None:
        token = (self.prompt[-1] + len(output.token_ids) + 1) % VOCABULARY
        output.token_ids.append(token)
        if self.params.logprobs:
            output.logprobs.append({token: SimpleNamespace(logprob=-0.5)})
        if token == self.params.end_id:
            output.finish_reason = "stop"
        elif token in (self.params.stop_token_ids or ()):
            output.finish_reason = "stop"
            if not self.params.include_stop_str_in_output:
                del output.token_ids[-1:]
        elif len(output.token_ids) == self.params.max_tokens:
            output.finish_reason = "length"

    def _metrics(self, drafted: int) -> Any:
        if not self.params.return_perf_metrics:
            return None
        accepted = len(self.outputs[0].token_ids) - self.decoding_iter
        moment = timedelta(seconds=self.decoding_iter)
        names = ("arrival_time", "first_scheduled_time", "first_token_time", "last_token_time")
        return SimpleNamespace(
            speculative_decoding=SimpleNamespace(
                total_draft_tokens=drafted, total_accepted_draft_tokens=accepted
            ),
            timing_metrics=SimpleNamespace(**dict.fromkeys(names, moment)),
        )

    def abort(self) -> None:
        self.aborted = True
        self.llm.live.discard(self)

# SPDX-License-Identifier: Apache-2.0
"""TensorRT-LLM's LLM API behind the little that the service needs of it.

Used of TensorRT-LLM (1.0 and later): ``LLM(**arguments)`` with ``generate_async`` and ``shutdown``,
``SamplingParams``, and ``llmapi.llm_utils.update_llm_args_with_extra_dict``, which NVIDIA's own model
(triton_backend/all_models/llmapi/tensorrt_llm/1/model.py) reads its model.yaml with.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import exchange
import yaml

TIMING = {
    "arrival_time_ns": "arrival_time",
    "first_scheduled_time_ns": "first_scheduled_time",
    "first_token_time_ns": "first_token_time",
    "last_token_time_ns": "last_token_time",
}


class Engine:
    """The loaded pair."""

    def __init__(self, arguments_file: Path) -> None:
        # Importing takes CUDA into use, so it happens in the process and at the time that needs it.
        from tensorrt_llm import LLM, SamplingParams
        from tensorrt_llm.llmapi.llm_utils import update_llm_args_with_extra_dict

        document = yaml.safe_load(arguments_file.read_text(encoding="utf-8"))
        self.draft_length = int((document.get("speculative_config") or {}).get("max_draft_len", 0))
        self._params = SamplingParams
        self._llm = LLM(**update_llm_args_with_extra_dict({}, document))

    def start(self, job: exchange.Job) -> Running:
        """Hand the request over; called in the event loop. Raises what TensorRT-LLM refuses it with."""
        params = self._params(max_tokens=job.max_tokens, **job.sampling)
        # Sequences of several tokens are looked for here, step by step, so the steps are needed.
        stepwise = job.streaming or any(len(stop) > 1 for stop in job.stop_sequences) or job.min_tokens > 1
        prompt = {"prompt_token_ids": job.prompt}
        return Running(self._llm.generate_async(prompt, params, streaming=stepwise))

    def close(self) -> None:
        """Free the GPUs."""
        self._llm.shutdown()


class Running:
    """One request inside the LLM API."""

    def __init__(self, result: Any) -> None:
        self._result = result

    async def __aiter__(self) -> AsyncIterator[exchange.Step]:
        async for result in self._result:
            yield step(result)

    def abort(self) -> None:
        self._result.abort()


def step(result: Any) -> exchange.Step:
    """A ``RequestOutput`` as plain values. Raises RuntimeError when the request was given up."""
    output = result.outputs[0]
    reason = output.finish_reason
    if reason in ("timeout", "cancelled"):
        raise RuntimeError(f"the LLM API ended the request: {reason}")
    metrics = getattr(output, "request_perf_metrics", None)
    speculation = getattr(metrics, "speculative_decoding", None)
    counted = speculation is not None and speculation.total_draft_tokens > 0
    return exchange.Step(
        token_ids=tuple(output.token_ids),
        finish_reason=reason if reason in ("stop", "length") else None,
        log_probs=log_probs(output),
        iterations=int(getattr(result, "decoding_iter", 0) or 0),
        drafted=int(speculation.total_draft_tokens) if counted else None,
        accepted=int(speculation.total_accepted_draft_tokens) if counted else None,
        times_ns=times_ns(getattr(metrics, "timing_metrics", None)),
    )


def log_probs(output: Any) -> tuple[float, ...]:
    """The log-probability of each output token: a number, or a dictionary by token id, as releases differ."""
    return tuple(
        entry[token].logprob if isinstance(entry, dict) else float(entry)
        for token, entry in zip(output.token_ids, output.logprobs or (), strict=False)
    )


def times_ns(timing: Any) -> dict[str, int]:
    """Times of the request as nanoseconds; TensorRT-LLM has them as ``timedelta``."""
    if timing is None:
        return {}
    return {name: round(getattr(timing, theirs).total_seconds() * 1e9) for name, theirs in TIMING.items()}

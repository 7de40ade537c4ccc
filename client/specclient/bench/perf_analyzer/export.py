# SPDX-License-Identifier: Apache-2.0
"""perf_analyzer's profile export as samples of ours.

The export has one experiment with its requests: ``timestamp`` when it was sent, ``response_timestamps`` and
``response_outputs`` of every response, in nanoseconds of the system's clock, and the ``request_inputs``.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from specclient.bench.perf_analyzer.errors import PerfAnalyzerError
from specclient.bench.sample import Sample
from specclient.bench.workload import Prompt
from specclient.completion import Chunk, Completion, Counters
from specclient.parameters import GenerationParameters
from specclient.protocol import FinishReason

COUNTERS = {
    "num_input_tokens": "num_input_tokens",
    "num_output_tokens": "num_output_tokens",
    "num_rounds": "num_rounds",
    "total_draft_tokens": "total_draft_tokens",
    "total_accepted_draft_tokens": "total_accepted_draft_tokens",
}


def samples(path: Path, requests: Sequence[tuple[Prompt, GenerationParameters]]) -> list[Sample]:
    """The requests of the export in the order they were sent; ``requests`` is what the input file had.

    Raises PerfAnalyzerError when the file is not such an export.
    """
    try:
        # Generated text can hold control characters, and bytes that are no UTF-8.
        document = json.loads(path.read_text(encoding="utf-8", errors="replace"), strict=False)
        (experiment,) = document["experiments"]
        records = sorted(experiment["requests"], key=lambda record: record["timestamp"])
        places = _places(requests)
        return [_sample(record, places, requests) for record in records]
    except OSError as error:
        raise PerfAnalyzerError(f"perf_analyzer wrote no export: {error.strerror}") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise PerfAnalyzerError(
            f"{path} is no export of perf_analyzer: {type(error).__name__}: {error}"
        ) from error


def _places(requests: Sequence[tuple[Prompt, GenerationParameters]]) -> Mapping[str, deque[int]]:
    """Text -> the positions in the run at which it was asked."""
    places: dict[str, deque[int]] = {}
    for position, (prompt, _) in enumerate(requests):
        places.setdefault(prompt.text, deque()).append(position)
    return places


def _sample(
    record: Mapping[str, Any],
    places: Mapping[str, deque[int]],
    requests: Sequence[tuple[Prompt, GenerationParameters]],
) -> Sample:
    positions = places[record["request_inputs"]["text_input"]]
    position = positions[0]
    positions.rotate(-1)  # perf_analyzer goes round its input file again and again
    sent = int(record["timestamp"])
    chunks = _chunks(record["response_timestamps"], record["response_outputs"])
    prompt, parameters = requests[position]
    return Sample(
        position,
        prompt,
        parameters,
        sent_ns=sent,
        ended_ns=int(record["response_timestamps"][-1]),
        completion=Completion("", chunks, sent),
    )


def _chunks(times: Sequence[int], outputs: Sequence[Mapping[str, Any]]) -> tuple[Chunk, ...]:
    chunks: list[Chunk] = []
    counters = Counters()
    for received, output in zip(times, outputs, strict=True):
        if not output:
            continue  # the empty final response of a decoupled model
        if "num_output_tokens" in output:
            counters = Counters(
                **{ours: int(output[theirs]) for ours, theirs in COUNTERS.items() if theirs in output}
            )
        reason = output.get("finish_reason")
        chunks.append(
            Chunk(
                text=str(output.get("text_output", "")),
                token_ids=_ids(output.get("output_ids", ())),
                index=len(chunks),
                received_ns=int(received),
                finish_reason=cast("FinishReason", reason) if reason in ("stop", "length") else None,
                counters=counters,
            )
        )
    return tuple(chunks)


def _ids(value: Any) -> tuple[int, ...]:
    """A tensor of one element is exported as a number, not as a list."""
    return tuple(int(token) for token in value) if isinstance(value, list | tuple) else (int(value),)

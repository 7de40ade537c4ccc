# SPDX-License-Identifier: Apache-2.0
"""perf_analyzer's profile export as samples of ours.

The export has one experiment with its requests: ``timestamp`` when it was sent, ``response_timestamps`` and
``response_outputs`` of every response, in nanoseconds of the system's clock, and the ``request_inputs``.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from specclient.bench.perf_analyzer.command import Asked
from specclient.bench.perf_analyzer.errors import PerfAnalyzerError
from specclient.bench.sample import Sample
from specclient.bench.workload import Prompt
from specclient.completion import Chunk, Completion
from specclient.parameters import GenerationParameters
from specclient.reply import Decoder, Reply

MakeDecoder = Callable[[Prompt, GenerationParameters], Decoder]


def samples(path: Path, asked: Sequence[Asked], decoder: MakeDecoder) -> list[Sample]:
    """The requests of the export in the order they were sent; ``asked`` is what the input file had.

    Raises PerfAnalyzerError when the file is not such an export.
    """
    try:
        # Generated text can hold control characters, and bytes that are no UTF-8.
        document = json.loads(path.read_text(encoding="utf-8", errors="replace"), strict=False)
        (experiment,) = document["experiments"]
        records = sorted(experiment["requests"], key=lambda record: record["timestamp"])
        places = _places(asked)
        return [_sample(record, places, asked, decoder) for record in records]
    except OSError as error:
        raise PerfAnalyzerError(f"perf_analyzer wrote no export: {error.strerror}") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise PerfAnalyzerError(
            f"{path} is no export of perf_analyzer: {type(error).__name__}: {error}"
        ) from error


def _places(asked: Sequence[Asked]) -> Mapping[str, deque[int]]:
    """Text -> the positions in the run at which it was asked."""
    places: dict[str, deque[int]] = {}
    for position, one in enumerate(asked):
        places.setdefault(one.text, deque()).append(position)
    return places


def _sample(
    record: Mapping[str, Any],
    places: Mapping[str, deque[int]],
    asked: Sequence[Asked],
    decoder: MakeDecoder,
) -> Sample:
    positions = places[record["request_inputs"]["text_input"]]
    position = positions[0]
    positions.rotate(-1)  # perf_analyzer goes round its input file again and again
    sent, one = int(record["timestamp"]), asked[position]
    times, outputs = record["response_timestamps"], record["response_outputs"]
    chunks = _chunks(times, outputs, decoder(one.prompt, one.parameters))
    return Sample(
        position,
        one.prompt,
        one.parameters,
        sent_ns=sent,
        ended_ns=int(times[-1]),
        completion=Completion("", chunks, sent),
    )


def _chunks(
    times: Sequence[int], outputs: Sequence[Mapping[str, Any]], decoder: Decoder
) -> tuple[Chunk, ...]:
    chunks = []
    for number, (received, output) in enumerate(zip(times, outputs, strict=True), 1):
        reply = Reply({name: _elements(value) for name, value in output.items()}, final=number == len(times))
        chunk = decoder.chunk(reply, int(received))
        if chunk is not None:
            chunks.append(chunk)
    return tuple(chunks)


def _elements(value: Any) -> Sequence[Any]:
    """A tensor's elements, text as bytes; one of a single element is exported without its brackets."""
    elements = value if isinstance(value, list) else [value]
    return [element.encode() if isinstance(element, str) else element for element in elements]

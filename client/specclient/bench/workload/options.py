# SPDX-License-Identifier: Apache-2.0
"""From what a user asks for to a workload."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

from specclient.bench.workload import shaping
from specclient.bench.workload.bundled import bundled
from specclient.bench.workload.errors import WorkloadError
from specclient.bench.workload.files import from_file
from specclient.bench.workload.prompt import RANDOM_TOKENS_WARNING, Message, Workload
from specclient.bench.workload.shaping import Length
from specclient.bench.workload.tokenizer import TextTokenizer
from specclient.bench.workload.trace import Unit, from_trace

RANDOM_PROMPTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadOptions:
    """The bundled prompts, unless a file is named; everything else changes what these give."""

    kinds: tuple[str, ...] = ()
    """Of the bundled prompts; all when empty."""
    input_file: Path | None = None
    """JSON Lines of prompts or messages, or ShareGPT."""
    trace_file: Path | None = None
    """Requests with arrival times; prompts of a given length are cut from the bundled or the file's text."""
    trace_unit: Unit = "ms"
    tokenizer: str | None = None
    """Folder, tokenizer.json or Hugging Face id; for lengths in tokens."""
    isl: Length | None = None
    osl: Length | None = None
    random_tokens: bool = False
    """Prompts of random tokens of length ``isl``. They distort acceptance."""
    num_prompts: int | None = None
    """Distinct prompts to make with ``isl``; the first of any other source. None takes all."""
    chat: bool = False
    """Send each text as a user's message through the model's chat template."""

    def __post_init__(self) -> None:
        for wrong, message, remedy in (
            (
                self.kinds and self.input_file is not None,
                "kinds are of the bundled prompts, and a file is given",
                "Leave out either.",
            ),
            (
                self.isl is not None and self.tokenizer is None,
                "an input length in tokens needs a tokenizer",
                "Add --tokenizer with the target's folder.",
            ),
            (
                self.isl is not None and self.trace_file is not None,
                "a trace has its own input lengths",
                "Leave out --isl.",
            ),
            (
                self.random_tokens and (self.isl is None or self.input_file or self.trace_file or self.kinds),
                "random tokens need a length, and no other source of prompts",
                "Give --isl and --tokenizer, and leave out the files and kinds.",
            ),
        ):
            if wrong:
                raise WorkloadError(message, remedy=remedy)


def workload_from(options: WorkloadOptions, *, seed: int) -> Workload:
    """The workload: the same for the same options, files and ``seed``. Raises WorkloadError."""
    generator = random.Random(seed)
    tokenizer = None if options.tokenizer is None else TextTokenizer.load(options.tokenizer)
    workload = _source(options, tokenizer, generator)
    if options.osl is not None:
        prompts = shaping.with_output_length(workload.prompts, options.osl, generator)
        workload = replace(workload, prompts=prompts)
    if options.chat:
        prompts = tuple(
            prompt if prompt.messages else replace(prompt, messages=(Message("user", prompt.text),))
            for prompt in workload.prompts
        )
        workload = replace(workload, prompts=prompts)
    return replace(workload, shape=_shape(options, tokenizer, seed))


def _source(options: WorkloadOptions, tokenizer: TextTokenizer | None, generator: random.Random) -> Workload:
    """The prompts with their input lengths."""
    count = options.num_prompts
    if options.random_tokens:
        assert options.isl is not None and tokenizer is not None
        made = shaping.random_prompts(count or RANDOM_PROMPTS, options.isl, tokenizer, generator)
        return Workload("random-tokens", "CC0-1.0", made, warnings=(RANDOM_TOKENS_WARNING,))
    if options.input_file is None:
        texts = bundled(options.kinds)
    else:
        texts = from_file(options.input_file, None if tokenizer is None else tokenizer.count)
    if options.trace_file is not None:
        return from_trace(
            options.trace_file,
            unit=options.trace_unit,
            texts=texts,
            tokenizer=tokenizer,
            generator=generator,
            count=count,
        )
    if options.isl is None:
        return replace(texts, prompts=texts.prompts[:count])
    assert tokenizer is not None
    made = shaping.with_input_length(texts.prompts, options.isl, tokenizer, generator, count)
    return replace(texts, prompts=made)


def _shape(options: WorkloadOptions, tokenizer: TextTokenizer | None, seed: int) -> dict[str, object]:
    shape: dict[str, object] = {"seed": seed, "chat": options.chat}
    if tokenizer is not None:
        shape["tokenizer"] = {"name": tokenizer.name, "sha256": tokenizer.sha256}
    for name in ("isl", "osl"):
        length = getattr(options, name)
        if length is not None:
            shape[name] = length.facts()
    return shape

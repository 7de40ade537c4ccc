# SPDX-License-Identifier: Apache-2.0
"""What is run for each shape of pair, and the peers' published figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """Sizes of one benchmark. ``batches`` go up to the slots of the first engine."""

    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    """Tokens before the measured ones; served by an engine with a slot for every request of ``batches``."""
    long_context: int
    """Served by an engine of its own, with ``long_batches`` slots at most."""
    long_batches: tuple[int, ...]
    step_context: int
    steady_tokens: int
    """Output tokens of a request whose steady state is measured."""
    prompt_tokens: int
    new_tokens: int
    """Of whole requests."""
    peer_prompt_tokens: int
    """Of transformers' generate, which is slow."""
    peer_new_tokens: int
    triton_batches: tuple[int, ...]
    prefill_chunk: int
    alphas: tuple[float, ...] = (0.8, 0.9, 0.7, 0.6)
    """In order of importance."""


PROFILES: Mapping[str, Profile] = {
    "llama-8b-1b": Profile(
        batches=(1, 4, 16, 32, 64),
        contexts=(512, 4096),
        long_context=16_384,
        long_batches=(1, 4, 16),
        step_context=1024,
        steady_tokens=128,
        prompt_tokens=768,
        new_tokens=256,
        peer_prompt_tokens=128,
        peer_new_tokens=128,
        triton_batches=(1, 32),
        prefill_chunk=2048,
    ),
    "tiny": Profile(
        batches=(1, 4),
        contexts=(64, 128),
        long_context=512,
        long_batches=(1, 2),
        step_context=96,
        steady_tokens=40,
        prompt_tokens=48,
        new_tokens=32,
        peer_prompt_tokens=16,
        peer_new_tokens=24,
        triton_batches=(1, 4),
        prefill_chunk=64,
    ),
}


@dataclass(frozen=True)
class Published:
    """What another engine reached on the same planted pair (α 0.8, greedy, bfloat16), by batch."""

    engine: str
    card: str
    tokens_per_second: Mapping[int, float]
    conditions: str


_WHOLE = "768-token prompts, 256 new tokens, all at once, prefill included, best of two"

# Measured in November 2026. vLLM with FA3 attention, prefix caching off, all else as it comes; the better of
# its engine process and in process.
PLAIN = Published("vLLM 0.25.1 plain", "H200", {1: 200, 4: 757, 16: 2460, 32: 3872, 64: 5490}, _WHOLE)
SPECULATIVE = (
    Published(
        "vLLM 0.25.1 draft_model, 4 tokens", "H200", {1: 125, 4: 442, 16: 1607, 32: 2851, 64: 4622}, _WHOLE
    ),
    Published(
        "vLLM 0.25.1 draft_model, 2 tokens", "H200", {1: 140, 4: 626, 16: 1925, 32: 3407, 64: 4956}, _WHOLE
    ),
)
TRANSFORMERS = Published("transformers 5.17 generate", "H200", {1: 36.3}, "128-token prompt")
ASSISTED = Published("transformers 5.17 assisted, 4 drafts", "H200", {1: 29.1}, "128-token prompt")
PUBLISHED = (PLAIN, *SPECULATIVE, TRANSFORMERS, ASSISTED)

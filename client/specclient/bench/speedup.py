# SPDX-License-Identifier: Apache-2.0
"""The speed-up as a paired statistic with its bootstrap interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from specclient.bench.runner import Record, Recording
from specclient.completion import Completion

RESAMPLES = 2000

Verdict = Literal["faster", "slower", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Speedup:
    """Baseline time ÷ speculative time over paired prompts."""

    p50: float
    """Median of the pairs' ratios."""
    ci95: tuple[float, float] | None
    """Bootstrap interval of the median; None with fewer than two blocks."""
    aggregate: float
    """Ratio of the sums: what the whole set took."""
    pairs: int

    @property
    def verdict(self) -> Verdict:
        """Whether the interval leaves any doubt about the sign."""
        if self.ci95 is None or self.ci95[0] <= 1 <= self.ci95[1]:
            return "inconclusive"
        return "faster" if self.ci95[0] > 1 else "slower"


@dataclass(frozen=True, slots=True)
class Pair:
    """The two answers to one prompt."""

    block: int
    baseline: Completion
    speculative: Completion


def pairs(recording: Recording, *, baseline: str, speculative: str) -> list[Pair]:
    """The prompts that were answered in both arms, in the order of the run."""

    def answers(arm: str) -> dict[int, Record]:
        return {r.position: r for r in recording.records if r.arm == arm and r.completion is not None}

    before, after = answers(baseline), answers(speculative)
    found = []
    for position in sorted(before.keys() & after.keys()):
        plain, drafted = before[position].completion, after[position].completion
        assert plain is not None and drafted is not None
        found.append(Pair(before[position].block, plain, drafted))
    return found


def speedup(
    paired: Iterable[Pair], time_of: Callable[[Completion], float | None], *, seed: int
) -> Speedup | None:
    """The speed-up by ``time_of`` an answer; None when no pair has both times."""
    blocks: dict[int, list[tuple[float, float]]] = {}
    for pair in paired:
        before, after = time_of(pair.baseline), time_of(pair.speculative)
        if before is not None and after:
            blocks.setdefault(pair.block, []).append((before, after))
    if not blocks:
        return None
    times = np.array([times for block in blocks.values() for times in block])
    before, after = times.sum(axis=0)
    return Speedup(
        p50=float(np.median(times[:, 0] / times[:, 1])),
        ci95=_interval([[b / a for b, a in block] for block in blocks.values()], seed),
        aggregate=float(before / after),
        pairs=len(times),
    )


def _interval(blocks: Sequence[Sequence[float]], seed: int) -> tuple[float, float] | None:
    """The 95 % percentile interval of the median.

    Blocks are drawn, not pairs: answers that were computed in one batch share its luck.
    """
    if len(blocks) < 2:
        return None
    # Blocks as rows, padded with NaN, so that all resamples are one array operation.
    rows = np.full((len(blocks), max(map(len, blocks))), np.nan)
    for row, block in zip(rows, blocks, strict=True):
        row[: len(block)] = block
    drawn = np.random.default_rng(seed).integers(0, len(blocks), (RESAMPLES, len(blocks)))
    medians = np.nanmedian(rows[drawn].reshape(RESAMPLES, -1), axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(low), float(high)

# SPDX-License-Identifier: Apache-2.0
"""Two arms as a paired statistic with its bootstrap interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from specclient.bench.document import Comparison, Delta, Identical, Speedup, Verdict
from specclient.bench.figures import figures
from specclient.bench.run import Run, completions
from specclient.completion import Completion

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Pair:
    """The two answers to one prompt."""

    block: int
    baseline: Completion
    candidate: Completion


def pairs(baseline: Run, candidate: Run) -> list[Pair]:
    """The prompts that were answered in both arms, in the order of the run."""
    before, after = (
        {s.position: s for s in run.measured if s.completion is not None} for run in (baseline, candidate)
    )
    found = []
    for position in sorted(before.keys() & after.keys()):
        plain, drafted = before[position].completion, after[position].completion
        assert plain is not None and drafted is not None
        block = before[position].block
        found.append(Pair(position if block is None else block, plain, drafted))
    return found


def comparison(baseline: Run, candidate: Run, *, seed: int, greedy: bool) -> Comparison:
    """Two runs of one load point; ``greedy`` says that equal prompts must give equal tokens."""
    paired = pairs(baseline, candidate)
    rates = [
        figures(run, run.measured, completions(run.measured))["tokens_per_second"]
        for run in (baseline, candidate)
    ]
    return {
        "baseline": baseline.arm,
        "candidate": candidate.arm,
        "load": baseline.load.facts(),
        "tpot": speedup(paired, lambda answer: answer.tpot, seed=seed),
        "latency": speedup(paired, lambda answer: answer.latency, seed=seed),
        "throughput": rates[1] / rates[0] if rates[0] and rates[1] else None,
        "ttft_delta_ms": _delta(paired, seed=seed),
        "greedy": _identical(paired) if greedy and baseline.target is candidate.target else None,
    }


def speedup(paired: Iterable[Pair], time_of: Callable[[Completion], float | None], *, seed: int) -> Speedup:
    """Baseline time ÷ candidate time by ``time_of`` an answer."""
    blocks: dict[int, list[tuple[float, float]]] = {}
    for pair in paired:
        before, after = time_of(pair.baseline), time_of(pair.candidate)
        if before is not None and after:
            blocks.setdefault(pair.block, []).append((before, after))
    if not blocks:
        return {"p50": None, "ci95": None, "aggregate": None, "pairs": 0, "verdict": "inconclusive"}
    times = np.array([times for block in blocks.values() for times in block])
    before, after = times.sum(axis=0)
    interval = _interval([[b / a for b, a in block] for block in blocks.values()], seed)
    return {
        "p50": float(np.median(times[:, 0] / times[:, 1])),
        "ci95": interval,
        "aggregate": float(before / after),
        "pairs": len(times),
        "verdict": _verdict(interval),
    }


def _verdict(interval: list[float] | None) -> Verdict:
    """Whether the interval leaves any doubt about the sign."""
    if interval is None or interval[0] <= 1 <= interval[1]:
        return "inconclusive"
    return "faster" if interval[0] > 1 else "slower"


def _delta(paired: Iterable[Pair], *, seed: int) -> Delta:
    blocks: dict[int, list[float]] = {}
    for pair in paired:
        if pair.baseline.ttft is not None and pair.candidate.ttft is not None:
            delta = (pair.candidate.ttft - pair.baseline.ttft) * 1e3
            blocks.setdefault(pair.block, []).append(delta)
    values = [value for block in blocks.values() for value in block]
    return {
        "p50": float(np.median(values)) if values else None,
        "ci95": _interval(list(blocks.values()), seed),
        "pairs": len(values),
    }


def _identical(paired: Sequence[Pair]) -> Identical | None:
    """Pairs with the same tokens; by text where the server sends no tokens."""
    same = [
        pair.baseline.token_ids == pair.candidate.token_ids
        if pair.baseline.token_ids or pair.candidate.token_ids
        else pair.baseline.text == pair.candidate.text
        for pair in paired
    ]
    return {"identical": sum(same), "total": len(same)} if same else None


def _interval(blocks: Sequence[Sequence[float]], seed: int) -> list[float] | None:
    """The 95 % percentile interval of the median; None with fewer than two blocks.

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
    return [float(low), float(high)]

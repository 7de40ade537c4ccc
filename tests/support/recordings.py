# SPDX-License-Identifier: Apache-2.0
"""Hand-made runs, so that their figures are known."""

from __future__ import annotations

from collections.abc import Sequence

from specclient import Chunk, Completion, Counters, SpecClientError
from specclient.bench import Arm, Concurrency, Outcome, Prompt, Settings
from specclient.bench.load import Load
from specclient.bench.run import Run
from specclient.bench.sample import Sample
from specclient.bench.targets import TritonTarget
from specclient.timeouts import Timeout

PROMPT = Prompt("code-01", "code", "a secret prompt")
TARGET = TritonTarget("127.0.0.1:1", "ensemble", timeout=Timeout())


def answer(tpot_ms: float, tokens: int = 11, counters: Counters | None = None) -> Completion:
    """The first token after 50 ms, the last one after ``tokens - 1`` times ``tpot_ms`` more."""
    counters = counters or Counters(num_input_tokens=5, num_output_tokens=tokens)
    last_ns = round((50 + tpot_ms * (tokens - 1)) * 1e6)
    return Completion(
        "r",
        (
            Chunk("a", (1,), 0, 50_000_000),
            Chunk("b", tuple(range(tokens - 1)), 1, last_ns, "length", counters),
        ),
        sent_ns=0,
    )


def sample(
    position: int,
    completion: Completion | None = None,
    error: SpecClientError | None = None,
    block: int | None = None,
) -> Sample:
    """One request that ended with its last chunk."""
    made = Sample(position, PROMPT, Settings().parameters, block=block)
    made.completion, made.error = completion, error
    made.ended_ns = completion.chunks[-1].received_ns if completion is not None else 1
    return made


def run(arm: str, samples: Sequence[Sample], load: Load | None = None) -> Run:
    """A complete run; blocks take a second each."""
    made = Run(arm, load or Concurrency(1), TARGET, None, rule="blocks", samples=list(samples), complete=True)
    made.walls_s = {s.block: 1.0 for s in samples if s.block is not None}
    return made


def comparison(
    baseline: Sequence[float],
    speculative: Sequence[float],
    block_size: int = 1,
    settings: Settings | None = None,
) -> Outcome:
    """One prompt for each two TPOTs."""
    runs = []
    for arm, values in (("baseline", baseline), ("speculative", speculative)):
        drafted = Counters(5, 11, 4, 16, 7) if arm == "speculative" else Counters(5, 11, 11)
        runs.append(
            run(
                arm,
                [
                    sample(position, answer(tpot, counters=drafted), block=position // block_size)
                    for position, tpot in enumerate(values)
                ],
            )
        )
    arms = (Arm("baseline", TARGET, 0), Arm("speculative", TARGET))
    return Outcome("compare", settings or Settings(), arms=arms, runs=runs)

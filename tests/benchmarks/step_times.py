# SPDX-License-Identifier: Apache-2.0
"""Measures the steps of a pair, and compares the speed they predict with the speed that is reached.

    python tests/benchmarks/step_times.py TARGET DRAFT [--text FILE] [--prompts 6] [--tokens 128]

T(n) is one pass of the target over n tokens, D one draft step, both alone and with nothing else to do.
For draft length γ and the acceptance length L that the requests had, the prediction is

    token/s = L ÷ (γ·D + T(γ + 1))

and the plain one 1 ÷ T(1). "reached" leaves out the time until the first token, which is prefill.
"""

from __future__ import annotations

# Before PyTorch, whose OpenMP library reads the settings made here when it is loaded.
from specbuild.torch_runtime import Chunk, Engine, Request, Settings

# isort: split
import argparse
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

from specbuild.torch_runtime.decoder import Decoder
from specbuild.torch_runtime.device import prepare_thread, usable_cores
from specbuild.torch_runtime.sampling import largest
from specbuild.torch_runtime.span import Span
from support.prompt_texts import prompts

LONGEST = 8
BATCH_LENGTH = 5


def main() -> None:
    """Print the step times, then a line for each draft length, then the gain of a batch."""
    options = _options()
    # In a thread of its own, which ends: OpenMP keeps workers for every thread that computes, and slows all
    # down when there are more of them than cores.
    with ThreadPoolExecutor(1) as worker:
        target, draft = worker.submit(_step_times, options).result()
    print("target  " + "  ".join(f"T({n}) {ms:.1f}" for n, ms in target.items()) + "   ms")
    print(f"draft   D {draft:.2f} ms, {draft / target[1]:.1%} of T(1)\n")
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.target)
    texts = prompts(tokenizer, options.prompts, options.prompt_tokens, options.text)
    settings = Settings(
        draft_length=LONGEST,
        adaptive=False,
        max_batch_size=8,
        max_input_len=options.prompt_tokens,
        max_seq_len=options.prompt_tokens + options.tokens,
        threads=options.threads,
    )
    with Engine.load(options.target, options.draft, settings) as engine:
        _each_length(engine, texts, options.tokens, target, draft)
        _batch(engine, texts, options.tokens)


def _each_length(
    engine: Engine, texts: Sequence[list[int]], tokens: int, target: dict[int, float], draft: float
) -> None:
    print(" γ  acceptance length  predicted token/s  reached  reached/predicted  speed-up")
    runs: dict[int, list[tuple[float, float]]] = {length: [] for length in range(LONGEST + 1)}
    for text in texts:
        for length, results in runs.items():
            results.append(_one(engine, text, tokens, length))
    plain = 0.0
    for length, results in runs.items():
        reached = statistics.mean(speed for speed, _ in results)
        accepted = statistics.mean(tau for _, tau in results)
        predicted = 1e3 * accepted / (length * draft + target[length + 1])
        plain = plain or reached
        print(
            f"{length:2}  {accepted:17.2f}  {predicted:17.1f}  {reached:7.1f}  {reached / predicted:17.2f}"
            f"  {reached / plain:8.2f}"
        )


def _one(engine: Engine, text: list[int], tokens: int, length: int) -> tuple[float, float]:
    """Tokens per second after the first one, and tokens per round."""
    chunks = list(engine.generate(Request(prompt=text, max_tokens=tokens, draft_length=length)))
    counters = chunks[-1].counters
    seconds = (counters.last_token_ns - counters.first_token_ns) / 1e9
    return (counters.output_tokens - 1) / seconds, (counters.output_tokens - 1) / counters.rounds


def _batch(engine: Engine, texts: Sequence[list[int]], tokens: int) -> None:
    def total(requests: int) -> float:
        ended = threading.Semaphore(0)
        counts: list[int] = []

        def on_chunk(chunk: Chunk) -> None:
            if chunk.finish_reason is not None:
                counts.append(chunk.counters.output_tokens)
                ended.release()

        start = time.perf_counter()
        for index in range(requests):
            request = Request(prompt=texts[index % len(texts)], max_tokens=tokens, draft_length=BATCH_LENGTH)
            engine.submit(request, on_chunk=on_chunk, on_error=lambda error: sys.exit(str(error)))
        for _ in range(requests):
            ended.acquire()
        return sum(counts) / (time.perf_counter() - start)

    speeds = {requests: total(requests) for requests in (1, 2, 4, 8)}
    print(f"\ntotal token/s with {BATCH_LENGTH} draft tokens, prefill included")
    for requests, speed in speeds.items():
        print(f"{requests:2} requests  {speed:7.1f}   {speed / speeds[1]:.2f} times one")


def _step_times(options: argparse.Namespace) -> tuple[dict[int, float], float]:
    """Milliseconds of T(1) to T(9) and of D: medians, at the middle of a request."""
    cpu = torch.device("cpu")
    prepare_thread(cpu, options.threads)
    length = options.prompt_tokens + options.tokens
    middle = length // 2

    def load(folder: Path) -> Decoder:
        return Decoder.load(folder, slots=1, max_seq_len=length, where=cpu)

    def step(decoder: Decoder, n: int) -> float:
        start = time.perf_counter()
        largest(decoder.forward(torch.zeros(n, dtype=torch.long), [Span(0, middle, n)])).tolist()
        return (time.perf_counter() - start) * 1e3

    target, draft = load(options.target), load(options.draft)
    times: dict[int, list[float]] = {n: [] for n in range(1, LONGEST + 2)}
    draft_times = []
    with torch.inference_mode():
        for _ in range(options.repeats):
            # In turn, as in a round: the target's pass leaves none of the draft in the processor's caches.
            for n, measured in times.items():
                measured.append(step(target, n))
                draft_times.append(statistics.mean(step(draft, 1) for _ in range(5)))
    return {n: statistics.median(measured) for n, measured in times.items()}, statistics.median(draft_times)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", type=Path)
    parser.add_argument("draft", type=Path)
    parser.add_argument("--text", type=Path, help="UTF-8 text to cut prompts from")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--threads", type=int, default=usable_cores())
    return parser.parse_args()


if __name__ == "__main__":
    main()

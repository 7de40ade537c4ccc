# SPDX-License-Identifier: Apache-2.0
"""What Triton costs, and what concurrency gains, on a built deployment of the torch runtime.

    specbuild demo                                    # or engines and repository of another configuration
    python tests/benchmarks/through_triton.py [--config configs/demo.yaml] [--prompts 8] [--tokens 128]

The same greedy requests run on the runtime in this process and, streamed, through a real tritonserver,
one at a time and alternating. Then the server alone gets them one, then eight at a time. Tokens per
second are output tokens over the whole time of the requests, prefill and first token included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tokenizers import Tokenizer

from specbuild import config, server
from specbuild.torch_runtime import Engine, Request, Settings
from specclient import SpecClient
from specclient.bench import bundled

CONCURRENCY = 8


def main() -> None:
    """Print tokens per second of both ways and their ratio; then of the server by concurrency."""
    options = _options()
    settings = config.load(options.config)
    drawn = bundled().draw(options.prompts + 1, seed=0)
    texts = [prompt.text for prompt in drawn]
    with server.running(settings) as running, SpecClient(running.grpc) as client:

        def through_triton(text: str, drafts: int | None) -> int:
            return client.generate(text, max_tokens=options.tokens, num_draft_tokens=drafts).output_tokens

        with _engine(settings) as engine:
            tokenizer = Tokenizer.from_file(str(settings.engines_dir / "target" / "tokenizer.json"))

            def in_process(text: str, drafts: int | None) -> int:
                request = Request(
                    prompt=tokenizer.encode(text).ids, max_tokens=options.tokens, draft_length=drafts
                )
                return sum(len(chunk.token_ids) for chunk in engine.generate(request))

            _alternate({"in process": in_process, "through Triton": through_triton}, texts)
        _concurrently(through_triton, texts)


def _engine(settings: config.Config) -> Engine:
    return Engine.load(
        settings.engines_dir / "target",
        settings.engines_dir / "draft",
        Settings(
            draft_length=settings.speculation.draft_length,
            adaptive=settings.speculation.adaptive,
            max_batch_size=settings.limits.max_batch_size,
            max_input_len=settings.limits.max_input_len,
            max_seq_len=settings.limits.max_seq_len,
            threads=settings.torch.threads,
        ),
    )


def _alternate(ways: dict[str, Callable[[str, int | None], int]], texts: list[str]) -> None:
    print(f"{'':16} {'plain':>8} {'speculative':>12}   token/s, one request at a time")
    tokens = {(name, drafts): 0 for name in ways for drafts in (0, None)}
    seconds = dict.fromkeys(tokens, 0.0)
    for number, text in enumerate(texts):
        for drafts in (0, None):
            for name in list(ways)[:: 1 if number % 2 else -1]:
                start = time.perf_counter()
                count = ways[name](text, drafts)
                if number:  # the first text warms up
                    seconds[name, drafts] += time.perf_counter() - start
                    tokens[name, drafts] += count
    speed = {key: tokens[key] / seconds[key] for key in tokens}
    for name in ways:
        print(f"{name:16} {speed[name, 0]:8.1f} {speed[name, None]:12.1f}")
    first, second = ways
    ratios = [speed[second, drafts] / speed[first, drafts] for drafts in (0, None)]
    print(f"{'ratio':16} {ratios[0]:8.1%} {ratios[1]:12.1%}\n")


def _concurrently(generate: Callable[[str, int | None], int], texts: list[str]) -> None:
    print(f"{'':16} {'plain':>8} {'speculative':>12}   token/s in total, through Triton")
    speeds = {}
    for workers in (1, CONCURRENCY):
        for drafts in (0, None):
            requests = (texts[1:] * CONCURRENCY)[: max(len(texts) - 1, 2 * workers)]
            with ThreadPoolExecutor(workers) as pool:
                start = time.perf_counter()
                count = sum(pool.map(generate, requests, [drafts] * len(requests)))
                speeds[workers, drafts] = count / (time.perf_counter() - start)
        print(f"concurrency {workers:<4} {speeds[workers, 0]:8.1f} {speeds[workers, None]:12.1f}")
    gains = [speeds[CONCURRENCY, drafts] / speeds[1, drafts] for drafts in (0, None)]
    print(f"{'gain':16} {gains[0]:8.2f} {gains[1]:12.2f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    return parser.parse_args()


if __name__ == "__main__":
    main()

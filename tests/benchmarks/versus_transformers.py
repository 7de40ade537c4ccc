# SPDX-License-Identifier: Apache-2.0
"""Compares our engine with transformers' assisted generation on the same pair and prompts.

    python tests/benchmarks/versus_transformers.py TARGET DRAFT [--text FILE] [--prompts 8] [--tokens 128]

All run greedily in this process, in the same number format and with the same number of threads, one
prompt at a time and taking turns, so that a change of the machine's speed meets all of them. Tokens per
second are output tokens over the whole time of the requests, prefill included.
"""

from __future__ import annotations

# Before PyTorch, whose OpenMP library reads the settings made here when it is loaded.
from specbuild.torch_runtime import Engine, Request, Settings

# isort: split
import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

from specbuild.torch_runtime.device import compute_dtype, usable_cores
from support.prompt_texts import prompts

Way = Callable[[Sequence[list[int]]], list[tuple[list[int], float]]]


def main() -> None:
    """Print tokens per second of each way, and the ratios."""
    options = _options()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.target)
    texts = prompts(tokenizer, options.prompts, options.prompt_tokens, options.text)
    ways: dict[str, Way] = {
        "transformers": lambda part: _theirs(options, part, assisted=False),
        "transformers assisted": lambda part: _theirs(options, part, assisted=True),
        "specbuild": lambda part: _ours(options, part, 0),
        "specbuild speculative": lambda part: _ours(options, part, options.draft_length),
    }
    results: dict[str, list[tuple[list[int], float]]] = {name: [] for name in ways}
    for start in range(0, len(texts), 2):
        for name, way in ways.items():
            # Each in a thread of its own, which ends: OpenMP keeps workers for every thread that computes,
            # and slows all down when there are more of them than cores.
            with ThreadPoolExecutor(1) as worker:
                results[name] += worker.submit(way, texts[start : start + 2]).result()
    _report(results)


def _ours(
    options: argparse.Namespace, texts: Sequence[list[int]], length: int
) -> list[tuple[list[int], float]]:
    settings = Settings(
        draft_length=options.draft_length,
        adaptive=True,
        max_batch_size=1,
        max_input_len=options.prompt_tokens,
        max_seq_len=options.prompt_tokens + options.tokens,
        threads=options.threads,
    )
    with Engine.load(options.target, options.draft, settings) as engine:

        def generate(prompt: list[int], tokens: int) -> list[int]:
            request = Request(prompt=prompt, max_tokens=tokens, draft_length=length)
            return [token for chunk in engine.generate(request) for token in chunk.token_ids]

        return _timed(generate, texts, options.tokens)


def _theirs(
    options: argparse.Namespace, texts: Sequence[list[int]], *, assisted: bool
) -> list[tuple[list[int], float]]:
    torch.set_num_threads(options.threads)
    target = _load(options.target)
    draft = _load(options.draft) if assisted else None

    def generate(prompt: list[int], tokens: int) -> list[int]:
        output = target.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            assistant_model=draft,
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        continued: list[int] = output[0, len(prompt) :].tolist()
        return continued

    return _timed(generate, texts, options.tokens)


def _timed(
    generate: Callable[[list[int], int], list[int]], texts: Sequence[list[int]], tokens: int
) -> list[tuple[list[int], float]]:
    """Output and seconds of each prompt, after a short one that does not count."""
    generate(texts[0], 12)
    results = []
    for text in texts:
        start = time.perf_counter()
        output = generate(text, tokens)
        results.append((output, time.perf_counter() - start))
    return results


def _load(folder: Path) -> transformers.PreTrainedModel:
    stored = transformers.AutoConfig.from_pretrained(folder)
    stored_dtype = getattr(stored, "dtype", None) or getattr(stored, "torch_dtype", None) or torch.float32
    dtype = compute_dtype(stored_dtype, torch.device("cpu"))
    return transformers.AutoModelForCausalLM.from_pretrained(folder).to(dtype).eval()


def _report(results: dict[str, list[tuple[list[int], float]]]) -> None:
    speed = {}
    for name, runs in results.items():
        speed[name] = sum(len(output) for output, _ in runs) / sum(seconds for _, seconds in runs)
        median = statistics.median(seconds for _, seconds in runs)
        print(f"{name:24} {speed[name]:7.1f} token/s   median request {median:6.2f} s")
    ours = speed["specbuild speculative"]
    print(f"\nspecbuild speculative / transformers assisted  {ours / speed['transformers assisted']:.2f}")
    print(f"specbuild speculative / specbuild              {ours / speed['specbuild']:.2f}")
    for name in ("transformers", "transformers assisted", "specbuild speculative"):
        pairs = zip(results[name], results["specbuild"], strict=True)
        same = sum(theirs == plain for (theirs, _), (plain, _) in pairs)
        print(f"same tokens as specbuild: {name} {same} of {len(results[name])} prompts")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", type=Path)
    parser.add_argument("draft", type=Path)
    parser.add_argument("--text", type=Path, help="UTF-8 text to cut prompts from")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--draft-length", type=int, default=8)
    parser.add_argument("--threads", type=int, default=usable_cores())
    return parser.parse_args()


if __name__ == "__main__":
    main()

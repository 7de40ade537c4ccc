# SPDX-License-Identifier: Apache-2.0
"""Compares our engine with transformers' assisted generation on the same pair and prompts.

    python tests/benchmarks/versus_transformers.py TARGET DRAFT [--text FILE] [--prompts 8] [--tokens 128]

Both run greedily in this process, in the same number format and with the same number of threads, one
prompt at a time and alternating, so that a change of the machine's speed meets both. Tokens per second
are output tokens over the whole time of the requests, prefill included.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

from specbuild.torch_runtime import Engine, Request, Settings
from specbuild.torch_runtime.device import compute_dtype, usable_cores
from support.prompt_texts import prompts


def main() -> None:
    """Print tokens per second of each way, and the ratios."""
    options = _options()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.target)
    texts = prompts(tokenizer, options.prompts + 1, options.prompt_tokens, options.text)
    settings = Settings(
        draft_length=options.draft_length,
        adaptive=True,
        max_batch_size=1,
        max_input_len=options.prompt_tokens,
        max_seq_len=options.prompt_tokens + options.tokens,
        threads=options.threads,
    )
    with Engine.load(options.target, options.draft, settings) as engine:
        ways = _ways(options, engine)
        for generate in ways.values():
            generate(texts[0])
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        outputs: dict[str, list[list[int]]] = {name: [] for name in ways}
        for text in texts[1:]:
            for name, generate in ways.items():
                start = time.perf_counter()
                outputs[name].append(generate(text))
                seconds[name].append(time.perf_counter() - start)
        acceptance = engine.status().accepted / max(1, engine.status().drafted)
    _report(seconds, outputs, acceptance)


def _ways(options: argparse.Namespace, engine: Engine) -> dict[str, Callable[[list[int]], list[int]]]:
    torch.set_num_threads(options.threads)
    target = _load(options.target)
    draft = _load(options.draft)

    def ours(length: int | None) -> Callable[[list[int]], list[int]]:
        def generate(prompt: list[int]) -> list[int]:
            request = Request(prompt=prompt, max_tokens=options.tokens, draft_length=length)
            return [token for chunk in engine.generate(request) for token in chunk.token_ids]

        return generate

    def theirs(assistant: torch.nn.Module | None) -> Callable[[list[int]], list[int]]:
        def generate(prompt: list[int]) -> list[int]:
            output = target.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                assistant_model=assistant,
                max_new_tokens=options.tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
            tokens: list[int] = output[0, len(prompt) :].tolist()
            return tokens

        return generate

    return {
        "transformers": theirs(None),
        "transformers assisted": theirs(draft),
        "specbuild": ours(0),
        "specbuild speculative": ours(None),
    }


def _load(folder: Path) -> transformers.PreTrainedModel:
    stored = transformers.AutoConfig.from_pretrained(folder)
    stored_dtype = getattr(stored, "dtype", None) or getattr(stored, "torch_dtype", None) or torch.float32
    dtype = compute_dtype(stored_dtype, torch.device("cpu"))
    return transformers.AutoModelForCausalLM.from_pretrained(folder).to(dtype).eval()


def _report(seconds: dict[str, list[float]], outputs: dict[str, list[list[int]]], acceptance: float) -> None:
    speed = {name: sum(map(len, outputs[name])) / sum(seconds[name]) for name in seconds}
    for name, times in seconds.items():
        print(f"{name:24} {speed[name]:7.1f} token/s   median request {statistics.median(times):6.2f} s")
    ratio = speed["specbuild speculative"] / speed["transformers assisted"]
    print(f"\nspecbuild speculative / transformers assisted  {ratio:.2f}")
    gain = speed["specbuild speculative"] / speed["specbuild"]
    print(f"specbuild speculative / specbuild              {gain:.2f}")
    print(f"draft acceptance rate {acceptance:.3f}")
    for name in ("transformers", "transformers assisted", "specbuild speculative"):
        same = sum(a == b for a, b in zip(outputs[name], outputs["specbuild"], strict=True))
        print(f"same tokens as specbuild: {name} {same} of {len(outputs[name])} prompts")


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

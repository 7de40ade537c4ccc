# SPDX-License-Identifier: Apache-2.0
"""What a round of the ``speculative`` model costs, and what it gains, on the demo pair behind a real Triton.

    specbuild pair synthesize --output build/demo/pair
    python tests/benchmarks/speculative_round.py --fixed --only round
    python tests/benchmarks/speculative_round.py --only "first text" "one request" "eight at once"

The generated repository is served with the torch runtime in the engines' place. Prints one JSON document:

- round: milliseconds, as medians over the prompts of the mean of a prompt's rounds. "in the engines" is what
  the engines' own backend measures from a request's arrival to its answer; "own cost" is the rest, of which
  "loop" is spent in the loop's code between the calls, and "way to the engines" inside the calls: Triton's
  queues, the tensors' copies, and the wait for the other process to be scheduled. "two idle calls" is what
  the way alone takes to and from a model that does nothing, in the same server.
- one request: the pair against the target alone, in turns. first text, eight at once: what they say.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from specbuild.config import Config

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.rehearsal import Answer, Front, rehearsed, settings_for

IDLE_MODELS = Path(__file__).parents[1] / "support" / "bls_models"

PROMPTS = (
    "def parse(self, text):",
    "class Reader:\n    def __init__(self",
    "import os\nfor name in",
    "    raise ValueError(",
    "with open(path) as file:",
    "return self._cache[",
    "if not isinstance(value,",
    "try:\n    result = ",
)


def main() -> None:
    """Print the figures that were asked for."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        limits = {"max_batch_size": 8, "max_input_len": 256, "max_seq_len": 512}
        speculation = {"adaptive": not options.fixed}
        settings = settings_for(options.pair, Path(folder), speculation=speculation, limits=limits)
        with rehearsed(settings, threads=2, change=add_idle_models) as server:
            front = Front(server.grpc)
            bench = Bench(front, server.grpc, server.metrics, options)
            bench.measure("ensemble")  # warm; the loop learns what its calls cost
            print(json.dumps({name: FIGURES[name](bench) for name in options.only}, indent=2))
            front.close()


class Bench:
    """Requests to one server."""

    def __init__(self, front: Front, address: str, metrics: str, options: argparse.Namespace) -> None:
        self.front = front
        self.address = address
        self.metrics = metrics
        self.prompts = PROMPTS[: options.prompts]
        self.tokens: int = options.tokens
        self.repetitions: int = options.repetitions

    def measure(self, model: str) -> tuple[float, list[Answer]]:
        """Tokens per second of requests one after the other, and their answers."""
        fields = {"max_tokens": self.tokens, "exclude_input_in_output": True}
        start = time.perf_counter()
        answers = [self.front.ask(model, text_input=prompt, **fields) for prompt in self.prompts]
        return sum(len(one.tokens) for one in answers) / (time.perf_counter() - start), answers

    def one_request(self) -> dict[str, Any]:
        """The pair against the target alone, in turns."""
        turns = [
            (self.measure("ensemble"), self.measure("ensemble_baseline")) for _ in range(self.repetitions)
        ]
        (_, ours), (_, theirs) = turns[-1]
        speeds = [(ours, theirs) for (ours, _), (theirs, _) in turns]
        return {
            "speculative tokens/s": statistics.median(ours for ours, _ in speeds),
            "baseline tokens/s": statistics.median(theirs for _, theirs in speeds),
            "speed-up": statistics.median(ours / theirs for ours, theirs in speeds),
            "same tokens": [one.tokens for one in ours] == [one.tokens for one in theirs],
            "acceptance rate": statistics.mean(one.last("acceptance_rate") for one in ours),
            "acceptance length": statistics.mean(
                1 + one.last("total_accepted_draft_tokens") / one.last("num_rounds") for one in ours
            ),
        }

    def first_text(self) -> dict[str, float]:
        """Milliseconds until the first text of a stream, and until its end."""
        first, total = [], []
        for prompt in self.prompts:
            start = time.perf_counter()
            answer = self.front.ask(text_input=prompt, max_tokens=self.tokens, stream=True)
            first.append(answer.arrivals[0] - start)
            total.append(answer.arrivals[-1] - start)
        return {"first ms": statistics.median(first) * 1e3, "last ms": statistics.median(total) * 1e3}

    def eight_at_once(self) -> dict[str, dict[str, float]]:
        """Eight requests at once, and one after the other: the pair and the target alone, in turns."""
        models = ("ensemble", "ensemble_baseline")
        self._eight(models[0])  # the loop learns what this load is
        turns = [
            {model: (self.measure(model)[0], self._eight(model)) for model in models}
            for _ in range(self.repetitions)
        ]
        return {
            model: {
                "one tokens/s": statistics.median(turn[model][0] for turn in turns),
                "eight tokens/s": statistics.median(turn[model][1] for turn in turns),
                "ratio": statistics.median(turn[model][1] / turn[model][0] for turn in turns),
                "eight against the target alone": statistics.median(
                    turn[model][1] / turn[models[1]][1] for turn in turns
                ),
            }
            for model in models
        }

    def _eight(self, model: str) -> float:
        """Tokens per second of eight requests at once."""
        fields = {"max_tokens": self.tokens, "exclude_input_in_output": True}
        eight = [{"text_input": self.prompts[number % len(self.prompts)], **fields} for number in range(8)]
        start = time.perf_counter()
        answers = self.front.ask_all(eight, model)
        return sum(len(one.tokens) for one in answers) / (time.perf_counter() - start)

    def round(self) -> dict[str, float]:
        """Where a round's milliseconds go.

        A short request is taken from a long one: the calls that read the prompt are no rounds.
        """
        rows = []
        for prompt in self.prompts:
            short, long = (self._spent(prompt, tokens) for tokens in (self.tokens // 4, self.tokens))
            total = {name: long[name] - short[name] for name in long}
            count = total["round_seconds_count"]
            whole, loop, engines = (
                total[name] / count * 1e3
                for name in ("round_seconds_sum", "loop_seconds_sum", "call_seconds_total")
            )
            rows.append(
                {
                    "whole": whole,
                    "in the engines": engines,
                    "own cost": whole - engines,
                    "loop": loop,
                    "way to the engines": whole - engines - loop,
                    "calls": total["calls_total"] / count,
                }
            )
        figures = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        return figures | {"two idle calls": 2e3 * statistics.median(self._idle_calls())}

    def _idle_calls(self) -> list[float]:
        """Seconds of calls from one model to another that does nothing."""
        tensor = triton.InferInput("calls", [1], "INT32")
        tensor.set_data_from_numpy(np.array([200], dtype=np.int32))
        answer = triton.InferenceServerClient(self.address).infer("idle_caller", [tensor])
        seconds: list[float] = answer.as_numpy("seconds").tolist()
        return seconds

    def _spent(self, prompt: str, tokens: int) -> dict[str, float]:
        """What one request adds to our metrics."""
        before = scrape(self.metrics)
        self.front.ask(text_input=prompt, max_tokens=tokens)
        time.sleep(0.6)  # the counters are published four times a second
        return {name: value - before.get(name, 0.0) for name, value in scrape(self.metrics).items()}


FIGURES: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "round": Bench.round,
    "first text": Bench.first_text,
    "one request": Bench.one_request,
    "eight at once": Bench.eight_at_once,
}


def add_idle_models(settings: Config) -> None:
    """Put models beside the repository's own that show what a call between two models takes."""
    shutil.copytree(IDLE_MODELS, settings.repository_dir, dirs_exist_ok=True)


def scrape(address: str) -> dict[str, float]:
    """Sums over labels of our metrics, by name without prefix."""
    text = urllib.request.urlopen(f"http://{address}/metrics").read().decode()
    values: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("specbuild_"):
            name = (
                line.split("{")[0].removeprefix("specbuild_spec_decode_").removeprefix("specbuild_rehearsal_")
            )
            values[name] = values.get(name, 0.0) + float(line.rsplit(" ", 1)[1])
    return values


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pair", type=Path, default=Path("build/demo/pair"))
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--fixed", action="store_true", help="always draft to the full, as `round` supposes")
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES))
    return parser.parse_args()


if __name__ == "__main__":
    main()

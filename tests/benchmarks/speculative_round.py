# SPDX-License-Identifier: Apache-2.0
"""What a round of the ``speculative`` model costs, and what it gains, on the demo pair behind a real Triton.

    python tests/benchmarks/speculative_round.py [PAIR]

PAIR is a folder made by ``specbuild pair`` (default: build/demo/pair). Prints one JSON document.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.rehearsal import Answer, Front, rehearsed, settings_for

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
TOKENS = 96
REPETITIONS = 5


def main(pair: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        limits = {"max_batch_size": 8, "max_input_len": 512, "max_seq_len": 1024}
        settings = settings_for(pair, Path(folder), speculation={"adaptive": True}, limits=limits)
        with rehearsed(settings, threads=2) as server:
            front = Front(server.grpc)
            measure(front, "ensemble", 1)  # warm
            report = {
                "one request": compare(front),
                "first text": first_text(front),
                "eight at once": concurrent(front),
                "round": rounds(front, server.metrics),
            }
            front.close()
    print(json.dumps(report, indent=2))


def measure(front: Front, model: str, prompts: int = len(PROMPTS)) -> tuple[float, list[Answer]]:
    """Tokens per second of requests one after the other, and their answers."""
    start = time.perf_counter()
    answers = [
        front.ask(model, text_input=prompt, max_tokens=TOKENS, exclude_input_in_output=True)
        for prompt in PROMPTS[:prompts]
    ]
    return sum(len(one.tokens) for one in answers) / (time.perf_counter() - start), answers


def compare(front: Front) -> dict[str, Any]:
    """The pair against the target alone, in turns."""
    pairs = [(measure(front, "ensemble"), measure(front, "ensemble_baseline")) for _ in range(REPETITIONS)]
    (_, ours), (_, theirs) = pairs[-1]
    speeds = [speed for (speed, _), _ in pairs]
    plain = [speed for _, (speed, _) in pairs]
    return {
        "speculative tokens/s": statistics.median(speeds),
        "baseline tokens/s": statistics.median(plain),
        "speed-up": statistics.median(a / b for a, b in zip(speeds, plain, strict=True)),
        "same tokens": [a.tokens for a in ours] == [b.tokens for b in theirs],
        "acceptance rate": statistics.mean(one.last("acceptance_rate") for one in ours),
        "acceptance length": statistics.mean(
            1 + one.last("total_accepted_draft_tokens") / one.last("num_rounds") for one in ours
        ),
    }


def first_text(front: Front) -> dict[str, float]:
    """Milliseconds until the first text of a stream, and until its end."""
    first, total = [], []
    for prompt in PROMPTS:
        start = time.perf_counter()
        answer = front.ask(text_input=prompt, max_tokens=TOKENS, stream=True)
        first.append(answer.arrivals[0] - start)
        total.append(answer.arrivals[-1] - start)
    return {"first ms": statistics.median(first) * 1e3, "last ms": statistics.median(total) * 1e3}


def concurrent(front: Front) -> dict[str, float]:
    """Eight requests at once against one."""
    single, many = [], []
    for _ in range(REPETITIONS):
        single.append(measure(front, "ensemble", 4)[0])
        start = time.perf_counter()
        answers = front.ask_all([{"text_input": prompt, "max_tokens": TOKENS} for prompt in PROMPTS])
        many.append(sum(len(one.tokens) for one in answers) / (time.perf_counter() - start))
    return {
        "one tokens/s": statistics.median(single),
        "eight tokens/s": statistics.median(many),
        "ratio": statistics.median(many) / statistics.median(single),
    }


def rounds(front: Front, metrics: str) -> dict[str, float]:
    """Milliseconds of a round and where they go, as medians over the prompts.

    The time inside the engines is what their own backend measures from a request's arrival to its answer.
    A short request is taken from a long one: the calls that read the prompt are no rounds.
    """
    rows = []
    for prompt in PROMPTS:
        short, long = (spent(front, metrics, prompt, tokens) for tokens in (TOKENS // 4, TOKENS))
        change = {name: long[name] - short[name] for name in long}
        count = change["round_seconds_count"]
        whole, engines = change["round_seconds_sum"], change["call_seconds_total"]
        rows.append(
            {
                "whole": whole / count * 1e3,
                "in the engines": engines / count * 1e3,
                "outside the calls": change["loop_seconds_sum"] / count * 1e3,
                "own cost": (whole - engines) / count * 1e3,
            }
        )
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def spent(front: Front, metrics: str, prompt: str, tokens: int) -> dict[str, float]:
    """What one request adds to our metrics."""
    before = scrape(metrics)
    front.ask(text_input=prompt, max_tokens=tokens)
    time.sleep(0.6)  # the counters are published four times a second
    return {name: value - before.get(name, 0.0) for name, value in scrape(metrics).items()}


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


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("build/demo/pair"))

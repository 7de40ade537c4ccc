# SPDX-License-Identifier: Apache-2.0
"""The harness against NVIDIA's perf_analyzer, on a Triton model that does nothing.

    make perf-analyzer
    python tests/benchmarks/versus_perf_analyzer.py --perf-analyzer .venv/bin/perf_analyzer

Both send the same tensors over gRPC streams to the same server, alternating, at each concurrency. Printed
are the medians over the rounds; the required figures are a rate of at least 85 % of perf_analyzer's, and at
concurrency 1 and 4 a p50 and p95 latency within 5 % or 0.3 ms of its own. Exit code 1 when one is missed.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from specbuild import server
from specclient import GenerationParameters
from specclient.bench import Concurrency, Prompt, Settings, Workload, document, measure
from specclient.contract import Contract

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import noop

PROMPT = Prompt("noop", "code", "def main():\n")
PARAMETERS = GenerationParameters(max_tokens=1, temperature=0.0)
CONCURRENCIES = (1, 4, 16)
LATENCY_AT = (1, 4)
LEAST_RATE, NEAR_SHARE, NEAR_MS = 0.85, 0.05, 0.3


@dataclass(frozen=True)
class Measured:
    """What one load generator found: requests per second, and latencies in milliseconds."""

    rate: float
    p50: float
    p95: float


def main() -> int:
    """Alternate, print and judge."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        settings = noop.deployment(Path(folder))
        with server.running(settings) as running:
            print("concurrency   requests/s       share   p50 ms          p95 ms")
            missed = [_compare(options, running.grpc, Path(folder), c) for c in CONCURRENCIES]
    return int(any(missed))


def _compare(options: argparse.Namespace, url: str, folder: Path, concurrency: int) -> bool:
    theirs, ours = [], []
    for round_ in range(options.rounds):
        # The order changes, so that a machine that gets slower or faster treats both alike.
        for generator in (0, 1) if round_ % 2 == 0 else (1, 0):
            if generator == 0:
                theirs.append(_perf_analyzer(options, url, folder, concurrency))
            else:
                ours.append(_harness(options.seconds, url, concurrency))
    a, b = _median(theirs), _median(ours)
    missed = b.rate < LEAST_RATE * a.rate
    if concurrency in LATENCY_AT:
        missed |= not (_near(a.p50, b.p50) and _near(a.p95, b.p95))
    print(
        f"{concurrency:11d}   {a.rate:6.0f} {b.rate:6.0f}   {b.rate / a.rate:7.2f}   "
        f"{a.p50:6.3f} {b.p50:6.3f}   {a.p95:6.3f} {b.p95:6.3f}   {'missed' if missed else 'reached'}",
        flush=True,
    )
    return missed


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= max(NEAR_SHARE * a, NEAR_MS)


def _median(found: list[Measured]) -> Measured:
    return Measured(*(statistics.median(getattr(m, name) for m in found) for name in ("rate", "p50", "p95")))


def _perf_analyzer(options: argparse.Namespace, url: str, folder: Path, concurrency: int) -> Measured:
    (folder / "input.json").write_text(json.dumps({"data": [_tensors()]}))
    table = folder / "perf_analyzer.csv"
    table.unlink(missing_ok=True)
    argv = [
        *(str(options.perf_analyzer), "-m", "ensemble", "-u", url, "-i", "grpc", "--streaming"),
        *("--input-data", str(folder / "input.json"), "--concurrency-range", str(concurrency)),
        # Three windows, whatever they show: both generators measure for the same time.
        *("--measurement-interval", str(round(options.seconds * 1000 / 3)), "--max-trials", "3", "-s", "999"),
        *("-f", str(table)),
    ]
    for _ in range(3):  # it refuses to report when its windows differ too much, whatever -s allows
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
        if table.exists():
            break
    else:
        raise SystemExit(f"perf_analyzer failed:\n{done.stdout}\n{done.stderr}")
    with table.open(newline="") as file:
        row = next(csv.DictReader(file))
    return Measured(
        float(row["Inferences/Second"]), float(row["p50 latency"]) / 1e3, float(row["p95 latency"]) / 1e3
    )


def _tensors() -> dict[str, object]:
    """What the harness sends, in perf_analyzer's form."""
    return {
        name: {
            "content": [v.decode() if isinstance(v, bytes) else v for v in values],
            "shape": [len(values)],
        }
        for name, values in Contract().tensors(PROMPT.text.encode(), PARAMETERS).items()
    }


def _harness(seconds: float, url: str, concurrency: int) -> Measured:
    outcome = measure(
        Settings(
            url=url,
            loads=(Concurrency(concurrency),),
            duration_s=seconds,
            warmup_request_count=200,
            parameters=PARAMETERS,
            workload=Workload("noop", "CC0-1.0", (PROMPT,)),
        ),
        "throughput",
    )
    if outcome.failure is not None:
        raise SystemExit(f"the harness failed: {outcome.failure}")
    (run,) = document(outcome)["runs"]
    rate, latency = run["figures"]["requests_per_second"], run["figures"]["latency_ms"]
    assert rate is not None
    assert latency is not None
    return Measured(rate, latency["p50"], latency["p95"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--perf-analyzer", type=Path, required=True, help="its program")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each at each concurrency")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

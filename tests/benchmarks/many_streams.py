# SPDX-License-Identifier: Apache-2.0
"""One client process holding many streams whose delays are known exactly: does it report the truth?

    python tests/benchmarks/many_streams.py

Each stream has its first chunk after 500 ms and one more every 200 ms, with three tokens in each: 1,000
streams of an in-process fake, then 200 over real gRPC to a server in another process. Every metric must be
within 5 % of the truth; exit code 1 when one is not.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from typing import Any, Literal

from specclient import Chunk, Counters, GenerationParameters
from specclient.bench import Arm, Concurrency, Document, Outcome, Settings, document, measure, servers
from specclient.bench.sample import Sample
from specclient.bench.server_side import Statistics
from specclient.bench.targets import Server

FIRST_S, GAP_S, BURST, CHUNKS = 0.5, 0.2, 3, 20
TOKENS = BURST * CHUNKS
LATENCY_S = FIRST_S + (CHUNKS - 1) * GAP_S
DRAFTED = 4
NEAR = 0.05
SERVER = f"""
import functools, sys
from specclient.testing import FakeServer, words
respond = functools.partial(
    words, first={FIRST_S}, gap={GAP_S}, burst={BURST}, accepted={(BURST - 1) / DRAFTED}
)
with FakeServer(respond, max_streams=512) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


class FakeTarget:
    """Answers in this process, on an absolute schedule."""

    url = "in-process"
    protocol: Literal["grpc", "http", "openai"] = "grpc"
    model = "fake"
    server = Server("fake")

    async def open(self) -> None:
        """Nothing to connect to."""

    async def send(self, sample: Sample) -> None:
        """Receive every chunk at its time."""
        loop = asyncio.get_running_loop()
        sample.sent_ns = time.perf_counter_ns()
        done = loop.create_future()
        start = loop.time()

        def receive(number: int) -> None:
            sample.receipts.append((time.perf_counter_ns(), number))
            if number == CHUNKS - 1:
                sample.ended_ns = sample.receipts[-1][0]
                done.set_result(None)
            else:
                loop.call_at(start + FIRST_S + (number + 1) * GAP_S, receive, number + 1)

        loop.call_at(start + FIRST_S, receive, 0)
        await done

    def decode(self, sample: Sample) -> tuple[Chunk, ...]:
        """Chunks of three tokens, with the counters of a round each."""
        return tuple(
            Chunk("abc", (1, 2, 3), number, received_ns, None, self._counters(number + 1))
            for received_ns, number in sample.receipts
        )

    async def statistics(self) -> Statistics | None:
        """It keeps none."""
        return None

    async def close(self) -> None:
        """Nothing to disconnect."""

    def _counters(self, rounds: int) -> Counters:
        return Counters(1, rounds * BURST, rounds, rounds * DRAFTED, rounds * (BURST - 1))


def main() -> int:
    """Both parts; how many metrics were off."""
    options = _options()
    missed = 0
    settings = _settings("127.0.0.1:1", options.in_process, options.requests)
    missed += _judge(
        f"{options.in_process} streams in process",
        servers(settings, lambda: (Arm("fake", FakeTarget()),)),
        options.in_process,
    )
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        url = child.stdout.readline().strip()
        settings = _settings(url, options.over_grpc, options.requests)
        missed += _judge(
            f"{options.over_grpc} streams over gRPC", measure(settings, "throughput"), options.over_grpc
        )
        child.stdin.close()
    return int(missed > 0)


def _settings(url: str, streams: int, requests: int) -> Settings:
    return Settings(
        url=url,
        loads=(Concurrency(streams),),
        # Streams start spread over one request's time, so that they do not all speak at once for ever.
        ramp_s=LATENCY_S,
        duration_s=requests * LATENCY_S,
        warmup_request_count=0,
        parameters=GenerationParameters(max_tokens=TOKENS),
    )


def _judge(title: str, outcome: Outcome, streams: int) -> int:
    if outcome.failure is not None:
        raise SystemExit(f"{title}: {outcome.failure}")
    report = document(outcome)
    client = report["runs"][0]["client"]
    print(f"{title}: client {client['cpu_share'] or 0:.0%} of a core, {_lag(client['loop_lag_ms'])}")
    missed = 0
    for name, value, truth in _figures(report, streams):
        off = abs(value - truth) / truth
        missed += off > NEAR
        print(
            f"  {name:28s} {value:12.3f}  truth {truth:12.3f}  {off:6.2%}{'  MISSED' if off > NEAR else ''}"
        )
    return missed


def _lag(lag: Any) -> str:
    return f"event loop late by {lag['p50']:.1f} ms (p50), {lag['p99']:.1f} ms (p99)"


def _figures(report: Document, streams: int) -> list[tuple[str, float, float]]:
    """Name, value and truth of every metric."""
    (run,) = report["runs"]
    found: Any = run["figures"]
    latency_ms = LATENCY_S * 1e3
    tpot_ms = (CHUNKS - 1) * GAP_S * 1e3 / (TOKENS - 1)
    figures = [
        (f"{key} {statistic}", found[key][statistic], truth)
        for key, truth in (
            ("ttft_ms", FIRST_S * 1e3),
            ("tpot_ms", tpot_ms),
            ("inter_chunk_ms", GAP_S * 1e3),
            ("latency_ms", latency_ms),
        )
        for statistic in ("mean", "p50", "p95")
    ]
    acceptance: Any = run["acceptance"]
    return [
        *figures,
        ("itl_ms mean", found["itl_ms"]["mean"], tpot_ms),
        ("tokens_per_chunk mean", found["tokens_per_chunk"]["mean"], BURST),
        ("tokens_per_second_per_user", found["tokens_per_second_per_user"]["p50"], 1e3 / tpot_ms),
        ("tokens_per_second", found["tokens_per_second"], streams * TOKENS / latency_ms * 1e3),
        ("requests_per_second", found["requests_per_second"], streams / latency_ms * 1e3),
        ("acceptance length", acceptance["length"], BURST),
        ("acceptance rate", acceptance["rate"], (BURST - 1) / DRAFTED),
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--in-process", type=int, default=1000, help="streams of the in-process fake")
    parser.add_argument("--over-grpc", type=int, default=200, help="streams over gRPC")
    parser.add_argument("--requests", type=int, default=3, help="requests on each stream, one after another")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

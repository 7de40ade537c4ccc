# SPDX-License-Identifier: Apache-2.0
"""Measures the torch runtime on one card, with a planted (synthetic) pair, and prints one table.

    python tests/gpu/bench [--shape llama-8b-1b] [--work DIR] [--budget 480] [--output bench.json]

Sections, in order of importance, each in a process of its own, which has the whole card: the card itself;
steps against their floor, whole requests and steady decoding; the same through a real Triton with streaming
clients; transformers' generate and assisted generation; long contexts; weights in 8 bits; the draft alone.
What fails, does not fit or is left out for lack of time has a row that says so. ``--shape tiny --device cpu``
runs all of it but the weights in 8 bits anywhere, to test the benchmark itself.

The pair is written to DIR/engines first, unless it is there (19 GB for llama-8b-1b). The Triton section runs
under ``--server-python`` (default: this one), which needs what specbuild[server] installs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import rows
from profiles import PROFILES, PUBLISHED

# Most seconds of each section, so that one that hangs does not take all.
SECTIONS: Mapping[str, int] = {
    "card": 60,
    "engine": 300,
    "triton": 180,
    "transformers": 90,
    "long": 150,
    "rounded": 90,
    "draft": 60,
}
_LAST_S = 5  # to print the table


def main() -> int:
    """Run the sections; 0 if every one of them ran."""
    options = _options()
    if options.section is not None:
        return _section(options)
    options.work.mkdir(parents=True, exist_ok=True)
    results = _results(options)
    results.unlink(missing_ok=True)
    deadline = time.time() + options.budget - _LAST_S
    print(rows.HEADER, flush=True)
    failed = 0
    for name in ("pair", *options.sections):
        left = deadline - time.time()
        recorder = rows.Recorder(name, results)
        if left < 10:
            recorder.row("section", None, "", note="left out: the time is over")
            continue
        limit = min(left, SECTIONS.get(name, 240)) if options.device != "cpu" else left
        problem = _run(options, name, results, time.time() + limit)
        if problem:
            failed += 1
            recorder.row("section", None, "", note=problem)
    made = rows.read(results)
    print(f"\n{_title(options)}\n{rows.table(made)}", flush=True)
    document = {
        "synthetic": True,
        "pair": options.shape,
        "machine": _machine(),
        "rows": [{**asdict(row), "ratio": row.ratio} for row in made],
        "published": [asdict(one) for one in PUBLISHED],
    }
    if options.output is not None:
        options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


def _results(options: argparse.Namespace) -> Path:
    """The rows as they come: beside the output, so that what was measured outlives a run that is stopped."""
    if options.output is not None:
        return Path(options.output).with_suffix(".jsonl")
    return Path(options.work) / "rows.jsonl"


def _run(options: argparse.Namespace, name: str, results: Path, deadline: float) -> str:
    """Run a section in a process of its own; what went wrong with it."""
    python = options.server_python if name == "triton" else sys.executable
    command = [
        python, __file__, "--section", name, "--shape", options.shape, "--work", str(options.work),
        "--device", options.device, "--draft-length", str(options.draft_length),
        "--until", str(deadline), *(["--output", str(options.output)] if options.output else []),
    ]  # fmt: skip
    start = time.monotonic()
    try:
        status = subprocess.run(
            command, timeout=max(1.0, deadline - time.time()) + 20, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return "stopped: it ran far beyond its time"
    print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return "" if status == 0 else f"failed with status {status}"


def _section(options: argparse.Namespace) -> int:
    """One section, in this process."""
    import sections
    import torch

    device = torch.device(options.device)
    results = _results(options)
    recorder = rows.Recorder(options.section, results)
    pair = options.work / "engines"
    if options.section == "pair":
        return _pair(options, pair, recorder)
    bench = sections.Bench(
        recorder=recorder,
        profile=PROFILES[options.shape],
        pair=pair,
        device=device,
        results=results,
        deadline=options.until,
        draft_length=options.draft_length,
    )
    if options.section == "triton":
        import triton_section

        triton_section.run(bench)
    else:
        getattr(sections, f"run_{options.section}")(bench)
    return 0


def _pair(options: argparse.Namespace, pair: Path, recorder: rows.Recorder) -> int:
    from specbuild.synthetic import PlantedRecipe, planted_pair

    start = time.monotonic()
    done = pair / "complete"
    if done.exists():
        return 0
    planted_pair.write(pair, PlantedRecipe(options.shape))
    done.touch()
    recorder.row("planted pair written in", time.monotonic() - start, "s", note=f"synthetic, {options.shape}")
    return 0


def _title(options: argparse.Namespace) -> str:
    machine = _machine()
    return (
        f"Planted (synthetic) pair {options.shape}, bfloat16, greedy, on {machine['card']}, "
        f"PyTorch {machine['torch']}, transformers {machine['transformers']}"
    )


def _machine() -> dict[str, str]:
    import torch
    import transformers

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "card": card,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python tests/gpu/bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shape", choices=list(PROFILES), default="llama-8b-1b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--work", type=Path, default=Path("build/gpu-bench"))
    parser.add_argument("--budget", type=float, default=480, help="seconds for everything")
    parser.add_argument("--output", type=Path, help="file for the results as JSON")
    parser.add_argument("--draft-length", type=int, default=8, help="most draft tokens of a round")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--server-python", default=sys.executable)
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work = options.work.absolute()
    return options


if __name__ == "__main__":
    sys.exit(main())

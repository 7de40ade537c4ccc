# SPDX-License-Identifier: Apache-2.0
"""The same whole requests through a real Triton with streaming clients."""

from __future__ import annotations

import json
import socket
import time

import clients
import load
import rows
from sections import Bench
from tokenizers import Tokenizer

from specbuild import repository, server
from specbuild.config import Config
from specbuild.synthetic import planted_pair


def run(bench: Bench) -> None:
    """Record tokens per second plain and speculative for each number of clients."""
    profile = bench.profile
    settings = _deployment(bench)
    plant = planted_pair.read(bench.pair)
    tokenizer = Tokenizer.from_file(str(bench.pair / "target" / "tokenizer.json"))
    start = time.perf_counter()
    with server.running(settings) as running:
        bench.recorder.row(
            "Triton answers after", time.perf_counter() - start, "s", reference=30.0, against="goal"
        )
        for batch in profile.triton_batches:
            for name, drafts in (("plain", 0), ("speculative", None)):
                if bench.late(f"Triton, {name}", batch):
                    return
                runs = []
                for seed in range(2):
                    prompts = load.prompts(plant, 0.8, batch, profile.prompt_tokens, seed)
                    texts = [tokenizer.decode(prompt) for prompt in prompts]
                    runs.append((prompts, clients.ask(running.grpc, texts, profile.new_tokens, drafts)))
                prompts, best = min(runs, key=lambda run: run[1].seconds)
                astray = sum(map(load.astray, prompts, best.answers, [plant] * batch))
                bench.recorder.row(
                    f"Triton, {name}", best.tokens / best.seconds, "token/s", batch=batch,
                    context=profile.prompt_tokens, alpha=0.8, reference=_in_process(bench, name, batch),
                    against="in process", note=f"{astray} tokens off the plan",
                )  # fmt: skip


def _in_process(bench: Bench, name: str, batch: int) -> float | None:
    for row in rows.read(bench.results):
        if row.what == f"whole requests, {name}" and row.batch == batch and row.value is not None:
            return row.value
    return None


def _deployment(bench: Bench) -> Config:
    """A configuration and a repository over the pair, which lies where engines lie."""
    profile = bench.profile
    http, grpc, metrics = _free_ports(3)
    output = bench.pair.parent
    for name in ("target", "draft"):
        # What `specbuild engines` would copy and hash for a minute is right where it is.
        manifest = {"schema": 1, "key": f"planted {name}", "files": {}, "facts": {}}
        (bench.pair / name / "manifest.json").write_text(json.dumps(manifest))
    longest = profile.prompt_tokens + profile.new_tokens
    settings = Config.model_validate(
        {
            "name": "planted",
            "runtime": "torch",
            "target": {"checkpoint": str(bench.pair / "target")},
            "draft": {"checkpoint": str(bench.pair / "draft")},
            "speculation": {"draft_length": bench.draft_length, "adaptive": True},
            "limits": {
                "max_batch_size": max(profile.triton_batches),
                "max_input_len": profile.prompt_tokens,
                "max_seq_len": longest,
            },
            "torch": {"device": str(bench.device), "prefill_chunk": profile.prefill_chunk},
            "serving": {
                "http_port": http,
                "grpc_port": grpc,
                "metrics_port": metrics,
                "startup_timeout_s": 180,
            },
            "output": str(output),
        }
    )
    assert settings.engines_dir == bench.pair
    repository.write(settings)
    return settings


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports

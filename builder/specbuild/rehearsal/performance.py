# SPDX-License-Identifier: Apache-2.0
"""A rehearsal from beginning to end: stage the repository, start Triton, send canaries, report."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from specbuild import pairing, repository, server
from specbuild.checkpoint import Checkpoint
from specbuild.config import Config
from specbuild.engines import llmapi
from specbuild.errors import ConfigError
from specbuild.pairing.finding import ModelName
from specbuild.progress import Report
from specbuild.rehearsal import canaries, stand_in, venue, weights
from specbuild.rehearsal.canaries import Canary
from specbuild.repository.placement import ENGINE_MODELS

TARGET_PASS_MS = 20
"""A pass of the target takes as long at least, about what a large model takes on a GPU: with two small models
drafting would not pay, and an adaptive loop would soon do without."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a rehearsal has shown."""

    repository: Path
    written_for_rehearsal: bool
    """Whether there was no repository yet, so that one was written beside it for stand-in engines."""
    synthetic: bool
    """Whether synthetic weights played the pair."""
    load_s: float
    log: Path
    canaries: tuple[Canary, ...]

    @property
    def ok(self) -> bool:
        """Whether every canary ended, none disagreed with the target alone, and some were drafted for."""
        sound = all(one.complaint is None and one.agrees is not False for one in self.canaries)
        return sound and any(one.drafted for one in self.canaries)


def rehearse(settings: Config, report: Report) -> Result:
    """Serve the repository of ``settings`` with the torch runtime behind its engines, and compare.

    Raises ConfigError for the torch runtime, PairError, ServerError when Triton does not come up.
    """
    if settings.runtime == "torch":
        raise ConfigError(
            "the torch runtime needs no stand-in",
            remedy="Serve it as it is: `specbuild serve --config FILE` runs here without a GPU.",
        )
    target, draft = pairing.require(settings)
    checkpoints: dict[ModelName, Checkpoint] = {"target": target, "draft": draft}
    staged = _staged(settings, checkpoints, report)
    report("preparing the weights")
    cast = weights.choose(settings, checkpoints, settings.output / "rehearsal" / "pair")
    triton = server.find(settings.serving.tritonserver, os.environ)
    on = venue.installation(triton, settings.output / "rehearsal" / "venue")
    engines = settings.runtime == "tensorrt_llm"
    roles = {ENGINE_MODELS[role] if engines else role: folder for role, folder in cast.folders.items()}
    report("starting Triton")
    start = time.monotonic()
    variables = venue.variables(roles) | {
        venue.PACE_MS: json.dumps({ENGINE_MODELS["target"]: TARGET_PASS_MS})
    }
    with server.running(staged, on=on, variables=variables) as running:
        loaded = time.monotonic() - start
        sung = []
        for canary in canaries.sing(running.grpc, baseline=engines):
            sung.append(canary)
            report(f"{len(sung)} of {len(canaries.REQUESTS) * len(canaries.PROMPTS)} canaries")
        return Result(
            repository=staged.repository_dir,
            written_for_rehearsal=staged.output != settings.output,
            synthetic=cast.synthetic,
            load_s=loaded,
            log=running.log,
            canaries=tuple(sung),
        )


def _staged(settings: Config, checkpoints: Mapping[ModelName, Checkpoint], report: Report) -> Config:
    """``settings`` on free ports, with a repository: the deployment's own if it has been written."""
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), _free_ports(3), strict=True))
    serving = settings.serving.model_copy(update={**ports, "host": "127.0.0.1"})
    staged = settings.model_copy(update={"serving": serving})
    if staged.repository_dir.is_dir():
        return staged
    staged = staged.model_copy(update={"output": settings.output / "rehearsal"})
    if settings.runtime == "llmapi":
        llmapi.build(staged, report)
    else:
        stand_in.write(staged, checkpoints)
    repository.write(staged)
    return staged


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listens on; held together, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [held.getsockname()[1] for held in sockets]
    finally:
        for held in sockets:
            held.close()

# SPDX-License-Identifier: Apache-2.0
"""The generated repository of TensorRT engines on a real Triton, byte for byte; its engines only count."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from specbuild import repository, server
from specbuild.config import Config
from specbuild.server import RunningServer
from specclient.protocol import OUTPUTS
from support import deployment, trt_engines
from support.monitoring import queries, samples
from support.ports import free_ports
from support.promql import selectors
from support.wire import Response, Stream

BACKEND = Path(__file__).parents[1] / "support" / "counting_backend"
NEVER = -1


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Config:
    http, grpc, metrics = free_ports(3)
    ports = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics, "startup_timeout_s": 60}
    settings = trt_engines.settings_for(
        tmp_path_factory.mktemp("engines"), serving=ports, speculation={"adaptive": False}
    )
    trt_engines.write(settings)
    tokenizer = settings.engines_dir / "target" / "tokenizer" / "tokenizer.json"
    deployment.tokenizer().save(str(tokenizer))
    repository.write(settings)
    return settings


@pytest.fixture(scope="module")
def triton(settings: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    installed = server.find(None, os.environ)
    assert installed.backends is not None
    backends = tmp_path_factory.mktemp("triton") / "backends"
    shutil.copytree(installed.backends, backends)
    shutil.copytree(BACKEND, backends / "tensorrtllm")
    with pytest.MonkeyPatch.context() as patch:
        running = sys.modules["specbuild.server.running"]
        patch.setattr(running, "find", lambda *_: replace(installed, backends=backends))
        with server.running(settings) as started:
            yield started


def ask(triton: RunningServer, model: str, *, stream: bool = False, tokens: int = 12) -> list[Response]:
    fields = {
        "text_input": b"hello",
        "max_tokens": tokens,
        "stream": stream,
        "end_id": NEVER,
        "exclude_input_in_output": True,
        "return_num_output_tokens": True,
    }
    with Stream(triton.grpc, fields, model=model) as responses:
        return list(responses)


@pytest.mark.parametrize("stream", [False, True])
def test_with_and_without_the_draft_the_tokens_are_the_same(triton: RunningServer, stream: bool) -> None:
    answers = {
        model: [token for response in ask(triton, model, stream=stream) for token in response.ids]
        for model in ("ensemble", "ensemble_baseline")
    }
    assert answers["ensemble"] == answers["ensemble_baseline"]
    assert len(answers["ensemble"]) == 12


def test_the_draft_saves_rounds(triton: RunningServer) -> None:
    [answer] = ask(triton, "ensemble")
    assert answer.figure("num_output_tokens") == 12
    assert answer.figure("total_accepted_draft_tokens") > 0
    assert answer.figure("num_rounds") < 12


def test_what_the_engine_does_not_send_is_neutral_in_the_baseline(triton: RunningServer) -> None:
    [answer] = ask(triton, "ensemble_baseline")
    assert set(answer.tensors) == set(OUTPUTS)
    assert answer.figure("num_output_tokens") == 12
    assert answer.figure("num_rounds") == 0
    assert answer.figure("cum_log_probs") == 0


def test_the_dashboard_and_the_alerts_read_what_the_server_exports(triton: RunningServer) -> None:
    """All but the metrics of NVIDIA's C++ backend, which a contract covers."""
    ask(triton, "ensemble")
    exported = samples(triton.metrics)
    for query in queries():
        for name, wanted in selectors(query):
            if not name.startswith("nv_trt_llm_"):
                found = [labels for metric, labels, _ in exported if metric == name]
                assert any(wanted.items() <= labels.items() for labels in found), query

# SPDX-License-Identifier: Apache-2.0
"""The command and environment of tritonserver, and what its log says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from specbuild.config import Config
from specbuild.server import argv
from specbuild.server.installation import Installation
from specbuild.server.launch import environment
from specbuild.server.log import reason, tail

IMAGE = Installation(Path("/opt/tritonserver/bin/tritonserver"), None, (), ())
WHEEL = Installation(
    Path("/w/tritonserver"), Path("/c/backends"), (Path("/lib"), Path("/w/libs")), (Path("/v"),)
)


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    return Config.model_validate(
        {
            "name": "pair",
            "runtime": "torch",
            "target": {"checkpoint": "target"},
            "draft": {"checkpoint": "draft"},
            "serving": {"http_port": 1, "grpc_port": 2, "metrics_port": 3, "host": "127.0.0.2"},
            "output": tmp_path,
        }
    )


def test_every_listener_gets_the_configured_address(settings: Config) -> None:
    command = argv(settings, IMAGE)
    for name, port in (("http", 1), ("grpc", 2), ("metrics", 3)):
        assert f"--{name}-address=127.0.0.2" in command
        assert f"--{name}-port={port}" in command


def test_models_cannot_be_loaded_at_run_time_and_a_broken_one_ends_the_server(settings: Config) -> None:
    assert {"--model-control-mode=none", "--exit-on-error=true", "--strict-readiness=true"} <= set(
        argv(settings, IMAGE)
    )


def test_the_repository_is_named_absolutely(settings: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(settings.output)
    relative = settings.model_copy(update={"output": Path("build")})
    assert f"--model-repository={settings.output}/build/repository" in argv(relative, IMAGE)


def test_only_the_wheel_needs_a_backend_folder(settings: Config) -> None:
    assert "--backend-directory=/c/backends" in argv(settings, WHEEL)
    assert not [option for option in argv(settings, IMAGE) if option.startswith("--backend-directory")]


def test_the_shared_memory_prefix_is_the_callers(settings: Config) -> None:
    command = argv(settings, IMAGE, shm_prefix="mine-")
    assert "--backend-config=python,shm-region-prefix-name=mine-" in command


def test_the_wheels_folders_come_first_and_everything_else_is_kept() -> None:
    inherited = {"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/other", "LANG": "C"}
    variables = environment(WHEEL, inherited)
    assert variables["PATH"] == "/v:/usr/bin"
    assert variables["LD_LIBRARY_PATH"] == "/lib:/w/libs:/other"
    assert variables["LANG"] == "C"


def test_no_empty_entry_puts_the_working_directory_on_a_path() -> None:
    assert environment(WHEEL, {})["LD_LIBRARY_PATH"] == "/lib:/w/libs"
    assert "LD_LIBRARY_PATH" not in environment(IMAGE, {"PATH": "/bin"})
    assert environment(IMAGE, {})["PATH"] == os.defpath


LOG = (
    '2026-01-01T00:00:00Z W 7 pinned_memory_manager.cc:273] "Unable to allocate pinned memory"\n'
    '2026-01-01T00:00:00Z E 7 server.cc:241] "CudaDriverHelper has not been initialized."\n'
    '2026-01-01T00:00:01Z E 7 model_lifecycle.cc:642] "failed to load torch: ValueError: no weights"\n'
    "error: creating server: Internal - failed to load all models\n"
)


def test_the_reason_is_the_first_error_that_means_something(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG)
    assert reason(tmp_path / "log").endswith('"failed to load torch: ValueError: no weights"')


def test_what_triton_says_of_a_stream_closed_after_its_end_is_no_reason(tmp_path: Path) -> None:
    noise = (
        '2026-01-01T00:00:00Z E 7 infer_handler.h:840] "[INTERNAL] HandleCancellation called even when the '
        'context was not cancelled for ModelStreamInferHandler"\n'
    )
    (tmp_path / "log").write_text(noise)
    assert reason(tmp_path / "log") == "the log names no error"


def test_a_log_may_hold_any_bytes_or_be_missing(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\xff\xfe error\n" * 100)
    assert tail(tmp_path / "log").count("\n") == 19
    assert reason(tmp_path / "log") == reason(tmp_path / "missing") == "the log names no error"
    assert tail(tmp_path / "missing") == ""

# SPDX-License-Identifier: Apache-2.0
"""The room that engines need is asked for before the first step."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from specbuild import config
from specbuild.engines import disk
from specbuild.engines.plan import Step
from specbuild.engines.steps import Source
from specbuild.errors import BuildError

LLAMA_8B = Source(Path("/m"), "llama", "bfloat16", 128_256, 4096, 8_030_000_000, "d")


@pytest.mark.parametrize(
    ("quantization", "gigabytes"), [(None, 16.9), ("fp8", 9.5), ("int4_awq", 6.1), ("nvfp4", 6.3)]
)
def test_weights_take_the_room_of_their_format(quantization: str | None, gigabytes: float) -> None:
    assert disk.weight_bytes(LLAMA_8B, quantization) / 1e9 == pytest.approx(gigabytes, abs=0.1)


def test_too_little_room_is_refused_with_need_and_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {
        "name": "x",
        "runtime": "tensorrt_llm",
        "target": {"checkpoint": "t"},
        "draft": {"checkpoint": "d"},
        "output": str(tmp_path),
    }
    settings = config.validate(document, source="test")
    outputs = (tmp_path / "engines" / "target" / "config.json",)
    step = Step("target-build", "target", (), {}, (), outputs, "k")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=20_000_000_000))
    disk.require([step], settings, {"target": LLAMA_8B})
    with pytest.raises(BuildError, match=r"33\.7 GB .* 20\.0 GB are free"):
        disk.require([step, step], settings, {"target": LLAMA_8B})
